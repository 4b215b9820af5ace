"""CACHE.LEASES: which leases are out, those with the most waiters first."""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually
from test_release import LONG, queue, won

Connect = Callable[..., RawClient]
COUNT_RANGE = "ERR COUNT must be an integer from 1 to 10000"


def leases(client: RawClient, *options: Any) -> list[dict[bytes, Any]]:
    return [as_map(each) for each in client.call("CACHE.LEASES", *options)]


def test_no_lease_no_row(raw: RawClient) -> None:
    assert raw.call("cache.leases") == []
    raw.call("CACHE.SETSM", "k", "v", LONG)
    raw.call("CACHE.GETSM", "k")
    assert raw.call("CACHE.LEASES") == []


def test_each_row_is_a_map_of_these_fields(server: Server, raw: RawClient, connect: Connect) -> None:
    holder = connect()
    holder.call("SELECT", 3)
    won(holder, b"\0k\xff", "LEASE", 60_000)
    eventually(lambda: leases(raw)[0][b"age_ms"] >= 5)
    [row] = raw.call("CACHE.LEASES")
    assert isinstance(row, dict if raw.protocol == 3 else list)
    row = as_map(row)
    assert list(row) == [b"key", b"db", b"client", b"age_ms", b"left_ms", b"waiters"]
    assert (row[b"key"], row[b"db"], row[b"client"], row[b"waiters"]) == (b"\0k\xff", 3, holder.client_id, 0)
    assert 59_999 <= row[b"age_ms"] + row[b"left_ms"] <= 60_000


def test_those_with_the_most_waiters_come_first(server: Server, raw: RawClient, connect: Connect) -> None:
    for key, count in (("one", 1), ("three", 3), ("none", 0), ("two", 2)):
        won(raw, key)
        queue(server, connect, count, key)
    assert [(row[b"key"], row[b"waiters"]) for row in leases(raw)] == [
        (b"three", 3),
        (b"two", 2),
        (b"one", 1),
        (b"none", 0),
    ]
    assert [row[b"key"] for row in leases(raw, "count", 2)] == [b"three", b"two"]


def test_ten_are_shown_unless_another_count_is_asked_for(raw: RawClient) -> None:
    for number in range(25):
        won(raw, f"k{number}")
    assert [len(leases(raw, *options)) for options in ((), ("COUNT", 1), ("COUNT", 20), ("COUNT", 10_000))] == [
        10,
        1,
        20,
        25,
    ]


def test_a_lease_of_the_same_name_in_each_database(raw: RawClient) -> None:
    for db in range(3):
        raw.call("SELECT", db)
        won(raw)
    assert sorted(row[b"db"] for row in leases(raw)) == [0, 1, 2]


def test_a_lease_that_has_ended_is_not_listed(server: Server, raw: RawClient, connect: Connect) -> None:
    released, expired, set_, deleted = (won(raw, key) for key in ("released", "expired", "set", "deleted"))
    assert raw.call("CACHE.RELEASE", "released", released) == 1
    assert raw.call("CACHE.RENEW", "expired", expired, 1) == 1
    assert raw.call("CACHE.SETSM", "set", "v", LONG, "TOKEN", set_) == b"OK"
    replies = raw.pipeline([("DEL", "deleted"), ("CACHE.LEASES",)])
    assert b"deleted" not in [as_map(row)[b"key"] for row in replies[-1]], "not even in the same turn"
    eventually(lambda: leases(raw) == [])


def test_a_handed_over_lease_is_its_new_holders(server: Server, raw: RawClient, connect: Connect) -> None:
    token = won(raw)
    first, _ = queue(server, connect, 2)
    assert raw.call("CACHE.RELEASE", "k", token) == 1
    [row] = leases(raw)
    assert (row[b"client"], row[b"waiters"]) == (first.client_id, 1)


@pytest.mark.parametrize(
    "options, error",
    [
        ("COUNT", "ERR COUNT is missing"),
        ("COUNT 0", COUNT_RANGE),
        ("COUNT -1", COUNT_RANGE),
        ("COUNT 10001", COUNT_RANGE),
        ("COUNT x", COUNT_RANGE),
        ("COUNT 1 COUNT 1", "ERR COUNT was given more than once"),
        ("k", "ERR unknown option 'k'"),
    ],
)
def test_wrong_options_are_refused(raw: RawClient, options: str, error: str) -> None:
    assert raw.call("CACHE.LEASES", *options.split()) == error
