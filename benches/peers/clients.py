"""Clients that stay: kept connections and WebSockets, and the server that echoes for them."""

import asyncio
import base64
import contextlib
import hashlib
import re

# Seconds between two requests on a kept connection, and between two messages on a WebSocket.
REQUEST_EVERY, MESSAGE_EVERY = 5, 1
# How long an answer may take.
PATIENCE = 30
REQUEST = b"GET /files/1k HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
           b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
# A text of four letters, masked with zeros as it goes there, and as it comes back (RFC 6455, section 5.2).
MESSAGE, ECHO = b"\x81\x84\0\0\0\0ping", b"\x81\x04ping"
BROKEN = (OSError, EOFError, asyncio.LimitOverrunError, asyncio.TimeoutError)


class Clients:
    """So many of both kinds, at one proxy. One that is closed comes back at once, as browsers do."""

    def __init__(self, port, trust, kept, websockets):
        self.port, self.trust = port, trust
        # Requests without a good answer; kept connections closed under their client, and those of which an answer said
        # so before; closed WebSockets, and which of them it was.
        self.failed = self.closed = self.announced = self.lost = 0
        self.losers = set()
        self.waiting = kept + websockets
        self.all_open = asyncio.Event()
        self.tasks = [asyncio.create_task(self.stay(self.keep, number / kept)) for number in range(kept)]
        self.tasks += [asyncio.create_task(self.stay(self.talk, number)) for number in range(websockets)]

    async def opened(self):
        """Waits until each has had its first answer."""
        await asyncio.wait_for(self.all_open.wait(), 60)
        self.failed = self.closed = self.announced = self.lost = 0

    async def end(self):
        # Before Python 3.12 wait_for may swallow what cancels it, where an answer comes in the same moment.
        while not all(task.done() for task in self.tasks):
            for task in self.tasks:
                task.cancel()
            await asyncio.wait(self.tasks, timeout=1)
        for task in self.tasks:
            if not task.cancelled():
                task.result()

    async def stay(self, kind, which):
        """One client, connection after connection."""
        first = True
        while True:
            try:
                reader, writer = await asyncio.wait_for(asyncio.open_connection(
                    "127.0.0.1", self.port, ssl=self.trust, server_hostname="localhost"), PATIENCE)
            except BROKEN:
                self.failed += 1
                await asyncio.sleep(0.1)
                continue
            try:
                await kind(reader, writer, which, first)
            finally:
                writer.transport.abort()
            first = False

    def is_open(self, first):
        if first:
            self.waiting -= 1
            if not self.waiting:
                self.all_open.set()

    async def keep(self, reader, writer, part, first):
        """A request now and then. They are spread over the time between two, by the part of it that is given."""
        pause = REQUEST_EVERY * part if first else REQUEST_EVERY
        while True:
            try:
                writer.write(REQUEST)
                head = await answer(reader, b" 200 ")
                length = re.search(rb"content-length: (\d+)", head)
                await asyncio.wait_for(reader.readexactly(int(length[1])), PATIENCE)
            except BROKEN:
                self.failed += 1
                self.closed += 1
                return
            self.is_open(first)
            first = False
            if b"connection: close" in head:
                self.announced += 1
                return
            try:
                await asyncio.wait_for(reader.read(1), pause)
                self.closed += 1
                return
            except asyncio.TimeoutError:
                pause = REQUEST_EVERY
            except OSError:
                self.closed += 1
                return

    async def talk(self, reader, writer, number, first):
        """A WebSocket: each message must come back."""
        try:
            writer.write(UPGRADE)
            await answer(reader, b" 101 ")
        except BROKEN:
            self.failed += 1
            return
        self.is_open(first)
        try:
            while True:
                writer.write(MESSAGE)
                if await asyncio.wait_for(reader.readexactly(len(ECHO)), PATIENCE) != ECHO:
                    raise EOFError
                await asyncio.sleep(MESSAGE_EVERY)
        except BROKEN:
            self.lost += 1
            self.losers.add(number)


async def answer(reader, status):
    """The head of an answer, in small letters, which must have this status."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)).lower()
    if status not in head.partition(b"\r\n")[0] + b" ":
        raise EOFError
    return head


async def echo(reader, writer):
    """The other end of a WebSocket."""
    with contextlib.suppress(*BROKEN, asyncio.CancelledError):
        head = await reader.readuntil(b"\r\n\r\n")
        key = re.search(rb"(?i)sec-websocket-key: (\S+)", head)[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key).digest())
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                     b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        while await reader.readexactly(len(MESSAGE)) == MESSAGE:
            writer.write(ECHO)
    writer.transport.abort()
