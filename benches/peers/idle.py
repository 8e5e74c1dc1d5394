"""Connections that are open and do nothing."""

import select
import socket


class Idle:
    """So many connections over TLS, opened one after the other. Each has had one request answered."""

    def __init__(self, port, trust, path, count):
        self.held = []
        self.watch = select.poll()
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        for _ in range(count):
            raw = socket.create_connection(("127.0.0.1", port), timeout=10)
            held = trust.wrap_socket(raw, server_hostname="localhost")
            held.sendall(request)
            answer = read_answer(held)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise OSError(f"an idle connection had for an answer {answer[:200]}")
            self.held.append(held)
            self.watch.register(held, select.POLLRDHUP)

    def closed(self):
        """How many the other side has closed."""
        return len(self.watch.poll(0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for held in self.held:
            held.close()


def read_answer(held):
    """An answer that ends where its length says, and not later: the next byte would never come."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += receive(held)
    head, _, body = got.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
    missing = int(fields[b"content-length"]) - len(body)
    while missing > 0:
        missing -= len(receive(held))
    return head


def receive(held):
    got = held.recv(1 << 16)
    if not got:
        raise OSError("an idle connection was closed before its answer was whole")
    return got
