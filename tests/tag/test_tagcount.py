"""CACHE.TAGCOUNT: how many entries have a tag."""

from collections.abc import Callable

import pytest

from harness import RawClient, Server, is_error
from test_release import LONG
from harness.tags import NAMES, PLACES, TOO_LONG, Pair, fill, info, put, restricted, run, while_dead

Start = Callable[..., Server]


def test_it_counts_the_entries(raw: RawClient) -> None:
    put(raw, "a", "t", "u")
    put(raw, "b", "t")
    assert raw.call("cache.tagcount", "t") == 2
    assert raw.wire == b":2\r\n"
    assert [raw.call("CACHE.TAGCOUNT", tag) for tag in ("u", "nobody")] == [1, 0]


def test_an_entry_counts_once(raw: RawClient) -> None:
    put(raw, "a", "t", "t")
    put(raw, "a", "t")
    raw.call("CACHE.TAG", "a", "t")
    assert raw.call("CACHE.TAGCOUNT", "t") == 1


def test_tags_are_any_bytes(raw: RawClient) -> None:
    for count in range(1, 4):
        put(raw, f"k{count}", *NAMES)
        assert [raw.call("CACHE.TAGCOUNT", tag) for tag in NAMES] == [count] * len(NAMES)


def test_the_count_follows_the_entries(raw: RawClient) -> None:
    fill(raw, 3_000, "t")
    assert raw.call("CACHE.TAGCOUNT", "t") == 3_000
    assert raw.call("DEL", *[f"k{number}" for number in range(500)]) == 500
    assert raw.call("CACHE.TAGCOUNT", "t") == 2_500
    assert raw.call("FLUSHALL") == b"OK"
    assert raw.call("CACHE.TAGCOUNT", "t") == 0


def test_stale_entries_count_and_invalidated_ones_do_not(raw: RawClient) -> None:
    put(raw, "a", "u")
    raw.call("CACHE.MARKSTALE", "u")
    replies = while_dead(raw, ("CACHE.TAGCOUNT", "t"), ("CACHE.TAGCOUNT", "u"), ("DBSIZE",))
    assert (replies[:2], replies[2] > 1_000) == ([0, 1], True)


def test_each_database_has_its_own(raw: RawClient) -> None:
    put(raw, "a", "t")
    assert raw.pipeline([("SELECT", 1), ("CACHE.TAGCOUNT", "t")])[-1] == 0


@pytest.mark.parametrize("place", PLACES)
def test_it_works_in_transactions_and_scripts(raw: RawClient, place: str) -> None:
    put(raw, "a", "t")
    assert run(raw, place, "CACHE.TAGCOUNT", "t") == 1


def test_it_works_on_a_replica(fresh_server: Start) -> None:
    pair = Pair(fresh_server)
    pair.sent(*[("CACHE.SETSM", key, "v", LONG, "TAGS", 1, "t") for key in "abc"], ("DEL", "a"))
    assert pair.replica.call("CACHE.TAGCOUNT", "t") == 2


def test_it_asks_for_no_permission_on_keys(fresh_server: Start, protocol: int) -> None:
    server = fresh_server()
    put(server.raw(), "elsewhere", "t")
    assert restricted(server, protocol, "~app:*").call("CACHE.TAGCOUNT", "t") == 1


def test_a_cluster_adds_up_the_counts_of_its_nodes(raw: RawClient) -> None:
    tips = {b"request_policy:all_shards", b"response_policy:agg_sum"}
    assert info(raw, "cache.tagcount") == (2, {b"readonly", b"fast"}, tips)
    assert is_error(raw.call("COMMAND", "GETKEYS", "CACHE.TAGCOUNT", "t"), "ERR The command has no key arguments")


@pytest.mark.parametrize("arguments", [(), ("t", "t")], ids=len)
def test_wrong_arguments_are_refused(raw: RawClient, arguments: tuple[str, ...]) -> None:
    assert is_error(raw.call("CACHE.TAGCOUNT", *arguments), "ERR wrong number of arguments")


def test_a_tag_has_at_most_1024_bytes(raw: RawClient) -> None:
    assert raw.call("CACHE.TAGCOUNT", b"x" * 1025) == TOO_LONG
