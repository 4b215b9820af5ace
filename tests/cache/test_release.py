"""CACHE.RELEASE: the holder gives its lease up, and the oldest waiter has it in the same turn.

What the tests of the other commands of a holder need is here too: a lease with its token, and a queue behind it.
"""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually, is_error

Connect = Callable[..., RawClient]
LONG = 600_000  # milliseconds; no test lasts as long
NO_TOKENS = [b"", b"0", b"x" * 32, b"0" * 32, b"0" * 33, b"\xff" * 32]


def won(client: RawClient, key: bytes | str = "k", *options: Any) -> bytes:
    """Takes the lease on `key`; its token."""
    lease = () if "LEASE" in options else ("LEASE", LONG)
    row = client.call("CACHE.GETSM", key, *lease, *options, "META")
    assert row[0] == b"won", row
    return row[2]


def queue(server: Server, connect: Connect, count: int, key: bytes | str = "k", *options: Any) -> list[RawClient]:
    """`count` connections that wait for `key`, oldest first; their answers come as rows."""
    waiters: list[RawClient] = []
    for _ in range(count):
        before = server.stats()["waiters"]
        waiters.append(connect().send("CACHE.GETSM", key, "WAIT", LONG, "LEASE", LONG, "META", *options))
        eventually(lambda: server.stats()["waiters"] == before + 1, message=lambda: f"one more waits: {server.stats()}")
    return waiters


def state(client: RawClient, key: bytes | str = "k") -> bytes:
    """What a reader who does not wait is told about the key; a lease it takes is given back."""
    row = client.call("CACHE.GETSM", key, "WAIT", 0, "META")
    if row[0] == b"won":
        assert client.call("CACHE.RELEASE", key, row[2]) == 1
    return row[0]


def holder(client: RawClient, key: bytes | str = "k") -> int | None:
    """The connection that holds the lease on `key`."""
    lease = as_map(client.call("CACHE.INSPECT", key))[b"lease"]
    return None if lease is None else as_map(lease)[b"client"]


def trust_transactions(server: Server) -> None:
    """Redis 7.0 hides who sends a command: for the first ten seconds of watching, any EXEC may end any lease."""
    if server.is_valkey or server.version >= (7, 2):
        return
    client, lease = server.raw(), ("CACHE.GETSM", "canary", "WAIT", 0, "LEASE", LONG)

    def exec_is_harmless() -> bool:
        client.call(*lease)
        client.pipeline([("MULTI",), ("EXEC",)])
        return is_error(client.call(*lease), "LEASED")

    eventually(exec_is_harmless, timeout=20, message="transactions are told apart")
    assert client.call("CACHE.DEL", "canary") == 0


def test_the_lease_is_free_for_the_next_to_ask(server: Server, raw: RawClient, connect: Connect) -> None:
    token, released = won(raw), server.stats()["leases_released"]
    assert state(connect()) == b"leased"
    assert raw.call("cache.release", "k", token) == 1
    assert raw.wire == b":1\r\n"
    assert (server.stats()["leases"], server.stats()["leases_released"]) == (0, released + 1)
    assert won(connect()) != token


def test_the_oldest_waiter_has_it_in_the_same_turn_and_the_others_go_on_waiting(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    token = won(raw)
    waiters = queue(server, connect, 3)
    handovers = server.stats()["handovers"]
    for left, oldest in zip((2, 1, 0), waiters):
        released, seen = raw.pipeline([("CACHE.RELEASE", "k", token), ("CACHE.INSPECT", "k")])
        assert (released, as_map(as_map(seen)[b"lease"])[b"client"]) == (1, oldest.client_id)
        name, value, token, ms = oldest.recv()
        assert (name, value, ms) == (b"won", None, pytest.approx(LONG, abs=30_000))
        assert server.stats()["waiters"] == left
    assert server.stats()["handovers"] == handovers + 3
    assert raw.call("CACHE.RELEASE", "k", token) == 1
    assert holder(raw) is None


def test_any_connection_may_release_with_the_token_and_none_without_it(raw: RawClient, connect: Connect) -> None:
    token, stranger = won(raw), connect()
    for wrong in [*NO_TOKENS, token[:-1], token.upper() + b" ", token[::-1]]:
        assert stranger.call("CACHE.RELEASE", "k", wrong) == 0, wrong
    assert stranger.call("CACHE.RELEASE", "other", token) == 0
    assert state(stranger) == b"leased"
    assert stranger.call("CACHE.RELEASE", "k", token) == 1
    assert stranger.call("CACHE.RELEASE", "k", token) == 0


def test_a_lease_belongs_to_a_database(raw: RawClient, connect: Connect) -> None:
    token, elsewhere = won(raw), connect()
    elsewhere.call("SELECT", 1)
    assert elsewhere.call("CACHE.RELEASE", "k", token) == 0
    assert won(elsewhere) != token
    assert raw.call("CACHE.RELEASE", "k", token) == 1
    assert state(elsewhere) == b"leased"


@pytest.mark.parametrize("where", ["transaction", "script"])
def test_it_works_in_transactions_and_scripts(server: Server, raw: RawClient, connect: Connect, where: str) -> None:
    if where == "transaction":
        trust_transactions(server)
    token = won(raw)
    (waiter,) = queue(server, connect, 1)
    if where == "transaction":
        assert raw.pipeline([("MULTI",), ("CACHE.RELEASE", "k", token), ("EXEC",)])[-1] == [1]
    else:
        script = "return redis.call('CACHE.RELEASE', KEYS[1], ARGV[1])"
        assert raw.call("EVAL", script, 1, "k", token) == 1
    assert waiter.recv()[0] == b"won"


def test_a_released_stale_key_is_refreshed_by_the_next_who_reads_it(raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.SETSM", "k", "old", 1, "STALE", LONG)
    eventually(lambda: raw.call("CACHE.GET", "k", "META")[0] == b"stale")
    token = won(raw)
    assert state(connect()) == b"stale"
    assert raw.call("CACHE.RELEASE", "k", token) == 1
    name, value, *_ = connect().call("CACHE.GETSM", "k", "META")
    assert (name, value) == (b"won", b"old")


def test_a_token_is_dead_once_its_lease_has_ended(raw: RawClient) -> None:
    token = won(raw, "k", "LEASE", 1)
    eventually(lambda: holder(raw) is None)
    assert raw.call("CACHE.RELEASE", "k", token) == 0
    token = won(raw)
    assert raw.call("CACHE.SETSM", "k", "v", LONG, "TOKEN", token) == b"OK"
    assert raw.call("CACHE.RELEASE", "k", token) == 0
    assert raw.call("CACHE.GETSM", "k") == b"v"


@pytest.mark.parametrize("arguments", [(), ("k",), ("k", "t", "x")], ids=len)
def test_wrong_arguments_are_refused(raw: RawClient, arguments: tuple[str, ...]) -> None:
    assert is_error(raw.call("CACHE.RELEASE", *arguments), "ERR wrong number of arguments")


def test_the_keyspace_does_not_change(server: Server, raw: RawClient) -> None:
    raw.call("LPUSH", "k", "x")
    digest = server.digest()
    assert raw.call("CACHE.RELEASE", "k", "0" * 32) == 0
    assert server.digest() == digest
