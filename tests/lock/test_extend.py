"""CACHE.EXTEND: the holder says how long the lock lasts from now."""

from collections.abc import Callable

import pytest

from harness import RawClient, Server, eventually, is_error
from harness.line import LONG, info, stand_in_line

Connect = Callable[..., RawClient]


def test_the_holder_gets_more_time_and_keeps_its_number(raw: RawClient) -> None:
    fence = raw.call("CACHE.LOCK", "k", "me", 60_000)
    assert raw.call("cache.extend", "k", "me", LONG) == 1 and raw.wire == b":1\r\n"
    assert LONG - 60_000 < raw.call("PTTL", "k") <= LONG
    [holder] = info(raw)[b"holders"]
    assert holder[b"fence"] == fence and holder[b"left_ms"] > 60_000
    assert raw.call("CACHE.LOCK", "k", "you", LONG) is None


def test_or_less(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "me", LONG)
    waiter = stand_in_line(server, connect(), "waiter")
    assert raw.call("CACHE.EXTEND", "k", "me", 40) == 1
    assert waiter.recv() > 0, "and the next in line hears of it in time"


def test_a_stranger_and_a_former_holder_change_nothing(server: Server, raw: RawClient) -> None:
    assert raw.call("CACHE.EXTEND", "k", "me", LONG) == 0 and raw.wire == b":0\r\n"
    assert raw.call("EXISTS", "k") == 0
    raw.call("CACHE.LOCK", "k", "me", LONG)
    before = server.digest()
    assert raw.call("CACHE.EXTEND", "k", "you", 1) == 0
    assert server.digest() == before
    raw.call("CACHE.EXTEND", "k", "me", 1)
    eventually(lambda: raw.call("EXISTS", "k") == 0)
    assert raw.call("CACHE.EXTEND", "k", "me", LONG) == 0


def test_of_several_holders_one_is_extended(raw: RawClient) -> None:
    for owner in "ab":
        raw.call("CACHE.LOCK", "k", owner, 60_000, "PERMITS", 2)
    assert raw.call("CACHE.EXTEND", "k", "a", LONG) == 1
    lefts = {holder[b"owner"]: holder[b"left_ms"] for holder in info(raw)[b"holders"]}
    assert lefts[b"a"] > 60_000 >= lefts[b"b"]
    assert raw.call("PTTL", "k") > 60_000


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["k", "me"], "ERR wrong number of arguments"),
        (["k", "me", "1", "x"], "ERR wrong number of arguments"),
        (["k", "me", "0"], "ERR ttl must be an integer from 1 to 315360000000"),
        (["k", "me", "x"], "ERR ttl must be an integer from 1 to 315360000000"),
        (["k", "x" * 1025, "1"], "ERR owner must not be longer than 1024 bytes"),
        (["string", "me", "1"], "WRONGTYPE"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(
    server: Server, raw: RawClient, arguments: list[str], error: str
) -> None:
    raw.call("CACHE.LOCK", "k", "me", LONG)
    raw.call("SET", "string", "v")
    before = server.digest()
    assert is_error(raw.call("CACHE.EXTEND", *arguments), error)
    assert server.digest() == before
