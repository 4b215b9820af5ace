"""A load of all families beside what administrators and other clients do to a server at the same time."""

import random
import time
from collections.abc import Callable

import pytest

from harness import RawClient, Server, eventually, is_error
from harness.load import Load, check_index

DATABASES = 2
SETTINGS = {
    "cacheguard.lease-ms": [1, 10, 10_000],
    "cacheguard.wait-ms": [0, 5, 10_000],
    "cacheguard.retry-ms": [1, 1_000],
    "cacheguard.jitter-percent": [0, 50],
    "cacheguard.sweep-cpu-percent": [1, 10, 100],
    "cacheguard.max-waiters": [0, 1, 100_000],
    "hz": [1, 10, 100],
    "maxmemory-policy": ["noeviction", "allkeys-lru"],
    "lazyfree-lazy-user-flush": ["yes", "no"],
    "appendonly": ["yes", "no"],
    "notify-keyspace-events": ["", "KEA"],
}
Disturbance = Callable[[Server, random.Random], None]


def pause(server: Server, chance: random.Random) -> None:
    server.call("CLIENT", "PAUSE", chance.randint(1, 50), chance.choice(["WRITE", "ALL"]))


def reload(server: Server, chance: random.Random) -> None:
    server.call("DEBUG", "RELOAD")


def configure(server: Server, chance: random.Random) -> None:
    name = chance.choice(list(SETTINGS))
    server.call("CONFIG", "SET", name, chance.choice(SETTINGS[name]))


def rewrite(server: Server, chance: random.Random) -> None:
    server.control().call(chance.choice(["BGREWRITEAOF", "BGSAVE"]))  # one may be under way


def unblock(server: Server, chance: random.Random) -> None:
    ids = [line.split()[0].removeprefix(b"id=") for line in server.call("CLIENT", "LIST").splitlines()]
    server.call("CLIENT", "UNBLOCK", chance.choice(ids).decode(), chance.choice(["TIMEOUT", "ERROR"]))


def flush(server: Server, chance: random.Random) -> None:
    server.call(chance.choice(["FLUSHALL", "FLUSHDB"]), chance.choice(["ASYNC", "SYNC"]))


def swap(server: Server, chance: random.Random) -> None:
    server.call("SWAPDB", 0, chance.randrange(DATABASES))


HARMLESS: list[Disturbance] = [pause, reload, configure, rewrite, unblock]
LOSSY: list[Disturbance] = [*HARMLESS, flush, flush, swap, swap]


def disturb(server: Server, seed: int, kinds: list[Disturbance], goes_on: Callable[[int], bool]) -> Load:
    """Runs the load as long as `goes_on` says so; then the server has nothing left of what was under way."""
    chance, load, done = random.Random(seed), Load(seed), 0
    if LOSSY is kinds:
        for member in load.members:
            member.is_alone = False
    load.start(server, protocol=chance.choice([2, 3]))
    while goes_on(done):
        chance.choice(kinds)(server, chance)
        load.go_on(chance.randint(1, 60))
        done += 1
    server.call("CLIENT", "UNPAUSE")
    load.stop()
    server.assert_alive()
    stats = server.stats()
    assert stats["panics"] == 0
    assert [stats[field] for field in ("waiters", "lock_waiters", "limits_waiting")] == [0, 0, 0]
    assert server.info("clients")["blocked_clients"] == 0
    eventually(lambda: server.stats()["sweep_backlog"] == 0, 20)
    for database in range(DATABASES):
        client = server.raw(timeout=60)
        client.call("SELECT", database)
        check_index(client)
        client.close()
    refused = [reply for member in load.members for reply in member.refusals]
    assert not [reply for reply in refused if is_error(reply, "ERR")], "a disturbance is no mistake of the caller"
    return load


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_what_changes_no_data_loses_none(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server()
    disturb(server, 1, HARMLESS, lambda done: done < 60).check(server)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_flushed_and_swapped_databases_are_whole(fresh_server: Callable[..., Server]) -> None:
    disturb(fresh_server(), 2, LOSSY, lambda done: done < 60)


@pytest.mark.soak
@pytest.mark.parametrize("kinds", [HARMLESS, LOSSY], ids=["harmless", "lossy"])
def test_disturbed_for_long(
    fresh_server: Callable[..., Server], soak_seconds: float, kinds: list[Disturbance]
) -> None:
    end, seed = time.monotonic() + soak_seconds, int(time.time())
    while time.monotonic() < end:
        server = fresh_server()
        load = disturb(server, seed, kinds, lambda done: done < 500 and time.monotonic() < end)
        if kinds is HARMLESS:
            load.check(server)
        server.stop()
        print(f"seed {seed}: {load.steps} commands answered")
        seed += 1
