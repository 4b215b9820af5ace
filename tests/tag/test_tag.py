"""CACHE.TAG: an entry gets more tags; all else about it stays."""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually, is_error
from test_release import LONG, queue, won
from harness.tags import (
    BINARY,
    LONGEST,
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
TOO_MANY = "ERR an entry cannot have more than 128 tags"


def test_it_counts_the_tags_that_are_new(raw: RawClient) -> None:
    put(raw, "k", "a")
    assert raw.call("cache.tag", "k", "b", "a", "c", "b") == 2
    assert raw.wire == b":2\r\n"
    assert tags_of(raw, "k") == [b"a", b"b", b"c"]
    assert raw.call("CACHE.TAG", "k", "c", "a") == 0
    assert [raw.call("CACHE.TAGCOUNT", tag) for tag in "abc"] == [1, 1, 1]


def test_an_entry_without_tags_gets_its_first(raw: RawClient) -> None:
    put(raw, BINARY)
    assert raw.call("CACHE.TAG", BINARY, *NAMES) == len(NAMES)
    assert tags_of(raw, BINARY) == NAMES
    for tag in NAMES:
        assert raw.call("CACHE.TAGKEYS", tag) == [BINARY]


def test_all_else_about_the_entry_stays(raw: RawClient) -> None:
    put(raw, "k", options=("STALE", LONG, "VERSION", 7, "COST", 250))
    raw.call("CACHE.GETSM", "k")
    before, end = as_map(raw.call("CACHE.INSPECT", "k")), raw.call("PEXPIRETIME", "k")
    assert raw.call("CACHE.TAG", "k", "a") == 1
    after = as_map(raw.call("CACHE.INSPECT", "k"))
    for field in (b"state", b"size", b"stale_ms", b"version", b"cost_ms", b"hits"):
        assert after[field] == before[field]
    assert (after[b"tags"], raw.call("PEXPIRETIME", "k")) == ([b"a"], end)


def test_nothing_is_there_to_tag(server: Server, raw: RawClient) -> None:
    assert raw.call("CACHE.TAG", "k", "a") == 0
    assert (raw.call("EXISTS", "k"), raw.call("CACHE.TAGCOUNT", "a"), server.stats()["tagged_keys"]) == (0, 0, 0)


def test_an_invalidated_entry_is_as_good_as_missing(raw: RawClient) -> None:
    replies = while_dead(raw, ("CACHE.TAG", "k0", "new"), ("CACHE.TAGCOUNT", "new"), ("CACHE.TAGS", "k0"))
    assert replies == [0, 0, []]


@pytest.mark.parametrize("create", [("SET", "k", "v"), ("RPUSH", "k", "x")], ids=["string", "list"])
def test_native_types_have_no_tags(server: Server, raw: RawClient, create: tuple[str, ...]) -> None:
    raw.call(*create)
    digest = server.digest()
    assert raw.call("CACHE.TAG", "k", "a") == WRONGTYPE
    assert (server.digest(), raw.call("CACHE.TAGCOUNT", "a")) == (digest, 0)


def test_an_entry_has_at_most_128_tags(server: Server, raw: RawClient) -> None:
    put(raw, "k")
    assert raw.call("CACHE.TAG", "k", *range(128)) == 128
    digest = server.digest()
    for more in (["new"], ["5", "new"], list(range(129)), list(range(5_000))):
        assert raw.call("CACHE.TAG", "k", *more) == TOO_MANY
    assert (server.digest(), raw.call("CACHE.TAGCOUNT", "new")) == (digest, 0)
    assert raw.call("CACHE.TAG", "k", *reversed(range(128)), *range(128)) == 0
    assert raw.call("CACHE.UNTAG", "k", "5") == 1
    assert raw.call("CACHE.TAG", "k", "new") == 1


@pytest.mark.parametrize("given", [[b"x" * 1025], ["new", b"x" * 1025], [LONGEST + b"x", "new"]], ids=len)
def test_a_tag_has_at_most_1024_bytes(server: Server, raw: RawClient, given: list[Any]) -> None:
    put(raw, "k", "a")
    digest = server.digest()
    assert raw.call("CACHE.TAG", "k", *given) == TOO_LONG
    assert (server.digest(), tags_of(raw, "k")) == (digest, [b"a"])
    assert raw.call("CACHE.TAG", "k", LONGEST) == 1


def test_a_new_tag_is_as_good_as_one_it_was_stored_with(raw: RawClient) -> None:
    put(raw, "k")
    raw.call("CACHE.TAG", "k", "a")
    assert raw.call("CACHE.INVALIDATE", "a") == 1
    assert raw.call("EXISTS", "k") == 0


def test_what_happened_to_the_tag_before_does_not_concern_the_entry(raw: RawClient) -> None:
    put(raw, "other", "t", "u")
    raw.call("CACHE.MARKSTALE", "u")
    raw.call("CACHE.INVALIDATE", "t")
    put(raw, "k", "a")
    assert raw.call("CACHE.TAG", "k", "t", "u") == 2
    assert raw.call("CACHE.GET", "k", "META")[0] == b"hit"


def test_a_stale_entry_stays_stale(raw: RawClient) -> None:
    put(raw, "k", "a")
    raw.call("CACHE.MARKSTALE", "a")
    assert raw.call("CACHE.TAG", "k", "b") == 1
    assert raw.call("CACHE.GET", "k", "META")[0] == b"stale"


def test_a_lease_that_is_out_ends_with_an_invalidation_of_the_new_tag(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    put(raw, "k", "other", options=("STALEAT", 1))
    token = won(raw)
    (waiter,) = queue(server, connect, 1, "k", "MAXSTALE", 1)
    assert raw.call("CACHE.TAG", "k", "a") == 1
    assert not waiter.has_reply()
    assert raw.call("CACHE.INVALIDATE", "a") == 1
    assert waiter.recv()[:2] == [b"won", None]
    assert raw.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token) is None


def test_the_first_tag_of_an_entry_reaches_a_lease_that_is_out(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", 1, "STALE", LONG)
    eventually(lambda: raw.call("CACHE.GET", "k", "META")[0] == b"stale")
    token = won(raw)
    assert raw.call("CACHE.TAG", "k", "a") == 1
    assert raw.call("CACHE.INVALIDATE", "a") == 1
    assert raw.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token) is None


@pytest.mark.parametrize("place", PLACES)
def test_it_works_in_transactions_and_scripts(raw: RawClient, place: str) -> None:
    put(raw, "k", "a")
    assert run(raw, place, "CACHE.TAG", "k", "a", "b", "c") == 2
    assert tags_of(raw, "k") == [b"a", b"b", b"c"]


def test_it_tells_subscribers_and_watchers_when_something_changed(raw: RawClient, connect: Connect) -> None:
    put(raw, "k", "a")
    heard = listen(raw, connect)
    for tag, changed in (("a", False), ("b", True)):
        assert survives(connect(), ["k"], lambda: raw.call("CACHE.TAG", "k", tag)) is not changed
        assert heard() == ([(b"cache.tag", b"k")] if changed else [])


def test_a_replica_is_sent_the_tags_that_are_new(fresh_server: Start) -> None:
    pair = Pair(fresh_server)
    tag = ("CACHE.TAG", "k", "a", "b", "a")
    sent = pair.sent(("CACHE.SETSM", "k", "v", LONG, "TAGS", 1, "b"), tag, tag, ("CACHE.TAG", "missing", "a"))
    assert [words[0] for words in sent] == ["CACHE.SETSM", "CACHE.TAG"]
    assert sent[-1] == ["CACHE.TAG", "k", "a"]
    pair.assert_equal("k")
    assert tags_of(pair.replica.raw(), "k") == [b"b", b"a"]
    assert is_error(pair.replica.raw().call(*tag), "READONLY")


@pytest.mark.parametrize(
    "rule, allowed", [("~app:*", True), ("%RW~app:*", True), ("%R~app:*", False), ("%W~app:*", False)]
)
def test_it_needs_to_read_and_write_its_key(fresh_server: Start, protocol: int, rule: str, allowed: bool) -> None:
    server = fresh_server()
    client = server.raw()
    put(client, "app:1")
    put(client, "elsewhere")
    user = restricted(server, protocol, rule)
    assert is_error(user.call("CACHE.TAG", "app:1", "a"), "NOPERM") is not allowed
    assert is_error(user.call("CACHE.TAG", "elsewhere", "a"), "NOPERM")
    assert client.call("CACHE.TAGKEYS", "a") == [b"app:1"][: int(allowed)]


def test_a_full_server_refuses_it(server: Server, raw: RawClient) -> None:
    put(raw, "k")
    server.call("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", 1)
    assert is_error(raw.call("CACHE.TAG", "k", "a"), "OOM")
    assert tags_of(raw, "k") == []


def test_the_server_knows_what_it_is(raw: RawClient) -> None:
    assert info(raw, "cache.tag") == (-3, {b"write", b"denyoom", b"fast"}, set())
    assert raw.call("COMMAND", "GETKEYS", "CACHE.TAG", "k", "a", "b") == [b"k"]


@pytest.mark.parametrize("arguments", [(), ("k",)], ids=len)
def test_too_few_arguments_are_refused(raw: RawClient, arguments: tuple[str, ...]) -> None:
    assert is_error(raw.call("CACHE.TAG", *arguments), "ERR wrong number of arguments")
