"""What was measured, as Markdown: when and on what, how steady the machine was, and the tables."""

import datetime
import math
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys

PROXIES = {"nginx": "nginx", "haproxy": "HAProxy", "lockgate": "Lockgate"}
QUICK = "**These are no figures to keep:** quick runs only show whether it works."


def conditions(options, also, programs, before, figures):
    """When, on what and how it was measured, and what else the machine did. `also` has settings of one command,
    `programs` what ran by its name."""
    taken = {f"{name} ({which})": max(values(rounds, "waited") + values(rounds, "stolen"))
             for name, of in figures.items() for which, rounds in of.items()}
    disturbed = [name for name, part in taken.items() if part > 0.1]
    text = [
        machine(programs),
        f"Rounds of {options.seconds} s each: {options.rounds}; medians, and in brackets the least and the most. "
        + " ".join(f"{one}." for one in [places(options), *also]),
        f"Load average before the start: {before:.1f}. The most that others, or the host of a virtual machine, took of "
        f"the proxy's CPU in a measurement: {max(taken.values(), default=0):.0%}."]
    if options.quick:
        text.append(QUICK)
    elif disturbed:
        named = ", ".join(disturbed) if len(disturbed) <= 6 else f"{len(disturbed)} of {len(taken)} measured"
        text.append(f"**The machine had other work**, and these are no figures to keep: {named}.")
    return "\n\n".join(text)


def machine(programs):
    """The day, the machine and the versions."""
    processor = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return (f"{datetime.date.today()}: {processor[1] if processor else platform.machine()}, {os.cpu_count()} CPUs, "
            f"Linux {platform.release()}; " + ", ".join(version(*program) for program in programs.items()) + ".")


def places(options):
    """Which CPU has what."""
    proxy, load, origin = (*options.cpus, options.cpus[1])[:3]
    return f"Proxies on CPU {proxy}, load on {load}, origin on {origin}"


def version(name, program):
    """A program's name and version. wrk says it and fails."""
    told = subprocess.run([program, "-v" if name in ("nginx", "HAProxy", "wrk") else "--version"], capture_output=True,
                          text=True)
    # Envoy says where it is before it says what it is.
    number = re.search(r"\d+\.\d+[\w.-]*", (told.stdout + told.stderr).replace(str(program), ""))
    return f"{name} {number[0] if number else 'of an unknown version'}"


def compared(works, figures):
    """The tables of a comparison. `works` says what each scenario does, `figures` has for each scenario and each proxy
    one figure a round."""
    idle = {name: of for name, of in figures.items() if name == "idle"}
    fixed = {name: of for name, of in figures.items() if name.startswith("rate-")}
    most = {name: of for name, of in figures.items() if name not in idle | fixed}
    parts = []
    if most or fixed:
        parts += ["CPU microseconds a request; less is better:", beside(works, most | fixed, "cost", 1)]
    if most:
        parts += ["Requests a second; more is better, where the core is busy:", below(most, ["rate"])]
    if fixed:
        parts += ["Milliseconds to the answer at a fixed rate; less is better:", below(fixed, ["p50", "p99"])]
    if idle:
        parts += ["Bytes held by a connection that does nothing; less is better:", beside(works, idle, "bytes", 0)]
    return "\n\n".join(parts)


def grown(figures):
    """The table of growth: for each thing that grows, figures of both sides by their labels."""
    rows = []
    for name, of in figures.items():
        (less, figures_less), (more, figures_more) = of.items()
        key, digits = ("rate", 0) if name == "workers" else ("cost", 1)
        ratios = paired(figures_more, figures_less, key)
        rows.append([
            name, "requests/s" if key == "rate" else "CPU µs a request", less, more,
            spread(values(figures_less, key), digits), spread(values(figures_more, key), digits),
            percent(ratios) if ratios else "–", *(f"{busy(figures):.0%}" for figures in of.values()),
            str(failures(figures_less + figures_more))])
    return table([["what grows", "counted", "from", "to"],
                  ["before", "after", "change", "core busy", "after", "failures"]], rows)


def tell_left_out(options):
    """Says what was not measured and why, among the figures and where the progress is."""
    if options.left_out:
        print(f"\nNot measured: {options.left_out}.")
        print(f"not measured: {options.left_out}", file=sys.stderr)


def refuse_failures(figures):
    """Ends the program where requests failed."""
    failed = [f"{name} ({which})" for name, of in figures.items() for which, rounds in of.items() if failures(rounds)]
    if failed:
        sys.exit("requests failed, so these are no figures: " + ", ".join(failed))


def beside(works, figures, key, digits):
    """A row a scenario, the proxies beside each other."""
    rows = []
    for name, of in figures.items():
        row = [f"`{name}`", works[name]]
        for proxy in PROXIES:
            failed = failures(of[proxy])
            row.append(spread(values(of[proxy], key), digits) + (f", **{failed} failed**" if failed else ""))
        rows.append([*row, *(ratio(of["lockgate"], of[peer], key) for peer in ("nginx", "haproxy"))])
    return table([["scenario", "work"], [*PROXIES.values(), "Lockgate to nginx", "to HAProxy"]], rows)


def below(figures, keys):
    """A row a scenario and proxy."""
    rows = []
    for name, of in figures.items():
        for proxy, rounds in of.items():
            row = [f"`{name}`", PROXIES[proxy]]
            if "rate" not in keys:
                row.append(spread(values(rounds, "rate"), 0))
            for key in keys:
                row += [spread(values(rounds, key), 0 if key == "rate" else 2), ratio(rounds, of["nginx"], key)]
            rows.append([*row, f"{busy(rounds):.0%}", str(failures(rounds))])
    heads = [head for key in keys for head in ({"rate": "requests/s"}.get(key, f"{key} ms"), "to nginx")]
    reached = [] if "rate" in keys else ["reached/s"]
    return table([["scenario", "proxy"], [*reached, *heads, "core busy", "failures"]], rows)


def table(heads, rows):
    """Columns of words, then columns of figures."""
    words, numbers = heads
    lines = [[*words, *numbers], ["---"] * len(words) + ["--:"] * len(numbers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def values(figures, key):
    return [getattr(figure, key) for figure in figures]


def failures(figures):
    return sum(values(figures, "failures"))


def paired(figures, others, key):
    """The ratio of each round: what disturbs a round disturbs both. None where requests failed."""
    if failures(figures) or failures(others):
        return []
    return [one / other if other else math.inf for one, other in zip(values(figures, key), values(others, key))]


def ratio(figures, others, key):
    ratios = paired(figures, others, key)
    return spread(ratios, 2) if ratios else "–"


def spread(numbers, digits):
    """The median, and between what all lie."""
    middle = form(statistics.median(numbers), digits)
    return f"{middle} ({form(min(numbers), digits)}–{form(max(numbers), digits)})" if len(numbers) > 1 else middle


def percent(ratios):
    """The same, as what is added."""
    least, middle, most = (f"{100 * (ratio - 1):+.1f}"
                           for ratio in (min(ratios), statistics.median(ratios), max(ratios)))
    return f"{middle} % ({least} to {most})" if len(ratios) > 1 else f"{middle} %"


def form(number, digits):
    """Large numbers in groups of three, and without digits that mean nothing."""
    return f"{number:,.{digits if number < 100 else 0}f}".replace(",", "\N{NO-BREAK SPACE}")


def busy(figures):
    return statistics.median(values(figures, "busy"))
