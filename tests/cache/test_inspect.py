"""CACHE.INSPECT: what an entry and the lease on its key look like, without touching either."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually, is_error
from test_release import LONG, queue, trust_transactions, won

Connect = Callable[..., RawClient]
FIELDS = [
    b"state",
    b"size",
    b"fresh_ms",
    b"stale_ms",
    b"cost_ms",
    b"version",
    b"tags",
    b"hits",
    b"lease",
    b"waiters",
]
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


def inspect(client: RawClient, key: bytes | str = "k") -> dict[bytes, Any]:
    fields = as_map(client.call("CACHE.INSPECT", key))
    if fields[b"lease"] is not None:
        fields[b"lease"] = as_map(fields[b"lease"])
    return fields


def test_it_answers_a_map_of_these_fields(raw: RawClient) -> None:
    reply = raw.call("cache.inspect", "k")
    assert isinstance(reply, dict if raw.protocol == 3 else list)
    assert list(as_map(reply)) == FIELDS
    won(raw)
    lease = as_map(raw.call("CACHE.INSPECT", "k"))[b"lease"]
    assert isinstance(lease, dict if raw.protocol == 3 else list)
    assert list(as_map(lease)) == [b"client", b"left_ms", b"bound"]


def test_a_missing_key(raw: RawClient) -> None:
    nothing = dict.fromkeys(FIELDS, 0) | {b"state": b"missing", b"tags": [], b"lease": None}
    assert inspect(raw) == nothing


def test_a_fresh_a_stale_and_an_endless_entry(raw: RawClient) -> None:
    now = int(time.time() * 1000)
    about = {ms: pytest.approx(ms - 15_000, abs=15_000) for ms in (LONG, 100_000)}
    raw.call("CACHE.SETSM", "k", "value", LONG, "STALE", 100_000, "VERSION", 7, "COST", 250)
    common = {b"size": 5, b"cost_ms": 250, b"version": 7, b"tags": [], b"hits": 0, b"lease": None, b"waiters": 0}
    assert inspect(raw) == common | {b"state": b"fresh", b"fresh_ms": about[LONG], b"stale_ms": 100_000}
    raw.call("CACHE.SETSM", "k", "value", "PXAT", now - 1, "STALE", 100_000, "VERSION", 7, "COST", 250)
    assert inspect(raw) == common | {b"state": b"stale", b"fresh_ms": 0, b"stale_ms": about[100_000]}
    raw.call("CACHE.SETSM", "k", "value", "PERSIST", "VERSION", 7, "COST", 250)
    assert inspect(raw) == common | {b"state": b"fresh", b"fresh_ms": -1, b"stale_ms": 0}


def test_a_native_string(raw: RawClient) -> None:
    raw.call("SET", "k", "12345", "PX", LONG)
    fields = inspect(raw)
    assert (fields[b"state"], fields[b"size"], fields[b"stale_ms"], fields[b"version"]) == (b"fresh", 5, 0, 0)
    assert LONG - 30_000 <= fields[b"fresh_ms"] <= LONG
    raw.call("PERSIST", "k")
    assert inspect(raw)[b"fresh_ms"] == -1


def test_the_largest_version_loses_no_digit(raw: RawClient) -> None:
    for version in (2**63 - 1, 2**63, 2**64 - 1):
        raw.call("CACHE.SETSM", "k", "v", LONG, "VERSION", version)
        assert int(inspect(raw)[b"version"]) == version


def test_the_lease_and_who_waits(server: Server, raw: RawClient, connect: Connect) -> None:
    bound = connect()
    won(bound, "k", "LEASE", 60_000, "BIND")
    seen = inspect(raw)
    assert seen[b"lease"] == {
        b"client": bound.client_id,
        b"left_ms": pytest.approx(45_000, abs=15_000),
        b"bound": 1,
    }
    queue(server, connect, 2)
    assert inspect(raw)[b"waiters"] == 2
    assert raw.call("CACHE.INSPECT", "other") == raw.call("CACHE.INSPECT", "another")
    won(raw, "free")
    assert inspect(raw, "free")[b"lease"][b"bound"] == 0


def test_a_lease_belongs_to_a_database(raw: RawClient, connect: Connect) -> None:
    won(raw)
    raw.call("SELECT", 1)
    assert inspect(raw)[b"lease"] is None


def test_a_lease_that_is_over_is_not_shown(raw: RawClient) -> None:
    won(raw, "k", "LEASE", 1)
    eventually(lambda: inspect(raw)[b"lease"] is None)


@pytest.mark.parametrize("where", ["client", "transaction", "script"])
def test_right_after_an_invalidation_it_shows_who_holds_the_lease_now(
    server: Server, raw: RawClient, connect: Connect, where: str
) -> None:
    if where == "transaction":
        trust_transactions(server)
    token = won(raw)
    (waiter,) = queue(server, connect, 1)
    if where == "script":
        script = "redis.call('DEL', 'k'); return redis.call('CACHE.INSPECT', 'k')"
        seen = raw.call("EVAL", script, 1, "k")
    else:
        delete = [("DEL", "k")] if where == "client" else [("MULTI",), ("DEL", "k"), ("EXEC",)]
        seen = raw.pipeline([*delete, ("CACHE.INSPECT", "k")])[-1]
    seen = as_map(seen)
    assert (as_map(seen[b"lease"])[b"client"], seen[b"waiters"]) == (waiter.client_id, 0)
    assert raw.call("CACHE.RENEW", "k", token, LONG) == 0


def test_hits_are_the_reads_that_were_served_it(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG)
    raw.pipeline([("CACHE.GETSM", "k")] * 2 + [("CACHE.GETSM", "k", "META")])
    assert inspect(raw)[b"hits"] == 3
    raw.call("CACHE.MGETSM", 1, "k")
    assert inspect(raw)[b"hits"] == 4
    assert inspect(raw)[b"hits"] == 4, "looking does not count"
    raw.call("CACHE.SETSM", "k", "v", LONG)
    assert inspect(raw)[b"hits"] == 0


def test_the_cost_is_what_the_server_measured(raw: RawClient, connect: Connect) -> None:
    """From the grant of the lease to the write that ends it, whoever held it before."""
    for key, options in (("with token", True), ("without", False)):
        before = time.monotonic()
        token = won(raw, key)
        granted = time.monotonic()
        eventually(lambda: as_map(raw.call("CACHE.LEASES")[0])[b"age_ms"] >= 50)
        sent = time.monotonic()
        assert raw.call("CACHE.SETSM", key, "v", LONG, *(("TOKEN", token) if options else ())) == b"OK"
        done = time.monotonic()
        cost_ms = inspect(raw, key)[b"cost_ms"]
        assert (sent - granted) * 1000 - 1 <= cost_ms <= (done - before) * 1000 + 1
    raw.call("CACHE.SETSM", "with token", "v", LONG, "COST", 7)
    assert inspect(raw, "with token")[b"cost_ms"] == 7


def test_it_changes_nothing(server: Server, raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", "PXAT", int(time.time() * 1000) - 1, "STALE", LONG)
    digest, granted = server.digest(), server.stats()["leases_granted"]
    inspect(raw)
    inspect(raw, "missing")
    assert (server.digest(), server.stats()["leases_granted"]) == (digest, granted)


def test_another_type_is_refused(raw: RawClient) -> None:
    raw.call("LPUSH", "k", "x")
    assert raw.call("CACHE.INSPECT", "k") == WRONGTYPE


@pytest.mark.parametrize("arguments", [(), ("k", "k")], ids=len)
def test_wrong_arguments_are_refused(raw: RawClient, arguments: tuple[str, ...]) -> None:
    assert is_error(raw.call("CACHE.INSPECT", *arguments), "ERR wrong number of arguments")


def test_the_tags_in_their_order(raw: RawClient) -> None:
    tags = [b"b", b"", b"a\0\xff"]
    raw.call("CACHE.SETSM", "k", "v", LONG, "TAGS", len(tags), *tags)
    assert inspect(raw)[b"tags"] == tags
    raw.call("CACHE.TAG", "k", "new")
    raw.call("CACHE.UNTAG", "k", "b")
    assert inspect(raw)[b"tags"] == [b"", b"a\0\xff", b"new"]
    raw.call("CACHE.TAGDEL", "")
    assert inspect(raw)[b"tags"] == [b"a\0\xff", b"new"]


def test_an_entry_that_was_marked_stale_is_stale_until_it_goes(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG, "TAGS", 1, "t")
    raw.call("CACHE.MARKSTALE", "t")
    seen = inspect(raw)
    assert (seen[b"state"], seen[b"fresh_ms"], seen[b"tags"]) == (b"stale", 0, [b"t"])
    assert seen[b"stale_ms"] == pytest.approx(LONG - 15_000, abs=15_000)


def test_an_invalidated_entry_is_missing_before_it_is_swept(raw: RawClient) -> None:
    missing = raw.call("CACHE.INSPECT", "k5")
    raw.pipeline([("CACHE.SETSM", f"k{number}", "v", LONG, "TAGS", 1, "t") for number in range(1_001)])
    replies = raw.pipeline([("CACHE.INVALIDATE", "t"), ("CACHE.INSPECT", "k5"), ("DBSIZE",)])
    assert (replies[:2], replies[2] > 0) == ([1_001, missing], True)
