"""The programs of a comparison: their folder, ports, certificate and configs, and how they start and end."""

import contextlib
import http.client
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time

CONFIGS = pathlib.Path(__file__).parent / "config"
FILES = {"files/1k": 1 << 10, "files/100k": 100 << 10, "files/10m": 10 << 20}


class Servers:
    """Programs that run in a folder of their own, each on its CPU. When this context is left, all of them are ended.

    Only what was started here is signalled, by its pid. Should this process be killed, the kernel ends them.
    """

    def __init__(self, cpus):
        self.proxy_cpu, self.load_cpu = cpus[:2]
        self.origin_cpu = cpus[2] if len(cpus) > 2 else self.load_cpu
        self.ports = {}
        # By the names that they were started by.
        self.running = {}
        self.cpus = {}
        # How often the origin has been asked for its count.
        self.counted = 0

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit("ended by a signal"))
        # What this process does itself belongs to the load.
        os.sched_setaffinity(0, {self.load_cpu})
        self.made = tempfile.TemporaryDirectory(prefix="compare-")
        self.folder = pathlib.Path(self.made.name)
        (self.folder / "files").mkdir()
        for file, size in FILES.items():
            (self.folder / file).write_bytes(os.urandom(size))
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "2", "-subj", "/CN=localhost", "-addext",
                        "subjectAltName=DNS:localhost,DNS:*.many.localhost", "-keyout", "key.pem", "-out", "cert.pem"],
                       cwd=self.folder, check=True, capture_output=True)
        pem = [(self.folder / name).read_text() for name in ("cert.pem", "key.pem")]
        (self.folder / "both.pem").write_text("".join(pem))
        self.trust = ssl.create_default_context(cafile=self.folder / "cert.pem")
        return self

    def __exit__(self, *_):
        # A second signal must not leave half of them running.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.stop(*self.running)
        self.made.cleanup()

    def free_ports(self, *names):
        """All are bound before any is let go, so that none is given twice."""
        sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in names}
        self.ports |= {name: held.getsockname()[1] for name, held in sockets.items()}
        for held in sockets.values():
            held.close()

    def configure(self, template, name=None, **words):
        """Fills in the words of a template in config/, among them the ports by their names."""
        words |= self.ports | {"user": "user root;" if os.geteuid() == 0 else ""}
        text = re.sub("@([a-z_]+)@", lambda word: str(words[word[1]]), (CONFIGS / template).read_text())
        made = self.folder / (name or template)
        made.write_text(text)
        return made

    def start(self, name, cpu, *command, other_cpu=None):
        """Starts a program on a CPU, or on two."""
        self.cpus[name] = {cpu} if other_cpu is None else {cpu, other_cpu}
        output = self.folder / f"{name}.out"
        output.unlink(missing_ok=True)
        with output.open("wb") as file:
            self.running[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", ",".join(map(str, self.cpus[name])),
                 *map(str, command)], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT)
        return self.running[name]

    def start_origin(self, connections, addresses=""):
        config = self.configure("origin.conf", connections=connections, addresses=addresses)
        self.start("origin", self.origin_cpu, "nginx", "-p", self.folder, "-c", config)
        self.ask("origin", "origin", "http", "GET", "/requests")

    def check(self, name):
        """Sees that a program still runs."""
        if self.running[name].poll() is not None:
            sys.exit(f"{name} has ended with {self.running[name].returncode}\n{self.said(name)}")

    def finish(self, name, limit):
        """Waits for a program to end by itself, and well; what it said."""
        try:
            code = self.running[name].wait(limit)
        except subprocess.TimeoutExpired:
            sys.exit(f"{name} does not end\n{self.said(name)}")
        del self.running[name]
        if code:
            sys.exit(f"{name} has ended with {code}\n{self.said(name)}")
        return self.said(name)

    def stop(self, *names):
        """Ends what was started, and the workers of those that would not end by themselves."""
        ending = [self.running.pop(name) for name in names]
        for process in ending:
            process.terminate()
        end = time.monotonic() + 5
        while time.monotonic() < end and any(process.poll() is None for process in ending):
            time.sleep(0.02)
        for process in ending:
            for pid in family(process.pid) if process.poll() is None else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    def empty(self, file):
        """Takes from a log what is in it, so that a long run does not fill the disk."""
        if (self.folder / file).exists():
            os.truncate(self.folder / file, 0)

    def said(self, name):
        return (self.folder / f"{name}.out").read_text(errors="replace")

    def ask(self, name, port, scheme, method, path, body=None, host="localhost"):
        """One exchange with a server: its status and its body. Waits for it to listen, and fails if it does not."""
        end = time.monotonic() + 60
        while True:
            client = (http.client.HTTPSConnection("localhost", self.ports[port], timeout=10, context=self.trust)
                      if scheme == "https" else http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=10))
            try:
                client.request(method, path, body, {"Host": host})
                answer = client.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.check(name)
                if time.monotonic() > end:
                    sys.exit(f"{name} does not answer: {error}\n{self.said(name)}")
                time.sleep(0.05)
            finally:
                client.close()

    def expect(self, status, length, name, port, scheme, method, path, body=None, host="localhost"):
        """Sees that an answer is the right one: a fast error is no figure."""
        got, answer = self.ask(name, port, scheme, method, path, body, host)
        if got != status or length not in (None, len(answer)):
            sys.exit(f"{name}: {method} {scheme} {path} had {got} and {len(answer)} bytes for an answer, "
                     f"not {status} and {length}\n{self.said(name)}")


def family(root):
    """A process and its descendants."""
    found = [root]
    for pid in found:
        for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
            # It may have ended meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, children.read_text().split())
    return found
