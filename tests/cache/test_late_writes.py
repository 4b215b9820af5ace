"""Writes that nobody sees when they happen: of clients that were blocked or paused, or by no command at all."""

from collections.abc import Callable

import pytest

from harness import RawClient, Server, eventually, is_error

Connect = Callable[..., RawClient]
LONG = 600_000
BLOCKED = {
    "BLMOVE": ("BLMOVE", "list", "k", "LEFT", "RIGHT", 0),
    "BRPOPLPUSH": ("BRPOPLPUSH", "list", "k", 0),
}
# How another client serves the one that is blocked.
SERVE = {
    "push": [("LPUSH", "list", "v")],
    "move": [("RPUSH", "other", "v"), ("LMOVE", "other", "list", "LEFT", "LEFT")],
    "rename": [("RPUSH", "other", "v"), ("RENAME", "other", "list")],
    "script": [("EVAL", "return redis.call('LPUSH', KEYS[1], 'v')", 1, "list")],
    "transaction": [("MULTI",), ("LPUSH", "list", "v"), ("EXEC",)],
}


def won(client: RawClient, key: str = "k", *options: str | int) -> bytes:
    row = client.call("CACHE.GETSM", key, "LEASE", LONG, "META", *options)
    assert row[0] == b"won", row
    return row[2]


def waiting(server: Server, client: RawClient, key: str = "k") -> RawClient:
    before = server.stats()["waiters"]
    client.send("CACHE.GETSM", key, "WAIT", LONG, "LEASE", LONG, "META")
    eventually(lambda: server.stats()["waiters"] == before + 1)
    return client


def blocked(server: Server, command: tuple) -> RawClient:
    before, client = server.info("clients")["blocked_clients"], server.raw()
    client.send(*command)
    eventually(lambda: server.info("clients")["blocked_clients"] == before + 1)
    return client


@pytest.mark.parametrize("when", ["before the lease", "after the lease"])
@pytest.mark.parametrize("serve", SERVE)
@pytest.mark.parametrize("how", BLOCKED)
def test_what_a_blocked_client_puts_under_the_key_is_told(
    server: Server, connect: Connect, how: str, serve: str, when: str
) -> None:
    if when == "before the lease":
        mover = blocked(server, BLOCKED[how])
    token = won(server.raw())
    waiters = [waiting(server, connect()) for _ in range(3)]
    if when == "after the lease":
        mover = blocked(server, BLOCKED[how])
    server.raw().pipeline(SERVE[serve])
    assert mover.recv() == b"v"
    assert all(is_error(waiter.recv(), "WRONGTYPE") for waiter in waiters)
    assert is_error(server.raw().call("CACHE.RENEW", "k", token, LONG)) or server.stats()["leases"] == 0


def test_a_lock_that_a_blocked_client_is_given_is_told(server: Server, connect: Connect) -> None:
    """Deleting the lock hands it over; meanwhile the key was nobody's."""
    server.call("CACHE.LOCK", "k", "first", LONG)
    second = blocked(server, ("CACHE.LOCK", "k", "second", LONG, "WAIT", LONG))
    server.call("DEL", "k")
    assert second.recv() > 0
    assert is_error(connect().call("CACHE.GETSM", "k"), "WRONGTYPE")


def test_many_keys_on_a_busy_server(server: Server, connect: Connect) -> None:
    """Only one of those that are waited for changes, and one writer never stops."""
    won(server.raw())
    waiter = waiting(server, connect())
    server.raw().pipeline([("CACHE.GETSM", f"k{n}", "LEASE", LONG) for n in range(300)])
    with server.herd(300) as herd:
        herd.send_each([("CACHE.GETSM", f"k{n}", "WAIT", LONG) for n in range(300)])
        eventually(lambda: server.stats()["waiters"] == 301)
        mover, busy = blocked(server, BLOCKED["BLMOVE"]), server.raw()
        busy.call("LPUSH", "list", "v")
        assert mover.recv() == b"v"

        def told() -> bool:
            busy.pipeline([("SET", "elsewhere", n) for n in range(50)])
            return waiter.has_reply()

        eventually(told)
        assert is_error(waiter.recv(), "WRONGTYPE")
        assert server.stats()["waiters"] == 300


@pytest.mark.parametrize("state", ["missing", "early"])
def test_a_value_that_came_unseen_is_not_overwritten(server: Server, connect: Connect, state: str) -> None:
    """DEBUG is no write to the server, and so is not taken for one."""
    client = server.raw()
    if state == "early":
        client.call("CACHE.SETSM", "k:0", "v", LONG, "COST", 1000)
        token = won(client, "k:0", "EARLY", 1_000_000)
        assert client.call("CACHE.SETSM", "k:0", "new", LONG, "TOKEN", token) == b"OK", "the value that was there"
        return
    token = won(client, "k:0")
    waiter = waiting(server, connect(), "k:0")
    assert server.call("DEBUG", "POPULATE", 1, "k", 5) == b"OK"
    assert client.call("CACHE.SETSM", "k:0", "late", LONG, "TOKEN", token) is None
    state, value, *_ = waiter.recv()
    assert (state, value) == (b"hit", client.call("GET", "k:0"))


def test_a_value_that_came_unseen_is_not_touched(server: Server) -> None:
    client = server.raw()
    token = won(client, "k:0")
    assert server.call("DEBUG", "POPULATE", 1, "k", 5) == b"OK"
    assert client.call("CACHE.TOUCH", "k:0", LONG, "TOKEN", token) == 0


# What is sent before the pause, and what the pause holds back.
PAUSED: dict[str, tuple[list[tuple], tuple]] = {
    "DEL": ([], ("DEL", "k")),
    "transaction": ([("MULTI",), ("DEL", "k")], ("EXEC",)),
}


@pytest.mark.parametrize("how", PAUSED)
def test_what_was_paused_counts_once_more_when_it_runs(server: Server, connect: Connect, how: str) -> None:
    """It was seen when it was sent; a lease that was granted since then ends when it runs."""
    first, second, late = server.raw(), connect(), server.raw()
    token = won(first)
    second.send("CACHE.GETSM", "k", "WAIT", LONG, "LEASE", LONG, "META")
    eventually(lambda: server.stats()["waiters"] == 1)
    writer, (before, held_back) = server.raw(), PAUSED[how]
    writer.pipeline(before)
    try:
        server.call("CLIENT", "PAUSE", LONG, "WRITE")
        writer.send(*held_back)
        state, _, promoted, _ = second.recv()
        assert state == b"won"
    finally:
        server.call("CLIENT", "UNPAUSE")
    assert writer.recv() in (0, [0])
    assert late.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token) is None
    assert late.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", promoted) is None
