"""CACHE.TAGKEYS: the entries that have a tag, all at once."""

from collections.abc import Callable

import pytest

from harness import RawClient, Server, eventually, is_error
from test_release import LONG
from harness.tags import (
    BINARY,
    LONGEST,
    NAMES,
    PLACES,
    TOO_LONG,
    Connect,
    Pair,
    fill,
    info,
    put,
    restricted,
    run,
    while_dead,
)

Start = Callable[..., Server]


def keys_of(client: RawClient, tag: bytes | str = "t") -> list[bytes]:
    return sorted(client.call("CACHE.TAGKEYS", tag))


def test_it_lists_the_keys_in_no_order(raw: RawClient) -> None:
    put(raw, "a", "t", "u")
    put(raw, "b", "u")
    put(raw, "c", "t")
    assert sorted(raw.call("cache.tagkeys", "t")) == [b"a", b"c"]
    assert raw.wire.startswith(b"*2\r\n$1\r\n")
    assert keys_of(raw, "u") == [b"a", b"b"]


def test_nobody_has_it(raw: RawClient) -> None:
    assert raw.call("CACHE.TAGKEYS", "t") == []
    assert raw.wire == b"*0\r\n"


def test_keys_and_tags_are_any_bytes(raw: RawClient) -> None:
    for key in NAMES:
        put(raw, key, *NAMES)
    for tag in NAMES:
        assert keys_of(raw, tag) == sorted(NAMES)
    assert keys_of(raw, LONGEST[1:]) == keys_of(raw, BINARY[1:]) == []


def test_many(raw: RawClient) -> None:
    fill(raw, 5_000, "t")
    assert keys_of(raw) == sorted(b"k%d" % number for number in range(5_000))


@pytest.mark.parametrize(
    "commands, keys",
    [
        ("DEL a", [b"b"]),
        ("UNLINK a b", []),
        ("CACHE.DEL a", [b"b"]),
        ("SET a v", [b"b"]),
        ("CACHE.SETSM a v 1000", [b"b"]),
        ("CACHE.SETSM a v 1000 TAGS 1 u", [b"b"]),
        ("CACHE.SETSM a v 1000 TAGS 2 u t", [b"a", b"b"]),
        ("CACHE.SETSM a v PXAT 1 TAGS 1 t", [b"b"]),
        ("CACHE.TOUCH a 1000", [b"a", b"b"]),
        ("CACHE.TOUCH a PXAT 1", [b"b"]),
        ("RENAME a c", [b"b", b"c"]),
        ("RENAME a b", [b"b"]),
        ("COPY a c", [b"a", b"b", b"c"]),
        ("MOVE a 1", [b"b"]),
        ("SWAPDB 0 1", []),
        ("FLUSHDB", []),
        ("FLUSHALL ASYNC", []),
        ("PEXPIRE a 0", [b"b"]),
        ("EXPIRE a 100", [b"a", b"b"]),
        ("CACHE.UNTAG a t", [b"b"]),
        ("CACHE.INVALIDATE t", []),
        ("CACHE.MARKSTALE t", [b"a", b"b"]),
        ("CACHE.TAGDEL t", []),
    ],
)
def test_it_follows_whatever_happens_to_the_keys(
    raw: RawClient, connect: Connect, commands: str, keys: list[bytes]
) -> None:
    put(raw, "a", "t")
    put(raw, "b", "t")
    connect().call(*commands.split())  # on Valkey 8.1 a connection may be elsewhere after MOVE
    assert (keys_of(raw), raw.call("CACHE.TAGCOUNT", "t")) == (keys, len(keys))


def test_a_restored_entry_is_listed_under_its_new_name(raw: RawClient) -> None:
    put(raw, "a", "t")
    payload = raw.call("DUMP", "a")
    assert raw.call("RESTORE", "b", 0, payload) == b"OK"
    assert keys_of(raw) == [b"a", b"b"]


def test_each_database_has_its_own(raw: RawClient) -> None:
    put(raw, "a", "t")
    raw.call("SELECT", 1)
    assert keys_of(raw) == []
    put(raw, "b", "t")
    assert keys_of(raw) == [b"b"]
    assert raw.call("SWAPDB", 0, 1) == b"OK"
    assert keys_of(raw) == [b"a"]


def test_an_expired_key_that_the_server_has_not_found_yet_is_left_out(server: Server, raw: RawClient) -> None:
    put(raw, "b", "t")
    server.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    try:
        raw.call("CACHE.SETSM", "a", "v", 1, "TAGS", 1, "t")
        eventually(lambda: keys_of(raw) == [b"b"])
        assert raw.call("CACHE.TAGCOUNT", "t") == 1, "it goes when it is found"
    finally:
        server.call("DEBUG", "SET-ACTIVE-EXPIRE", 1)


def test_an_expired_key_goes_by_itself(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "a", "v", 1, "TAGS", 1, "t")
    eventually(lambda: raw.call("CACHE.TAGCOUNT", "t") == 0)


def test_invalidated_entries_are_left_out_by_all_of_their_tags(raw: RawClient) -> None:
    put(raw, "other", "u")
    replies = while_dead(raw, ("CACHE.TAGKEYS", "t"), ("CACHE.TAGKEYS", "u"), ("EXISTS", "k0"))
    assert replies == [[], [b"other"], 1]


@pytest.mark.parametrize("place", PLACES)
def test_it_works_in_transactions_and_scripts(raw: RawClient, place: str) -> None:
    put(raw, "a", "t")
    assert run(raw, place, "CACHE.TAGKEYS", "t") == [b"a"]


def test_it_works_on_a_replica(fresh_server: Start) -> None:
    pair = Pair(fresh_server)
    pair.sent(*[("CACHE.SETSM", key, "v", LONG, "TAGS", 1, "t") for key in "ab"], ("DEL", "a"))
    assert keys_of(pair.replica.raw()) == [b"b"]


def test_it_asks_for_no_permission_on_keys(fresh_server: Start, protocol: int) -> None:
    server = fresh_server()
    put(server.raw(), "elsewhere", "t")
    assert keys_of(restricted(server, protocol, "~app:*")) == [b"elsewhere"]


def test_the_server_knows_what_it_is(raw: RawClient) -> None:
    assert info(raw, "cache.tagkeys") == (2, {b"readonly"}, {b"request_policy:all_shards"})
    assert is_error(raw.call("COMMAND", "GETKEYS", "CACHE.TAGKEYS", "t"), "ERR The command has no key arguments")


@pytest.mark.parametrize("arguments", [(), ("t", "t")], ids=len)
def test_wrong_arguments_are_refused(raw: RawClient, arguments: tuple[str, ...]) -> None:
    assert is_error(raw.call("CACHE.TAGKEYS", *arguments), "ERR wrong number of arguments")


def test_a_tag_has_at_most_1024_bytes(raw: RawClient) -> None:
    assert raw.call("CACHE.TAGKEYS", b"x" * 1025) == TOO_LONG
