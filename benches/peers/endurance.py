#!/usr/bin/env python3
"""Keeps Lockgate under load while everything around it fails by chance, and sees that it holds out and loses count of nothing.

    cargo build --release && python3 benches/peers/endurance.py

What happens and what must hold: README.md beside this file. Linux only; root, or network namespaces for users.
"""

import asyncio
import collections
import contextlib
import json
import os
import pathlib
import random
import re
import resource
import signal
import ssl
import subprocess
import sys
import time

sys.dont_write_bytecode = True

import clients
import faults
import network
import report
import settings
from measure import memory
from servers import Servers

TOOLS = ["nginx", "node", "gunicorn", "openssl", "taskset", "setpriv", "ip", "tc", "nft", "unshare", "mount", "h2load"]
# Its library makes other times of the wall clock's, and leaves the monotonic clock alone, as a jump of a real clock does.
FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"
# Room for the access log, twice what it takes, so that it can be full without hurting anybody else.
DISK = "512m"
WEBSOCKETS = 20
MIB = 1 << 20


class World:
    """Everything around Lockgate, and what can become of it. Each trouble ends by itself."""

    def __init__(self, backends, disk):
        self.backends, self.disk = backends, disk
        self.servers = backends.servers
        self.dice = random.Random(7)
        self.happened = collections.Counter()

    @property
    def pid(self):
        return self.servers.running["lockgate"].pid

    async def go_on(self, end):
        """One trouble after another until then, with a pause behind each."""
        troubles = [self.kill, self.stop, self.fail, self.slow, self.lose, self.jump, self.few_descriptors, self.disk_full]
        turns = []
        while time.monotonic() < end:
            if not turns:
                turns = self.dice.sample(troubles, len(troubles))
            trouble = turns.pop()
            self.happened[trouble.__name__] += 1
            await trouble()
            await asyncio.sleep(self.dice.uniform(0.5, 2))

    def some(self):
        """Some of the backends, at least one of them left out."""
        return self.dice.sample(range(len(faults.KINDS)), self.dice.randint(1, len(faults.KINDS) - 1))

    async def kill(self):
        numbers = self.some()
        self.backends.kill(*numbers)
        await asyncio.sleep(self.dice.uniform(0.2, 3))
        self.backends.start(*numbers)

    async def stop(self):
        numbers = self.some()
        for number in numbers:
            self.backends.signal(number, signal.SIGSTOP)
        await asyncio.sleep(self.dice.uniform(0.5, 4))
        for number in numbers:
            self.backends.signal(number, signal.SIGCONT)

    async def fail(self):
        self.backends.misbehave("errors")
        await asyncio.sleep(2)
        self.backends.behave()

    async def slow(self):
        self.backends.misbehave(f"backend{self.some()[0]}.slow")
        await asyncio.sleep(4)
        self.backends.behave()

    async def lose(self):
        for number in self.some():
            self.backends.hosts[number].lose(self.dice.choice((2, 10, 40)))
        await asyncio.sleep(3)
        self.backends.behave()

    async def jump(self):
        """The clock is set forwards or backwards, and put right again."""
        for offset in (f"{self.dice.choice(('+', '-'))}{self.dice.choice((2, 3600, 40 * 86400))}", "+0"):
            clock(self.servers.folder, offset)
            await asyncio.sleep(2)

    async def few_descriptors(self):
        """There is no room for connections beyond a few."""
        used = descriptors(self.pid)
        limits = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (used + self.dice.randint(0, 8), limits[1]))
        await asyncio.sleep(3)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, limits)

    async def disk_full(self):
        """There is no room for the access log."""
        filler = self.disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        await asyncio.sleep(3)
        filler.unlink()


class Load(faults.Clients):
    """Clients that come by TLS, of whose requests each has a path of its own."""

    def __init__(self, port, trust):
        super().__init__(port)
        self.trust = trust
        # Paths of requests that had an answer, whichever.
        self.answered = []
        self.asked = set()

    async def count(self, method, path, due):
        self.asked.add(path)
        status = await self.exchange(method, path, due)
        if isinstance(status, int):
            self.answered.append(path)
        (self.seen.good if status == 200 else self.seen.bad)[method, status] += 1

    def open(self):
        return asyncio.open_connection("127.0.0.1", self.port, ssl=self.trust, server_hostname="localhost")

    async def exchange(self, method, path, due):
        try:
            return await super().exchange(method, path, due)
        except ssl.SSLError:
            return "broken"


def clock(folder, offset):
    """Sets the clock that Lockgate sees; at once, since the library reads the file again each time."""
    made = folder / "clock.new"
    made.write_text(offset + "\n")
    made.rename(folder / "clock")


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def main():
    options = arguments()
    network.enter()
    with Servers(options.cpus) as servers:
        servers.backend_nginx = faults.shutil.which("nginx")
        disk = servers.folder / "disk"
        disk.mkdir()
        network.run("mount", "-t", "tmpfs", "-o", f"size={DISK},mode=777", "none", disk)
        backends = faults.Backends(servers)
        try:
            told, broken = asyncio.run(run(options, servers, World(backends, disk)))
        finally:
            backends.end()
            servers.stop(*servers.running)
            network.run("umount", disk)
    print(report.machine({"Lockgate": options.binary}), told, sep="\n\n")
    if broken:
        sys.exit("\n".join(["", *broken]))


def arguments():
    parser = settings.parser("Has everything around Lockgate fail by chance.", [], seconds=1200, rounds=None)
    options = parser.parse_args()
    settings.settle(options, TOOLS)
    found = sorted(pathlib.Path("/").glob(FAKETIME[1:]))
    if not found:
        sys.exit("missing: sudo apt-get install libfaketime")
    options.faketime = found[0]
    if options.quick:
        options.seconds = 20
    return options


async def run(options, servers, world):
    """What happened in words, and what should not have."""
    settings.open_files(4096)
    servers.free_ports("lockgate")
    world.backends.start()
    await world.backends.listen()
    async with await asyncio.start_server(clients.echo, "127.0.0.1", 0) as echo:
        words = {"echo": echo.sockets[0].getsockname()[1], "log": world.disk / "access.log",
                 "servers": ", ".join(f'"{host.address}:{faults.PORT}"' for host in world.backends.hosts)}
        servers.configure("endurance.yaml", "lockgate.yaml", **words)
        clock(servers.folder, "+0")
        servers.start("lockgate", servers.proxy_cpu, "env", f"LD_PRELOAD={options.faketime}",
                      f"FAKETIME_TIMESTAMP_FILE={servers.folder / 'clock'}", "FAKETIME_NO_CACHE=1",
                      "FAKETIME_DONT_FAKE_MONOTONIC=1", options.binary, "run", "--config", "lockgate.yaml", "--socket",
                      "admin.sock", other_cpu=servers.load_cpu)
        load = Load(servers.ports["lockgate"], servers.trust)
        await load.come(servers, "lockgate")
        sockets = clients.Clients(servers.ports["lockgate"], servers.trust, 0, WEBSOCKETS)
        await sockets.opened()
        # What it holds once it is warm: the first seconds of load are not of this.
        await load.load(asyncio.create_task(asyncio.sleep(min(10, options.seconds / 4))), world.backends)
        await asyncio.sleep(5)
        before = memory(world.pid), descriptors(world.pid)
        load.seen = faults.Seen()
        trouble = asyncio.create_task(world.go_on(time.monotonic() + options.seconds))
        streams = asyncio.create_task(over_2(servers, trouble))
        await load.load(trouble, world.backends)
        over_2_done = await streams
        servers.check("lockgate")
        # Checks put back in what was ejected, and what is idle for long is closed: a short run does not wait for that.
        await asyncio.sleep(2 if options.quick else 40)
        after = memory(world.pid), descriptors(world.pid)
        calm = Load(servers.ports["lockgate"], servers.trust)
        await calm.load(asyncio.create_task(asyncio.sleep(2)), world.backends)
        lost = sockets.lost
        await sockets.end()
        pid = servers.running["lockgate"]
        await asyncio.to_thread(servers.stop, "lockgate")
        return tell(options, servers, world, load, calm, before, after, lost, over_2_done, pid.returncode)


async def over_2(servers, until):
    """HTTP/2 beside it: requests that were answered, whatever the answer."""
    answered = 0
    while not until.done():
        process = await asyncio.create_subprocess_exec(
            "h2load", "-n1000", "-c4", "-m8", "--connection-active-timeout=20", "--header=x-over: 2",
            f"https://127.0.0.1:{servers.ports['lockgate']}/over-2", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        said, _ = await process.communicate()
        answered += sum(map(int, re.findall(r"(\d+) [2345]xx", said.decode())))
    return answered


def tell(options, servers, world, load, calm, before, after, lost, over_2_done, code):
    """The table, and what broke the rules."""
    lines = (world.disk / "access.log").read_bytes().split(b"\n")
    logged, torn = collections.Counter(), 0
    for line in lines[:-1]:
        try:
            logged[json.loads(line).get("path")] += 1
        except ValueError:
            torn += 1
    said = servers.said("lockgate")
    dropped = sum(map(int, re.findall(r"access log: records lost[^\n]* records=(\d+)", said)))
    answered = load.answered + calm.answered
    missing = sum(1 for path in answered if not logged[path])
    twice = sum(1 for path in load.asked | calm.asked if logged[path] > 1)
    missing += max(0, over_2_done - logged["/over-2"])
    requests = sum(load.seen.good.values()) + sum(load.seen.bad.values())
    rows = [["requests over HTTP/1.1, of them answered with 200", f"{requests}, {sum(load.seen.good.values())}"],
            ["answers over HTTP/2", over_2_done],
            ["WebSockets, of them lost", f"{WEBSOCKETS}, {lost}"],
            ["memory before and after, MiB", f"{before[0] / MIB:.1f}, {after[0] / MIB:.1f}"],
            ["descriptors before and after", f"{before[1]}, {after[1]}"],
            ["exchanges without a line in the log; of them dropped and counted", f"{missing}, {dropped}"],
            ["exchanges with two lines, broken lines", f"{twice}, {torn}"],
            ["requests that failed afterwards", sum(calm.seen.bad.values())],
            ["exit status", code]]
    rows += [[f"times of `{name}`", count] for name, count in sorted(world.happened.items())]
    rows += [[f"{method}: {status}", count] for (method, status), count in sorted(load.seen.bad.items(), key=str)]
    broken = [what for what, is_so in {
        "it ended badly": code not in (0, None),
        "it panicked": "panicked" in said,
        "a WebSocket was lost": lost,
        "memory has grown by more than a tenth and 8 MiB": after[0] > 1.1 * before[0] + 8 * MIB,
        "descriptors have grown by more than 16": after[1] > before[1] + 16 and not options.quick,
        "an exchange is missing in the log": missing > dropped,
        "an exchange was logged twice": twice,
        "a line of the log is broken": torn,
        "requests failed in calm": calm.seen.bad,
    }.items() if is_so]
    return report.table([["what"], ["seen"]], [[str(cell) for cell in row] for row in rows]), broken + (
        [said[-4000:]] if broken else [])


if __name__ == "__main__":
    main()
