"""A lock is a key: whatever removes or replaces it decides for those who wait, in their order."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error
from harness.line import LONG, in_line, info, owners, stand_in_line, until_in_line

Connect = Callable[..., RawClient]

REMOVED = {
    "del": [("DEL", "k")],
    "unlink": [("UNLINK", "k")],
    "rename": [("RENAME", "k", "elsewhere")],
    "move": [("MOVE", "k", 3)],
    "expire in the past": [("PEXPIREAT", "k", 1)],
    "expire soon": [("PEXPIRE", "k", 20)],
    "flushdb": [("FLUSHDB",)],
    "flushall": [("FLUSHALL",)],
    "flushall async": [("FLUSHALL", "ASYNC")],
    "swapdb": [("SWAPDB", 0, 5)],
    "script": [("EVAL", "return redis.call('DEL', KEYS[1])", 1, "k")],
    "transaction": [("MULTI",), ("SET", "x", 1), ("DEL", "k"), ("EXEC",)],
    "cache.del after set": [("SET", "k", "v"), ("DEL", "k")],
    "restore of nothing": [("SET", "tmp", "v"), ("RENAME", "k", "away"), ("DEL", "away")],
    "sort store": [("SORT", "nothing", "STORE", "k")],
}


@pytest.mark.parametrize("how", REMOVED)
def test_whatever_removes_the_key_frees_the_waiters_in_order(
    server: Server, raw: RawClient, connect: Connect, how: str
) -> None:
    fence = raw.call("CACHE.LOCK", "k", "holder", LONG)
    waiters = [stand_in_line(server, connect(), f"w{number}") for number in range(3)]
    raw.pipeline(REMOVED[how])
    granted = waiters[0].recv()
    assert granted > fence
    assert owners(raw) == [b"w0"] and not any(waiter.has_reply() for waiter in waiters[1:])
    until_in_line(server, 2)
    for number in (1, 2):
        raw.call("DEL", "k")
        granted, before = waiters[number].recv(), granted
        assert granted > before and owners(raw) == [f"w{number}".encode()]


OVERWRITTEN = {
    "set": [("SET", "k", "v")],
    "setsm": [("SET", "other", "v"), ("RENAME", "other", "k")],
    "restore": [("RPUSH", "list", "a"), ("COPY", "list", "k", "REPLACE")],
    "transaction": [("MULTI",), ("SET", "k", "v"), ("EXEC",)],
    "swapdb": [("SELECT", 6), ("SET", "k", "v"), ("SELECT", 0), ("SWAPDB", 0, 6)],
}


@pytest.mark.parametrize("how", OVERWRITTEN)
def test_who_waits_for_a_key_of_another_type_is_told(
    server: Server, raw: RawClient, connect: Connect, how: str
) -> None:
    raw.call("CACHE.LOCK", "k", "holder", LONG)
    waiters = [stand_in_line(server, connect(), f"w{number}") for number in range(3)]
    raw.pipeline(OVERWRITTEN[how])
    assert all(is_error(waiter.recv(), "WRONGTYPE") for waiter in waiters)
    assert in_line(server) == 0 and raw.call("TYPE", "k") != b"cg-locked"


def test_another_lock_under_the_name_is_waited_for(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "holder", LONG)
    raw.call("CACHE.LOCK", "other", "stranger", LONG)
    waiter = stand_in_line(server, connect(), "waiter")
    raw.call("RENAME", "other", "k")
    assert not waiter.has_reply(within_ms=30) and owners(raw) == [b"stranger"]
    payload = raw.call("DUMP", "k")
    raw.call("RESTORE", "k", 0, payload, "REPLACE")
    assert not waiter.has_reply(within_ms=30)
    assert raw.call("CACHE.UNLOCK", "k", "stranger") == 1
    assert waiter.recv() > 0


def test_a_lock_that_appears_before_the_look_is_waited_for(server: Server, raw: RawClient, connect: Connect) -> None:
    """Deleted and taken by another in one turn: who waits must not be granted a lock that is held."""
    raw.call("CACHE.LOCK", "k", "holder", LONG)
    raw.call("CACHE.LOCK", "other", "stranger", LONG)
    waiter = stand_in_line(server, connect(), "waiter")
    raw.pipeline([("MULTI",), ("DEL", "k"), ("RENAME", "other", "k"), ("EXEC",)])
    assert not waiter.has_reply(within_ms=30) and owners(raw) == [b"stranger"]
    raw.call("DEL", "k")
    assert waiter.recv() > 0


def test_a_deleted_lock_is_the_line_s(server: Server, raw: RawClient, connect: Connect) -> None:
    """Deleted and asked for by a newcomer in one turn: the oldest waiter has it."""
    raw.call("CACHE.LOCK", "k", "holder", LONG)
    waiter = stand_in_line(server, connect(), "waiter")
    assert raw.pipeline([("DEL", "k"), ("CACHE.LOCK", "k", "newcomer", LONG)]) == [1, None]
    assert waiter.recv() > 0
    script = "redis.call('DEL', KEYS[1]); return redis.call('CACHE.LOCK', KEYS[1], 'newcomer', 1000)"
    second = stand_in_line(server, connect(), "second")
    assert raw.call("EVAL", script, 1, "k") is None
    assert second.recv() > 0


def test_an_evicted_lock_is_granted_again(fresh_server: Callable[..., Server]) -> None:
    """It must not be evicted (see docs/locks.md), but if it is, the line moves and numbers rise."""
    server = fresh_server(config={"maxmemory-policy": "allkeys-random"})
    holder, waiter = server.raw(), server.raw()
    fence = holder.call("CACHE.LOCK", "k", "holder", LONG)
    stand_in_line(server, waiter, "waiter")
    server.call("CONFIG", "SET", "maxmemory", 1)
    server.control().call("SET", "x", "v")
    eventually(lambda: server.info("stats")["evicted_keys"] > 0 or server.control().call("SET", "x", "v") is None)
    assert waiter.recv() > fence


def test_a_ttl_that_is_shortened_by_hand_ends_the_lock(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "holder", LONG)
    raw.call("PEXPIRE", "k", 150)
    waiter = stand_in_line(server, connect(), "waiter")
    assert waiter.recv() > 0


def test_a_ttl_that_is_lengthened_by_hand_lengthens_nothing(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    for command in (["PERSIST", "k"], ["PEXPIRE", "k", LONG]):
        raw.call("CACHE.LOCK", "k", "holder", 100)
        raw.call(*command)
        waiter = stand_in_line(server, connect(), "waiter")
        assert waiter.recv() > 0
        assert raw.call("CACHE.UNLOCK", "k", "waiter") == 1


def test_writes_that_are_held_back_hold_grants_back(server: Server, raw: RawClient, connect: Connect) -> None:
    """During CLIENT PAUSE the data set must not change: the server would assert."""
    raw.call("CACHE.LOCK", "k", "holder", 100)
    waiter = stand_in_line(server, connect(), "waiter")
    bound, second = connect(), connect()
    bound.call("CACHE.LOCK", "bound", "holder", LONG, "BIND")
    stand_in_line(server, second, "waiter", key="bound")
    raw.call("CLIENT", "PAUSE", 500, "WRITE")
    try:
        bound.close()
        before = time.monotonic()
        assert not waiter.has_reply(within_ms=200) and not second.has_reply()
        assert time.monotonic() - before < 0.45, "the pause is still on"
    finally:
        raw.call("CLIENT", "UNPAUSE")
    assert waiter.recv() > 0 and second.recv() > 0


def test_debug_reload_keeps_locks_and_lines(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "holder", LONG)
    waiter = stand_in_line(server, connect(), "waiter")
    before = info(raw)[b"holders"][0][b"fence"]
    raw.call("DEBUG", "RELOAD", timeout=30)
    assert info(raw)[b"holders"][0][b"fence"] == before and not waiter.has_reply(within_ms=20)
    assert raw.call("CACHE.UNLOCK", "k", "holder") == 1
    assert waiter.recv() > before


def test_moved_databases_keep_their_bonds(server: Server, raw: RawClient, connect: Connect) -> None:
    bound = connect()
    bound.call("CACHE.LOCK", "k", "bound", LONG, "BIND")
    raw.call("SWAPDB", 0, 4)
    raw.call("SELECT", 4)
    assert owners(raw) == [b"bound"]
    bound.close()
    eventually(lambda: raw.call("EXISTS", "k") == 0)


@pytest.mark.parametrize("kind", ["lazy", "active"])
def test_expiry_that_nobody_looks_at_moves_the_line(server: Server, raw: RawClient, connect: Connect, kind: str) -> None:
    if kind == "lazy":
        server.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    try:
        raw.call("CACHE.LOCK", "k", "holder", 50)
        waiters: list[Any] = [stand_in_line(server, connect(), f"w{number}", ttl=50) for number in range(5)]
        fences = [waiter.recv() for waiter in waiters]
        assert fences == sorted(fences)
    finally:
        server.call("DEBUG", "SET-ACTIVE-EXPIRE", 1)
