#!/usr/bin/env python3
"""Runs Lockgate beside itself with more of something, and prints by how much a request costs more.

    cargo build --release && python3 benches/peers/growth.py

What is measured and how to read it: README.md beside this file. Linux only; root is not needed.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys

sys.dont_write_bytecode = True

import report
import settings
from generators import Load, wrk
from idle import Idle
from measure import measure
from servers import Servers

NAMES = ["routes", "endpoints", "balance", "idle", "log", "workers"]
TOOLS = ["nginx", "wrk", "openssl", "taskset", "setpriv"]
KEPT = wrk(64, "/files/1k")


@dataclasses.dataclass(frozen=True)
class Side:
    """One of two ways to run Lockgate: a number or a word for it, and what it has beyond what both have."""
    label: str
    config: dict
    load: Load = KEPT
    # Connections that do nothing meanwhile, and whether there is a second CPU.
    idle: int = 0
    two_cpus: bool = False


def main():
    options = arguments()
    with Servers(options.cpus) as servers:
        before = os.getloadavg()[0]
        addresses = prepare(options, servers)
        figures = {}
        for name, sides in pairs(options, servers, addresses):
            figures[name] = grow(options, servers, name, sides)
    programs = {"Lockgate": options.binary, "nginx": "nginx", "wrk": "wrk"}
    print(report.conditions(options, [], programs, before, figures), report.grown(figures), sep="\n\n")
    report.tell_left_out(options)
    report.refuse_failures(figures)


def arguments():
    parser = settings.parser("Compares Lockgate with itself.", NAMES)
    options = parser.parse_args()
    settings.settle(options, TOOLS)
    if "workers" in options.only and len(options.cpus) < 4:
        # Load and origin cannot keep two workers busy from the core of one of them.
        options.left_out = (f"workers, which need 4 CPUs and have {len(options.cpus)}: two for the workers, one for "
                            "the load, one for the origin")
    options.routes, options.endpoints, options.idle = (10, 100_000), (2, 1000), 10_000
    options.balanced = (10, 1000)
    if options.quick:
        options.routes, options.endpoints, options.idle = (10, 1000), (2, 100), 200
        options.balanced = (10,)
    return options


def prepare(options, servers):
    """Starts the origin, on an address for each endpoint; all of them are of this machine."""
    settings.open_files(options.idle + 2048)
    servers.free_ports("origin", "sink", "many", "less", "more")
    port = servers.ports["many"]
    addresses = [f"127.1.{number >> 8}.{number & 255}:{port}" for number in range(options.endpoints[1])]
    servers.start_origin(4096, " ".join(f"listen {address};" for address in addresses))
    return addresses


def pairs(options, servers, addresses):
    """What is held against each other, by its name in the table."""
    if "routes" in options.only:
        yield "routes", [routes(servers, count) for count in options.routes]
    for algorithm in algorithms(options) if "endpoints" in options.only else []:
        yield f"endpoints, `{algorithm}`", [
            Side(f"{count}", {"pools": {"origin": {"balance": algorithm, "endpoints": addresses[:count]}}})
            for count in options.endpoints]
    for count in options.balanced if "balance" in options.only else []:
        for algorithm in ("least_connections", "peak_ewma"):
            yield f"balance, {count} endpoints, `{algorithm}`", [
                Side(word, {"pools": {"origin": {"balance": word, "endpoints": addresses[:count]}}})
                for word in ("round_robin", algorithm)]
    if "idle" in options.only:
        yield "idle connections", [
            Side(f"{count}", {"timeouts": {"keep_alive": "1h"}}, idle=count) for count in (0, options.idle)]
    if "log" in options.only:
        yield "access log", [Side("none", {}), Side("to a file", {"access_log": {"path": "access.log"}})]
    if "workers" in options.only and not options.left_out:
        yield "workers", [Side(f"{count}", {"workers": count}, wrk(128, "/files/word"), two_cpus=count == 2)
                          for count in (1, 2)]


def algorithms(options):
    """All that this Lockgate has by a word: what the schema explains for `balance`."""
    told = subprocess.run([options.binary, "schema"], capture_output=True, text=True, check=True)
    forms = json.loads(told.stdout)["$defs"]["pool"]["properties"]["balance"]["anyOf"]
    # A variable may stand for each.
    words = (word for form in forms for one in form.get("anyOf", []) for word in one.get("oneOf", []))
    return [word["const"] for word in words]


def routes(servers, count):
    """So many routes by host and path. The script asks for all of them."""
    table = [{"match": {"host": f"{number // 100:04}.many.localhost", "path": f"/many/{number:05}/"}, "pool": "origin"}
             for number in range(count)]
    script = servers.configure("routes.lua", f"routes-{count}.lua", routes=count)
    return Side(f"{count}", {"routes": table}, wrk(64, "/", options=("-s", str(script))))


def grow(options, servers, name, sides):
    """Runs both sides in turn: their labels, and a figure a round."""
    measured = [(side, []) for side in sides]
    with contextlib.ExitStack() as held:
        for process, side in zip(("less", "more"), sides):
            begin(options, servers, process, side)
            if side.idle:
                print(f"opening {side.idle} connections", file=sys.stderr)
                idle = held.enter_context(Idle(servers.ports[process], servers.trust, "/files/1k", side.idle))
        for turn in range(options.rounds):
            for process, (side, rounds) in zip(("less", "more"), measured):
                print(f"round {turn + 1} of {options.rounds}: {name}, {side.label}", file=sys.stderr)
                servers.empty("access.log")
                rounds.append(measure(servers, process, process, side.load, options.seconds))
        if sides[1].idle and (closed := idle.closed()):
            sys.exit(f"{closed} of the idle connections were closed")
    servers.stop("less", "more")
    return {side.label: rounds for side, rounds in measured}


def begin(options, servers, process, side):
    config = {
        "workers": 1, "access_log": "off",
        "listeners": [{"address": f"127.0.0.1:{servers.ports[process]}",
                       "tls": {"certificates": [{"cert": "cert.pem", "key": "key.pem"}]}}],
        "routes": [{"pool": "origin"}], "pools": {"origin": {"endpoints": [f"127.0.0.1:{servers.ports['origin']}"]}}}
    # JSON is YAML too.
    (servers.folder / f"{process}.yaml").write_text(json.dumps(config | side.config))
    second = options.cpus[3] if side.two_cpus else None
    servers.start(process, servers.proxy_cpu, options.binary, "run", "--config", f"{process}.yaml",
                  "--socket", f"{process}.sock", other_cpu=second)
    host, path = ("0000.many.localhost", "/many/00000/1k") if "routes" in side.config else ("localhost", "/files/1k")
    servers.expect(200, 1 << 10, process, process, "https", "GET", path, host=host)


if __name__ == "__main__":
    main()
