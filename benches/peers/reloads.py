#!/usr/bin/env python3
"""Reloads Lockgate, nginx, HAProxy and Caddy every second while clients stay, and prints what each of them loses.

    cargo build --release && python3 benches/peers/reloads.py

What is measured and how to read it: README.md beside this file. Linux only; root is not needed.
"""

import asyncio
import dataclasses
import http.client
import os
import shutil
import signal
import sys
import time

sys.dont_write_bytecode = True

import report
import settings
from clients import Clients, echo
from generators import wrk
from measure import memory, spent, worked
from servers import Servers

TOOLS = ["nginx", "wrk", "openssl", "taskset", "setpriv"]
LOAD = wrk(64, "/files/1k")
# How often a second the memory is looked at.
LOOKS = 4
MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Proxy:
    """One that is reloaded: how it is called, its config, and what it says, in which file, after each good reload."""
    title: str
    config: str
    said: str
    log: str


PROXIES = {
    "lockgate": Proxy("Lockgate", "lockgate.yaml", "a new version is in force", "lockgate.out"),
    "nginx": Proxy("nginx", "nginx.conf", "start worker processes", "nginx.log"),
    "haproxy": Proxy("HAProxy", "haproxy.cfg", "Loading success", "haproxy.out"),
    "caddy": Proxy("Caddy", "Caddyfile", "load complete", "caddy.out"),
}


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one run has shown."""
    # Requests of wrk; those that failed, of all clients.
    requests: int
    failed: int
    # What became of the clients that stay.
    clients: Clients
    # The most bytes at a time, CPU seconds, and reloads that were asked for and that came to be.
    memory: int
    cpu: float
    # The part of the time in which others had the proxy's CPU.
    taken: float
    asked: int
    done: int


def main():
    options = arguments()
    before = os.getloadavg()[0]
    with Servers(options.cpus) as servers:
        figures = asyncio.run(compare(options, servers))
    print(conditions(options, before, figures), lost(options, figures), cost(figures), sep="\n\n")
    report.tell_left_out(options)


def arguments():
    parser = settings.parser("Reloads Lockgate and others under load.", list(PROXIES), seconds=60, rounds=None)
    for name in ("nginx", "haproxy", "caddy"):
        parser.add_argument(f"--{name}", default=name, metavar="FILE",
                            help=f"the {PROXIES[name].title} to measure, default {name} on the PATH")
    options = parser.parse_args()
    settings.settle(options, TOOLS)
    options.kept, options.websockets = 50, 200
    if options.quick:
        options.seconds, options.kept, options.websockets = 3, 10, 20
    options.programs = {"lockgate": options.binary} | {
        name: shutil.which(getattr(options, name)) for name in ("nginx", "haproxy", "caddy")}
    missing = [name for name in options.only if not options.programs[name]]
    options.only = [name for name in PROXIES if name in options.only and name not in missing]
    if missing:
        options.left_out = ", ".join(f"{PROXIES[name].title}, as there is no {getattr(options, name)}"
                                     for name in missing)
    # Without wrk a reload's own cost is seen, which is small beside that of the load.
    options.calm = max(2, options.seconds // 3)
    return options


async def compare(options, servers):
    """For each proxy its runs: under load and calm, without reloads and with them."""
    settings.open_files(4096)
    servers.free_ports("origin", "sink", "caddy_admin", *PROXIES)
    # The endpoint that comes and goes is the origin too.
    servers.start_origin(4096, " ".join(f"listen 127.0.0.{last}:{servers.ports['origin']};" for last in (2, 3)))
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        servers.ports["echo"] = server.sockets[0].getsockname()[1]
        return {name: [await run(options, servers, name, load, reloads) for load in (True, False)
                       for reloads in (False, True)] for name in options.only}


async def run(options, servers, name, load, reloads):
    """One run of a proxy that was just started."""
    seconds = options.seconds if load else options.calm
    print(f"{name}, {seconds} s, {'loaded' if load else 'calm'}, {'reloads' if reloads else 'no reloads'}",
          file=sys.stderr)
    write(servers, name, 0)
    start(options, servers, name)
    clients = Clients(servers.ports[name], servers.trust, options.kept, options.websockets)
    await clients.opened()
    root, said_before = servers.running[name].pid, said(servers, name)
    most, asked, cpu, all_cpu, begin = 0, 0, spent(root), worked(servers.cpus[name]), time.monotonic()
    if load:
        servers.start("load", servers.load_cpu, *LOAD.command(servers.ports[name], seconds))
    for look in range(1, seconds * LOOKS):
        await asyncio.sleep(begin + look / LOOKS - time.monotonic())
        servers.check(name)
        if reloads and look % LOOKS == 0:
            asked += 1
            write(servers, name, asked)
            await reload(servers, name)
        most = max(most, memory(root))
    await asyncio.sleep(begin + seconds - time.monotonic())
    done = await settled(servers, name, said_before, asked)
    cpu, all_cpu = spent(root) - cpu, worked(servers.cpus[name]) - all_cpu
    taken = max(0, all_cpu - cpu) / (time.monotonic() - begin)
    while load and servers.running["load"].poll() is None:
        await asyncio.sleep(0.05)
    told = LOAD.read(servers.finish("load", 1)) if load else None
    await clients.end()
    # Meanwhile the clients' connections are closed, for which a proxy waits.
    await asyncio.to_thread(servers.stop, name)
    return Seen(told.done if told else 0, clients.failed + (told.failures if told else 0), clients, most, cpu, taken,
                asked, done)


def write(servers, name, turn):
    """The config of this turn: each has another weight and another endpoint than the one before."""
    config = PROXIES[name].config
    words = {"connections": 4096, "weight": 1 + turn % 3, "other": f"127.0.0.{2 + turn % 2}"}
    made = servers.configure(f"reloads/{config}", f"{config}.new", **words)
    made.replace(servers.folder / config)


def start(options, servers, name):
    for file in ("access.log", "nginx.log"):
        servers.empty(file)
    program, config = options.programs[name], PROXIES[name].config
    command = {"lockgate": ["run", "--config", config, "--socket", "admin.sock"],
               "nginx": ["-p", servers.folder, "-c", servers.folder / config],
               "haproxy": ["-W", "-db", "-f", config],
               "caddy": ["run", "--config", config, "--adapter", "caddyfile"]}[name]
    # Caddy writes to where its user is at home.
    servers.start(name, servers.proxy_cpu, "env", f"HOME={servers.folder}", program, *command)
    servers.expect(200, 1 << 10, name, name, "https", "GET", "/files/1k")


async def reload(servers, name):
    """Reloads a proxy in its own way. Lockgate sees by itself that its file is another one."""
    signals = {"nginx": signal.SIGHUP, "haproxy": signal.SIGUSR2}
    if name in signals:
        os.kill(servers.running[name].pid, signals[name])
    elif name == "caddy":
        await asyncio.to_thread(load, servers.ports["caddy_admin"], (servers.folder / "Caddyfile").read_bytes())


def load(port, config):
    """What `caddy reload` does, without the CPU time of that command."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    client.request("POST", "/load", config, {"Content-Type": "text/caddyfile"})
    answer = client.getresponse()
    if answer.status != 200:
        sys.exit(f"caddy refuses its config with {answer.status}: {answer.read()}")
    client.close()


def said(servers, name):
    """How often a proxy has said that a config is in force."""
    return (servers.folder / PROXIES[name].log).read_text(errors="replace").count(PROXIES[name].said)


async def settled(servers, name, before, asked):
    """How many reloads came to be. The last one may take a moment."""
    for _ in range(100):
        done = said(servers, name) - before
        if done >= asked:
            return done
        await asyncio.sleep(0.05)
    if not done:
        sys.exit(f"{name} was never reloaded\n{servers.said(name)}")
    return done


def conditions(options, before, figures):
    programs = {PROXIES[name].title: options.programs[name] for name in options.only} | {"wrk": "wrk"}
    taken = ", ".join(f"{PROXIES[name].title} {max(seen.taken for seen in runs):.0%}"
                      for name, runs in figures.items())
    text = [report.machine(programs),
            f"Runs of {options.seconds} s under load and {options.calm} s without. {report.places(options)}. Load average "
            f"before the start: {before:.1f}. The most that others had of a proxy's CPU in a run: {taken}."]
    return "\n\n".join(text + [report.QUICK] * options.quick)


def lost(options, figures):
    """What clients saw."""
    rows = []
    for name, (_, loaded, _, _) in figures.items():
        seen = loaded.clients
        times = f" ({report.form(seen.lost, 0)} times)" if seen.lost else ""
        rows.append([PROXIES[name].title, f"{loaded.done} of {loaded.asked}", report.form(loaded.requests, 0),
                     report.form(loaded.failed, 0), report.form(seen.closed, 0), report.form(seen.announced, 0),
                     f"{len(seen.losers)} of {options.websockets}{times}"])
    return "What clients saw:\n\n" + report.table(
        [["proxy"], ["reloads", "requests", "failed", "kept connections closed", "announced", "WebSockets lost"]], rows)


def cost(figures):
    """What it took."""
    rows = []
    for name, (steady, loaded, calm, reloaded) in figures.items():
        each = 1000 * (reloaded.cpu - calm.cpu) / reloaded.done
        rows.append([PROXIES[name].title, report.form(steady.memory / MIB, 1), report.form(loaded.memory / MIB, 1),
                     report.form(each, 1), f"{loaded.requests / steady.requests - 1:+.1%}"])
    return "What it took:\n\n" + report.table(
        [["proxy"], ["most MiB without reloads", "with", "CPU ms a reload", "requests, to those without reloads"]],
        rows)


if __name__ == "__main__":
    main()
