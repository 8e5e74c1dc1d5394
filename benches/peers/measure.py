"""What a proxy spends while a load runs: processor time from /proc, requests counted where they arrive."""

import contextlib
import math
import os
import pathlib
import re
import sys
import time
from dataclasses import dataclass

from idle import Idle
from servers import family

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figure:
    """One measurement."""
    # Requests a second, and CPU microseconds a request.
    rate: float
    cost: float
    # Parts of the time: of its CPUs that the proxy used, that its busiest thread waited for a CPU which others had,
    # and that the host of a virtual machine took from those CPUs.
    busy: float
    waited: float
    stolen: float
    failures: int
    # Milliseconds, at a fixed rate.
    p50: float | None
    p99: float | None


def measure(servers, name, port, load, seconds):
    """Puts a load of so many seconds on the proxy of this name.

    What counts is the time after the first second, or the first third if that is shorter: before, connections that are
    kept have their handshakes. The last fifth of a second is left out too.
    """
    arrived = settled(servers)
    process = servers.start("load", servers.load_cpu, *load.command(servers.ports[port], seconds))
    started = time.monotonic()
    time.sleep(min(1, seconds / 3))
    before = Moment(servers, name)
    time.sleep(max(0, started + seconds - 0.2 - time.monotonic()))
    late = process.poll() is not None
    after = Moment(servers, name)
    said = load.read(servers.finish("load", seconds + 60))
    arrived = (settled(servers) - arrived) / load.hops
    if not said.failures and not 0.99 * said.done <= arrived <= 1.01 * said.done + load.clients:
        sys.exit(f"{name}: {said.done} requests were answered, and the origin had {arrived:.0f}")

    length = after.time - before.time
    count = (after.requests - before.requests) / load.hops
    threads = {thread: [now - then for now, then in zip(times, before.threads.get(thread, (0, 0)))]
               for thread, times in after.threads.items()}
    spent, (_, waited) = sum(used for used, _ in threads.values()), max(threads.values())
    cpus = len(servers.cpus[name])
    # Where this program came too late to see the load's end, others had the CPUs for long.
    return Figure(rate=count / length, cost=spent / 1e3 / count if count else math.inf,
                  busy=spent / 1e9 / length / cpus, waited=1 if late else waited / 1e9 / length,
                  stolen=(after.stolen - before.stolen) / length / cpus, failures=said.failures,
                  p50=said.p50, p99=said.p99)


@dataclass(frozen=True)
class Held:
    """What idle connections hold: bytes each, and how many did not stay."""
    bytes: float
    failures: int


def hold(servers, name, port, path, count):
    """Opens so many idle connections to the proxy of this name, which was just started, and sees what they hold."""
    before = memory(servers.running[name].pid)
    with Idle(servers.ports[port], servers.trust, path, count) as idle:
        # What is given back a little later is not held.
        time.sleep(2)
        grown = memory(servers.running[name].pid) - before
        return Held(bytes=grown / count, failures=idle.closed())


class Moment:
    """What has been counted until now."""

    def __init__(self, servers, name):
        self.requests = requests(servers)
        self.time = time.monotonic()
        servers.check(name)
        self.threads = thread_times(servers.running[name].pid)
        self.stolen = stolen(servers.cpus[name])


def requests(servers):
    """How many the origin has had, besides those that ask for this."""
    _, page = servers.ask("origin", "origin", "http", "GET", "/requests")
    servers.counted += 1
    return int(page.split()[9]) - servers.counted


def settled(servers):
    """The same, when what a load broke off at its end is over for the origin too."""
    now = requests(servers)
    for _ in range(100):
        time.sleep(0.03)
        before, now = now, requests(servers)
        if now == before:
            return now
    sys.exit("the origin is asked for things that nobody wants")


def thread_times(root):
    """Nanoseconds on a CPU and waiting for one, of each thread of a process and its descendants."""
    times = {}
    for pid in family(root):
        for thread in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
            times[thread.parent.name] = tuple(map(int, thread.read_text().split()[:2]))
    return times


def stolen(cpus):
    """Seconds that the host of a virtual machine took from these CPUs."""
    return sum(counts[7] for counts in counters(cpus)) / TICKS


def worked(cpus):
    """Seconds that these CPUs were not idle, for whomever."""
    # Without those that were idle and waited for a disk, and without guests, which are counted before.
    return sum(sum(counts[:8]) - counts[3] - counts[4] for counts in counters(cpus)) / TICKS


def counters(cpus):
    """What the kernel counts of each of these CPUs (proc(5), /proc/stat)."""
    lines = [line.split() for line in pathlib.Path("/proc/stat").read_text().splitlines()]
    return [list(map(int, counts)) for name, *counts in lines if name in {f"cpu{cpu}" for cpu in cpus}]


def memory(root):
    """Bytes of a process and its descendants. What they share is counted once."""
    total = 0
    for pid in family(root):
        # It may have ended meanwhile, or waits to be buried and holds nothing.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += 1024 * int(re.search(r"^Pss:\s+(\d+)", rollup, re.M)[1])
    return total


def spent(root):
    """CPU seconds of a process and its descendants, with those that ended and were waited for."""
    ticks = 0
    for pid in family(root):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # Behind the name, which may have spaces: utime, stime, cutime and cstime (proc(5), fields 14 to 17).
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS
