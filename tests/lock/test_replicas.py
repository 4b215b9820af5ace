"""What replicas, files and other nodes make of locks: the same values, whatever their clocks say."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error
from harness.line import LONG, info, owners, stand_in_line

QUIET = {"repl-ping-replica-period": 100_000, "repl-diskless-sync": "yes"}
Start = Callable[..., Server]


def pair(start: Start, **options: Any) -> tuple[Server, Server]:
    primary, replica = start(config=QUIET, **options), start(config=QUIET, **options)
    replica.replica_of(primary)
    replica.wait_for_sync()
    return primary, replica


def state(server: Server) -> dict[bytes, tuple[Any, ...]]:
    """Every key with its digest and end."""
    keys = sorted(server.call("KEYS", "*"))
    ends = [server.call("PEXPIRETIME", key) for key in keys]
    digests = server.digest_value(*keys) if keys else []
    return {key: (end, digest) for key, end, digest in zip(keys, ends, digests)}


def assert_equal(primary: Server, replica: Server) -> None:
    replica.wait_for_sync()

    def equal() -> bool:
        assert state(primary) == state(replica)
        return True

    eventually(equal, 10)


def random_command(rng: random.Random) -> tuple[Any, ...]:
    key, other = (f"k{rng.randrange(8)}" for _ in range(2))
    owner, ttl = rng.choice("abcde"), rng.choice([3, 10, LONG, LONG])
    mode = rng.choice([[], ["SHARED"], ["SHARED"], ["PERMITS", 3]])
    lock = ("CACHE.LOCK", key, owner, ttl, *mode)
    native = [
        ("DEL", key),
        ("PEXPIRE", key, rng.choice([1, LONG])),
        ("PERSIST", key),
        ("RENAME", key, other),
        ("COPY", key, other, "REPLACE"),
    ]
    script = "redis.call('CACHE.LOCK', KEYS[1], unpack(ARGV)); return redis.call('CACHE.UNLOCK', KEYS[1], 'a')"
    others = [("CACHE.EXTEND", key, owner, ttl), ("EVAL", script, 1, key, owner, ttl, *mode), *native]
    return rng.choice([lock, lock, lock, ("CACHE.UNLOCK", key, owner), ("CACHE.UNLOCK", key, owner), rng.choice(others)])


@pytest.mark.parametrize("seed", range(3))
def test_a_replica_ends_with_the_same_values(fresh_server: Start, seed: int) -> None:
    primary, replica = pair(fresh_server)
    rng, client = random.Random(seed), primary.raw()
    waiters = [primary.raw() for _ in range(12)]
    for number, waiter in enumerate(waiters):
        waiter.send("CACHE.LOCK", f"k{number % 4}", f"w{number}", rng.choice([5, LONG]), "WAIT", 2_000, "SHARED")
    for _ in range(30):
        client.pipeline([random_command(rng) for _ in range(50)])
    assert_equal(primary, replica)


def test_a_file_replayed_at_another_time_makes_the_same_values(fresh_server: Start) -> None:
    server = fresh_server(appendonly=True, config={"appendfsync": "always"})
    rng, client = random.Random(7), server.raw()
    for _ in range(20):
        client.pipeline([random_command(rng) for _ in range(50)])
    for key in client.call("KEYS", "*"):  # what ends meanwhile would be gone
        client.call("PERSIST", key)
    before = state(server)
    server.restart(kill=True)
    assert state(server) == before
    server.call("BGREWRITEAOF")
    eventually(lambda: server.info("persistence")["aof_rewrite_in_progress"] == 0, 20)
    server.restart(kill=True)
    assert state(server) == before and before


def test_a_rewritten_file_makes_the_same_values(fresh_server: Start) -> None:
    options = {"aof-use-rdb-preamble": "no", "appendfsync": "always"}
    server = fresh_server(appendonly=True, config=options)
    for number in range(20):
        server.call("CACHE.LOCK", "shared", number, LONG + number, "SHARED")
        server.call("CACHE.LOCK", "permits", b"\0\xff%d" % number, LONG - number, "PERMITS", 20)
    server.call("CACHE.LOCK", "k", "me", LONG)
    server.call("CACHE.LOCK", "for ever", "me", LONG)
    server.call("PERSIST", "for ever")
    server.call("CACHE.LOCK", "short", "me", LONG)
    server.call("PEXPIRE", "short", 300_000)
    before = state(server)
    server.call("BGREWRITEAOF")
    eventually(lambda: server.info("persistence")["aof_rewrite_in_progress"] == 0, 20)
    server.restart(kill=True)
    assert state(server) == before


def test_dump_and_save_keep_all_but_connections(fresh_server: Start) -> None:
    server = fresh_server()
    holder = server.raw()
    for owner in "abc":
        holder.call("CACHE.LOCK", "k", owner, LONG, "PERMITS", 5, "BIND")
    before = state(server)
    server.restart(save=True)
    assert state(server) == before
    assert all(holder[b"client"] is None for holder in info(server)[b"holders"])
    payload = server.call("DUMP", "k")
    server.call("RESTORE", "copy", server.call("PEXPIRETIME", "k"), payload, "ABSTTL")
    assert server.digest_value("copy") == server.digest_value("k")


def test_what_is_sent_are_effects(fresh_server: Start) -> None:
    primary, replica = pair(fresh_server)
    feed = replica.raw()
    feed.send("MONITOR")
    assert feed.recv() == b"OK"
    client, waiter = primary.raw(), primary.raw()
    fence = client.call("CACHE.LOCK", "k", "me", LONG, "BIND", "WAIT", 5)
    assert client.call("CACHE.LOCK", "k", "you", LONG) is None and client.call("CACHE.UNLOCK", "k", "you") == 0
    stand_in_line(primary, waiter, "waiter", "SHARED")
    at = client.call("PEXPIRETIME", "k")
    client.call("CACHE.UNLOCK", "k", "me")
    second = waiter.recv()
    replica.wait_for_sync()
    seen = []
    while feed.has_reply(within_ms=200):
        seen.append(feed.recv().split(b"] ", 1)[1])
    effects = [line for line in seen if b"CACHE" in line.upper() or b"UNLINK" in line.upper()]
    assert effects[0] == b'"CACHE.LOCK" "k" "me" "PXAT" "%d" "FENCE" "%d"' % (at, fence)
    assert b'"UNLINK" "k"' in effects[1]
    assert effects[2].startswith(b'"CACHE.LOCK" "k" "waiter" "PXAT"')
    assert effects[2].endswith(b'"FENCE" "%d" "SHARED"' % second)
    assert len(effects) == 3


def test_a_replica_grants_nothing_and_shows_what_it_knows(fresh_server: Start) -> None:
    primary, replica = pair(fresh_server)
    fence = primary.call("CACHE.LOCK", "k", "me", LONG)
    replica.wait_for_sync()
    client = replica.raw()
    for command in ("CACHE.LOCK", "CACHE.EXTEND"):
        assert is_error(client.call(command, "k", "you", LONG), "READONLY")
    assert is_error(client.call("CACHE.UNLOCK", "k", "me"), "READONLY")
    assert owners(client) == [b"me"] and info(client)[b"last_fence"] >= fence
    replica.call("CONFIG", "SET", "replica-read-only", "no")
    assert is_error(client.call("CACHE.LOCK", "k", "you", LONG, "WAIT", LONG), "READONLY")


def test_who_waits_when_the_server_becomes_a_replica_is_told(fresh_server: Start) -> None:
    one, other = fresh_server(config=QUIET), fresh_server(config=QUIET)
    holder, waiter = one.raw(), one.raw()
    holder.call("CACHE.LOCK", "k", "holder", LONG, "BIND")
    stand_in_line(one, waiter, "waiter")
    one.replica_of(other)
    reply = waiter.recv()
    assert is_error(reply, "READONLY") or is_error(reply, "UNBLOCKED")
    assert one.stats()["lock_waiters"] == 0
    one.wait_for_sync()
    holder.close()
    one.replica_of(None)
    assert one.call("CACHE.LOCK", "k", "me", LONG) > 0


def test_a_replica_releases_nothing_by_itself(fresh_server: Start) -> None:
    """It keeps the data it had, as its primary is not there; what was bound to its connections is its primary's now."""
    server = fresh_server(config=QUIET)
    holder, waiter = server.raw(), server.raw()
    holder.call("CACHE.LOCK", "k", "holder", LONG, "BIND")
    holder.call("CACHE.LOCK", "short", "holder", 50)
    server.call("PERSIST", "short")
    stand_in_line(server, waiter, "waiter", key="short")
    server.call("REPLICAOF", "127.0.0.1", 1)
    before = server.digest()
    assert is_error(waiter.recv(), "UNBLOCKED")
    holder.close()
    eventually(lambda: server.info("clients")["connected_clients"] <= 1)
    for _ in range(3):
        assert server.call("CLIENT", "LIST") and server.digest() == before
    assert owners(server) == [b"holder"]
    server.replica_of(None)
    assert server.call("CACHE.UNLOCK", "k", "holder") == 1


def test_a_grant_that_nobody_heard_of_before_the_role_changed_stays(fresh_server: Start) -> None:
    """Granted and demoted in one turn: the replica must not take it back, whatever becomes of the waiter."""
    server = fresh_server(config=QUIET)
    holder, waiter = server.raw(), server.raw()
    holder.call("CACHE.LOCK", "k", "holder", LONG)
    stand_in_line(server, waiter, "waiter")
    assert holder.pipeline([("CACHE.UNLOCK", "k", "holder"), ("REPLICAOF", "127.0.0.1", 1)]) == [1, b"OK"]
    waiter.recv()
    waiter.close()
    for _ in range(5):
        assert owners(server) == [b"waiter"]
    server.replica_of(None)
    assert server.call("CACHE.UNLOCK", "k", "waiter") == 1


def test_after_a_failover_the_holder_holds_and_its_bond_is_gone(fresh_server: Start) -> None:
    primary, replica = pair(fresh_server)
    holder = primary.raw()
    fence = holder.call("CACHE.LOCK", "k", "me", LONG, "BIND")
    replica.wait_for_sync()
    replica.replica_of(None)
    primary.kill9()
    assert replica.call("CACHE.LOCK", "k", "you", LONG) is None
    assert replica.call("CACHE.LOCK", "k", "me", LONG) == fence


def test_overdue_holders_end_on_both(fresh_server: Start) -> None:
    primary, replica = pair(fresh_server)
    client: RawClient = primary.raw()
    for owner in "abc":
        client.call("CACHE.LOCK", "k", owner, 30, "SHARED")
    client.call("CACHE.LOCK", "k", "long", LONG, "SHARED")
    eventually(lambda: owners(client) == [b"long"])
    replica.wait_for_sync()
    assert owners(replica.raw()) == [b"long"], "a replica does not show them either"
    client.call("CACHE.LOCK", "k", "new", LONG, "SHARED")
    assert_equal(primary, replica)
