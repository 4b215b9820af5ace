"""CACHE.TAGDEL: forgets a tag and keeps its entries."""

from collections.abc import Callable

import pytest

from harness import RawClient, Server, is_error
from test_release import LONG, won
from harness.tags import (
    MANY,
    NAMES,
    PLACES,
    TOO_LONG,
    Connect,
    Pair,
    fill,
    info,
    listen,
    put,
    restricted,
    run,
    survives,
    tags_of,
    while_dead,
)

Start = Callable[..., Server]


def test_it_counts_the_entries_that_had_the_tag_and_they_stay(raw: RawClient) -> None:
    put(raw, "a", "x", "t", "y")
    put(raw, "b", "t")
    put(raw, "c", "x")
    assert raw.call("cache.tagdel", "t") == 2
    assert raw.wire == b":2\r\n"
    assert [tags_of(raw, key) for key in "abc"] == [[b"x", b"y"], [], [b"x"]]
    assert [raw.call("CACHE.GET", key) for key in "abc"] == [b"v"] * 3
    assert (raw.call("CACHE.TAGCOUNT", "t"), raw.call("CACHE.TAGKEYS", "t")) == (0, [])
    assert sorted(raw.call("CACHE.TAGLIST", 0)[1]) == [b"x", b"y"]
    assert raw.call("CACHE.TAGDEL", "t") == 0


def test_the_entries_are_not_invalidated_by_it_any_more(raw: RawClient) -> None:
    put(raw, "a", "t", "u")
    raw.call("CACHE.TAGDEL", "t")
    assert [raw.call(command, "t") for command in ("CACHE.MARKSTALE", "CACHE.INVALIDATE")] == [0, 0]
    assert raw.call("CACHE.GET", "a", "META")[0] == b"hit"
    assert raw.call("CACHE.INVALIDATE", "u") == 1


def test_the_name_can_be_used_again(raw: RawClient) -> None:
    put(raw, "a", "t")
    put(raw, "b", "t")
    raw.call("CACHE.TAGDEL", "t")
    assert raw.call("CACHE.UNTAG", "b", "t") == 0
    assert raw.call("CACHE.TAG", "b", "t") == 1
    assert (raw.call("CACHE.TAGKEYS", "t"), tags_of(raw, "a")) == ([b"b"], [])
    assert raw.call("CACHE.INVALIDATE", "t") == 1
    assert raw.call("KEYS", "*") == [b"a"]


def test_it_makes_room_for_another_tag(raw: RawClient) -> None:
    put(raw, "k", *[f"t{number}" for number in range(128)])
    assert is_error(raw.call("CACHE.TAG", "k", "new"), "ERR an entry cannot have more than 128 tags")
    assert raw.call("CACHE.TAGDEL", "t5") == 1
    assert raw.call("CACHE.TAG", "k", "new") == 1
    assert len(tags_of(raw, "k")) == 128


def test_many_lose_it_at_once(raw: RawClient) -> None:
    fill(raw, 3_000, "t", "u")
    replies = raw.pipeline([("CACHE.TAGDEL", "t"), ("CACHE.TAGS", "k0"), ("CACHE.TAGS", "k2999"), ("DBSIZE",)])
    assert replies == [3_000, [b"u"], [b"u"], 3_000]
    assert raw.call("CACHE.TAGCOUNT", "u") == 3_000


def test_what_is_stale_stays_stale(raw: RawClient) -> None:
    put(raw, "k", "t")
    raw.call("CACHE.MARKSTALE", "t")
    assert raw.call("CACHE.TAGDEL", "t") == 1
    assert raw.call("CACHE.GET", "k", "META")[0] == b"stale"


def test_what_is_dead_stays_dead(raw: RawClient) -> None:
    assert while_dead(raw, ("CACHE.TAGDEL", "t"), ("CACHE.GET", "k0"), ("CACHE.TAGDEL", "u")) == [0, None, 0]


def test_a_late_write_is_refused_still(raw: RawClient) -> None:
    token = won(raw)
    put(raw, "other", "t")
    assert [raw.call(command, "t") for command in ("CACHE.INVALIDATE", "CACHE.TAGDEL")] == [1, 0]
    put(raw, "other", "t")
    assert raw.call("CACHE.TAGDEL", "t") == 1
    assert raw.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token, "TAGS", 1, "t") is None


def test_it_refuses_no_write_by_itself(raw: RawClient) -> None:
    token = won(raw)
    put(raw, "other", "t")
    raw.call("CACHE.TAGDEL", "t")
    assert raw.call("CACHE.SETSM", "k", "new", LONG, "TOKEN", token, "TAGS", 1, "t") == b"OK"
    assert raw.call("CACHE.GET", "k", "META")[0] == b"hit"


def test_tags_are_any_bytes(raw: RawClient) -> None:
    put(raw, "k", *NAMES)
    for number, tag in enumerate(NAMES, 1):
        assert raw.call("CACHE.TAGDEL", tag) == 1
        assert tags_of(raw, "k") == NAMES[number:]


def test_each_database_has_its_own(raw: RawClient) -> None:
    put(raw, "a", "t")
    assert raw.pipeline([("SELECT", 1), ("CACHE.TAGDEL", "t"), ("SELECT", 0)])[1] == 0
    assert tags_of(raw, "a") == [b"t"]


def test_no_value_changes_so_nobody_is_told(raw: RawClient, connect: Connect) -> None:
    put(raw, "k", "t")
    heard = listen(raw, connect)
    assert survives(connect(), ["k"], lambda: raw.call("CACHE.TAGDEL", "t"))
    assert heard() == []


@pytest.mark.parametrize("place", PLACES)
def test_it_works_in_transactions_and_scripts(raw: RawClient, place: str) -> None:
    put(raw, "k", "t", "u")
    assert run(raw, place, "CACHE.TAGDEL", "t") == 1
    assert tags_of(raw, "k") == [b"u"]


@pytest.mark.parametrize("count", [3, MANY])
def test_a_replica_is_sent_it_if_entries_had_the_tag(fresh_server: Start, count: int) -> None:
    pair = Pair(fresh_server)
    fill(pair.primary.raw(), count, "t", "u")
    assert pair.sent(("CACHE.TAGDEL", "t"), ("CACHE.TAGDEL", "t")) == [["CACHE.TAGDEL", "t"]]
    pair.assert_equal("k0", "k2")
    assert tags_of(pair.replica.raw(), "k0") == [b"u"]
    assert is_error(pair.replica.raw().call("CACHE.TAGDEL", "u"), "READONLY")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("rule", ["~app:*", "%W~app:*"])
def test_what_a_user_may_not_change_keeps_its_tag(fresh_server: Start, protocol: int, rule: str, place: str) -> None:
    server = fresh_server()
    client = server.raw()
    put(client, "app:1", "t", "u")
    put(client, "elsewhere", "u")
    user = restricted(server, protocol, rule)
    assert run(user, place, "CACHE.TAGDEL", "u") == 1
    assert [tags_of(client, key) for key in ("app:1", "elsewhere")] == [[b"t"], [b"u"]]
    assert run(user, place, "CACHE.TAGDEL", "u") == 0


def test_who_may_only_read_takes_nothing(fresh_server: Start, protocol: int) -> None:
    server = fresh_server()
    client = server.raw()
    put(client, "app:1", "t")
    assert restricted(server, protocol, "%R~app:*").call("CACHE.TAGDEL", "t") == 0
    assert tags_of(client, "app:1") == [b"t"]


def test_a_cluster_adds_up_the_counts_of_its_nodes(raw: RawClient) -> None:
    tips = {b"request_policy:all_shards", b"response_policy:agg_sum"}
    assert info(raw, "cache.tagdel") == (2, {b"write"}, tips)
    assert is_error(raw.call("COMMAND", "GETKEYS", "CACHE.TAGDEL", "t"), "ERR The command has no key arguments")


@pytest.mark.parametrize("arguments", [(), ("t", "t")], ids=len)
def test_wrong_arguments_are_refused(raw: RawClient, arguments: tuple[str, ...]) -> None:
    assert is_error(raw.call("CACHE.TAGDEL", *arguments), "ERR wrong number of arguments")


def test_a_tag_has_at_most_1024_bytes(raw: RawClient) -> None:
    assert raw.call("CACHE.TAGDEL", b"x" * 1025) == TOO_LONG
