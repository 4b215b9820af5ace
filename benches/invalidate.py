"""A tag of a million entries invalidated, beside the way it is done without a module, under a steady load of GETs.

Two servers, one after the other, get the same keys with 100-byte values. On the first they are entries of three tags (one of all,
one of a hundredth, one of their own kind) and CACHE.INVALIDATE names the tag of all. On the second they are strings, and
a set holds their names as today's libraries keep it; a script reads it by SMEMBERS and deletes by UNLINK, a thousand keys
a call. Meanwhile another process sends one GET after the other to a key outside of the tag, and notes how long each took:
first for some seconds with nothing else going on, then until all keys are gone.

Usage: python benches/invalidate.py [--entries 1000000] [--percent 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from harness import RawClient, Server, eventually  # noqa: E402
from harness.raw import encode  # noqa: E402

VALUE = b"v" * 100
TTL_MS = 86_400_000
PIPELINE = 1_000
QUIET_S = 5
AFTER_S = 1  # the load goes on for so long once all is gone
MEMBERS = b"tag:all"
SCRIPT = """
local keys = redis.call('SMEMBERS', KEYS[1])
for i = 1, #keys, 1000 do redis.call('UNLINK', unpack(keys, i, math.min(i + 999, #keys))) end
redis.call('UNLINK', KEYS[1])
return #keys
"""


@dataclass
class Outcome:
    """Times in milliseconds. `samples` are (seconds since the invalidation, time of one GET), the longest of each stretch."""

    name: str
    answered: float
    gone: float
    quiet_p999: float
    busy_p999: float
    quiet_max: float
    busy_max: float
    used_us: float | None = None
    samples: list[tuple[float, float]] = field(default_factory=list)


def key(i: int) -> bytes:
    return b"page:%09d:fragment" % i


def fill_entries(client: RawClient, entries: int) -> None:
    for start in range(0, entries, PIPELINE):
        batch = range(start, min(start + PIPELINE, entries))
        tags = [(b"all", b"group:%d" % (i % 100), b"product:%d" % (i % 99_991)) for i in batch]
        client.pipeline([("CACHE.SETSM", key(i), VALUE, TTL_MS, "TAGS", 3, *each) for i, each in zip(batch, tags)])


def fill_strings(client: RawClient, entries: int) -> None:
    for start in range(0, entries, PIPELINE):
        batch = range(start, min(start + PIPELINE, entries))
        client.pipeline([("SET", key(i), VALUE, "PX", TTL_MS) for i in batch])
        client.call("SADD", MEMBERS, *map(key, batch))


def load(path: str, begun: Event, stop: Event, results: multiprocessing.Queue) -> None:
    """One GET after the other; when each began and how long it took."""
    client, request, times = RawClient(path), encode("GET", "outside"), []
    clock = time.perf_counter
    while not stop.is_set():
        for _ in range(50):
            start = clock()
            client.send_bytes(request)
            client.recv()
            times.append((start, clock() - start))
        begun.set()
    results.put(times)


def quantile(times: list[float], q: float) -> float:
    return sorted(times)[min(len(times) - 1, int(q * len(times)))] * 1000


def measure(name: str, entries: int, percent: int) -> Outcome:
    with Server(config={"maxmemory": "0"}) as server:
        client = server.raw(timeout=120)
        client.call("SET", "outside", VALUE)
        if name == "cache-guard":
            client.call("CONFIG", "SET", "cacheguard.sweep-cpu-percent", percent)
            fill_entries(client, entries)
            command = ("CACHE.INVALIDATE", "all")
        else:
            fill_strings(client, entries)
            command = ("EVAL", SCRIPT, 1, MEMBERS)
        begun, stop = multiprocessing.Event(), multiprocessing.Event()
        results: multiprocessing.Queue = multiprocessing.Queue()
        loader = multiprocessing.Process(target=load, args=(str(server.socket_path), begun, stop, results), daemon=True)
        loader.start()
        begun.wait()
        time.sleep(QUIET_S)
        start = time.perf_counter()
        assert client.call(*command) == entries
        answered = time.perf_counter()
        # Looking costs the server little, and is done seldom.
        eventually(lambda: client.call("DBSIZE") == 1, timeout=120, interval=0.05, message="all keys are gone")
        gone = time.perf_counter()
        time.sleep(AFTER_S)
        stop.set()
        times = results.get()
        loader.join()
        quiet = [took for at, took in times if start - QUIET_S < at < start - 0.01]
        busy = [took for at, took in times if start <= at + took and at <= gone]
        stats = server.info("commandstats").get("cmdstat_cache.invalidate")
        return Outcome(
            name,
            (answered - start) * 1000,
            (gone - start) * 1000,
            quantile(quiet, 0.999),
            quantile(busy, 0.999),
            max(quiet) * 1000,
            max(busy) * 1000,
            float(re.search(r"usec_per_call=([\d.]+)", str(stats))[1]) if stats else None,
            thinned([(at - start, took * 1000) for at, took in times if at > start - 1]),
        )


def thinned(samples: list[tuple[float, float]], per_second: int = 200) -> list[tuple[float, float]]:
    """The longest time of every stretch, for a picture."""
    worst: dict[int, tuple[float, float]] = {}
    for at, took in samples:
        stretch = int(at * per_second)
        worst[stretch] = max(worst.get(stretch, (at, 0.0)), (at, took), key=lambda sample: sample[1])
    return [worst[stretch] for stretch in sorted(worst)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--percent", type=int, default=10, help="sweep-cpu-percent")
    parser.add_argument("--json", type=Path, help="where to write the outcomes, for benches/picture.py")
    options = parser.parse_args()
    outcomes = [measure(name, options.entries, options.percent) for name in ("cache-guard", "SMEMBERS + UNLINK in Lua")]
    print("| | answered after | all gone after | GET p99.9 before, meanwhile | longest GET before, meanwhile |")
    print("|---|---|---|---|---|")
    for each in outcomes:
        print(
            f"| {each.name} | {each.answered:.2f} ms | {each.gone / 1000:.2f} s "
            f"| {each.quiet_p999:.2f} ms, {each.busy_p999:.2f} ms ({each.busy_p999 / each.quiet_p999:.1f} x) "
            f"| {each.quiet_max:.1f} ms, {each.busy_max:.1f} ms |"
        )
    print(f"\nThe command itself: {outcomes[0].used_us:.0f} microseconds of server time.")
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in outcomes]))


if __name__ == "__main__":
    main()
