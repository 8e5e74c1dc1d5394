#!/usr/bin/env python3
"""Attacks Lockgate, nginx, HAProxy and Envoy over HTTP/2, one after the other, with an honest client beside each attack.

    sudo apt-get install python3-hyperframe python3-hpack
    cargo build --release && python3 benches/peers/attacks.py

What is measured and how to read it: README.md beside this file. Linux only.
"""

import dataclasses
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

sys.dont_write_bytecode = True

import hostile
import report
import settings
from servers import Servers, family

TITLES = {"lockgate": "Lockgate", "nginx": "nginx", "haproxy": "HAProxy", "envoy": "Envoy"}
CONFIGS = {"lockgate": "lockgate.yaml", "nginx": "nginx.conf", "haproxy": "haproxy.cfg", "envoy": "envoy.yaml"}
SCRIPT = pathlib.Path(hostile.__file__).resolve()


@dataclasses.dataclass
class Seen:
    """What one attack did to one proxy."""
    growth: float = 0.0
    cpu: float = 0.0
    reached: int = 0
    # Milliseconds of the honest client's 99th percentile before, during and after; requests of it that failed.
    p99: tuple = ()
    failed: int = 0


def main():
    options = parse()
    settings.settle(options, ["openssl", "taskset", "setpriv"])
    hostile.frames()
    options.programs = {name: program for name, program in programs(options).items() if program}
    figures, halves, honest = {}, {}, {}
    with Servers(options.cpus) as servers:
        servers.free_ports("origin", "honest", *options.programs)
        # One for the attacks, and one for who is honest: a busy origin is no fault of a proxy.
        for origin in ("origin", "honest"):
            servers.start(origin, servers.origin_cpu, sys.executable, SCRIPT, "origin", servers.ports[origin])
        for name in options.programs:
            servers.configure(f"attacks/{CONFIGS[name]}", CONFIGS[name])
        for attack in options.only:
            for name in options.programs:
                figures.setdefault(attack, {})[name] = measure(servers, options, name, attack)
                print(attack, name, figures[attack][name], file=sys.stderr, flush=True)
        for name in options.programs:
            halves[name] = half(servers, options, name)
            print("descriptors", name, halves[name], file=sys.stderr, flush=True)
        for title, ask in hostile.HONEST.items():
            for name in options.programs:
                start(servers, options, name)
                honest.setdefault(title, {})[name] = ask(servers.ports[name])
                servers.stop(name)
    print(tables(options, figures, halves, honest))


def parse():
    parser = settings.parser(__doc__.splitlines()[0], list(hostile.ATTACKS), seconds=3, rounds=None)
    for name in ("nginx", "haproxy", "envoy"):
        parser.add_argument(f"--{name}", metavar="FILE", default=name, help="another build")
    parser.add_argument("--proxies", nargs="+", choices=list(TITLES), default=list(TITLES), metavar="NAME",
                        help="some of " + ", ".join(TITLES))
    return parser.parse_args()


def programs(options):
    found = {name: shutil.which(getattr(options, name)) for name in ("nginx", "haproxy", "envoy")}
    found = {"lockgate": str(options.binary), **found}
    return {name: found[name] for name in TITLES if name in options.proxies}


def half(servers, options, name):
    """What 200 connections with half a request cost a proxy that may open 120 files, and how long it takes to get well."""
    start(servers, options, name, "prlimit", "--nofile=120:120")
    held = [socket.create_connection(("127.0.0.1", servers.ports[name])) for _ in range(200)]
    for one in held:
        # Half of what TLS begins with: it is as far from a whole request.
        one.sendall(b"\x16\x03\x01\x02\x00\x01")
    time.sleep(1)
    cpu, began = spent(servers, name), time.monotonic()
    time.sleep(options.seconds)
    cpu = (spent(servers, name) - cpu) / (time.monotonic() - began)
    for one in held:
        one.close()
    began = time.monotonic()
    servers.expect(200, 1024, name, name, "https", "GET", "/good")
    back = time.monotonic() - began
    servers.stop(name)
    return cpu, back


def start(servers, options, name, *before):
    program, config = options.programs[name], servers.folder / CONFIGS[name]
    command = {"lockgate": [program, "run", "--config", config],
               "nginx": [program, "-p", servers.folder, "-c", config],
               "haproxy": [program, "-f", config],
               "envoy": [program, "-c", config, "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]}
    servers.start(name, servers.proxy_cpu, *before, *command[name])
    for _ in range(20):
        servers.expect(200, 1024, name, name, "https", "GET", "/good")


def measure(servers, options, name, attack):
    start(servers, options, name)
    seen = Seen()
    honest = subprocess.Popen([sys.executable, SCRIPT, "honest", str(servers.ports[name])], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    try:
        before = p99(ask(honest, options.seconds), seen)
        count = reached(servers)
        memory, cpu = pss(servers, name), spent(servers, name)
        begin(honest, options.seconds)
        attacker = subprocess.Popen([sys.executable, SCRIPT, "attack", attack, str(servers.ports[name]),
                                     str(options.seconds)])
        most, began = memory, time.monotonic()
        while attacker.poll() is None and time.monotonic() < began + 4 * options.seconds + 10:
            most = max(most, pss(servers, name))
            time.sleep(0.02)
        took = time.monotonic() - began
        attacker.kill()
        during = p99(end(honest), seen)
        seen.growth, seen.cpu = (most - memory) / 1024, (spent(servers, name) - cpu) / took
        after = p99(ask(honest, options.seconds), seen)
        seen.p99 = (before, during, after)
        servers.check(name)
        # What a slow origin still thinks about is counted.
        seen.reached = reached(servers) - count
    finally:
        honest.kill()
        honest.wait()
        servers.stop(name)
    return seen


def begin(honest, seconds):
    honest.stdin.write(f"{seconds}\n")
    honest.stdin.flush()


def end(honest):
    return honest.stdout.readline().split()


def ask(honest, seconds):
    begin(honest, seconds)
    return end(honest)


def p99(took, seen):
    good = sorted(float(one) for one in took if one != "bad")
    seen.failed += len(took) - len(good)
    return good[int(len(good) * 0.99)] if good else float("inf")


def reached(servers):
    return int(servers.ask("origin", "origin", "http", "GET", "/count")[1])


def pss(servers, name):
    """KiB of all processes of a proxy, what they share counted once."""
    total = 0
    for pid in family(servers.running[name].pid):
        try:
            lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except OSError:
            pass
    return total


def spent(servers, name):
    """Seconds of CPU."""
    ticks = 0
    for pid in family(servers.running[name].pid):
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return ticks / os.sysconf("SC_CLK_TCK")


def tables(options, figures, halves, honest):
    heads = [["attack"], [TITLES[name] for name in options.programs]]
    parts = []
    for title, cell in (
            ("Growth of memory, MB, at the most", lambda seen: f"{seen.growth:.1f}"),
            ("Requests of the attacker that reached the origin", lambda seen: str(seen.reached)),
            ("CPU, of one core", lambda seen: f"{seen.cpu:.0%}"),
            ("Milliseconds of an honest client, 99th percentile: before / during / after",
             lambda seen: " / ".join(f"{one:.1f}" for one in seen.p99) + (f", **{seen.failed} failed**" if seen.failed else ""))):
        rows = [[hostile.ATTACKS[attack][0], *(cell(of[name]) for name in options.programs)] for attack, of in figures.items()]
        parts += [f"{title}:", report.table(heads, rows)]
    rows = [["CPU, of one core", *(f"{halves[name][0]:.1%}" for name in options.programs)],
            ["seconds until it answers again", *(f"{halves[name][1]:.2f}" for name in options.programs)]]
    parts += ["200 connections with half a request, and 120 descriptors:", report.table([[""], heads[1]], rows)]
    rows = [[title, *(of[name] for name in options.programs)] for title, of in honest.items()]
    parts += ["Clients that are honest, and their answers:", report.table([["client"], heads[1]], rows)]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
