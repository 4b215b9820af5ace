"""Tokens: what proves a lease, and that a write with a dead one is refused and changes nothing.

What the tests in this folder need is here too: a lease with its token, a queue behind it, a stale entry.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually, is_error

Connect = Callable[..., RawClient]
LONG = 600_000  # milliseconds; no test lasts as long
HEX = set(b"0123456789abcdef")


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


def make_stale(client: RawClient, key: bytes | str = "k", value: bytes | str = "old", *options: Any) -> None:
    """Stores an entry that turned stale a while ago."""
    at = int(time.time() * 1000) - 1000
    assert client.call("CACHE.SETSM", key, value, "PXAT", at, "STALE", LONG, *options) == b"OK"


def holder(client: RawClient, key: bytes | str = "k") -> int | None:
    """The connection that holds the lease on `key`."""
    lease = as_map(client.call("CACHE.INSPECT", key))[b"lease"]
    return None if lease is None else as_map(lease)[b"client"]


def trust_transactions(server: Server) -> None:
    """From here on the server's commands are watched, and transactions are told apart.

    Redis 7.0 hides who sends a command: for the first ten seconds of watching, any EXEC may end any lease.
    """
    client, lease = server.raw(), ("CACHE.GETSM", "canary", "WAIT", 0, "LEASE", LONG)

    def exec_is_harmless() -> bool:
        client.call(*lease)
        client.pipeline([("MULTI",), ("EXEC",)])
        return is_error(client.call(*lease), "LEASED")

    eventually(exec_is_harmless, timeout=20, message="transactions are told apart")


def write_late(client: RawClient, token: bytes, key: bytes | str = "k") -> Any:
    return client.call("CACHE.SETSM", key, "late", LONG, "TOKEN", token)


def test_ten_thousand_grants_have_ten_thousand_tokens(raw: RawClient) -> None:
    """Of many keys at once, and of one key again and again."""
    keys = [f"k{number}" for number in range(5_000)]
    tokens = [row[2] for row in raw.call("CACHE.MGETSM", len(keys), *keys)]
    for _ in range(5_000):
        tokens.append(won(raw))
        assert raw.call("CACHE.RELEASE", "k", tokens[-1]) == 1
    assert len(set(tokens)) == 10_000
    assert all(len(token) == 32 and set(token) <= HEX for token in tokens)


def test_a_token_tells_nothing_of_the_next(server: Server, raw: RawClient, fresh_server: Callable[..., Server]) -> None:
    """Two in a row differ in about half of their 128 bits, each bit as often set as not; servers do not repeat them."""
    keys = [f"k{number}" for number in range(4_000)]
    first = fresh_server().raw()
    numbers = [int(row[2], 16) for row in first.call("CACHE.MGETSM", len(keys), *keys)]
    flipped = [(a ^ b).bit_count() for a, b in zip(numbers, numbers[1:])]
    assert 62 < sum(flipped) / len(flipped) < 66 and min(flipped) > 20
    for bit in range(128):
        assert 0.4 < sum(number >> bit & 1 for number in numbers) / len(numbers) < 0.6, f"bit {bit}"
    others = {int(row[2], 16) for row in raw.call("CACHE.MGETSM", len(keys), *keys)}
    assert not others & set(numbers)


def test_it_is_valid_from_any_connection_and_after_its_holder_has_gone(raw: RawClient, connect: Connect) -> None:
    gone = connect()
    token = won(gone)
    gone.close()
    assert connect().call("CACHE.SETSM", "k", "v", LONG, "TOKEN", token) == b"OK"
    assert raw.call("CACHE.GETSM", "k") == b"v"


@pytest.mark.parametrize("kind", ["missing", "stale"])
def test_a_write_with_it_is_stored_once(server: Server, raw: RawClient, connect: Connect, kind: str) -> None:
    if kind == "stale":
        make_stale(raw)
    token, before = won(raw), server.stats()
    waiters = queue(server, connect, 2, "k", "MAXSTALE", 1)
    assert raw.call("CACHE.SETSM", "k", "new", LONG, "token", token) == b"OK"
    assert [waiter.recv()[:2] for waiter in waiters] == [[b"hit", b"new"]] * 2
    digest = server.digest()
    assert write_late(raw, token) is None
    assert raw.wire == (b"_\r\n" if raw.protocol == 3 else b"$-1\r\n")
    assert server.digest() == digest
    after = server.stats()
    assert [after[field] - before[field] for field in ("sets", "sets_refused")] == [1, 1]


def ends_of_a_lease() -> dict[str, Callable[[RawClient, bytes], Any]]:
    return {
        "expired": lambda client, token: client.call("CACHE.RENEW", "k", token, 1),
        "released": lambda client, token: client.call("CACHE.RELEASE", "k", token),
        "failed": lambda client, token: client.call("CACHE.FAIL", "k", token, "RETRY", 1),
        "voided": lambda client, _: client.call("CACHE.DEL", "k"),
        "plainly set": lambda client, _: client.call("SET", "k", "newer"),
        "set without it": lambda client, _: client.call("CACHE.SETSM", "k", "newer", LONG),
        "touched": lambda client, _: [client.call("SET", "k", "newer"), client.call("CACHE.TOUCH", "k", LONG)],
    }


@pytest.mark.parametrize("end", ends_of_a_lease())
def test_it_is_dead_once_its_lease_has_ended(server: Server, raw: RawClient, connect: Connect, end: str) -> None:
    token = won(raw)
    ends_of_a_lease()[end](connect(), token)
    eventually(lambda: holder(raw) is None)
    digest, refused = server.digest(), server.stats()["sets_refused"]
    assert write_late(raw, token) is None
    assert raw.call("CACHE.TOUCH", "k", LONG, "TOKEN", token) == 0
    assert raw.call("CACHE.RENEW", "k", token, LONG) == 0
    assert raw.call("CACHE.RELEASE", "k", token) == 0
    assert raw.call("CACHE.FAIL", "k", token) == 0
    assert (server.digest(), server.stats()["sets_refused"]) == (digest, refused + 1)


@pytest.mark.parametrize("end", ["expired", "released", "voided"])
def test_a_late_write_does_not_disturb_the_next_holder(
    server: Server, raw: RawClient, connect: Connect, end: str
) -> None:
    token = won(raw)
    heir, other = queue(server, connect, 2)
    ends_of_a_lease()[end](connect(), token)
    name, _, valid, _ = heir.recv()
    assert name == b"won"
    assert write_late(raw, token) is None
    assert (raw.call("EXISTS", "k"), other.has_reply(), holder(raw)) == (0, False, heir.client_id)
    assert heir.call("CACHE.SETSM", "k", "v", LONG, "TOKEN", valid) == b"OK"
    assert other.recv()[:2] == [b"hit", b"v"]


def test_a_token_of_another_key_or_database_is_no_token(raw: RawClient, connect: Connect) -> None:
    token = won(raw)
    other = won(raw, "other")
    assert write_late(raw, token, "other") is None
    assert write_late(raw, token, "without a lease") is None
    elsewhere = connect()
    elsewhere.call("SELECT", 1)
    assert write_late(elsewhere, token) is None
    assert elsewhere.call("DBSIZE") == raw.call("DBSIZE") == 0
    assert [write_late(raw, token), write_late(raw, other, "other")] == [b"OK", b"OK"]


@pytest.mark.parametrize("text", [b"", b"0" * 32, b"0" * 31, b"+" * 32, b"\0" * 32, b"x" * (1 << 20)], ids=len)
def test_anything_else_is_no_token(server: Server, raw: RawClient, text: bytes) -> None:
    token = won(raw)
    assert write_late(raw, text) is None
    assert write_late(raw, token.upper()) in (None, b"OK") and write_late(raw, token + b"0") is None
    assert server.stats()["leases"] == (0 if raw.call("EXISTS", "k") else 1)


def test_a_refused_version_keeps_the_lease(server: Server, raw: RawClient) -> None:
    """The write was out of date, its token was not: the holder may load again."""
    make_stale(raw, "k", "newer", "VERSION", 8)
    token, digest = won(raw), server.digest()
    assert raw.call("CACHE.SETSM", "k", "older", LONG, "VERSION", 7, "TOKEN", token) is None
    assert (server.digest(), holder(raw)) == (digest, raw.client_id)
    assert raw.call("CACHE.SETSM", "k", "newest", LONG, "VERSION", 9, "TOKEN", token) == b"OK"


def test_a_higher_version_with_a_dead_token_is_refused(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG, "VERSION", 1)
    assert raw.call("CACHE.SETSM", "k", "w", LONG, "VERSION", 2, "TOKEN", "0" * 32) is None
    assert raw.call("CACHE.GETSM", "k") == b"v"


def test_a_write_refused_for_its_options_ends_nothing(raw: RawClient) -> None:
    token = won(raw)
    assert is_error(raw.call("CACHE.SETSM", "k", "v", 0, "TOKEN", token), "ERR")
    assert is_error(raw.call("CACHE.SETSM", "k", "v", 5, "TOKEN", token, "TOKEN", token), "ERR TOKEN was given more")
    assert is_error(raw.call("CACHE.SETSM", "k", "v", 5, "TOKEN"), "ERR TOKEN is missing")
    assert raw.call("CACHE.SETSM", "k", "v", LONG, "TOKEN", token) == b"OK"


@pytest.mark.parametrize("read", ["GETSM", "MGETSM"])
def test_a_lease_taken_in_a_script_cannot_be_bound_but_is_a_lease(
    server: Server, connect: Connect, raw: RawClient, read: str
) -> None:
    """The server does not say whose script it is, so there is no connection to bind it to."""
    words = "'CACHE.GETSM', KEYS[1]" if read == "GETSM" else "'CACHE.MGETSM', 1, KEYS[1]"
    script = f"return redis.call({words}, 'META', 'LEASE', {LONG}"
    assert "BIND" in raw.call("EVAL", f"{script}, 'BIND')", 1, "k").text
    assert holder(raw) is None, "a refused call takes no lease"
    row = raw.call("EVAL", f"{script})", 1, "k")
    token = (row[0] if read == "MGETSM" else row)[2]
    waiter = queue(server, connect, 1)[0]
    assert raw.call("CACHE.SETSM", "k", "v", LONG, "TOKEN", token) == b"OK"
    assert waiter.recv()[:2] == [b"hit", b"v"]
