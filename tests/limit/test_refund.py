"""CACHE.REFUND: units that were taken and not used are given back, those taken last first."""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, is_error
from test_ratelimit import ALGORITHMS, LONG, WRONGTYPE, drain, now_ms, window_of

Connect = Callable[..., RawClient]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_given_back_can_be_taken_again(raw: RawClient, algorithm: str) -> None:
    call = ("CACHE.RATELIMIT", "k", 5, window_of(algorithm), "ALGORITHM", algorithm, "COST")
    drain(raw, limit=5, algorithm=algorithm)
    assert raw.call("cache.refund", "k", 2) == 2
    assert raw.wire == b":2\r\n"
    assert raw.call(*call, 3)[0] == 0
    assert raw.call(*call, 2)[:3] == [2, 5, 0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_more_comes_back_than_was_taken_and_an_empty_key_goes(raw: RawClient, algorithm: str) -> None:
    drain(raw, limit=3, algorithm=algorithm)
    assert raw.call("CACHE.REFUND", "k", 1_000_000_000) == 3
    assert raw.call("EXISTS", "k") == 0
    assert raw.call("CACHE.REFUND", "k", 1) == 0
    drain(raw, limit=3, algorithm=algorithm)


def test_the_last_taken_come_back_first(raw: RawClient) -> None:
    at = now_ms()
    for ago in (500_000, 10_000):
        raw.call("CACHE.RATELIMIT", "k", 2, LONG, "AT", at - ago)
    assert raw.call("CACHE.REFUND", "k", 1) == 1
    assert raw.call("PTTL", "k") == pytest.approx(LONG - 500_000, abs=30_000)
    assert raw.call("CACHE.RATELIMIT", "k", 2, LONG)[0] == 1
    assert raw.call("CACHE.RATELIMIT", "k", 2, LONG)[3] == pytest.approx(LONG - 500_000, abs=30_000)


def test_what_counts_no_more_cannot_be_given_back(raw: RawClient) -> None:
    raw.call("CACHE.RATELIMIT", "k", 5, LONG, "COST", 3, "AT", now_ms() - LONG + 100_000)
    raw.call("CACHE.RATELIMIT", "k", 5, LONG, 5, 50_000)
    assert raw.call("CACHE.REFUND", "k", 9) == 4, "the most that any rule still counts"


def test_several_rules_get_it_back_together(raw: RawClient) -> None:
    call = ("CACHE.RATELIMIT", "k", 5, LONG, 7, LONG * 2, "COST")
    assert raw.call(*call, 5)[0] == 5
    assert raw.call("CACHE.REFUND", "k", 4) == 4
    assert raw.call(*call, 4)[:3] == [4, 5, 0]


@pytest.mark.parametrize("make", [("SET", "k", "v"), ("CACHE.SETSM", "k", "v", LONG)], ids=lambda make: make[0])
def test_other_types_are_refused_and_left_alone(server: Server, raw: RawClient, make: tuple[Any, ...]) -> None:
    raw.call(*make)
    digest = server.digest()
    assert raw.call("CACHE.REFUND", "k", 1) == WRONGTYPE
    assert server.digest() == digest


def test_watchers_hear_of_it_only_if_something_came_back(raw: RawClient, connect: Connect) -> None:
    watcher = connect()
    drain(raw, limit=1)
    for result, done in [(1, None), (0, [b"PONG"])]:
        assert watcher.call("WATCH", "k") == b"OK"
        assert raw.call("CACHE.REFUND", "k", 1) == result
        assert watcher.pipeline([("MULTI",), ("PING",), ("EXEC",)])[-1] == done


UNITS_RANGE = "ERR units must be an integer from 1 to 1000000000"


@pytest.mark.parametrize(
    "arguments, error",
    [
        ("0", UNITS_RANGE),
        ("-1", UNITS_RANGE),
        ("1.5", UNITS_RANGE),
        ("1000000001", UNITS_RANGE),
        ("all", UNITS_RANGE),
        ("1 AT", "ERR AT is missing"),
        ("1 AT 0", f"ERR AT must be an integer from 1 to {(2**63 - 1) // 2}"),
        ("1 AT 1 AT 1", "ERR AT was given more than once"),
        ("1 2", "ERR unknown option '2'"),
    ],
)
def test_a_refused_call_changes_nothing(server: Server, raw: RawClient, arguments: str, error: str) -> None:
    drain(raw)
    digest = server.digest()
    assert raw.call("CACHE.REFUND", "k", *arguments.split()) == error
    assert server.digest() == digest


@pytest.mark.parametrize("arguments", [(), ("k",)], ids=len)
def test_too_few_arguments_are_refused(raw: RawClient, arguments: tuple[str, ...]) -> None:
    assert is_error(raw.call("CACHE.REFUND", *arguments), "ERR wrong number of arguments")
