#!/usr/bin/env python3
"""Runs Lockgate, nginx and HAProxy side by side on this machine and prints what each request costs.

    cargo build --release && python3 benches/peers/compare.py

What is measured and how to read it: README.md beside this file. Linux only; root is not needed.
"""

import argparse
import datetime
import http.client
import math
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

PACKAGES = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk", "h2load": "nghttp2-client",
            "openssl": "openssl", "taskset": "util-linux"}

# Name, load generator and its options, scheme, path. "upload" is the file with the body.
SCENARIOS = [
    ("h1", "wrk", ["-c64"], "https", "/files/1k"),
    ("plain", "wrk", ["-c64"], "http", "/files/1k"),
    ("h2", "h2load", ["-c16", "-m16"], "https", "/files/1k"),
    ("handshake", "wrk", ["-c64", "-H", "Connection: close"], "https", "/files/1k"),
    ("h1-100k", "wrk", ["-c64"], "https", "/files/100k"),
    ("upload", "h2load", ["--h1", "-c8", "-d", "upload"], "https", "/upload"),
    ("upload-h2", "h2load", ["-c8", "-m1", "-d", "upload"], "https", "/upload"),
]

NAMES = [name for name, *_ in SCENARIOS]
PROXIES = ["nginx", "haproxy", "lockgate"]


def main():
    options = arguments()
    # nginx and haproxy are in sbin, which is not on everyone's path.
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"
    missing = [package for tool, package in PACKAGES.items() if not shutil.which(tool)]
    if missing:
        sys.exit("missing: sudo apt-get install " + " ".join(missing))
    if not os.access(options.binary, os.X_OK):
        sys.exit(f"no {options.binary}: cargo build --release, or name another with --binary")
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("two cores are needed: one for the proxies, one for the load and the origin")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    running = {}
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        try:
            compare(options, cores, pathlib.Path(folder), running)
        finally:
            stop(running.values())


def arguments():
    root = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description="Compares Lockgate with nginx and HAProxy.")
    parser.add_argument("--binary", type=pathlib.Path, default=root / "target/release/lockgate")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--seconds", type=int, default=5, help="length of one measurement, default 5")
    parser.add_argument("--only", nargs="+", metavar="SCENARIO", choices=NAMES, default=NAMES,
                        help="of " + ", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="one round of a second: whether it works, no figures")
    options = parser.parse_args()
    options.binary = options.binary.resolve()
    if options.quick:
        options.rounds = options.seconds = 1
    return options


def compare(options, cores, folder, running):
    ports = free_ports("origin", "sink", *(f"{proxy}_{scheme}" for proxy in PROXIES for scheme in ("http", "https")))
    prepare(folder, ports)
    load = os.getloadavg()[0]
    start = lambda name, core, *command: running.update({name: subprocess.Popen(
        ["taskset", "-c", str(core), *map(str, command)], cwd=folder, stdin=subprocess.DEVNULL,
        stdout=open(folder / f"{name}.out", "wb"), stderr=subprocess.STDOUT)})
    start("origin", cores[1], "nginx", "-p", folder, "-c", folder / "origin.conf")
    start("nginx", cores[0], "nginx", "-p", folder, "-c", folder / "nginx.conf")
    start("haproxy", cores[0], "haproxy", "-db", "-f", "haproxy.cfg")
    start("lockgate", cores[0], options.binary, "run", "--config", "lockgate.yaml")
    for proxy in PROXIES:
        probe(folder, proxy, ports, running)
    figures = {}
    for turn in range(options.rounds):
        for name, tool, extra, scheme, path in SCENARIOS:
            for proxy in PROXIES if name in options.only else []:
                print(f"round {turn + 1} of {options.rounds}: {name}, {proxy}", file=sys.stderr)
                duration = ["-t1", f"-d{options.seconds}s"] if tool == "wrk" else ["-t1", "-D", str(options.seconds)]
                url = f"{scheme}://localhost:{ports[f'{proxy}_{scheme}']}{path}"
                command = ["taskset", "-c", str(cores[1]), tool, *duration, *extra, url]
                figures.setdefault((name, proxy), []).append(
                    measure(command, folder, running[proxy].pid, options.seconds))
    report(options, figures, load)


def free_ports(*names):
    """All are bound before any is let go, so that none is given twice."""
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in names}
    ports = {name: held.getsockname()[1] for name, held in sockets.items()}
    for held in sockets.values():
        held.close()
    return ports


def prepare(folder, ports):
    """Fills in the config templates, and makes the files and the certificate that they name."""
    words = ports | {"user": "user root;" if os.geteuid() == 0 else ""}
    for template in (pathlib.Path(__file__).parent / "config").iterdir():
        text = re.sub("@([a-z_]+)@", lambda word: str(words[word[1]]), template.read_text())
        (folder / template.name).write_text(text)
    (folder / "files").mkdir()
    for file, size in [("files/1k", 1 << 10), ("files/100k", 100 << 10), ("upload", 10 << 20)]:
        (folder / file).write_bytes(os.urandom(size))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                    "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())


def probe(folder, proxy, ports, running):
    """Waits until a proxy answers, and sees that its answers are right: a fast error is no figure."""
    trust = ssl.create_default_context(cafile=folder / "cert.pem")
    upload = (folder / "upload").read_bytes()
    cases = [("GET", "/files/1k", None, 200, 1 << 10), ("GET", "/files/100k", None, 200, 100 << 10),
             ("POST", "/upload", upload, 204, 0), ("GET", "/else", None, 404, None)]
    end = time.monotonic() + 10
    for method, path, body, status, length in cases:
        for client in (http.client.HTTPSConnection("localhost", ports[f"{proxy}_https"], timeout=10, context=trust),
                       http.client.HTTPConnection("localhost", ports[f"{proxy}_http"], timeout=10)):
            while True:
                try:
                    client.request(method, path, body)
                    answer = client.getresponse()
                    break
                except OSError as error:
                    client.close()
                    if time.monotonic() > end or running[proxy].poll() is not None:
                        said = (folder / f"{proxy}.out").read_text(errors="replace")
                        sys.exit(f"{proxy} does not answer: {error}\n{said}")
                    time.sleep(0.05)
            got = (answer.status, len(answer.read()))
            if got[0] != status or length not in (None, got[1]):
                sys.exit(f"{proxy}: {method} {path} was answered with {got}, not {(status, length)}")
            client.close()


def measure(command, folder, proxy, seconds):
    before = cpu_time(proxy)
    started = time.monotonic()
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds + 30)
    elapsed = time.monotonic() - started
    spent = cpu_time(proxy) - before
    read = read_wrk if "wrk" in command else read_h2load
    try:
        done, rate, failures = read(told.stdout)
    except (TypeError, ValueError):
        sys.exit(f"not understood: {' '.join(command)}\n{told.stdout}{told.stderr}")
    return {"rate": rate, "cpu": spent / 1e3 / done if done else math.inf, "busy": spent / 1e9 / elapsed,
            "failures": failures}


def read_wrk(text):
    done = int(re.search(r"(\d+) requests in", text)[1])
    rate = float(re.search(r"Requests/sec: +([\d.]+)", text)[1])
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    failures = sum(map(int, errors.groups())) if errors else 0
    return done, rate, failures + (int(refused[1]) if refused else 0)


def read_h2load(text):
    rate = float(re.search(r"finished in .*?, ([\d.]+) req/s", text)[1])
    done, failed = re.search(r"(\d+) done, \d+ succeeded, (\d+) failed", text).groups()
    return int(done), rate, int(failed)


def cpu_time(root):
    """Nanoseconds on a processor of a process, its descendants and all their threads."""
    spent = 0
    for pid in family(root):
        for thread in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
            spent += int(thread.read_text().split()[0])
    return spent


def family(root):
    found = [root]
    for pid in found:
        for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def report(options, figures, load):
    say = lambda *command: subprocess.run(command, capture_output=True, text=True)
    first = lambda told: (told.stdout + told.stderr).strip().splitlines()[0]
    processor = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    print(f"{datetime.date.today()}, {processor[1] if processor else platform.machine()}, {os.cpu_count()} cores, "
          f"Linux {platform.release()}; load average before {load:.1f}; rounds: {options.rounds} of "
          f"{options.seconds} s, medians (least–most).\n")
    versions = [(options.binary, "--version"), ("nginx", "-v"), ("haproxy", "-v"), ("h2load", "--version"), ("wrk", "-v")]
    print("; ".join(first(say(*command)) for command in versions) + ".\n")
    print("| scenario | proxy | requests/s | to nginx | CPU µs a request | to nginx | core busy | failures |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for (name, proxy), rounds in figures.items():
        row = [name, proxy]
        for key, digits in [("rate", 0), ("cpu", 1)]:
            values = [figure[key] for figure in rounds]
            middle, nginx = statistics.median(values), statistics.median(f[key] for f in figures[name, "nginx"])
            row.append(f"{middle:.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})")
            row.append(f"{middle / nginx:.2f}" if 0 < nginx < math.inf else "–")
        row.append(f"{statistics.median(figure['busy'] for figure in rounds):.0%}")
        row.append(str(sum(figure["failures"] for figure in rounds)))
        print("| " + " | ".join(row) + " |")


def stop(running):
    """Ends what was started, and the workers of those that would not end by themselves."""
    families = [pid for process in running for pid in family(process.pid)]
    for process in running:
        process.terminate()
    end = time.monotonic() + 5
    while time.monotonic() < end and any(process.poll() is None for process in running):
        time.sleep(0.05)
    if any(process.poll() is None for process in running):
        for pid in families:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for process in running:
            process.wait()


if __name__ == "__main__":
    main()
