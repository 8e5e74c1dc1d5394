"""What all commands are asked and need: their options, the programs, the CPUs and the number of open files."""

import argparse
import os
import pathlib
import resource
import shutil
import sys

PACKAGES = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk", "h2load": "nghttp2-client",
            "openssl": "openssl", "taskset": "util-linux", "setpriv": "util-linux"}


def parser(description, names, seconds=5, rounds=5):
    """The options that commands have in common. One without rounds measures everything once."""
    root = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--binary", type=pathlib.Path, default=root / "target/release/lockgate",
                        help="the Lockgate to measure, default target/release/lockgate")
    if rounds:
        parser.add_argument("--rounds", type=positive, default=rounds, help=f"default {rounds}")
    parser.add_argument("--seconds", type=positive, default=seconds,
                        help=f"length of one measurement, default {seconds}")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, default=names,
                        help="of " + ", ".join(names))
    parser.add_argument("--cpus", nargs="+", type=int, metavar="CPU", default=cpus(),
                        help="the proxies', the load's, the origin's, one for a second worker; the first two are a "
                        "must, and one may be named twice")
    parser.add_argument("--quick", action="store_true", help="as short as can be: whether it works, no figures")
    return parser


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def settle(options, tools):
    """Looks at the options and the machine before anything starts."""
    options.binary = options.binary.resolve()
    # What this machine does not allow, in words.
    options.left_out = None
    if options.quick:
        options.rounds = options.seconds = 1
    # nginx and haproxy are in sbin, and cargo installs at home: neither is on everyone's path.
    os.environ["PATH"] += f":/usr/local/sbin:/usr/sbin:/sbin:{pathlib.Path.home()}/.cargo/bin"
    missing = sorted({PACKAGES[tool] for tool in tools if not shutil.which(tool)})
    if missing:
        sys.exit("missing: sudo apt-get install " + " ".join(missing))
    if not os.access(options.binary, os.X_OK):
        sys.exit(f"no {options.binary}: cargo build --release, or name another with --binary")
    if len(options.cpus) < 2:
        sys.exit("two CPUs are needed: one for the proxies, one for the load and the origin")
    if not os.sched_getaffinity(0).issuperset(options.cpus):
        sys.exit(f"this program may not use all of the CPUs {options.cpus}")


def cpus():
    """CPUs of different cores first: two hyperthreads of one slow each other down."""
    first, others, cores = [], [], set()
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = pathlib.Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = siblings.read_text() if siblings.exists() else cpu
        (others if core in cores else first).append(cpu)
        cores.add(core)
    return (first + others)[:4]


def open_files(wanted):
    """Lets this process and all that it starts open so many files."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit != resource.RLIM_INFINITY and limit < wanted:
        sys.exit(f"{wanted} open files are needed and {limit} allowed: ulimit -Hn says so, root can raise it")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if limit == resource.RLIM_INFINITY else limit, limit))
