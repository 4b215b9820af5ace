"""Bytes per entry over a plain string with a TTL, by the server's own used_memory.

Two fresh servers with the module, one after the other, get the same number of 20-byte keys with 100-byte values and a
TTL: by SET PX, and by CACHE.SETSM. Both dictionaries (keys, expiries) have the same number of members and so the same
tables; what differs is the value. Each figure is used_memory after minus used_memory before, over the number of keys.

And what a waiter costs: used_memory with so many connections parked, minus the same with them idle, over their number.
Most of that is the server's: it makes two clients of its own, with buffers, for each client that a module parks.

Usage: python benches/memory.py [--entries 1000000] [--waiters 5000] [--json]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from harness import Server, eventually  # noqa: E402

VALUE = b"v" * 100
TTL_MS = 86_400_000
PIPELINE = 1_000
OVERHEAD_BYTES_MAX = 80
TAGGED_BYTES_MAX = 120
TAG_BYTES_MAX = 16
FILLS = {
    "SET PX": lambda key: ("SET", key, VALUE, "PX", TTL_MS),
    "CACHE.SETSM": lambda key: ("CACHE.SETSM", key, VALUE, TTL_MS),
    "CACHE.SETSM STALE": lambda key: ("CACHE.SETSM", key, VALUE, TTL_MS, "STALE", TTL_MS),
    "CACHE.SETSM, 1 tag": lambda key: ("CACHE.SETSM", key, VALUE, TTL_MS, "TAGS", 1, b"all"),
    "CACHE.SETSM, 3 tags": lambda key: ("CACHE.SETSM", key, VALUE, TTL_MS, "TAGS", 3, *three_tags(key)),
}


def three_tags(key: bytes) -> tuple[bytes, ...]:
    """One that all have, one that a hundredth has, and one that ten have."""
    number = int(key[4:])
    return b"all", b"group:%d" % (number % 100), b"product:%d" % (number // 10)



def used_memory(server: Server) -> int:
    return int(server.info("memory")["used_memory"])


def is_settled(server: Server, entries: int) -> bool:
    """Whether every key is there and no table is being moved to a larger one."""
    tables = server.call("DEBUG", "HTSTATS", 0)
    return server.call("DBSIZE") == entries and not re.search(rb"rehashing (?!index: -1)", tables)


def bytes_per_key(fill: str, entries: int) -> tuple[float, str]:
    """What one key costs, and the server that was asked."""
    with Server(config={"maxmemory": "0"}) as server:
        client = server.raw(timeout=60)
        client.call("PING")
        before = used_memory(server)
        for start in range(0, entries, PIPELINE):
            client.pipeline([FILLS[fill](b"key:%016d" % i) for i in range(start, min(start + PIPELINE, entries))])
        eventually(lambda: is_settled(server, entries), timeout=60, message="the tables have their final size")
        version = f"{'Valkey' if server.is_valkey else 'Redis'} {'.'.join(map(str, server.version))}"
        return (used_memory(server) - before) / entries, version


def bytes_per_waiter(waiters: int) -> float:
    """What the server and the module need for one parked connection beyond the connection."""
    with Server() as server, server.herd(waiters) as herd:
        assert server.raw().call("CACHE.GETSM", "key", "LEASE", TTL_MS) is None
        herd.send("CACHE.GETSM", "key", "WAIT", 0)  # so that each connection has its buffers
        herd.collect(60)
        before = used_memory(server)
        herd.send("CACHE.GETSM", "key", "WAIT", TTL_MS)
        eventually(lambda: server.stats()["waiters"] == waiters, timeout=60, message="all wait")
        return (used_memory(server) - before) / waiters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--waiters", type=int, default=5_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bytes_each, version = {}, ""
    for fill in FILLS:
        bytes_each[fill], version = bytes_per_key(fill, options.entries)
    base, waiter = bytes_each["SET PX"], bytes_per_waiter(options.waiters)
    if options.json:
        figures = {"entries": options.entries, "bytes_per_key": bytes_each, "bytes_per_waiter": waiter}
        print(json.dumps({"server": version} | figures))
        return
    print(f"{version}, {options.entries:,} keys of 20 bytes, values of 100 bytes, with a TTL\n")
    print("| written by | bytes per key | over SET PX |\n|---|---|---|")
    for fill, each in bytes_each.items():
        print(f"| {fill} | {each:.1f} | {each - base:+.1f} |")
    print()
    for fill, over, limit in [
        ("CACHE.SETSM", "SET PX", OVERHEAD_BYTES_MAX),
        ("CACHE.SETSM, 1 tag", "CACHE.SETSM", TAGGED_BYTES_MAX + TAG_BYTES_MAX),
        ("CACHE.SETSM, 3 tags", "CACHE.SETSM", TAGGED_BYTES_MAX + 3 * TAG_BYTES_MAX),
    ]:
        more = bytes_each[fill] - bytes_each[over]
        print(f"{fill} over {over}: {more:+.1f} bytes (limit {limit}, {'met' if more <= limit else 'MISSED'})")
    print(f"one of {options.waiters:,} waiters: {waiter:,.0f} bytes beyond its connection")


if __name__ == "__main__":
    main()
