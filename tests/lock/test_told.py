"""Who is granted a lock is told at once, whichever command came across it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness import Clock, RawClient, Server, eventually
from harness.line import LONG, info, owners, stand_in_line

Connect = Callable[..., RawClient]
STEP = 60_000

# Commands that do not free the lock themselves, and come across a holder whose time is over.
COMMANDS: dict[str, list[Any]] = {
    "unlock by a stranger": ["CACHE.UNLOCK", "k", "stranger"],
    "extend by a stranger": ["CACHE.EXTEND", "k", "stranger", LONG],
    "extend by a holder": ["CACHE.EXTEND", "k", "stays", LONG],
    "lock without waiting": ["CACHE.LOCK", "k", "stranger", LONG, "PERMITS", 2],
    "lock as something else": ["CACHE.LOCK", "k", "stranger", LONG],
    "lock again": ["CACHE.LOCK", "k", "stays", LONG, "PERMITS", 2],
    "lock and wait": ["CACHE.LOCK", "k", "stranger", LONG, "PERMITS", 2, "WAIT", LONG],
    "script": ["EVAL", "return redis.call('CACHE.UNLOCK', KEYS[1], 'stranger')", 1, "k"],
}


@pytest.fixture
def moved() -> Iterator[tuple[Server, Clock]]:
    with Clock() as clock, Server(env=clock.env) as server:
        yield server, clock


@pytest.mark.parametrize("how", COMMANDS)
def test_whatever_command_finds_a_holder_overdue(moved: tuple[Server, Clock], how: str) -> None:
    """The clock jumps, and the command comes first: it is sent in the write in which the clock is moved."""
    server, clock = moved
    server.call("CACHE.LOCK", "k", "goes", STEP // 2, "PERMITS", 2)
    server.call("CACHE.LOCK", "k", "stays", LONG, "PERMITS", 2)
    waiter, caller = server.raw(), server.raw()
    stand_in_line(server, waiter, "waiter", "PERMITS", 2, ttl=STEP)
    clock.step(STEP)
    caller.send(*COMMANDS[how])
    assert waiter.recv() > 0
    assert owners(server) == [b"stays", b"waiter"]


def test_a_shortened_term_ends_in_time(server: Server, connect: Connect) -> None:
    """EXTEND to an earlier end, of one of two: its key stays, so that nothing but the module's own timer ends it."""
    server.call("CACHE.LOCK", "k", "one", LONG, "PERMITS", 2)
    server.call("CACHE.LOCK", "k", "two", LONG, "PERMITS", 2)
    waiter = stand_in_line(server, connect(), "waiter", "PERMITS", 2)
    assert server.call("CACHE.EXTEND", "k", "one", 30) == 1
    assert waiter.recv() > 0
    assert owners(server) == [b"two", b"waiter"]


def test_an_extended_grant_is_not_taken_back(server: Server, connect: Connect) -> None:
    """The reply to its connection is lost, but it was told on another one that it holds the lock."""
    server.call("CACHE.LOCK", "k", "holder", LONG)
    waiter, other = connect(), connect()
    stand_in_line(server, waiter, "waiter")
    kill = ("CLIENT", "KILL", "ID", waiter.client_id)
    commands = [("MULTI",), ("CACHE.UNLOCK", "k", "holder"), ("CACHE.EXTEND", "k", "waiter", LONG), kill, ("EXEC",)]
    assert other.pipeline(commands)[-1] == [1, 1, 1]
    eventually(lambda: server.info("clients")["connected_clients"] <= 2)
    assert owners(server) == [b"waiter"]


def test_a_grant_that_nobody_heard_of_is_taken_back(server: Server, connect: Connect) -> None:
    server.call("CACHE.LOCK", "k", "holder", LONG)
    waiter, other = connect(), connect()
    stand_in_line(server, waiter, "waiter")
    kill = ("CLIENT", "KILL", "ID", waiter.client_id)
    assert other.pipeline([("MULTI",), ("CACHE.UNLOCK", "k", "holder"), kill, ("EXEC",)])[-1] == [1, 1]
    eventually(lambda: info(server)[b"mode"] == b"free")


def test_a_grant_that_nobody_hears_is_taken_back_where_its_key_went(server: Server, connect: Connect) -> None:
    holder = connect()
    assert holder.call("CACHE.LOCK", "k", "a", LONG) > 0
    waiter = stand_in_line(server, connect(), "b")
    replies = holder.pipeline([("MULTI",), ("CACHE.UNLOCK", "k", "a"), ("SWAPDB", 0, 1), ("CLIENT", "KILL", "ID", waiter.client_id), ("EXEC",)])
    assert replies[-1] == [1, b"OK", 1]
    other = connect()
    other.call("SELECT", 1)
    eventually(lambda: other.call("EXISTS", "k") == 0)
