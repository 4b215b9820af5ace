"""The stampede, live: `python -m demo` from the project's root (or `make demo`).

One key that expires, an origin that takes its time and runs so many queries at once, a thousand connections that read
the key, and ways to do it, one after the other on the same server. Shows a live table; then writes stampede.svg,
stampede.md and the short table of the README.
"""

import argparse
import os
import platform
import resource
import sys
from pathlib import Path

from .child import measure
from .outcome import THINK_MS, Outcome, Plan
from .screen import Screen
from .server import ROOT, SPARE_CLIENTS, Server
from .strategies import STRATEGIES

PICTURES = ROOT / "docs/img"
ORIGIN_MS_MAX = 5_000
CHECK_FAILED = 1
CANNOT_RUN = 2


def options() -> argparse.Namespace:
    """The command line; ends the process if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m demo", description="A cache stampede, live, with ways to protect the origin."
    )
    parser.add_argument("--clients", type=int, default=1000, help="connections that read (default %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=4, help="about how long each protected way runs (default %(default)s)"
    )
    parser.add_argument("--ttl-ms", type=int, default=1000, help="TTL of the key (default %(default)s)")
    parser.add_argument("--origin-ms", type=int, default=200, help="time of an origin call (default %(default)s)")
    parser.add_argument("--pool", type=int, default=20, help="calls the origin runs at once (default %(default)s)")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder of the picture and the table")
    parser.add_argument("--check", action="store_true", help="fail if cache-guard asked the origin more than once")
    args = parser.parse_args()
    if not 1 <= args.clients <= 20_000 or args.seconds <= 0 or args.ttl_ms < 1:
        parser.error("--clients is 1 to 20000, --seconds and --ttl-ms are positive")
    if not 1 <= args.origin_ms <= ORIGIN_MS_MAX:
        parser.error(f"--origin-ms is 1 to {ORIGIN_MS_MAX}")
    if args.pool < 1:
        parser.error("--pool is positive")
    return args


def plan_of(args: argparse.Namespace) -> Plan:
    """The run that takes about as long as asked: a whole number of expiries, at least one."""
    cycle = (args.ttl_ms + args.origin_ms) / 1000
    return Plan(args.clients, max(1, round(args.seconds / cycle)), args.ttl_ms, args.origin_ms, args.pool)


def raise_file_limit(count: int) -> None:
    """Makes room for `count` open files here and in the processes started from here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    room = hard if hard == resource.RLIM_INFINITY else max(hard, count)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, room))
    except (ValueError, OSError):
        raise OSError(f"{count} open files are needed, the limit is {hard} (ulimit -Hn)") from None


def run(plan: Plan, screen: Screen, server: Server) -> list[Outcome]:
    """All ways, one after the other; those that need a missing module are left out."""
    outcomes = []
    for way in STRATEGIES:
        if way.needs_module and server.module_missing:
            screen.show(way.name, f"left out: {server.module_missing}")
            continue
        for message in measure(server.port, plan, way.name):
            screen.show(way.name, message)
            if isinstance(message, Outcome):
                outcomes.append(message)
    return outcomes


def footnote(plan: Plan, server: Server, outcomes: list[Outcome]) -> str:
    """On what, and how, it was measured."""
    loads = ", ".join(f"{each.driver_load:.0%}" for each in outcomes)
    return (
        f"Measured with {server.version}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}; clients, origin and server share the machine, "
        f"whose load average was {os.getloadavg()[0]:.1f} in the end. "
        f"{plan.clients:,} TCP connections, each reads, thinks 0 to {THINK_MS} ms and reads again; "
        f"{plan.expiries} expiries for each way. The origin takes {plan.origin_ms} ms for a query and "
        f"runs {plan.pool} at once; the others queue. The unlimited origin runs any number at once. "
        f"All clients are one Python process, whose own work is part of every time; it used {loads} of one core."
    )


def check(server: Server, outcomes: list[Outcome]) -> str:
    """What is wrong with cache-guard's outcome; empty if nothing is."""
    guarded = next((each for each in outcomes if each.name == "cache-guard"), None)
    if guarded is None:
        return f"cache-guard did not run: {server.module_missing}"
    if not guarded.expiries:
        return "the key never expired"
    if guarded.origin_calls > guarded.expiries:
        return f"{guarded.origin_calls} origin calls for {guarded.expiries} expiries"
    return ""


def main() -> int:
    """The exit status."""
    args = options()
    plan = plan_of(args)
    try:
        raise_file_limit(args.clients + 4 * SPARE_CLIENTS)
        with Server(args.clients) as server, Screen(plan, STRATEGIES) as screen:
            outcomes = run(plan, screen, server)
    except (OSError, RuntimeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return CANNOT_RUN
    note = footnote(plan, server, outcomes)
    screen.say(note)
    if server.module_missing:
        screen.say(f"cache-guard is left out, and no picture is drawn: {server.module_missing}")
    else:
        from .report import write_all

        readme = ROOT / "README.md" if args.out == PICTURES else None
        for path in write_all(args.out, readme, plan, outcomes, note):
            screen.say(f"wrote {os.path.relpath(path)}")
    if args.check and (wrong := check(server, outcomes)):
        print(f"check failed: {wrong}", file=sys.stderr)
        return CHECK_FAILED
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
