#!/usr/bin/env python3
"""Runs Lockgate, nginx and HAProxy side by side on this machine and prints what each request costs.

    cargo build --release && python3 benches/peers/compare.py

What is measured and how to read it: README.md beside this file. Linux only; root is not needed.
"""

import datetime
import os
import pathlib
import shutil
import sys

sys.dont_write_bytecode = True

import chart
import report
import settings
from generators import h2load, oha, wrk
from measure import hold, measure
from servers import Servers

PROXIES = list(report.PROXIES)

# What is run, and what it is in words.
LOADS = {
    "h1": ("HTTPS, 64 kept connections, 1 KiB", wrk(64, "/files/1k")),
    "plain": ("HTTP, 64 kept connections, 1 KiB", wrk(64, "/files/1k", scheme="http")),
    "h2": ("HTTP/2, 16 connections of 16 streams, 1 KiB", h2load(16, 16, "/files/1k")),
    "h2-1m": ("HTTP/2, 64 connections of one stream, 1 KiB", h2load(64, 1, "/files/1k")),
    "handshake": ("HTTPS, a new connection each, 1 KiB", wrk(64, "/files/1k", options=("-H", "Connection: close"))),
    "h1-100k": ("HTTPS, 64 kept connections, 100 KiB", wrk(64, "/files/100k")),
    "h1-10m": ("HTTPS, 8 kept connections, 10 MiB", wrk(8, "/files/10m")),
    "chunked-100k": ("HTTPS, 64 kept connections, 100 KiB in chunks", wrk(64, "/chunked/100k")),
    "h1-1000c": ("HTTPS, 1000 kept connections, 1 KiB", wrk(1000, "/files/1k")),
    "upload": ("HTTPS, 8 kept connections, 10 MiB sent", h2load(8, 1, "/upload", ("--h1", "-d", "files/10m"), hops=2)),
    "upload-h2": ("HTTP/2, 8 connections, 10 MiB sent", h2load(8, 1, "/upload", ("-d", "files/10m"), hops=2)),
    "max": ("HTTPS, 128 kept connections, one word", wrk(128, "/files/word")),
}
RATES = {
    "rate-h1": ("HTTPS, 32 kept connections, 1 KiB", ()),
    "rate-h2": ("HTTP/2, 32 connections, 1 KiB", ("--http2",)),
}
IDLE = "HTTPS connections, each after one request"
NAMES = [*LOADS, *RATES, "idle"]


def main():
    options = arguments()
    scenarios = chosen(options)
    works = {name: work for name, (work, _) in scenarios.items()} | {"idle": IDLE}
    with Servers(options.cpus) as servers:
        before = os.getloadavg()[0]
        start(options, servers)
        figures = compare(options, servers, {name: load for name, (_, load) in scenarios.items()})
    print(conditions(options, before, figures), report.compared(works, figures), sep="\n\n")
    report.tell_left_out(options)
    report.refuse_failures(figures)
    if options.chart:
        options.chart.write_text(draw(options, works, figures))


def arguments():
    parser = settings.parser("Compares Lockgate with nginx and HAProxy.", NAMES)
    parser.add_argument("--rate", nargs="+", type=settings.positive, default=[5000], metavar="RATE",
                        help="requests a second of rate-h1 and rate-h2, default 5000")
    parser.add_argument("--idle", type=settings.positive, default=4000, help="connections of idle, default 4000")
    parser.add_argument("--oha", default="oha", help="the program of rate-h1 and rate-h2, default oha on the PATH")
    parser.add_argument("--no-access-log", dest="access_log", action="store_false",
                        help="Lockgate writes no access log, as the others do not")
    parser.add_argument("--chart", type=pathlib.Path, metavar="FILE", help="draw the ratios to nginx, as SVG")
    options = parser.parse_args()
    if options.chart and not os.access(options.chart.resolve().parent, os.W_OK):
        parser.error(f"{options.chart} cannot be written")
    settings.settle(options, settings.PACKAGES)
    if options.quick:
        options.idle = 200
    return options


def chosen(options):
    """What is run: what it is in words, and its load."""
    scenarios = dict(LOADS)
    rates = [name for name in RATES if name in options.only]
    program = options.oha = shutil.which(options.oha)
    if rates and not program:
        if options.only is not NAMES:
            sys.exit("missing: cargo install oha, or a release of it and --oha")
        options.left_out = f"{' and '.join(rates)}, which need oha: cargo install oha, or a release of it and --oha"
        rates = []
    for name in rates:
        work, more = RATES[name]
        for rate in options.rate:
            scenarios[f"{name} at {rate}/s"] = work, oha(program, 32, "/files/1k", rate, more)
    return {name: scenario for name, scenario in scenarios.items() if name.split()[0] in options.only}


def start(options, servers):
    servers.free_ports("origin", "sink", *(f"{proxy}_{scheme}" for proxy in PROXIES for scheme in ("http", "https")))
    # Of clients, and as many to the origin.
    connections = max(4096, options.idle + 1024)
    settings.open_files(2 * connections + 512)
    words = {"connections": connections, "access_log": "{ path: access.log }" if options.access_log else "off"}
    servers.start_origin(connections)
    for template in ("nginx.conf", "haproxy.cfg", "lockgate.yaml"):
        servers.configure(template, **words)
    for proxy in PROXIES:
        start_proxy(options, servers, proxy)
        probe(servers, proxy)


def start_proxy(options, servers, proxy):
    command = {"nginx": ["nginx", "-p", servers.folder, "-c", servers.folder / "nginx.conf"],
               "haproxy": ["haproxy", "-db", "-f", "haproxy.cfg"],
               "lockgate": [options.binary, "run", "--config", "lockgate.yaml", "--socket", "admin.sock"]}[proxy]
    servers.start(proxy, servers.proxy_cpu, *command)
    servers.expect(200, 1 << 10, proxy, f"{proxy}_https", "https", "GET", "/files/1k")


def probe(servers, proxy):
    """Sees that all answers are right which will be measured, and that nothing else is let through."""
    upload = (servers.folder / "files/10m").read_bytes()
    for scheme in ("https", "http"):
        for method, path, body, status, length in [
                ("GET", "/files/1k", None, 200, 1 << 10), ("GET", "/files/100k", None, 200, 100 << 10),
                ("GET", "/files/10m", None, 200, 10 << 20), ("GET", "/chunked/100k", None, 200, 100 << 10),
                ("POST", "/upload", upload, 204, 0), ("GET", "/else", None, 404, None)]:
            servers.expect(status, length, proxy, f"{proxy}_{scheme}", scheme, method, path, body)


def compare(options, servers, loads):
    """For each scenario and each proxy one figure a round."""
    figures = {name: {proxy: [] for proxy in PROXIES} for name in loads}
    if "idle" in options.only:
        figures["idle"] = {proxy: [] for proxy in PROXIES}
    for turn in range(options.rounds):
        for name, of in figures.items():
            for proxy, rounds in of.items():
                print(f"round {turn + 1} of {options.rounds}: {name}, {proxy}", file=sys.stderr)
                if name == "idle":
                    # What earlier connections left behind would be taken again.
                    servers.stop(proxy)
                    start_proxy(options, servers, proxy)
                    rounds.append(hold(servers, proxy, f"{proxy}_https", "/files/1k", options.idle))
                else:
                    servers.empty("access.log")
                    port = f"{proxy}_{loads[name].scheme}"
                    rounds.append(measure(servers, proxy, port, loads[name], options.seconds))
    return figures


def conditions(options, before, figures):
    measured = {name: of for name, of in figures.items() if name != "idle"}
    programs = proxies(options) | {"wrk": "wrk", "h2load": "h2load"} | ({"oha": options.oha} if options.oha else {})
    also = ["Lockgate writes its access log, the others write none" if options.access_log else "No access logs"]
    if "idle" in figures:
        also.append(f"Idle connections: {options.idle}")
    return report.conditions(options, also, programs, before, measured)


def proxies(options):
    """The programs by their names."""
    return {"Lockgate": options.binary, "nginx": "nginx", "HAProxy": "haproxy"}


def draw(options, works, figures):
    """The chart: what a request costs under each load, and what an idle connection holds."""
    rows = {}
    for name, of in figures.items():
        if not name.startswith("rate-"):
            key = "bytes" if name == "idle" else "cost"
            label = "memory of an idle HTTPS connection" if name == "idle" else works[name]
            rows[label] = {proxy: report.paired(of[proxy], of["nginx"], key) for proxy in chart.BARS}
    versions = ", ".join(report.version(*program) for program in proxies(options).items())
    return chart.svg("CPU time a request beside nginx: shorter is better", rows, [
        f"{versions}, {datetime.date.today()}, one worker on one core; {options.rounds} rounds of {options.seconds} s.",
        "Bars are medians; the line in a bar goes from the least to the most of the rounds."])


if __name__ == "__main__":
    main()
