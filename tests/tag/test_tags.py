"""CACHE.TAGS: the tags of an entry."""

import pytest

from harness import RawClient, is_error
from harness.tags import (
    BINARY,
    LONG,
    NAMES,
    PLACES,
    WRONGTYPE,
    Connect,
    Pair,
    Start,
    info,
    put,
    restricted,
    run,
    tags_of,
    while_dead,
)


def test_it_lists_the_tags_in_the_order_in_which_they_were_given(raw: RawClient) -> None:
    put(raw, "k", "b", "a", "c")
    assert raw.call("cache.tags", "k") == [b"b", b"a", b"c"]
    assert raw.wire == b"*3\r\n$1\r\nb\r\n$1\r\na\r\n$1\r\nc\r\n"


def test_a_tag_given_twice_is_one(raw: RawClient) -> None:
    put(raw, "k", "a", "b", "a")
    assert tags_of(raw, "k") == [b"a", b"b"]


def test_there_are_none(raw: RawClient) -> None:
    raw.call("SET", "string", "v")
    put(raw, "plain")
    for key in ("missing", "string", "plain"):
        assert tags_of(raw, key) == []
        assert raw.wire == b"*0\r\n"


def test_keys_and_tags_are_any_bytes(raw: RawClient) -> None:
    put(raw, BINARY, *NAMES)
    assert tags_of(raw, BINARY) == NAMES


def test_another_type_is_refused(raw: RawClient) -> None:
    raw.call("RPUSH", "k", "x")
    assert tags_of(raw, "k") == WRONGTYPE


def test_a_stale_entry_has_its_tags(raw: RawClient) -> None:
    put(raw, "k", "a", "b")
    assert raw.call("CACHE.MARKSTALE", "a") == 1
    assert tags_of(raw, "k") == [b"a", b"b"]


def test_an_invalidated_entry_has_none(raw: RawClient) -> None:
    assert while_dead(raw, ("CACHE.TAGS", "k0"), ("EXISTS", "k0")) == [[], 1]


@pytest.mark.parametrize(
    "command, key, tags",
    [
        ("RENAME k other", "other", [b"a", b"b"]),
        ("COPY k other", "other", [b"a", b"b"]),
        ("COPY k other", "k", [b"a", b"b"]),
        ("EXPIRE k 100", "k", [b"a", b"b"]),
        ("SET k v", "k", []),
        ("CACHE.SETSM k v 1000", "k", []),
        ("CACHE.SETSM k v 1000 TAGS 1 c", "k", [b"c"]),
        ("CACHE.TOUCH k 1000", "k", [b"a", b"b"]),
    ],
)
def test_they_go_where_the_entry_goes(raw: RawClient, command: str, key: str, tags: list[bytes]) -> None:
    put(raw, "k", "a", "b")
    raw.call(*command.split())
    assert tags_of(raw, key) == tags


@pytest.mark.parametrize("place", PLACES)
def test_it_works_in_transactions_and_scripts(raw: RawClient, place: str) -> None:
    put(raw, "k", "a", "b")
    assert run(raw, place, "CACHE.TAGS", "k") == [b"a", b"b"]


def test_a_client_that_tracks_its_reads_is_told_when_the_tags_change(raw: RawClient, connect: Connect) -> None:
    if raw.protocol == 2:
        pytest.skip("RESP2 has no push messages")
    tracker = connect()
    tracker.call("CLIENT", "TRACKING", "ON")
    put(raw, "k", "a")
    for change in (("CACHE.TAG", "k", "b"), ("CACHE.UNTAG", "k", "a"), ("CACHE.INVALIDATE", "b")):
        assert len(tags_of(tracker, "k")) > 0
        assert raw.call(*change) == 1
        assert tracker.recv_push() == [b"invalidate", [b"k"]]


@pytest.mark.parametrize("rule, allowed", [("~app:*", True), ("%R~app:*", True), ("%W~app:*", False)])
def test_it_needs_to_read_its_key(fresh_server: Start, protocol: int, rule: str, allowed: bool) -> None:
    server = fresh_server()
    put(server.raw(), "app:1", "a")
    user = restricted(server, protocol, rule)
    assert is_error(user.call("CACHE.TAGS", "app:1"), "NOPERM") is not allowed
    assert is_error(user.call("CACHE.TAGS", "elsewhere"), "NOPERM")


def test_it_works_on_a_replica(fresh_server: Start) -> None:
    pair = Pair(fresh_server)
    pair.sent(("CACHE.SETSM", "k", "v", LONG, "TAGS", 2, "a", BINARY))
    assert tags_of(pair.replica.raw(), "k") == [b"a", BINARY]


def test_the_server_knows_what_it_is(raw: RawClient) -> None:
    assert info(raw, "cache.tags") == (2, {b"readonly", b"fast"}, set())
    assert raw.call("COMMAND", "GETKEYS", "CACHE.TAGS", "k") == [b"k"]


@pytest.mark.parametrize("arguments", [(), ("k", "k")], ids=len)
def test_wrong_arguments_are_refused(raw: RawClient, arguments: tuple[str, ...]) -> None:
    assert is_error(raw.call("CACHE.TAGS", *arguments), "ERR wrong number of arguments")
