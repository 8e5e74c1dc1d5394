#!/usr/bin/env python3
"""Has backends die, hang, fail and move behind Lockgate, nginx, HAProxy and Envoy, and prints what clients saw.

    cargo build --release && python3 benches/peers/faults.py

What is measured and how to read it: README.md beside this file. Linux only; root, or
network namespaces for users.
"""

import asyncio
import collections
import contextlib
import dataclasses
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True

import network
import report
import settings
from servers import Servers, family

TOOLS = ["nginx", "node", "gunicorn", "dnsmasq", "openssl", "taskset", "setpriv", "ip", "tc", "nft", "unshare"]
TITLES = {"lockgate": "Lockgate", "nginx": "nginx", "haproxy": "HAProxy", "envoy": "Envoy"}
CONFIGS = {"lockgate": "lockgate.yaml", "nginx": "nginx.conf", "haproxy": "haproxy.cfg", "envoy": "envoy.yaml"}

# What the backends are, in their order.
KINDS = ("node", "gunicorn", "nginx", "node", "node")
PORT = 8080
BODY = b"x" * 1024

# Requests a second, the part of them that is a POST, and how long an answer may take.
RATE, POSTS, PATIENCE = 200, 0.2, 15


@dataclasses.dataclass
class Seen:
    """What clients saw of one proxy in one scenario."""
    good: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    bad: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    # Milliseconds to the whole answer, or to its failure, of GETs.
    took: list = dataclasses.field(default_factory=list)
    # POSTs that more than one backend, or one more than once, has run.
    twice: int = 0

    def rate(self, method):
        good, bad = self.good[method], sum(count for (of, _), count in self.bad.items() if of == method)
        return good / max(1, good + bad)

    def quantile(self, part):
        took = sorted(self.took)
        return took[min(len(took) - 1, int(part * len(took)))]


class Backends:
    """Five servers, each on a host of its own, or some of them."""

    def __init__(self, servers):
        self.servers = servers
        self.hosts = [network.Far(number) for number in range(len(KINDS))]
        self.names = [f"backend{number}" for number in range(len(KINDS))]
        for name in self.names:
            (servers.folder / f"{name}.posts").touch()

    def start(self, *numbers):
        for number in numbers or range(len(KINDS)):
            name, host, kind = self.names[number], self.hosts[number], KINDS[number]
            self.servers.start(name, self.servers.origin_cpu, *host.inside, *self.command(kind, name, host.address))

    def command(self, kind, name, address):
        if kind == "node":
            return ["node", self.file("app.js"), name, address, PORT]
        if kind == "gunicorn":
            posts = self.servers.folder / f"{name}.posts"
            return ["env", f"POSTS={posts}", f"PYTHONPATH={self.file('app.py').parent}", "PYTHONDONTWRITEBYTECODE=1",
                    "gunicorn", "--workers", "2", "--worker-class", "gthread", "--threads", "8", "--log-level", "error",
                    "--bind", f"{address}:{PORT}", "app:app"]
        made = self.servers.configure("faults/backend.conf", f"{name}.conf", who=name, address=address, port=PORT,
                                      folder=self.servers.folder, body=BODY.decode())
        return [self.servers.backend_nginx, "-p", self.servers.folder, "-c", made]

    @staticmethod
    def file(name):
        return (pathlib.Path(__file__).parent / "config/faults" / name).resolve()

    async def listen(self, *numbers):
        """Waits until they accept connections."""
        for number in numbers or range(len(KINDS)):
            end = time.monotonic() + 20
            while True:
                try:
                    _, writer = await asyncio.open_connection(self.hosts[number].address, PORT)
                    writer.transport.abort()
                    break
                except OSError:
                    self.servers.check(self.names[number])
                    if time.monotonic() > end:
                        sys.exit(f"{self.names[number]} does not listen")
                    await asyncio.sleep(0.02)

    def kill(self, *numbers):
        """Ends them as the kernel does when memory is out."""
        for number in numbers or range(len(KINDS)):
            process = self.servers.running.pop(self.names[number])
            self.signal_family(process.pid, signal.SIGKILL)
            process.wait()

    def signal(self, number, which):
        self.signal_family(self.servers.running[self.names[number]].pid, which)

    @staticmethod
    def signal_family(pid, which):
        for one in family(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, which)

    def misbehave(self, file):
        (self.servers.folder / file).touch()

    def behave(self):
        for host in self.hosts:
            host.heal()
        for pattern in ("*.errors", "*.slow", "errors"):
            for file in self.servers.folder.glob(pattern):
                file.unlink()

    def posts(self):
        """How often each POST was run."""
        counts = collections.Counter()
        for name in self.names:
            counts.update((self.servers.folder / f"{name}.posts").read_text().split())
        return counts

    def end(self):
        self.servers.stop(*(name for name in self.names if name in self.servers.running))
        for host in self.hosts:
            host.end()


# Scenarios: what happens to the backends while clients come, within so many seconds.

async def nothing(backends, seconds):
    await asyncio.sleep(seconds)


async def crashes(backends, seconds):
    """One after the other is killed, every ten seconds, and is back after one."""
    for turn in range(seconds // 10):
        await asyncio.sleep(5)
        number = turn % len(KINDS)
        backends.kill(number)
        await asyncio.sleep(1)
        backends.start(number)
        await asyncio.sleep(4)


async def stops(backends, seconds):
    """One stands still for five seconds, of every fifteen."""
    for turn in range(seconds // 15):
        await asyncio.sleep(5)
        backends.signal(turn % len(KINDS), signal.SIGSTOP)
        await asyncio.sleep(5)
        backends.signal(turn % len(KINDS), signal.SIGCONT)
        await asyncio.sleep(5)


async def errors(backends, seconds):
    backends.misbehave("backend0.errors")
    await asyncio.sleep(seconds)


async def all_errors(backends, seconds):
    backends.misbehave("errors")
    await asyncio.sleep(seconds)


async def slow(backends, seconds):
    backends.misbehave("backend0.slow")
    await asyncio.sleep(seconds)


async def deploy(backends, seconds):
    """All are away for two seconds, twice."""
    await away(backends, seconds, *range(len(KINDS)))


async def alone(backends, seconds):
    """The only one is away for two seconds, twice."""
    await away(backends, seconds, 0)


async def away(backends, seconds, *numbers):
    for _ in range(2):
        await asyncio.sleep(seconds / 5)
        backends.kill(*numbers)
        await asyncio.sleep(2)
        backends.start(*numbers)
        await asyncio.sleep(seconds * 3 / 10 - 2)


async def loses(backends, seconds):
    backends.hosts[0].lose(5)
    await asyncio.sleep(seconds)


async def is_narrow(backends, seconds):
    backends.hosts[0].narrow("128kbit")
    await asyncio.sleep(seconds)


async def moves(backends, seconds):
    """The name leads to others, every ten seconds; those before are killed three seconds later."""
    for turn in range(seconds // 10):
        leaving, coming = DNS_SETS[turn % 2], DNS_SETS[(turn + 1) % 2]
        await asyncio.sleep(3)
        backends.start(*coming)
        await backends.listen(*coming)
        resolve(backends, coming)
        await asyncio.sleep(4)
        backends.kill(*leaving)
        await asyncio.sleep(3)


DNS_SETS = ((0, 1), (3, 4))


def resolve(backends, numbers):
    """Has the name lead to these."""
    file = backends.servers.folder / "hosts"
    file.write_text("".join(f"{backends.hosts[number].address} app.test\n" for number in numbers))
    if "dnsmasq" in backends.servers.running:
        os.kill(backends.servers.running["dnsmasq"].pid, signal.SIGHUP)


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One kind of fault."""
    title: str
    play: object
    # The backends that are configured, and whether by name.
    numbers: tuple = tuple(range(len(KINDS)))
    by_name: bool = False


SCENARIOS = {
    "none": Scenario("nothing happens", nothing),
    "crash": Scenario("every 10 s one of five is killed and back after 1 s", crashes),
    "stop": Scenario("one of five stands still for 5 s of every 15", stops),
    "errors": Scenario("one of five answers 30 % with 503", errors),
    "all-errors": Scenario("all five answer 30 % with 503", all_errors),
    "slow": Scenario("one of five takes 2 s for each answer", slow),
    "deploy": Scenario("all five are away for 2 s, twice", deploy),
    "alone": Scenario("the only one is away for 2 s, twice", alone, numbers=(0,)),
    "dns": Scenario("a name leads to others every 10 s, TTL 1 s", moves, numbers=DNS_SETS[0], by_name=True),
    "loss": Scenario("one of five loses 5 % of packets, each way", loses),
    "narrow": Scenario("one of five has 128 kbit/s", is_narrow),
}


def main():
    options = arguments()
    network.enter()
    before = os.getloadavg()[0]
    with Servers(options.cpus) as servers:
        servers.backend_nginx = shutil.which("nginx")
        backends = Backends(servers)
        try:
            figures = asyncio.run(compare(options, backends))
        finally:
            backends.end()
    print(conditions(options, before), tables(options, figures), sep="\n\n")
    report.tell_left_out(options)


def arguments():
    parser = settings.parser("Has backends fail behind Lockgate and others.", list(SCENARIOS), seconds=30, rounds=None)
    for name in ("nginx", "haproxy", "envoy"):
        parser.add_argument(f"--{name}", default=name, metavar="FILE",
                            help=f"the {TITLES[name]} to measure, default {name} on the PATH")
    options = parser.parse_args()
    settings.settle(options, TOOLS)
    if options.quick:
        options.seconds = 10
        options.only = [name for name in options.only if name == "dns"]
    programs = {"lockgate": options.binary} | {name: shutil.which(getattr(options, name))
                                               for name in ("nginx", "haproxy", "envoy")}
    options.programs = {name: program for name, program in programs.items() if program}
    left_out = [f"{TITLES[name]}, as there is no {getattr(options, name)}"
                for name in programs if name not in options.programs]
    if "nginx" in options.programs and not follows_names(options.programs["nginx"]):
        left_out.append("nginx with names, which it follows from version 1.27.3 on")
    options.left_out = ", ".join(left_out) or None
    return options


def follows_names(nginx):
    told = subprocess.run([nginx, "-v"], capture_output=True, text=True).stderr
    version = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", told)
    return version is not None and tuple(map(int, version.groups())) >= (1, 27, 3)


async def compare(options, backends):
    """For each scenario what clients saw of each proxy."""
    backends.servers.free_ports("dns", *TITLES)
    figures = {}
    for name in options.only:
        for proxy in options.programs:
            if name == "dns" and proxy == "nginx" and not follows_names(options.programs["nginx"]):
                continue
            print(f"{name}, {proxy}, {options.seconds} s", file=sys.stderr)
            figures.setdefault(name, {})[proxy] = await run(options, backends, SCENARIOS[name], proxy)
    return figures


async def run(options, backends, scenario, proxy):
    """One run of a proxy and backends that were just started."""
    servers = backends.servers
    backends.start(*scenario.numbers)
    await backends.listen(*scenario.numbers)
    if scenario.by_name:
        resolve(backends, scenario.numbers)
        servers.start("dnsmasq", servers.origin_cpu, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null",
                      "--no-resolv", "--no-hosts", f"--addn-hosts={servers.folder / 'hosts'}", "--local-ttl=1",
                      f"--port={servers.ports['dns']}", "--listen-address=127.0.0.1", "--bind-interfaces", "--user=root")
    configure(backends, scenario, proxy)
    start(options, servers, proxy)
    clients = Clients(servers.ports[proxy])
    await clients.come(servers, proxy)
    play = asyncio.create_task(scenario.play(backends, options.seconds))
    seen = await clients.load(play, backends)
    await asyncio.to_thread(servers.stop, proxy)
    backends.behave()
    await asyncio.to_thread(servers.stop, *(name for name in servers.running))
    return seen


def configure(backends, scenario, proxy):
    """Writes the config of a proxy for the backends of a scenario."""
    servers = backends.servers
    dns = servers.ports["dns"]
    addresses = [backends.hosts[number].address for number in scenario.numbers]
    if proxy == "nginx":
        lines = [f"server {address}:{PORT};" for address in addresses]
        by_name, resolver = f"server app.test:{PORT} resolve;", f"resolver 127.0.0.1:{dns} ipv6=off;"
    elif proxy == "haproxy":
        lines = [f"    server s{number} {address}:{PORT}\n" for number, address in enumerate(addresses)]
        by_name = f"    server-template s 5 app.test:{PORT} resolvers dns resolve-prefer ipv4 init-addr none\n"
        resolver = f"resolvers dns\n    nameserver dns 127.0.0.1:{dns}\n    hold valid 1s\n"
    elif proxy == "envoy":
        one = "{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}"
        kind = "      type: {}\n      load_assignment: {{ cluster_name: app, endpoints: [ {{ lb_endpoints: [ {} ] }} ] }}\n"
        lines = [kind.format("STATIC", ", ".join(one.format(address, PORT) for address in addresses))]
        by_name = kind.format("STRICT_DNS", one.format("app.test", PORT)) + (
            "      dns_lookup_family: V4_ONLY\n      respect_dns_ttl: true\n      dns_refresh_rate: 1s\n"
            "      typed_dns_resolver_config:\n        name: envoy.network.dns_resolver.cares\n        typed_config:\n"
            '          "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig\n'
            f"          resolvers: [ {{ socket_address: {{ address: 127.0.0.1, port_value: {dns} }} }} ]\n"
            "          dns_resolver_options: { no_default_search_domain: true }\n")
        resolver = ""
    else:
        lines = [", ".join(f'"{address}:{PORT}"' for address in addresses)]
        by_name, resolver = f'"app.test:{PORT}"', f'resolvers: [ "127.0.0.1:{dns}" ]'
    words = {"servers": by_name, "resolver": resolver} if scenario.by_name else {
        "servers": " ".join(lines) if proxy == "nginx" else "".join(lines), "resolver": ""}
    servers.configure(f"faults/{CONFIGS[proxy]}", CONFIGS[proxy], **words)


def start(options, servers, proxy):
    program, config = options.programs[proxy], CONFIGS[proxy]
    command = {"lockgate": ["run", "--config", config, "--socket", "admin.sock"],
               "nginx": ["-p", servers.folder, "-c", servers.folder / config],
               "haproxy": ["-db", "-f", config],
               "envoy": ["-c", config, "--concurrency", "1", "-l", "error", "--disable-hot-restart"]}[proxy]
    servers.start(proxy, servers.proxy_cpu, program, *command)


class Clients:
    """Requests that are due at a steady rate, each on a connection that is idle or new, whatever became of those before."""

    def __init__(self, port):
        self.port = port
        self.idle = []
        self.seen = Seen()
        self.sent = 0

    async def come(self, servers, proxy):
        """Waits for good answers, and a second longer, in which checks have been made."""
        end, good = time.monotonic() + 30, 0
        while good < 10:
            status = await self.exchange("GET", "/first", asyncio.get_running_loop().time())
            good = good + 1 if status == 200 else 0
            if time.monotonic() > end:
                sys.exit(f"{proxy} does not answer: {status}\n{servers.said(proxy)}")
            servers.check(proxy)
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)

    async def load(self, play, backends):
        """Sends until the play is over, and sees all to their end."""
        before = backends.posts()
        loop, under_way = asyncio.get_running_loop(), set()
        begin, number, dice = loop.time(), 0, random.Random(1)
        while not play.done():
            due = begin + number / RATE
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            # By chance: a rhythm would meet that of a proxy's turns.
            method = "POST" if dice.random() < POSTS else "GET"
            task = asyncio.create_task(self.count(method, f"/{method.lower()}?{begin:.0f}-{number}", due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
        play.result()
        if under_way:
            await asyncio.wait(under_way)
        for _, writer in self.idle:
            writer.transport.abort()
        # What is late at a backend is looked for as well.
        await asyncio.sleep(1)
        after = backends.posts()
        self.seen.twice = sum(1 for path, times in after.items() if times > 1 and path not in before)
        return self.seen

    async def count(self, method, path, due):
        status = await self.exchange(method, path, due)
        if status == 200:
            self.seen.good[method] += 1
        else:
            self.seen.bad[method, status] += 1
        if method == "GET":
            self.seen.took.append(1000 * (asyncio.get_running_loop().time() - due))

    async def exchange(self, method, path, due):
        """The status of the answer, or what came instead of one."""
        try:
            async with asyncio.timeout_at(due + PATIENCE):
                return await self.talk(method, path)
        except TimeoutError:
            return "timeout"
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            return "broken"

    async def talk(self, method, path):
        reader, writer = self.connection() or await self.open()
        whole = False
        try:
            length = f"Content-Length: {len(BODY)}\r\n" if method == "POST" else ""
            writer.write(f"{method} {path} HTTP/1.1\r\nHost: app.test\r\n{length}\r\n".encode()
                         + (BODY if method == "POST" else b""))
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            status = int(head.split(" ", 2)[1])
            length = re.search(r"\r\ncontent-length: *(\d+)", head)
            if length is None:
                # Every backend says how long its answer is; what a proxy says by itself is read to its end, or not at all.
                return status
            body = await reader.readexactly(int(length[1]))
            whole = "\r\nconnection: close" not in head
            return "broken" if status == 200 and body != BODY else status
        finally:
            if whole:
                self.idle.append((reader, writer))
            else:
                writer.transport.abort()

    def open(self):
        return asyncio.open_connection("127.0.0.1", self.port)

    def connection(self):
        while self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
        return None


def conditions(options, before):
    programs = {TITLES[name]: program for name, program in options.programs.items()}
    text = [report.machine(programs),
            f"Runs of {options.seconds} s, {RATE} requests a second, a fifth of them POSTs; an answer may take {PATIENCE} s. "
            f"{report.places(options)}. Load average before the start: {before:.1f}."]
    return "\n\n".join(text + [report.QUICK] * options.quick)


def tables(options, figures):
    proxies = list(options.programs)
    heads = [["what happens"], [TITLES[name] for name in proxies]]
    parts = []
    for title, cell in (
            ("GETs answered well", lambda seen: good(seen, "GET")),
            ("POSTs answered well, and how many of them were run twice", posted),
            ("Milliseconds to the end of a GET: of a half of them, of 99 %, of all",
             lambda seen: " / ".join(report.form(seen.quantile(part), 0) for part in (0.5, 0.99, 1)))):
        rows = [[SCENARIOS[name].title, *(cell(of[proxy]) if proxy in of else "–" for proxy in proxies)]
                for name, of in figures.items()]
        parts += [f"{title}:", report.table(heads, rows)]
    return "\n\n".join(parts)


def good(seen, method):
    """The part, and how the others ended."""
    ends = ", ".join(f"{count} × {end}" for (of, end), count in sorted(seen.bad.items(), key=str) if of == method)
    part = seen.rate(method)
    # No rounding up to all.
    return f"{int(part * 10_000) / 100:g} %" + (f" ({ends})" if ends else "")


def posted(seen):
    return good(seen, "POST") + (f", **{seen.twice} twice**" if seen.twice else "")


if __name__ == "__main__":
    main()
