"""A network of its own for a comparison: namespaces that nobody else is in, so that what is lost in them is lost to nobody."""

import os
import subprocess
import sys

# Set for the process that runs inside.
INSIDE = "FAULTS_INSIDE"


def enter():
    """Runs this program again in new namespaces of network and mounts, and ends with what that ends with. Inside, returns."""
    if os.environ.get(INSIDE):
        run("ip", "link", "set", "lo", "up")
        return
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *user, "--net", "--mount", "--", sys.executable, *sys.argv]
    os.execvpe("unshare", command, os.environ | {INSIDE: "1"})


class Far:
    """A host of its own, at the end of a cable."""

    def __init__(self, number):
        self.address, near, cable = f"10.77.{number}.2", f"10.77.{number}.1", f"far{number}"
        # It lives as long as this process, which is all that a namespace needs.
        self.holder = subprocess.Popen(["unshare", "--net", "--", "setpriv", "--pdeathsig", "KILL", "cat"],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.holder.stdin.write(b"\n")
        self.holder.stdin.flush()
        self.holder.stdout.readline()
        self.inside = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--"]
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "uplink", "netns", str(self.holder.pid))
        run("ip", "addr", "add", f"{near}/24", "dev", cable)
        run("ip", "link", "set", cable, "up")
        for command in (["addr", "add", f"{self.address}/24", "dev", "uplink"], ["link", "set", "uplink", "up"],
                        ["link", "set", "lo", "up"], ["route", "add", "default", "via", near]):
            run(*self.inside, "ip", *command)

    def lose(self, percent):
        """Drops packets by chance, of both directions."""
        chains = "".join(f"add chain inet faults {hook} {{ type filter hook {hook} priority 0; }}; "
                         f"add rule inet faults {hook} numgen random mod 100 < {percent} drop; "
                         for hook in ("input", "output"))
        run(*self.inside, "nft", f"add table inet faults; {chains}")

    def narrow(self, rate):
        """Lets out so much a second, and keeps what comes meanwhile for a second at most."""
        run(*self.inside, "tc", "qdisc", "add", "dev", "uplink", "root", "tbf", "rate", rate, "burst", "4kb",
            "latency", "1s")

    def heal(self):
        """Takes off whatever was put on it."""
        run(*self.inside, "nft", "flush ruleset")
        run(*self.inside, "tc", "qdisc", "del", "dev", "uplink", "root", check=False)

    def end(self):
        self.holder.kill()
        self.holder.wait()


def run(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
