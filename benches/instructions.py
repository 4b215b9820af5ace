"""Instructions per command, counted by callgrind: the steadiest comparison there is.

Each command is sent in pipelines of 50 to a server that runs under valgrind, and the instructions
of the whole process are divided by the number of commands. Counting starts after a warm-up, with
`callgrind_control`, so start and loading do not count. A collision in the server's randomly seeded
command table is worth 65 instructions, so each ratio is the median over several starts.

Usage: python benches/instructions.py [--starts 3] [--commands 20000] [name...]
"""

from __future__ import annotations

import argparse
import hashlib
import re
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from harness import RawClient, Server  # noqa: E402
from limits import SORTED_SET  # noqa: E402

PIPELINE = 50
VALUE = b"v" * 100
KEYS = 1_000
SORTED_SET_SHA = hashlib.sha1(SORTED_SET.encode()).hexdigest()
RULE = (1_000_000, 36_000_000_000)  # slow enough for keys to stay, high enough for nobody to be refused
COMPARE_AND_DELETE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


def key(i: int) -> bytes:
    return b"key:%016d" % (i % KEYS)


def fill_strings(r: RawClient) -> None:
    r.pipeline([("SET", key(i), VALUE, "PX", 3_600_000) for i in range(KEYS)])


def fill_entries(r: RawClient) -> None:
    r.pipeline([("CACHE.SETSM", key(i), VALUE, 3_600_000) for i in range(KEYS)])


def tags(i: int) -> tuple[bytes, ...]:
    """Three of them: of one key in ten, of one in a hundred, and of all."""
    return b"group:%d" % (i % 100), b"product:%d" % (i % 10), b"all"


def fill_tagged(r: RawClient) -> None:
    r.pipeline([("CACHE.SETSM", key(i), VALUE, 3_600_000, "TAGS", 3, *tags(i)) for i in range(KEYS)])


def fill_tagged_and_invalidate(r: RawClient) -> None:
    """After this each read has to look at what happened to each tag."""
    fill_tagged(r)
    r.call("CACHE.INVALIDATE", "another")


def nothing(_: RawClient) -> None:
    pass


def load_script(r: RawClient) -> None:
    assert r.call("SCRIPT", "LOAD", SORTED_SET) == SORTED_SET_SHA.encode()


def lease_out(r: RawClient) -> None:
    fill_strings(r)
    r.call("CACHE.GETSM", "a-missing-key", "LEASE", 3_600_000)


def load_compare_and_delete(r: RawClient) -> None:
    r.call("SCRIPT", "LOAD", COMPARE_AND_DELETE)


def lock(i: int) -> tuple[bytes | str | int, ...]:
    """Taken and given up in turn."""
    return ("CACHE.LOCK", key(i // 2), "owner", 60_000) if i % 2 == 0 else ("CACHE.UNLOCK", key(i // 2), "owner")


def set_and_script(i: int) -> tuple[bytes | str | int, ...]:
    """The same without the module."""
    if i % 2 == 0:
        return "SET", key(i // 2), "owner", "NX", "PX", 60_000
    return "EVALSHA", hashlib.sha1(COMPARE_AND_DELETE.encode()).hexdigest(), 1, key(i // 2), "owner"


# name: (prepare, the command for the i-th key)
COMMANDS = {
    "GET": (fill_strings, lambda i: ("GET", key(i))),
    "CACHE.GETSM": (fill_entries, lambda i: ("CACHE.GETSM", key(i))),
    "SET PX": (fill_strings, lambda i: ("SET", key(i), VALUE, "PX", 3_600_000)),
    "CACHE.SETSM": (fill_entries, lambda i: ("CACHE.SETSM", key(i), VALUE, 3_600_000)),
    "CACHE.GETSM, 3 tags": (fill_tagged, lambda i: ("CACHE.GETSM", key(i))),
    "CACHE.GETSM, 3 tags, later": (fill_tagged_and_invalidate, lambda i: ("CACHE.GETSM", key(i))),
    "CACHE.SETSM, 3 tags": (
        fill_tagged,
        lambda i: ("CACHE.SETSM", key(i), VALUE, 3_600_000, "TAGS", 3, *tags(i)),
    ),
    "GET, a lease is out": (lease_out, lambda i: ("GET", key(i))),
    "INCR": (nothing, lambda i: ("INCR", key(i))),
    "RATELIMIT GCRA": (nothing, lambda i: ("CACHE.RATELIMIT", key(i), *RULE, "ALGORITHM", "GCRA")),
    "RATELIMIT FIXED": (nothing, lambda i: ("CACHE.RATELIMIT", key(i), *RULE, "ALGORITHM", "FIXED")),
    "RATELIMIT SLIDING": (nothing, lambda i: ("CACHE.RATELIMIT", key(i), *RULE)),
    "RATELIMIT refused": (nothing, lambda i: ("CACHE.RATELIMIT", key(i), 1, 3_600_000)),
    "EVALSHA, a sorted set": (load_script, lambda i: ("EVALSHA", SORTED_SET_SHA, 1, key(i), *RULE)),
    "CL.THROTTLE": (nothing, lambda i: ("CL.THROTTLE", key(i), 999_999, 1_000_000, 36_000_000)),
    "CACHE.LOCK and UNLOCK": (nothing, lock),
    "SET NX PX and script": (load_compare_and_delete, set_and_script),
}
RATIOS = [
    ("CACHE.GETSM", "GET", 1.15),
    ("CACHE.SETSM", "SET PX", 1.5),
    ("CACHE.GETSM, 3 tags", "CACHE.GETSM", 1.05),
    ("CACHE.GETSM, 3 tags, later", "CACHE.GETSM", 1.05),
    ("CACHE.SETSM, 3 tags", "CACHE.SETSM", 2.0),
    ("GET, a lease is out", "GET", 1.04),
    ("RATELIMIT GCRA", "INCR", 1.3),
    ("CACHE.LOCK and UNLOCK", "SET NX PX and script", 1.0),
]


def count(name: str, commands: int) -> float:
    """Instructions per command of one start of the server."""
    prepare, make = COMMANDS[name]
    with Server(wrap=["valgrind", "--tool=callgrind", "--instr-atstart=yes", "--callgrind-out-file=/dev/null"]) as s:
        r = s.raw(timeout=120)
        prepare(r)
        run(r, make, 1_000)
        before = total(s.pid)
        run(r, make, commands)
        return (total(s.pid) - before) / commands


def run(r: RawClient, make, commands: int) -> None:
    for start in range(0, commands, PIPELINE):
        r.pipeline([make(i) for i in range(start, start + PIPELINE)])


def total(pid: int) -> int:
    """Instructions the process has executed so far."""
    text = subprocess.run(["callgrind_control", "-e", "Ir", str(pid)], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Totals:\s+([\d,]+)|Th \d+\s+([\d,]+)", text)
    if not found:
        raise RuntimeError(f"callgrind_control said: {text}")
    return int((found[1] or found[2]).replace(",", ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--commands", type=int, default=20_000)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(COMMANDS)}; all by default")
    options = parser.parse_args()
    medians = {}
    for name in options.names or COMMANDS:
        runs = [count(name, options.commands) for _ in range(options.starts)]
        medians[name] = statistics.median(runs)
        print(f"{name:24} {medians[name]:8.0f}   {[round(x) for x in runs]}", flush=True)
    print()
    for name, base, limit in (ratio for ratio in RATIOS if medians.keys() >= set(ratio[:2])):
        print(f"{name} / {base}: {medians[name] / medians[base]:.3f} (limit {limit})")


if __name__ == "__main__":
    main()
