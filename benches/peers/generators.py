"""The load generators: wrk, h2load and oha, how they are called and what they say."""

import json
import re
import sys
from dataclasses import dataclass
from typing import Callable


@dataclass(frozen=True)
class Said:
    """What a generator says at its end."""
    done: int
    failures: int
    # Milliseconds, at a fixed rate.
    p50: float | None = None
    p99: float | None = None


@dataclass(frozen=True)
class Load:
    """What a generator is to do."""
    # The program, how it is told for how many seconds, and its other options.
    program: str
    length: Callable[[int], str]
    options: tuple
    scheme: str
    path: str
    # Requests at a time.
    clients: int
    # What it says, understood.
    said: Callable[[str], Said]
    # What one request is at the origin, which hands uploads on to its sink.
    hops: int = 1

    def command(self, port, seconds):
        return [self.program, self.length(seconds), *self.options, f"{self.scheme}://localhost:{port}{self.path}"]

    def read(self, text):
        try:
            return self.said(text)
        except (KeyError, TypeError, ValueError):
            sys.exit(f"{self.program} is not understood:\n{text}")


def wrk(connections, path, scheme="https", options=()):
    # An answer may take its time on a slow machine: that is no failure.
    options = ("-t1", f"-c{connections}", "--timeout", "30s", *options)
    return Load("wrk", lambda seconds: f"-d{seconds}s", options, scheme, path, connections, read_wrk)


def h2load(connections, streams, path, options=(), hops=1):
    options = ("-t1", f"-c{connections}", f"-m{streams}", *options)
    clients = connections * streams
    return Load("h2load", lambda seconds: f"-D{seconds}", options, "https", path, clients, read_h2load, hops)


def oha(program, connections, path, rate, options=()):
    """At a fixed rate. Latency counts from when a request was due, not from when there was time to send it.

    It is told the number of requests: told a time, it would break off the last ones and count them among the errors.
    """
    options = ("-c", str(connections), "-q", str(rate), "--latency-correction", "--worker-threads", "1",
               "--insecure", "--ipv4", "--no-tui", "--output-format", "json", *options)
    return Load(program, lambda seconds: f"-n{seconds * rate}", options, "https", path, connections, read_oha)


def read_wrk(text):
    done = int(re.search(r"(\d+) requests in", text)[1])
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    failures = sum(map(int, errors.groups())) if errors else 0
    return Said(done, failures + (int(refused[1]) if refused else 0))


def read_h2load(text):
    done, failed = re.search(r"(\d+) done, \d+ succeeded, (\d+) failed", text).groups()
    return Said(int(done), int(failed))


def read_oha(text):
    told = json.loads(text)
    statuses = told["statusCodeDistribution"]
    done = sum(statuses.values())
    good = sum(count for status, count in statuses.items() if status.startswith("2"))
    # Without one good answer there is no latency.
    p50, p99 = (1e3 * (told["latencyPercentiles"][name] or 0) for name in ("p50", "p99"))
    return Said(done, done - good + sum(told["errorDistribution"].values()), p50, p99)
