"""A TTL that somebody gives to a lock or a limit by hand ends it in time, also where the server looks at no key by itself."""

from collections.abc import Callable, Iterator

import pytest

from harness import Clock, RawClient, Server, eventually
from harness.line import LONG, info, owners, stand_in_line, until_in_line

Connect = Callable[..., RawClient]

SHORTENED = {
    "pexpire": ["PEXPIRE", "k", 300],
    "a moment": ["PEXPIRE", "k", 1],
    "expire": ["EXPIRE", "k", 1],
    "script": ["EVAL", "return redis.call('PEXPIRE', KEYS[1], 20)", 1, "k"],
}


@pytest.fixture
def blind(server: Server) -> Iterator[Server]:
    """A server that expires no key before somebody looks at it."""
    server.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    yield server
    server.call("DEBUG", "SET-ACTIVE-EXPIRE", 1)



@pytest.mark.parametrize("how", SHORTENED)
def test_a_lock_that_is_waited_for_ends_with_its_key(blind: Server, connect: Connect, how: str) -> None:
    blind.call("CACHE.LOCK", "k", "holder", LONG)
    waiter = stand_in_line(blind, connect(), "waiter")
    assert blind.call(*SHORTENED[how]) == 1
    assert waiter.recv() > 0
    assert owners(blind) == [b"waiter"]


def test_one_of_many_locks_that_are_waited_for(blind: Server, connect: Connect) -> None:
    """More keys than are looked at in one go, and the last of them in another database."""
    waiters = []
    for number in range(250):
        blind.call("CACHE.LOCK", f"k{number}", "holder", LONG)
        waiters.append(connect().send("CACHE.LOCK", f"k{number}", "waiter", LONG, "WAIT", LONG))
    elsewhere, last = connect(), connect()
    for client in (elsewhere, last):
        client.call("SELECT", 3)
    elsewhere.call("CACHE.LOCK", "k", "holder", LONG)
    last.send("CACHE.LOCK", "k", "waiter", LONG, "WAIT", LONG)
    until_in_line(blind, 251)
    elsewhere.call("PEXPIRE", "k", 30)
    for number in (0, 100, 249):
        blind.call("PEXPIRE", f"k{number}", 30)
    assert last.recv() > 0
    assert all(waiters[number].recv() > 0 for number in (0, 100, 249))
    until_in_line(blind, 247)


def test_a_limit_that_is_waited_for_begins_anew_when_its_key_ends(blind: Server, connect: Connect) -> None:
    assert blind.call("CACHE.RATELIMIT", "k", 1, LONG)[0] == 1
    waiter = connect().send("CACHE.RATELIMIT", "k", 1, LONG, "WAIT", LONG)
    eventually(lambda: blind.stats()["limits_waiting"] == 1)
    assert blind.call("PEXPIRE", "k", 300) == 1
    assert waiter.recv()[0] == 1


def test_a_ttl_taken_away_while_somebody_waits_lengthens_nothing(blind: Server, connect: Connect) -> None:
    for command in (["PERSIST", "k"], ["PEXPIRE", "k", LONG], ["EXPIRE", "k", 3600]):
        blind.call("CACHE.LOCK", "k", "holder", 400)
        waiter = stand_in_line(blind, connect(), "waiter")
        assert blind.call(*command) == 1
        assert waiter.recv() > 0 and owners(blind) == [b"waiter"]
        assert blind.call("CACHE.UNLOCK", "k", "waiter") == 1


def test_a_ttl_is_given_and_taken_back(blind: Server, connect: Connect) -> None:
    blind.call("CACHE.LOCK", "k", "holder", LONG)
    waiter = stand_in_line(blind, connect(), "waiter")
    blind.call("PEXPIRE", "k", 250)
    blind.call("PERSIST", "k")
    assert not waiter.has_reply(within_ms=500) and owners(blind) == [b"holder"]
    blind.call("CACHE.UNLOCK", "k", "holder")
    assert waiter.recv() > 0


def test_replicas_hear_of_it(fresh_server: Callable[..., Server]) -> None:
    primary, replica = fresh_server(appendonly=True), fresh_server()
    primary.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    replica.replica_of(primary)
    replica.wait_for_sync()
    primary.call("CACHE.LOCK", "k", "holder", LONG)
    primary.call("CACHE.RATELIMIT", "limit", 1, LONG)
    paced = primary.raw().send("CACHE.RATELIMIT", "limit", 1, LONG, "WAIT", LONG)
    waiter = stand_in_line(primary, primary.raw(), "waiter")
    for key in ("k", "limit"):
        primary.call("PEXPIRE", key, 20)
    assert waiter.recv() > 0 and paced.recv()[0] == 1
    replica.wait_for_sync()
    assert primary.digest() == replica.digest()
    before = primary.digest()
    primary.restart()
    assert primary.digest() == before


def test_a_clock_that_jumps_ahead_ends_the_holders_it_jumped_over() -> None:
    """Also the one of several whose time was over long before that of the key."""
    with Clock() as clock, Server(env=clock.env) as server:
        server.call("CACHE.LOCK", "k", "first", 60_000, "PERMITS", 2)
        server.call("CACHE.LOCK", "k", "second", LONG, "PERMITS", 2)
        waiter = stand_in_line(server, server.raw(), "waiter", "PERMITS", 2)
        clock.step(120_000)
        assert waiter.recv() > info(server)[b"holders"][0][b"fence"]
        assert owners(server) == [b"second", b"waiter"]
