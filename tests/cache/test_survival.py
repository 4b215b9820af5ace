"""What of the cache survives what: entries with all they carry do; leases, waiters, failures and counts do not."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually, is_error
from test_token import LONG, holder, won, write_late

Start = Callable[..., Server]
HOUR = 3_600_000
ENTRIES: dict[str, tuple[Any, ...]] = {
    "plain": (b"\0\xff", HOUR),
    "fresh": ("v", HOUR, "STALE", 2 * HOUR, "VERSION", 2**64 - 1, "COST", 1234),
    "endless": ("v", "PERSIST", "VERSION", 3, "COST", 5),
    "endless with a stale period": ("v", "PERSIST", "STALE", 9),
}


def fill(client: RawClient) -> None:
    for key, words in ENTRIES.items():
        assert client.call("CACHE.SETSM", key, *words) == b"OK"
    at = int(time.time() * 1000) - 5_000
    assert client.call("CACHE.SETSM", "stale", "old", "PXAT", at, "STALE", HOUR, "VERSION", 8, "COST", 77) == b"OK"
    assert client.call("CACHE.SETSM", "touched", "old", "PXAT", at, "STALE", HOUR, "VERSION", 9, "COST", 78) == b"OK"
    assert client.call("CACHE.TOUCH", "touched", HOUR, "STALE", 2 * HOUR) == 1
    token = won(client, "measured")
    eventually(lambda: as_map(client.call("CACHE.LEASES")[0])[b"age_ms"] >= 20)
    assert client.call("CACHE.SETSM", "measured", "v", HOUR, "JITTER", 50, "TOKEN", token) == b"OK"


def picture(client: RawClient, prefix: str = "") -> dict[str, tuple[Any, ...]]:
    """All that must survive, as commands show it. Times as the moments they end, which do not depend on the clock."""
    shown = {}
    for key in [*ENTRIES, "stale", "touched", "measured"]:
        fields = as_map(client.call("CACHE.INSPECT", prefix + key))
        kept = tuple(fields[name] for name in (b"state", b"size", b"cost_ms", b"version", b"tags"))
        fresh = fields[b"state"] == b"fresh"
        stale_ms = fields[b"stale_ms"] if fresh else None
        value = client.call("CACHE.GET", prefix + key)
        shown[key] = (*kept, value, client.call("PEXPIRETIME", prefix + key), stale_ms)
    return shown


def by_rdb(server: Server, _: Start) -> RawClient:
    return server.restart(save=True).raw()


def by_rdb_after_a_crash(server: Server, _: Start) -> RawClient:
    server.call("SAVE")
    return server.restart(kill=True).raw()


def by_aof(server: Server, _: Start) -> RawClient:
    return server.restart(kill=True).raw()


def by_rewritten_aof(server: Server, _: Start) -> RawClient:
    server.call("CONFIG", "SET", "aof-use-rdb-preamble", "no")
    server.call("BGREWRITEAOF")
    idle = lambda: not any(server.info("persistence")[f"aof_rewrite_{word}"] for word in ("in_progress", "scheduled"))  # noqa: E731
    eventually(idle, timeout=20)
    return server.restart(kill=True).raw()


def by_reload(server: Server, _: Start) -> RawClient:
    server.call("DEBUG", "RELOAD")
    return server.raw()


def by_replica(server: Server, start: Start) -> RawClient:
    replica = start()
    replica.replica_of(server)
    replica.wait_for_sync()
    return replica.raw()


def by_failover(server: Server, start: Start) -> RawClient:
    replica = start()
    replica.replica_of(server)
    replica.wait_for_sync()
    server.kill9()
    replica.replica_of(None)
    return replica.raw()


WAYS = [by_rdb, by_rdb_after_a_crash, by_aof, by_rewritten_aof, by_reload, by_replica, by_failover]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_entries_survive_with_all_they_carry(fresh_server: Start, way: Callable[[Server, Start], RawClient]) -> None:
    server = fresh_server(appendonly="aof" in way.__name__)
    client = server.raw()
    fill(client)
    before = picture(client)
    assert before["stale"][0] == b"stale" and before["measured"][2] >= 20 and before["touched"][0] == b"fresh"
    after = picture(way(server, fresh_server))
    assert after == before


@pytest.mark.parametrize("way", ["a stream", "a full copy"])
def test_a_replica_is_told_what_happened_not_what_was_asked(fresh_server: Start, way: str) -> None:
    primary, replica = fresh_server(), fresh_server()
    if way == "a stream":
        replica.replica_of(primary)
        replica.wait_for_sync()
    fill(primary.raw())
    if way == "a full copy":
        replica.replica_of(primary)
    replica.wait_for_sync()
    assert picture(replica.raw()) == picture(primary.raw())
    assert replica.digest() == primary.digest()


@pytest.mark.parametrize("way", ["DUMP and RESTORE", "COPY", "RENAME", "MOVE"])
def test_a_key_that_moves_or_is_copied_keeps_it_all(server: Server, raw: RawClient, way: str) -> None:
    fill(raw)
    before = picture(raw)
    for key, entry in before.items():
        match way:
            case "DUMP and RESTORE":
                at = max(0, entry[6])
                raw.call("RESTORE", "to " + key, at, raw.call("DUMP", key), *(["ABSTTL"] if at else []))
            case "COPY":
                assert raw.call("COPY", key, "to " + key) == 1
            case "RENAME":
                assert raw.call("RENAME", key, "to " + key) == b"OK"
            case _:
                assert raw.call("MOVE", key, 1) == 1
    raw.call("SELECT", int(way == "MOVE"))
    assert picture(raw, "" if way == "MOVE" else "to ") == before


def test_a_copy_has_not_been_read_yet(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG)
    raw.call("CACHE.GETSM", "k")
    raw.call("COPY", "k", "copy")
    assert as_map(raw.call("CACHE.INSPECT", "copy"))[b"hits"] == 0


def hold_things(server: Server) -> tuple[bytes, RawClient]:
    """A lease, one who waits for it, a failure, and an entry that was read; the token and the waiter."""
    client, waiter = server.raw(), server.raw()
    token = won(client, "leased")
    waiter.send("CACHE.GETSM", "leased", "WAIT", LONG, "META")
    assert client.call("CACHE.FAIL", "failed", won(client, "failed"), "RETRY", LONG) == 1
    assert client.call("CACHE.SETSM", "read", "v", LONG) == b"OK"
    assert client.call("CACHE.GETSM", "read") == b"v"
    eventually(lambda: server.stats()["waiters"] == 1)
    return token, waiter


def nothing_is_held(server: Server, token: bytes) -> None:
    client = server.raw()
    assert client.call("CACHE.LEASES") == []
    assert write_late(client, token, "leased") is None
    assert client.call("CACHE.RENEW", "leased", token, LONG) == 0
    assert as_map(client.call("CACHE.INSPECT", "read"))[b"hits"] == 0
    assert won(client, "leased") != token
    assert won(client, "failed")
    assert server.stats()["waiters"] == 0


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_a_restart_forgets_what_is_not_data(fresh_server: Start, kill: bool) -> None:
    server = fresh_server(appendonly=True)
    token, waiter = hold_things(server)
    server.restart(kill=kill)
    assert waiter.is_closed(5_000)
    nothing_is_held(server, token)


def test_a_failover_forgets_what_is_not_data(fresh_server: Start) -> None:
    primary, replica = fresh_server(), fresh_server()
    replica.replica_of(primary)
    token, waiter = hold_things(primary)
    replica.wait_for_sync()
    assert (replica.stats()["leases"], replica.stats()["waiters"]) == (0, 0)
    primary.kill9()
    assert waiter.is_closed(5_000)
    replica.replica_of(None)
    nothing_is_held(replica, token)


def test_a_primary_that_becomes_a_replica_forgets_too_and_tells_those_who_wait(fresh_server: Start) -> None:
    old, new = fresh_server(), fresh_server()
    token, waiter = hold_things(old)
    old.replica_of(new)
    reply = waiter.recv()
    assert is_error(reply, "READONLY") or is_error(reply, "UNBLOCKED")
    assert old.call("CACHE.LEASES") == []
    old.replica_of(None)
    client = old.raw()
    assert write_late(client, token, "leased") is None
    assert holder(client, "leased") is None


def test_leases_and_waiters_are_not_in_the_data(fresh_server: Start) -> None:
    server = fresh_server(appendonly=True)
    client = server.raw()
    client.call("SET", "something", "v")
    digest, before = server.digest(), server.info("persistence")["aof_current_size"]
    token = won(client, "leased")
    client.call("CACHE.RENEW", "leased", token, LONG)
    client.call("CACHE.FAIL", "leased", token, "RETRY", LONG)
    assert (server.digest(), client.call("DBSIZE"), client.call("EXISTS", "leased")) == (digest, 1, 0)
    assert server.info("persistence")["aof_current_size"] == before
    assert client.call("SCAN", 0)[1] == client.call("KEYS", "*") == [b"something"]
