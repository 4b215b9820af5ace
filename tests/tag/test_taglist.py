"""CACHE.TAGLIST: the tags that entries have, some at a time."""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error
from test_release import LONG
from harness.tags import LONGEST, NAMES, PLACES, Connect, Pair, all_of, info, pages, put, restricted, run, while_dead

Start = Callable[..., Server]
COUNT_RANGE = "ERR COUNT must be an integer from 1 to 100000"
CURSOR_RANGE = "ERR cursor must be an integer from 0 to 18446744073709551615"


def walk(client: RawClient, *options: Any, **more: Any) -> list[list[bytes]]:
    return pages(client, ("CACHE.TAGLIST",), options, **more)


def fill(client: RawClient, count: int) -> list[bytes]:
    """The tags `t0`, `t1`, …, each of one entry."""
    tags = [b"t%d" % number for number in range(count)]
    client.pipeline([("CACHE.SETSM", b"k" + tag, "v", LONG, "TAGS", 1, tag) for tag in tags])
    return sorted(tags)


def test_it_answers_the_next_cursor_and_tags(raw: RawClient) -> None:
    assert raw.call("CACHE.TAGLIST", 0) == [b"0", []]
    put(raw, "a", "t")
    assert raw.call("cache.taglist", 0) == [b"0", [b"t"]]
    assert raw.wire == b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\nt\r\n"


@pytest.mark.parametrize("count", [1, 10, 11, 300, 4_000])
@pytest.mark.parametrize("options", [(), ("COUNT", 1), ("count", 100), ("COUNT", 100_000)], ids=repr)
def test_a_walk_returns_each_tag_once(raw: RawClient, count: int, options: tuple[Any, ...]) -> None:
    tags = fill(raw, count)
    assert all_of(walk(raw, *options)) == tags


def test_count_is_about_how_many_come_at_a_time(raw: RawClient) -> None:
    fill(raw, 2_000)
    for options, about in (((), 10), (("COUNT", 100), 100)):
        sizes = [len(page) for page in walk(raw, *options)]
        assert about / 4 <= sum(sizes) / len(sizes) <= about * 4
        assert max(sizes) <= about * 10


def test_tags_are_any_bytes(raw: RawClient) -> None:
    put(raw, "k", *NAMES)
    assert all_of(walk(raw)) == sorted(NAMES)


@pytest.mark.parametrize(
    "pattern, tags",
    [
        ("*", [b"", b"*", b"author:1", b"author:12", b"a\xff", b"page:1"]),
        ("author:*", [b"author:1", b"author:12"]),
        ("author:?", [b"author:1"]),
        ("*:1", [b"author:1", b"page:1"]),
        ("[ab]*:1", [b"author:1"]),
        ("[^a]*:1", [b"page:1"]),
        ("[o-q]*", [b"page:1"]),
        (r"\*", [b"*"]),
        (b"a\xff", [b"a\xff"]),
        ("", [b""]),
        ("AUTHOR:1", []),
        ("none*", []),
    ],
)
def test_match_leaves_out_other_tags(raw: RawClient, pattern: bytes | str, tags: list[bytes]) -> None:
    put(raw, "k", "author:1", "author:12", "page:1", "", "*", b"a\xff")
    assert all_of(walk(raw, "match", pattern)) == tags
    assert all_of(walk(raw, "COUNT", 1, "MATCH", pattern)) == tags


def test_a_pattern_is_as_long_as_a_name_at_most(raw: RawClient) -> None:
    put(raw, "a", LONGEST)
    assert raw.call("CACHE.TAGLIST", 0, "MATCH", LONGEST) == [b"0", [LONGEST]]
    assert raw.call("CACHE.TAGLIST", 0, "MATCH", LONGEST + b"*") == "ERR MATCH must not be longer than 1024 bytes"


def test_what_costs_much_to_find_comes_in_more_pages(raw: RawClient) -> None:
    tags = [b"a" * 1_000 + b"%03d" % number for number in range(200)]
    raw.pipeline([("CACHE.SETSM", tag[-3:], "v", LONG, "TAGS", 1, tag) for tag in tags])
    dear = b"*" + b"a" * 400 + b"[0]" + b"[0-1]?"
    found = walk(raw, "COUNT", 100_000, "MATCH", dear)
    assert all_of(found) == tags[:20] and len(found) > 3
    assert len(walk(raw, "COUNT", 100_000, "MATCH", "a*0??")) == 1


def test_pages_may_be_empty_before_the_end(raw: RawClient) -> None:
    fill(raw, 1_000)
    found = walk(raw, "MATCH", "t777")
    assert all_of(found) == [b"t777"]
    assert found.count([]) == len(found) - 1 > 0


def test_what_is_there_all_the_time_comes_once_whatever_comes_and_goes(raw: RawClient) -> None:
    stay = fill(raw, 1_000)
    put(raw, "goes", *[f"goes{number}" for number in range(100)])
    numbers = iter(range(10_000))

    def change() -> None:
        number = next(numbers)
        put(raw, f"comes{number}", *[f"comes{number}.{each}" for each in range(5)])
        raw.call("CACHE.UNTAG", "goes", f"goes{number}")
        put(raw, f"kt{number % 1_000}", f"t{number % 1_000}")

    seen = all_of(walk(raw, between=change))
    assert [tag for tag in seen if tag.startswith(b"t")] == stay


@pytest.mark.parametrize(
    "command",
    ["DEL k", "SET k v", "CACHE.UNTAG k t", "CACHE.INVALIDATE t", "CACHE.TAGDEL t", "CACHE.SETSM k v 1000", "MOVE k 1"],
)
def test_a_tag_that_no_entry_has_any_more_is_not_listed(raw: RawClient, connect: Connect, command: str) -> None:
    put(raw, "k", "t")
    put(raw, "other", "u")
    connect().call(*command.split())  # on Valkey 8.1 a connection may be elsewhere after MOVE
    assert walk(raw) == [[b"u"]]


def test_a_tag_of_which_all_entries_expired_is_not_listed(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", 1, "TAGS", 1, "t")
    eventually(lambda: walk(raw) == [[]])


def test_a_tag_that_was_invalidated_is_not_listed_until_an_entry_has_it(raw: RawClient) -> None:
    again = ("CACHE.SETSM", "k0", "v", LONG, "TAGS", 1, "t")
    before, _, after = while_dead(raw, ("CACHE.TAGLIST", 0), again, ("CACHE.TAGLIST", 0))
    assert (before, after) == ([b"0", []], [b"0", [b"t"]])


def test_each_database_has_its_own(raw: RawClient) -> None:
    put(raw, "a", "t")
    assert raw.pipeline([("SELECT", 1), ("CACHE.TAGLIST", 0)])[-1] == [b"0", []]


@pytest.mark.parametrize("place", PLACES)
def test_it_works_in_transactions_and_scripts(raw: RawClient, place: str) -> None:
    put(raw, "a", "t")
    assert run(raw, place, "CACHE.TAGLIST", 0, "MATCH", "*") == [b"0", [b"t"]]


def test_it_works_on_a_replica(fresh_server: Start) -> None:
    pair = Pair(fresh_server)
    pair.sent(*[("CACHE.SETSM", f"k{tag}", "v", LONG, "TAGS", 1, f"t{tag}") for tag in range(100)], ("DEL", "k5"))
    tags = {b"t%d" % number for number in range(100)} - {b"t5"}
    assert all_of(walk(pair.replica.raw())) == sorted(tags)


def test_it_asks_for_no_permission_on_keys(fresh_server: Start, protocol: int) -> None:
    server = fresh_server()
    put(server.raw(), "elsewhere", "t")
    assert walk(restricted(server, protocol, "~app:*")) == [[b"t"]]


def test_a_cluster_has_a_cursor_for_each_node(raw: RawClient) -> None:
    tips = {b"nondeterministic_output", b"request_policy:special", b"response_policy:special"}
    assert info(raw, "cache.taglist") == (-2, {b"readonly"}, tips)
    assert is_error(raw.call("COMMAND", "GETKEYS", "CACHE.TAGLIST", "0"), "ERR The command has no key arguments")


@pytest.mark.parametrize(
    "arguments, error",
    [
        ("x", CURSOR_RANGE),
        ("-1", CURSOR_RANGE),
        ("01", CURSOR_RANGE),
        ("18446744073709551616", CURSOR_RANGE),
        ("0 COUNT", "ERR COUNT is missing"),
        ("0 COUNT 0", COUNT_RANGE),
        ("0 COUNT x", COUNT_RANGE),
        ("0 COUNT 100001", COUNT_RANGE),
        ("0 COUNT 1 count 1", "ERR COUNT was given more than once"),
        ("0 MATCH", "ERR MATCH is missing"),
        ("0 MATCH a COUNT 1 match a", "ERR MATCH was given more than once"),
        ("0 TYPE t", "ERR unknown option 'TYPE'"),
        ("0 10", "ERR unknown option '10'"),
    ],
)
def test_wrong_arguments_are_refused(raw: RawClient, arguments: str, error: str) -> None:
    assert raw.call("CACHE.TAGLIST", *arguments.split()) == error


def test_too_few_arguments_are_refused(raw: RawClient) -> None:
    assert is_error(raw.call("CACHE.TAGLIST"), "ERR wrong number of arguments")
