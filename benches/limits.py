"""Rate limits beside what people use: a sorted set with a member a request, kept by a script.

Throughput: redis-benchmark, 20 connections, pipelines of 50, one server at a time. Two cases for each limit:

- allowed: so many keys that each gets about half its limit a window of one second; every request is let through, and
  every one drops an old one. How many keys that takes depends on the contender's own speed, which is measured first.
- refused: keys that are full, with a window that does not end meanwhile.

Beside requests a second: the server's own processor time for each, which other work on the machine disturbs less.

Memory: MEMORY USAGE of one full key whose requests came 250 ms apart.

Usage: python benches/limits.py [--seconds 4] [--json]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from harness import RawClient, Server  # noqa: E402

LIMITS = (100, 1_000)
WINDOW_MS = 1_000
LONG_MS = 3_600_000
FULL_KEYS = 100
PIPELINE, CONNECTIONS = 50, 20

# The usual one: time from the server, members made unique by a counter, the key with a TTL.
SORTED_SET = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, now - window)
local count = redis.call('ZCARD', KEYS[1])
if count < limit then
  redis.call('ZADD', KEYS[1], now, time[1] .. time[2] .. ':' .. count)
  redis.call('PEXPIRE', KEYS[1], window)
  return {1, limit, limit - count - 1, 0}
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {0, limit, 0, first[2] + window - now}
"""
CONTENDERS = ("sorted set", "SLIDING", "FIXED", "GCRA", "CL.THROTTLE")


def command(contender: str, key: str, limit: int, window_ms: int, digest: str) -> list[str]:
    if contender == "sorted set":
        return ["EVALSHA", digest, "1", key, str(limit), str(window_ms)]
    if contender == "CL.THROTTLE":
        return ["CL.THROTTLE", key, str(limit - 1), str(limit), str(max(1, window_ms // 1_000))]
    words = [] if contender == "SLIDING" else ["ALGORITHM", contender]
    return ["CACHE.RATELIMIT", key, str(limit), str(window_ms), *words]


def benchmark(server: Server, words: list[str], keys: int, requests: int) -> tuple[float, float]:
    """Requests a second, and microseconds of the server's processor time for each."""
    before = cpu_seconds(server)
    tool = Path(server.binary).with_name("benchmark")
    binary = str(tool) if tool.exists() else shutil.which("redis-benchmark") or "valkey-benchmark"
    options = ["-s", server.socket_path, "-c", CONNECTIONS, "-P", PIPELINE, "-n", requests, "-r", keys, "--csv"]
    done = subprocess.run([binary, *map(str, options), *words], capture_output=True, text=True, check=True)
    rate = re.search(r'^"(?!test).*?","([\d.]+)"', done.stdout, re.MULTILINE)
    if not rate:
        raise RuntimeError(done.stdout + done.stderr)
    return float(rate[1]), (cpu_seconds(server) - before) / requests * 1e6


def cpu_seconds(server: Server) -> float:
    info = server.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def fill(client: RawClient, contender: str, limit: int, digest: str) -> None:
    for n in range(FULL_KEYS):
        words = command(contender, f"key:{n:012d}", limit, LONG_MS, digest)
        client.pipeline([words] * (limit + 1))


def rates(contender: str, limit: int, seconds: float) -> dict[str, tuple[float, float]]:
    found = {}
    with Server() as server:
        client = server.raw(timeout=120)
        digest = client.call("SCRIPT", "LOAD", SORTED_SET).decode()
        words = command(contender, "key:__rand_int__", limit, WINDOW_MS, digest)
        keys = 1_000
        for _ in range(3):  # more keys are slower, so the first guess is too high
            keys = max(20, round(benchmark(server, words, keys, 100_000)[0] * WINDOW_MS / 1_000 / (limit / 2)))
        speed, _ = benchmark(server, words, keys, 200_000)
        client.call("FLUSHALL")
        found["allowed"] = benchmark(server, words, keys, round(speed * seconds))
        client.call("FLUSHALL")
        fill(client, contender, limit, digest)
        words = command(contender, "key:__rand_int__", limit, LONG_MS, digest)
        found["refused"] = benchmark(server, words, FULL_KEYS, round(speed * seconds))
    return found


def memory(limit: int) -> dict[str, int]:
    """Bytes of a full key."""
    with Server() as server:
        client, start = server.raw(), int(time.time() * 1000) - limit * 250
        for n in range(limit):
            at = start + n * 250
            client.call("ZADD", "sorted set", at, f"{at}123:{n}")
            for algorithm in ("SLIDING", "FIXED", "GCRA"):
                client.call("CACHE.RATELIMIT", algorithm, limit, LONG_MS, "ALGORITHM", algorithm, "AT", at)
        keys = ("sorted set", "SLIDING", "FIXED", "GCRA")
        return {key: client.call("MEMORY", "USAGE", key, "SAMPLES", 0) for key in keys}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    speed = {limit: {name: rates(name, limit, options.seconds) for name in CONTENDERS} for limit in LIMITS}
    size = {limit: memory(limit) for limit in LIMITS}
    if options.json:
        print(json.dumps({"requests_per_second": speed, "bytes_of_a_full_key": size}))
        return
    for case in ("allowed", "refused"):
        print(f"| {case} | limit | requests a second | × | server time each | × |\n|---|---|---|---|---|---|")
        for limit, contenders in speed.items():
            base_rate, base_cpu = contenders["sorted set"][case]
            for name, found in contenders.items():
                rate, cpu = found[case]
                cells = f"{rate / 1e3:.0f} k | {rate / base_rate:.1f} | {cpu:.2f} µs | {base_cpu / cpu:.1f}"
                print(f"| {name} | {limit} | {cells} |")
        print()
    print("| a full key | limit | bytes | the sorted set's over it |\n|---|---|---|---|")
    for limit, keys in size.items():
        for name, each in keys.items():
            print(f"| {name} | {limit} | {each} | {keys['sorted set'] / each:.1f} |")


if __name__ == "__main__":
    main()
