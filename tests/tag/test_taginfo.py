"""CACHE.TAGINFO: what is known of a tag."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually, is_error
from test_release import LONG
from harness.tags import MANY, NAMES, PLACES, TOO_LONG, Pair, fill, info, put, restricted, run, while_dead

Start = Callable[..., Server]
UNKNOWN = {
    b"keys": 0,
    b"bytes": 0,
    b"created_ms": None,
    b"invalidations": 0,
    b"last_invalidated_ms": None,
    b"sweeping": 0,
}


def about(client: RawClient, tag: bytes | str = "t") -> dict[bytes, Any]:
    return as_map(client.call("CACHE.TAGINFO", tag))


def just_now() -> Any:
    """A moment of the last minute, in ms since 1970."""
    return pytest.approx(time.time() * 1000 - 30_000, abs=31_000)


def test_it_answers_a_map_of_these_fields(raw: RawClient) -> None:
    reply = raw.call("cache.taginfo", "t")
    assert isinstance(reply, dict if raw.protocol == 3 else list)
    assert list(as_map(reply)) == list(UNKNOWN)
    assert as_map(reply) == UNKNOWN
    assert raw.call("CACHE.TAGCOUNT", "t") == 0, "a question creates nothing"


def test_it_counts_keys_and_the_bytes_of_their_values(raw: RawClient) -> None:
    for key, size in (("a", 10), ("b", 0), ("c", 1_000)):
        raw.call("CACHE.SETSM", key, "x" * size, LONG, "TAGS", 2, "t", f"only {key}")
    assert about(raw) == UNKNOWN | {b"keys": 3, b"bytes": 1_010, b"created_ms": just_now()}
    assert about(raw, "only c")[b"bytes"] == 1_000


@pytest.mark.parametrize(
    "command, keys, size",
    [
        ("DEL a", 1, 5),
        ("CACHE.SETSM a xyz 1000 TAGS 1 t", 2, 8),
        ("CACHE.SETSM a xyz 1000", 1, 5),
        ("SET a xyz", 1, 5),
        ("RENAME a b", 1, 10),
        ("COPY a c", 3, 25),
        ("CACHE.UNTAG a t", 1, 5),
        ("CACHE.TAG other t", 3, 22),
        ("CACHE.TAG a more", 2, 15),
        ("CACHE.MARKSTALE t", 2, 15),
        ("CACHE.INVALIDATE t", 0, 0),
        ("CACHE.TAGDEL t", 0, 0),
    ],
)
def test_they_follow_the_entries(raw: RawClient, command: str, keys: int, size: int) -> None:
    for key, value, tag in (("a", "x" * 10, "t"), ("b", "x" * 5, "t"), ("other", "x" * 7, "u")):
        raw.call("CACHE.SETSM", key, value, LONG, "TAGS", 1, tag)
    raw.call(*command.split())
    seen = about(raw)
    assert (seen[b"keys"], seen[b"bytes"]) == (keys, size)


def test_invalidations_are_counted_and_the_last_is_remembered(raw: RawClient) -> None:
    put(raw, "a", "t", "u")
    created = about(raw)[b"created_ms"]
    for number in range(1, 4):
        raw.call("CACHE.INVALIDATE", "t", "other")
        seen = about(raw)
        assert (seen[b"invalidations"], seen[b"last_invalidated_ms"]) == (number, just_now())
        assert seen[b"created_ms"] == created <= seen[b"last_invalidated_ms"]
    assert about(raw, "u") == UNKNOWN
    put(raw, "a", "t")
    assert (about(raw)[b"invalidations"], about(raw)[b"created_ms"]) == (3, created)


def test_markstale_is_no_invalidation(raw: RawClient) -> None:
    put(raw, "a", "t")
    before = about(raw)
    raw.call("CACHE.MARKSTALE", "t")
    assert about(raw) == before


def test_sweeping_is_what_was_invalidated_and_is_not_gone(raw: RawClient) -> None:
    again = ("CACHE.SETSM", "k0", "v", LONG, "TAGS", 1, "t")
    first, _, second = while_dead(raw, ("CACHE.TAGINFO", "t"), again, ("CACHE.TAGINFO", "t"))
    first, second = as_map(first), as_map(second)
    assert (first[b"keys"], first[b"bytes"], first[b"sweeping"], first[b"invalidations"]) == (0, 0, MANY, 1)
    assert (second[b"keys"], second[b"bytes"], second[b"sweeping"]) == (1, 1, MANY - 1)
    eventually(lambda: about(raw)[b"sweeping"] == 0)
    assert (about(raw)[b"keys"], raw.call("DBSIZE")) == (1, 1)


def test_a_tag_that_was_never_invalidated_is_forgotten_with_its_last_entry(raw: RawClient) -> None:
    put(raw, "a", "t")
    raw.call("DEL", "a")
    assert about(raw) == UNKNOWN


def test_tagdel_forgets_the_entries_of_a_tag(raw: RawClient) -> None:
    put(raw, "a", "t")
    raw.call("CACHE.TAGDEL", "t")
    assert about(raw)[b"keys"] == 0


def test_tags_are_any_bytes(raw: RawClient) -> None:
    put(raw, "k", *NAMES)
    assert [about(raw, tag)[b"keys"] for tag in NAMES] == [1] * len(NAMES)


def test_each_database_has_its_own(raw: RawClient) -> None:
    put(raw, "a", "t")
    raw.call("SELECT", 1)
    assert about(raw) == UNKNOWN


@pytest.mark.parametrize("place", PLACES)
def test_it_works_in_transactions_and_scripts(raw: RawClient, place: str) -> None:
    fill(raw, 3, "t")
    seen = as_map(run(raw, place, "CACHE.TAGINFO", "t"))
    assert (seen[b"keys"], seen[b"bytes"]) == (3, 3)


def test_statistics_begin_anew_with_the_server(fresh_server: Start) -> None:
    server = fresh_server()
    client = server.raw()
    put(client, "a", "t")
    client.call("CACHE.INVALIDATE", "t")
    put(client, "b", "t")
    assert about(client)[b"invalidations"] == 1
    started = time.time() * 1000
    server.restart(save=True)
    seen = about(server.raw())
    assert seen == UNKNOWN | {b"keys": 1, b"bytes": 1, b"created_ms": just_now()}
    assert seen[b"created_ms"] >= started - 1


def test_it_works_on_a_replica(fresh_server: Start) -> None:
    pair = Pair(fresh_server)
    pair.sent(*[("CACHE.SETSM", key, "value", LONG, "TAGS", 1, "t") for key in "ab"])
    seen = about(pair.replica.raw())
    assert (seen[b"keys"], seen[b"bytes"]) == (2, 10)


def test_it_asks_for_no_permission_on_keys(fresh_server: Start, protocol: int) -> None:
    server = fresh_server()
    put(server.raw(), "elsewhere", "t")
    assert about(restricted(server, protocol, "~app:*"))[b"keys"] == 1


def test_the_server_knows_what_it_is(raw: RawClient) -> None:
    assert info(raw, "cache.taginfo") == (2, {b"readonly", b"fast"}, {b"request_policy:all_shards"})
    assert is_error(raw.call("COMMAND", "GETKEYS", "CACHE.TAGINFO", "t"), "ERR The command has no key arguments")


@pytest.mark.parametrize("arguments", [(), ("t", "t")], ids=len)
def test_wrong_arguments_are_refused(raw: RawClient, arguments: tuple[str, ...]) -> None:
    assert is_error(raw.call("CACHE.TAGINFO", *arguments), "ERR wrong number of arguments")


def test_a_tag_has_at_most_1024_bytes(raw: RawClient) -> None:
    assert raw.call("CACHE.TAGINFO", b"x" * 1025) == TOO_LONG
