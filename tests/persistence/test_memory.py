"""What entries are to the server's own tools: memory, eviction, freeing in the background, digests, types."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from test_rdb import HOUR_MS, SAMPLES, fill, lease, read, waiters
from test_replication import Pair

from harness import RawClient, Server, eventually, is_error

MB = 1 << 20
# What the server itself keeps of a key with a short name and a TTL, at most.
KEY_BYTES_MAX = 300


@pytest.fixture
def client(server: Server) -> RawClient:
    return server.raw()


def used(server: Server) -> int:
    return server.info("memory")["used_memory"]


# How much


@pytest.mark.parametrize("size", [0, 1, 100, 1_000, 4_096, 20_000, 100_000, MB, 20 * MB])
def test_memory_usage_is_the_value_and_little_more(client: RawClient, size: int) -> None:
    client.call("CACHE.SETSM", "key", b"v" * size, HOUR_MS)
    usage = client.call("MEMORY", "USAGE", "key")
    assert size < usage <= size * 5 // 4 + KEY_BYTES_MAX, "allocators round up by a quarter at most"
    client.call("SET", "native", b"v" * size, "PX", HOUR_MS)
    assert usage <= client.call("MEMORY", "USAGE", "native") * 5 // 4 + 200


def test_memory_usage_is_what_the_server_has_less(server: Server, client: RawClient) -> None:
    client.call("CONFIG", "SET", "maxmemory", 0)
    before, sizes = used(server), [random.Random(n).randrange(2_000, 30_000) for n in range(1_000)]
    client.pipeline([("CACHE.SETSM", f"key {n}", b"v" * size, HOUR_MS) for n, size in enumerate(sizes)])
    grown = used(server) - before
    told = sum(client.pipeline([("MEMORY", "USAGE", f"key {n}") for n in range(len(sizes))]))
    assert sum(sizes) < told
    assert abs(grown - told) < told // 20 + MB


def test_an_overwritten_value_is_given_back(server: Server, client: RawClient) -> None:
    client.call("CACHE.SETSM", "key", b"v" * 8 * MB, HOUR_MS)
    client.call("CACHE.SETSM", "key", b"v", HOUR_MS)
    assert client.call("MEMORY", "USAGE", "key") < 1_000
    first = used(server)
    for n in range(200):
        client.call("CACHE.SETSM", "key", bytes([n]) * (n * 5_000), HOUR_MS)
    client.call("CACHE.SETSM", "key", b"v", HOUR_MS)
    eventually(lambda: used(server) < first + 3 * MB)
    client.call("SET", "key", "native")
    client.call("CACHE.SETSM", "key", "ours", HOUR_MS)
    assert read(client, "key") == b"ours"


def test_refused_and_over_values_are_given_back(server: Server, client: RawClient) -> None:
    client.call("CACHE.SETSM", "key", "v", HOUR_MS, "VERSION", 9)
    big, first = b"v" * MB, used(server)
    for _ in range(30):
        assert client.call("CACHE.SETSM", "key", big, HOUR_MS, "VERSION", 8) is None
        assert client.call("CACHE.SETSM", "over", big, "PXAT", 1) == b"OK"
    eventually(lambda: used(server) < first + 5 * MB)


@pytest.mark.parametrize(
    "remove",
    [("UNLINK", "key"), ("FLUSHALL", "ASYNC"), ("FLUSHDB", "ASYNC"), ("FLUSHALL", "SYNC"), ("DEL", "key")],
    ids=" ".join,
)
def test_removing_a_large_value_gives_its_memory_back(
    server: Server, client: RawClient, remove: tuple[str, ...]
) -> None:
    first = used(server)
    client.call("CONFIG", "RESETSTAT")
    client.call("CACHE.SETSM", "key", b"v" * 40 * MB, HOUR_MS)
    assert used(server) > first + 39 * MB
    assert client.call(*remove) in (1, b"OK")
    if remove[0] == "UNLINK" or remove[-1] == "ASYNC":
        eventually(lambda: server.info("memory")["lazyfreed_objects"] >= 1)
    eventually(lambda: server.info("memory")["lazyfree_pending_objects"] == 0)
    eventually(lambda: used(server) < first + 6 * MB, message=lambda: f"{used(server)} of {first}")


def test_small_values_are_freed_at_once_on_the_main_thread(server: Server, client: RawClient) -> None:
    client.call("CONFIG", "RESETSTAT")
    for n in range(50):
        client.call("CACHE.SETSM", f"key {n}", "v" * 10_000, HOUR_MS)
    client.call("UNLINK", *(f"key {n}" for n in range(50)))
    assert server.info("memory")["lazyfreed_objects"] == 0


def test_many_values_freed_in_the_background_while_others_come(server: Server, client: RawClient) -> None:
    """The thread that frees and the one that allocates share nothing."""
    first = used(server)
    for turn in range(15):
        commands = [("CACHE.SETSM", f"key {n}", b"%d" % turn * (2 * MB), HOUR_MS) for n in range(5)]
        commands += [("CACHE.SETSM", f"small {n}", b"%d" % turn * 50, HOUR_MS, "COST", n) for n in range(500)]
        assert set(client.pipeline(commands)) == {b"OK"}
        client.call(*(("FLUSHALL", "ASYNC") if turn % 2 else ("UNLINK", *(f"key {n}" for n in range(5)))))
    client.call("FLUSHALL", "ASYNC")
    eventually(lambda: server.info("memory")["lazyfree_pending_objects"] == 0, 20)
    eventually(lambda: used(server) < first + 8 * MB)
    server.assert_alive()


def test_leases_and_waiters_give_their_memory_back(server: Server) -> None:
    client = server.raw()
    first = used(server)
    for start in range(0, 20_000, 1_000):
        commands = [("CACHE.GETSM", b"k" * 200 + b"%d" % n, "LEASE", HOUR_MS) for n in range(start, start + 1_000)]
        client.pipeline(commands)
    assert used(server) > first + 20_000 * 200, "the server's memory, so that maxmemory counts it"
    client.call("FLUSHALL")
    eventually(lambda: server.stats()["leases"] == 0)
    client.close()
    eventually(lambda: used(server) < first + 2 * MB, message=lambda: f"{used(server)} of {first}")


# Eviction


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-lfu", "allkeys-random", "volatile-lru"])
def test_eviction_takes_entries_and_leaves_order(server: Server, policy: str) -> None:
    client, rng = server.raw(), random.Random(2)
    client.call("CONFIG", "SET", "maxmemory-policy", policy)
    client.call("CONFIG", "SET", "maxmemory", used(server) + 6 * MB)
    holder, parked = lease(server, "wanted"), waiters(server, "wanted", 3)
    for start in range(0, 4_000, 100):
        commands: list[tuple[Any, ...]] = []
        for n in range(start, start + 100):
            ttl = rng.randrange(HOUR_MS // 2, HOUR_MS)
            commands.append(("CACHE.SETSM", f"key {n}", b"%d " % n * 1_000, ttl, "STALE", 50, "VERSION", n))
        assert set(client.pipeline(commands)) == {b"OK"}
    assert server.info("stats")["evicted_keys"] > 500
    assert used(server) < server.info("memory")["maxmemory"] + MB
    client.call("CONFIG", "SET", "maxmemory", 0)  # replies that wait to be read would evict more
    left = client.call("DBSIZE")
    assert 100 < left < 3_000
    replies = client.pipeline([("CACHE.GETSM", f"key {n}", "WAIT", 0, "LEASE", 1) for n in range(4_000)])
    assert all(reply in (None, b"%d " % n * 1_000) for n, reply in enumerate(replies))
    assert 4_000 - replies.count(None) == left
    assert holder.call("CACHE.SETSM", "wanted", "found", HOUR_MS) == b"OK"
    assert [waiter.recv() for waiter in parked] == [b"found"] * 3
    gone = next(n for n, reply in enumerate(replies) if reply is None)
    holder, parked = lease_of(server, f"key {gone}"), waiters(server, f"key {gone}", 2)
    assert holder.call("CACHE.SETSM", f"key {gone}", "again", HOUR_MS, "VERSION", 0) == b"OK"
    assert [waiter.recv() for waiter in parked] == [b"again"] * 2


def lease_of(server: Server, key: str) -> RawClient:
    """As `lease`, where another short lease may still be out."""
    holder = server.raw()
    eventually(lambda: holder.call("CACHE.GETSM", key, "WAIT", 0, "LEASE", HOUR_MS) is None)
    return holder


def test_without_eviction_writes_are_refused_and_hits_served(server: Server) -> None:
    fill(server)
    client = server.raw()
    client.call("CONFIG", "SET", "maxmemory", 1)
    assert is_error(client.call("CACHE.SETSM", "key", "v", HOUR_MS), "OOM ")
    assert client.call("CACHE.GETSM", "plain") == b"value"
    assert client.call("CACHE.GETSM", "missing") is None
    client.call("CONFIG", "SET", "maxmemory", 0)
    assert client.call("CACHE.SETSM", "missing", "v", HOUR_MS) == b"OK"


def test_eviction_on_the_primary_reaches_the_replica(fresh_server: Callable[..., Server]) -> None:
    pair = Pair(fresh_server, config={"repl-backlog-size": "256kb"})  # the server counts it as memory in use
    client = pair.primary.raw()
    client.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    client.call("CONFIG", "SET", "maxmemory", used(pair.primary) + 4 * MB)
    for n in range(2_000):
        assert client.call("CACHE.SETSM", f"key {n}", b"v" * 5_000, HOUR_MS, "COST", n + 1) == b"OK"
    assert pair.primary.info("stats")["evicted_keys"] > 100
    client.call("CONFIG", "SET", "maxmemory", 0)
    pair.assert_equal()


# Digests


def test_equal_entries_have_equal_digests(server: Server, client: RawClient) -> None:
    for key, (value, *rest) in SAMPLES.items():
        client.call("DEL", "2")
        client.call("CACHE.SETSM", "1", "something else", HOUR_MS, "COST", 77)
        for twin in (b"1", b"2"):
            client.call("CACHE.SETSM", twin, value, *rest, *(() if "COST" in rest else ("COST", 0)))
        one, two = server.digest_value("1", "2")
        assert one == two != b"0" * 40, key


def test_each_field_changes_the_digest(server: Server, client: RawClient) -> None:
    variants: dict[str, tuple[Any, ...]] = {
        "plain": (b"value", "PERSIST"),
        "value": (b"valuE", "PERSIST"),
        "empty": (b"", "PERSIST"),
        "longer": (b"value0", "PERSIST"),
        "with a ttl": (b"value", HOUR_MS),
        "stale": (b"value", "PERSIST", "STALE", 1),
        "version": (b"value", "PERSIST", "VERSION", 1),
        "cost": (b"value", "PERSIST", "COST", 1),
        "stale 2": (b"value", "PERSIST", "STALE", 2),
        "version max": (b"value", "PERSIST", "VERSION", 2**64 - 1),
        "version half": (b"value", "PERSIST", "VERSION", 2**63),
        "cost max": (b"value", "PERSIST", "COST", 2**32 - 1),
        "all 1": (b"value", "PERSIST", "STALE", 1, "VERSION", 1, "COST", 1),
    }
    for name, args in variants.items():
        assert client.call("CACHE.SETSM", name, *args) == b"OK"
    digests = dict(zip(variants, server.digest_value(*variants)))
    assert len(set(digests.values())) == len(variants), digests
    client.call("SET", "native", "value")
    assert server.digest_value("native")[0] not in digests.values()


def test_the_digest_of_all_knows_keys_and_databases(server: Server, client: RawClient) -> None:
    seen = [server.digest()]
    assert seen == [b"0" * 40]
    for command in [
        ("CACHE.SETSM", "a", "1", HOUR_MS),
        ("CACHE.SETSM", "b", "1", HOUR_MS),
        ("CACHE.SETSM", "b", "1", HOUR_MS, "VERSION", 2),
        ("RENAME", "b", "c"),
        ("MOVE", "c", 1),
    ]:
        client.call(*command)
        seen.append(server.digest())
    assert len(set(seen)) == len(seen)


# A key like any other


def test_the_type_has_a_name(client: RawClient) -> None:
    client.call("CACHE.SETSM", "key", "v", HOUR_MS)
    client.call("SET", "native", "v")
    assert client.call("TYPE", "key") == b"cg-cached"
    for n in range(50):
        client.call("CACHE.SETSM", f"more {n}", "v", HOUR_MS)
    found, cursor = [], b"0"
    while True:
        cursor, keys = client.call("SCAN", cursor, "TYPE", "cg-cached")
        found += keys
        if cursor == b"0":
            break
    assert sorted(found) == sorted([b"key", *(b"more %d" % n for n in range(50))])


def test_object_and_debug_know_entries(server: Server, client: RawClient) -> None:
    fill(server)
    for key in SAMPLES:
        assert client.call("OBJECT", "ENCODING", key) == b"raw"
        assert client.call("OBJECT", "REFCOUNT", key) == 1
        assert client.call("OBJECT", "IDLETIME", key) < 60
        assert not is_error(client.call("DEBUG", "OBJECT", key))
    client.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
    client.call("CACHE.SETSM", "key", "v", HOUR_MS)
    first = client.call("OBJECT", "FREQ", "key")
    for _ in range(3_000):
        client.send("CACHE.GETSM", "key")
    assert {client.recv() for _ in range(3_000)} == {b"v"}
    assert client.call("OBJECT", "FREQ", "key") > first, "a hit counts as a use of the key"


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "key"),
        ("APPEND", "key", "x"),
        ("INCR", "key"),
        ("STRLEN", "key"),
        ("GETRANGE", "key", 0, -1),
        ("GETSET", "key", "x"),
        ("GETDEL", "key"),
        ("GETEX", "key"),
        ("SETRANGE", "key", 0, "x"),
        ("SET", "key", "x", "GET"),
        ("LPUSH", "key", "x"),
        ("LRANGE", "key", 0, -1),
        ("SADD", "key", "x"),
        ("ZADD", "key", 1, "x"),
        ("HSET", "key", "f", "x"),
        ("HGETALL", "key"),
        ("XADD", "key", "*", "f", "x"),
        ("PFADD", "key", "x"),
        ("SETBIT", "key", 0, 1),
        ("SORT", "key"),
    ],
    ids=lambda command: command[0],
)
def test_native_commands_are_of_the_wrong_type(server: Server, client: RawClient, command: tuple[Any, ...]) -> None:
    client.call("CACHE.SETSM", "key", "5", HOUR_MS, "COST", 3)
    before = server.digest()
    assert is_error(client.call(*command), "WRONGTYPE ")
    assert server.digest() == before
    assert client.call("MGET", "key") == [None]
    assert read(client, "key") == b"5"
