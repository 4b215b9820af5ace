"""CACHE.UNTAG: an entry loses tags; all else about it stays."""

from collections.abc import Callable

import pytest

from harness import RawClient, Server, as_map, is_error
from test_release import LONG, won
from harness.tags import (
    BINARY,
    NAMES,
    PLACES,
    TOO_LONG,
    WRONGTYPE,
    Connect,
    Pair,
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


def test_it_counts_the_tags_that_were_there(raw: RawClient) -> None:
    put(raw, "k", "a", "b", "c")
    assert raw.call("cache.untag", "k", "c", "x", "a", "c") == 2
    assert raw.wire == b":2\r\n"
    assert tags_of(raw, "k") == [b"b"]
    assert raw.call("CACHE.UNTAG", "k", "a") == 0
    assert [raw.call("CACHE.TAGCOUNT", tag) for tag in "abc"] == [0, 1, 0]


def test_the_last_tag_can_go_and_come_again(raw: RawClient) -> None:
    put(raw, BINARY, *NAMES)
    assert raw.call("CACHE.UNTAG", BINARY, *NAMES) == len(NAMES)
    assert (tags_of(raw, BINARY), raw.call("CACHE.TAGLIST", 0)) == ([], [b"0", []])
    assert raw.call("CACHE.TAG", BINARY, "t") == 1
    assert tags_of(raw, BINARY) == [b"t"]


def test_all_else_about_the_entry_stays(raw: RawClient) -> None:
    put(raw, "k", "a", options=("STALE", LONG, "VERSION", 7, "COST", 250))
    raw.call("CACHE.GETSM", "k")
    before, end = as_map(raw.call("CACHE.INSPECT", "k")), raw.call("PEXPIRETIME", "k")
    assert raw.call("CACHE.UNTAG", "k", "a") == 1
    after = as_map(raw.call("CACHE.INSPECT", "k"))
    for field in (b"state", b"size", b"stale_ms", b"version", b"cost_ms", b"hits"):
        assert after[field] == before[field]
    assert (after[b"tags"], raw.call("PEXPIRETIME", "k")) == ([], end)


def test_nothing_is_there_to_take(raw: RawClient) -> None:
    put(raw, "plain")
    for key in ("missing", "plain"):
        assert raw.call("CACHE.UNTAG", key, "a") == 0
    assert raw.call("EXISTS", "missing") == 0


@pytest.mark.parametrize("create", [("SET", "k", "v"), ("RPUSH", "k", "x")], ids=["string", "list"])
def test_native_types_have_no_tags(server: Server, raw: RawClient, create: tuple[str, ...]) -> None:
    raw.call(*create)
    digest = server.digest()
    assert raw.call("CACHE.UNTAG", "k", "a") == WRONGTYPE
    assert server.digest() == digest


def test_an_entry_without_the_tag_is_not_invalidated_by_it(raw: RawClient) -> None:
    put(raw, "k", "a", "b")
    raw.call("CACHE.UNTAG", "k", "a")
    assert raw.call("CACHE.INVALIDATE", "a") == 0
    assert raw.call("CACHE.GET", "k") == b"v"
    assert raw.call("CACHE.INVALIDATE", "b") == 1


def test_an_invalidated_entry_cannot_be_saved_by_it(raw: RawClient) -> None:
    assert while_dead(raw, ("CACHE.UNTAG", "k0", "t"), ("CACHE.GET", "k0")) == [0, None]


def test_a_stale_entry_stays_stale(raw: RawClient) -> None:
    put(raw, "k", "a", "b")
    raw.call("CACHE.MARKSTALE", "a")
    assert raw.call("CACHE.UNTAG", "k", "a", "b") == 2
    assert raw.call("CACHE.GET", "k", "META")[0] == b"stale"


def test_a_lease_that_is_out_no_longer_ends_with_an_invalidation_of_the_tag(raw: RawClient) -> None:
    put(raw, "k", "a", "b")
    raw.call("CACHE.MARKSTALE", "a")
    token = won(raw)
    assert raw.call("CACHE.UNTAG", "k", "a") == 1
    assert raw.call("CACHE.INVALIDATE", "a") == 0
    assert raw.call("CACHE.SETSM", "k", "new", LONG, "TOKEN", token) == b"OK"


@pytest.mark.parametrize("place", PLACES)
def test_it_works_in_transactions_and_scripts(raw: RawClient, place: str) -> None:
    put(raw, "k", "a", "b", "c")
    assert run(raw, place, "CACHE.UNTAG", "k", "a", "x", "c") == 2
    assert tags_of(raw, "k") == [b"b"]


def test_it_tells_subscribers_and_watchers_when_something_changed(raw: RawClient, connect: Connect) -> None:
    put(raw, "k", "a", "b")
    heard = listen(raw, connect)
    for tag, changed in (("x", False), ("b", True)):
        assert survives(connect(), ["k"], lambda: raw.call("CACHE.UNTAG", "k", tag)) is not changed
        assert heard() == ([(b"cache.untag", b"k")] if changed else [])


def test_a_replica_is_sent_the_tags_that_were_there(fresh_server: Start) -> None:
    pair = Pair(fresh_server)
    untag = ("CACHE.UNTAG", "k", "x", "b", "b")
    sent = pair.sent(("CACHE.SETSM", "k", "v", LONG, "TAGS", 2, "a", "b"), untag, untag, ("CACHE.UNTAG", "gone", "a"))
    assert [words[0] for words in sent] == ["CACHE.SETSM", "CACHE.UNTAG"]
    assert sent[-1] == ["CACHE.UNTAG", "k", "b"]
    pair.assert_equal("k")
    assert tags_of(pair.replica.raw(), "k") == [b"a"]
    assert is_error(pair.replica.raw().call(*untag), "READONLY")


@pytest.mark.parametrize(
    "rule, allowed", [("~app:*", True), ("%RW~app:*", True), ("%R~app:*", False), ("%W~app:*", False)]
)
def test_it_needs_to_read_and_write_its_key(fresh_server: Start, protocol: int, rule: str, allowed: bool) -> None:
    server = fresh_server()
    client = server.raw()
    put(client, "app:1", "a")
    put(client, "elsewhere", "a")
    user = restricted(server, protocol, rule)
    assert is_error(user.call("CACHE.UNTAG", "app:1", "a"), "NOPERM") is not allowed
    assert is_error(user.call("CACHE.UNTAG", "elsewhere", "a"), "NOPERM")
    assert client.call("CACHE.TAGCOUNT", "a") == 2 - int(allowed)


def test_a_full_server_does_it(server: Server, raw: RawClient) -> None:
    put(raw, "k", "a")
    server.call("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", 1)
    assert raw.call("CACHE.UNTAG", "k", "a") == 1


def test_the_server_knows_what_it_is(raw: RawClient) -> None:
    assert info(raw, "cache.untag") == (-3, {b"write", b"fast"}, set())
    assert raw.call("COMMAND", "GETKEYS", "CACHE.UNTAG", "k", "a", "b") == [b"k"]


@pytest.mark.parametrize("given", [[b"x" * 1025], ["a", b"x" * 1025]], ids=len)
def test_a_tag_has_at_most_1024_bytes(raw: RawClient, given: list[bytes | str]) -> None:
    put(raw, "k", "a")
    assert raw.call("CACHE.UNTAG", "k", *given) == TOO_LONG
    assert tags_of(raw, "k") == [b"a"]


@pytest.mark.parametrize("arguments", [(), ("k",)], ids=len)
def test_too_few_arguments_are_refused(raw: RawClient, arguments: tuple[str, ...]) -> None:
    assert is_error(raw.call("CACHE.UNTAG", *arguments), "ERR wrong number of arguments")
