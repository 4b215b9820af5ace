"""CACHE.TAGSCAN: the entries that have a tag, some at a time."""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error
from test_release import LONG
from harness.tags import (
    NAMES,
    PLACES,
    TOO_LONG,
    Pair,
    all_of,
    fill,
    info,
    pages,
    put,
    restricted,
    run,
    while_dead,
)

Start = Callable[..., Server]
COUNT_RANGE = "ERR COUNT must be an integer from 1 to 100000"
CURSOR_RANGE = "ERR cursor must be an integer from 0 to 18446744073709551615"


def walk(client: RawClient, *options: Any, tag: bytes | str = "t", **more: Any) -> list[list[bytes]]:
    return pages(client, ("CACHE.TAGSCAN", tag), options, **more)


def names(count: int) -> list[bytes]:
    return sorted(b"k%d" % number for number in range(count))


def test_it_answers_the_next_cursor_and_keys(raw: RawClient) -> None:
    put(raw, "a", "t")
    assert raw.call("cache.tagscan", "t", 0) == [b"0", [b"a"]]
    assert raw.wire == b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n"


@pytest.mark.parametrize("cursor", [0, 17, 2**64 - 1])
def test_nobody_has_the_tag(raw: RawClient, cursor: int) -> None:
    assert raw.call("CACHE.TAGSCAN", "t", cursor) == [b"0", []]


@pytest.mark.parametrize("count", [1, 10, 11, 300, 4_000])
@pytest.mark.parametrize("options", [(), ("COUNT", 1), ("count", 100), ("COUNT", 100_000)], ids=repr)
def test_a_walk_returns_each_entry_once(raw: RawClient, count: int, options: tuple[Any, ...]) -> None:
    fill(raw, count, "t", "u")
    put(raw, "other", "u")
    assert all_of(walk(raw, *options)) == names(count)


def test_count_is_about_how_many_come_at_a_time(raw: RawClient) -> None:
    fill(raw, 2_000, "t")
    for options, about in (((), 10), (("COUNT", 100), 100)):
        sizes = [len(page) for page in walk(raw, *options)]
        assert about / 4 <= sum(sizes) / len(sizes) <= about * 4
        assert max(sizes) <= about * 10


def test_keys_and_tags_are_any_bytes(raw: RawClient) -> None:
    for key in NAMES:
        put(raw, key, *NAMES)
    for tag in NAMES:
        assert all_of(walk(raw, "COUNT", 1, tag=tag)) == sorted(NAMES)


def test_what_is_there_all_the_time_comes_once_whatever_comes_and_goes(raw: RawClient) -> None:
    fill(raw, 1_000, "t")
    for number in range(500):
        put(raw, f"goes{number}", "t")
    numbers = iter(range(10_000))

    def change() -> None:
        number = next(numbers)
        for each in range(5):
            put(raw, f"comes{number}.{each}", "t")
        raw.call("DEL", f"goes{number % 500}")
        put(raw, f"k{number % 1_000}", "u", "t")

    seen = all_of(walk(raw, between=change))
    assert [key for key in seen if key.startswith(b"k")] == names(1_000)


def test_a_walk_ends_though_all_entries_go(raw: RawClient) -> None:
    fill(raw, 1_000, "t")
    cursor, _ = raw.call("CACHE.TAGSCAN", "t", 0)
    raw.call("CACHE.INVALIDATE", "t")
    assert raw.call("CACHE.TAGSCAN", "t", cursor) == [b"0", []]


def test_an_expired_key_that_the_server_has_not_found_yet_is_left_out(server: Server, raw: RawClient) -> None:
    put(raw, "b", "t")
    server.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    try:
        raw.call("CACHE.SETSM", "a", "v", 1, "TAGS", 1, "t")
        eventually(lambda: all_of(walk(raw)) == [b"b"])
    finally:
        server.call("DEBUG", "SET-ACTIVE-EXPIRE", 1)


def test_invalidated_entries_are_left_out(raw: RawClient) -> None:
    assert while_dead(raw, ("CACHE.TAGSCAN", "t", 0, "COUNT", 5_000)) == [[b"0", []]]


def test_each_database_has_its_own(raw: RawClient) -> None:
    put(raw, "a", "t")
    assert raw.pipeline([("SELECT", 1), ("CACHE.TAGSCAN", "t", 0)])[-1] == [b"0", []]


@pytest.mark.parametrize("place", PLACES)
def test_it_works_in_transactions_and_scripts(raw: RawClient, place: str) -> None:
    put(raw, "a", "t")
    assert run(raw, place, "CACHE.TAGSCAN", "t", 0) == [b"0", [b"a"]]


def test_it_works_on_a_replica(fresh_server: Start) -> None:
    pair = Pair(fresh_server)
    pair.sent(*[("CACHE.SETSM", f"k{number}", "v", LONG, "TAGS", 1, "t") for number in range(100)])
    assert all_of(walk(pair.replica.raw())) == names(100)


def test_it_asks_for_no_permission_on_keys(fresh_server: Start, protocol: int) -> None:
    server = fresh_server()
    put(server.raw(), "elsewhere", "t")
    assert all_of(walk(restricted(server, protocol, "~app:*"))) == [b"elsewhere"]


def test_a_cluster_has_a_cursor_for_each_node(raw: RawClient) -> None:
    tips = {b"nondeterministic_output", b"request_policy:special", b"response_policy:special"}
    assert info(raw, "cache.tagscan") == (-3, {b"readonly"}, tips)
    assert is_error(raw.call("COMMAND", "GETKEYS", "CACHE.TAGSCAN", "t", "0"), "ERR The command has no key arguments")


@pytest.mark.parametrize(
    "arguments, error",
    [
        ("x", CURSOR_RANGE),
        ("-1", CURSOR_RANGE),
        ("01", CURSOR_RANGE),
        ("18446744073709551616", CURSOR_RANGE),
        ("0 COUNT", "ERR COUNT is missing"),
        ("0 COUNT 0", COUNT_RANGE),
        ("0 COUNT -1", COUNT_RANGE),
        ("0 COUNT x", COUNT_RANGE),
        ("0 COUNT 100001", COUNT_RANGE),
        ("0 COUNT 1 count 1", "ERR COUNT was given more than once"),
        ("0 MATCH *", "ERR unknown option 'MATCH'"),
        ("0 10", "ERR unknown option '10'"),
    ],
)
def test_wrong_arguments_are_refused(raw: RawClient, arguments: str, error: str) -> None:
    assert raw.call("CACHE.TAGSCAN", "t", *arguments.split()) == error


@pytest.mark.parametrize("arguments", [(), ("t",)], ids=len)
def test_too_few_arguments_are_refused(raw: RawClient, arguments: tuple[str, ...]) -> None:
    assert is_error(raw.call("CACHE.TAGSCAN", *arguments), "ERR wrong number of arguments")


def test_a_tag_has_at_most_1024_bytes(raw: RawClient) -> None:
    assert raw.call("CACHE.TAGSCAN", b"x" * 1025, 0) == TOO_LONG
