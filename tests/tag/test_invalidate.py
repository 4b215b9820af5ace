"""CACHE.INVALIDATE: all entries of a tag are gone at once, and whatever was loaded before stays out."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually, is_error
from test_release import LONG, holder, queue, state, trust_transactions, won
from harness.tags import (
    LONGEST,
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
    while_dead,
)

Start = Callable[..., Server]
FEW = MANY - 1  # so many are deleted within the command


# What is gone, and what is counted


def test_it_deletes_the_entries_and_counts_them(raw: RawClient) -> None:
    put(raw, "a", "t", "u")
    put(raw, "b", "t")
    put(raw, "c", "u")
    put(raw, "d")
    assert raw.call("cache.invalidate", "t") == 2
    assert raw.wire == b":2\r\n"
    assert sorted(raw.call("KEYS", "*")) == [b"c", b"d"]
    assert raw.call("CACHE.INVALIDATE", "t") == 0
    assert raw.call("CACHE.TAGKEYS", "u") == [b"c"]


def test_an_entry_under_several_of_the_tags_counts_once(raw: RawClient) -> None:
    put(raw, "a", "t", "u")
    put(raw, "b", "u", "w")
    put(raw, "c", "x")
    assert raw.call("CACHE.INVALIDATE", "t", "nobody", "u", "t", "w") == 2
    assert raw.call("KEYS", "*") == [b"c"]


def test_keys_and_tags_are_any_bytes(raw: RawClient) -> None:
    for tag in NAMES:
        for key in NAMES:
            put(raw, key, tag)
        assert raw.call("CACHE.INVALIDATE", tag) == len(NAMES)
        assert raw.call("DBSIZE") == 0


def test_stale_entries_go_too(raw: RawClient) -> None:
    put(raw, "a", "t", options=("STALEAT", 1))
    raw.call("CACHE.SETSM", "b", "v", 1, "STALE", LONG, "TAGS", 1, "t")
    eventually(lambda: raw.call("CACHE.GET", "b", "META")[0] == b"stale")
    assert raw.call("CACHE.INVALIDATE", "t") == 2
    assert raw.call("DBSIZE") == 0


def test_what_is_stored_afterwards_stays(raw: RawClient) -> None:
    put(raw, "a", "t")
    assert raw.call("CACHE.INVALIDATE", "t") == 1
    put(raw, "a", "t")
    assert raw.call("CACHE.GET", "a") == b"v"
    assert raw.call("CACHE.INVALIDATE", "t") == 1


def test_keys_that_have_expired_do_not_count(server: Server, raw: RawClient) -> None:
    put(raw, "b", "t")
    server.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    try:
        raw.call("CACHE.SETSM", "a", "v", 1, "TAGS", 1, "t")
        stored = time.monotonic()
        eventually(lambda: time.monotonic() - stored > 0.01)
        assert raw.call("CACHE.INVALIDATE", "t") == 1
        assert raw.call("DBSIZE") == 0
    finally:
        server.call("DEBUG", "SET-ACTIVE-EXPIRE", 1)


def test_each_database_has_its_own_tags(raw: RawClient) -> None:
    put(raw, "a", "t")
    raw.call("SELECT", 1)
    put(raw, "a", "t")
    assert raw.call("CACHE.INVALIDATE", "t") == 1
    assert raw.pipeline([("DBSIZE",), ("SELECT", 0), ("DBSIZE",)]) == [0, b"OK", 1]


def test_info_counts_tags_and_entries(server: Server, raw: RawClient) -> None:
    before = server.stats()
    put(raw, "a", "t", "u")
    assert (server.stats()["tags"], server.stats()["tagged_keys"]) == (2, 1)
    raw.call("CACHE.INVALIDATE", "t", "u", "nobody")
    after = server.stats()
    grown = [after[name] - before[name] for name in ("invalidations", "invalidated_keys")]
    assert (grown, after["tags"], after["tagged_keys"], after["sweep_backlog"]) == ([3, 1], 0, 0, 0)


# More than go at once


def test_of_many_entries_none_is_served_though_they_are_still_there(server: Server, raw: RawClient) -> None:
    raw.call("CONFIG", "SET", "cacheguard.sweep-cpu-percent", 1)
    fill(raw, 3_000, "t")
    put(raw, "other", "u")
    reads = [("CACHE.GET", "k0"), ("CACHE.GET", "k1", "META"), ("CACHE.GETSM", "k2"), ("CACHE.TAGCOUNT", "t")]
    replies = raw.pipeline([("CACHE.INVALIDATE", "t"), *reads, ("DBSIZE",)])
    assert replies[:-1] == [3_000, None, [b"miss", None, None, None], None, 0]
    assert replies[-1] > 1
    eventually(lambda: raw.call("DBSIZE") == 1)
    eventually(lambda: (server.stats()["sweep_backlog"], server.stats()["tagged_keys"]) == (0, 1))


def test_one_thousand_are_deleted_within_the_command(raw: RawClient) -> None:
    fill(raw, FEW, "t")
    assert raw.pipeline([("CACHE.INVALIDATE", "t"), ("DBSIZE",)]) == [FEW, 0]


def test_very_many_are_counted_once_for_each_tag(raw: RawClient) -> None:
    fill(raw, 2 * MANY, "t", "u")
    assert raw.call("CACHE.INVALIDATE", "t", "u") == 4 * MANY
    eventually(lambda: raw.call("DBSIZE") == 0)


def test_until_they_are_swept_the_dead_count_under_their_other_tags(raw: RawClient) -> None:
    fill(raw, MANY, "t", "u")
    replies = raw.pipeline([("MULTI",), ("CACHE.INVALIDATE", "t"), ("CACHE.INVALIDATE", "u"), ("EXEC",)])[-1]
    assert replies == [MANY, MANY]
    eventually(lambda: raw.call("DBSIZE") == 0)


def test_an_entry_stored_over_a_dead_one_lives(raw: RawClient) -> None:
    again = [("CACHE.SETSM", key, "new", LONG, "TAGS", 1, "t") for key in ("k0", "k7")]
    assert while_dead(raw, *again, ("SET", "k9", "new")) == [b"OK"] * 3
    eventually(lambda: raw.call("DBSIZE") == 3)
    assert [raw.call("CACHE.GET", key) for key in ("k0", "k7", "k9")] == [b"new"] * 3
    assert sorted(raw.call("CACHE.TAGKEYS", "t")) == [b"k0", b"k7"]


def test_a_dead_entry_stays_dead_wherever_it_goes(raw: RawClient) -> None:
    moves = [("RENAME", "k0", "renamed"), ("COPY", "k1", "copied"), ("PERSIST", "k2"), ("EXPIRE", "k3", 100_000)]
    reads = [("CACHE.GET", key) for key in ("renamed", "copied", "k1", "k2", "k3")]
    assert while_dead(raw, *moves, *reads)[-len(reads) :] == [None] * len(reads)
    eventually(lambda: raw.call("DBSIZE") == 0)


def test_to_commands_of_the_server_a_dead_entry_is_there_until_it_is_swept(raw: RawClient) -> None:
    commands = [("EXISTS", "k0"), ("TYPE", "k0"), ("DEL", "k0"), ("CACHE.DEL", "k1"), ("EXISTS", "k1")]
    assert while_dead(raw, *commands) == [1, b"cg-cached", 1, 0, 0]


def test_a_flush_takes_what_was_not_swept(server: Server, raw: RawClient) -> None:
    assert while_dead(raw, ("FLUSHALL",)) == [b"OK"]
    eventually(lambda: (server.stats()["sweep_backlog"], server.stats()["tagged_keys"]) == (0, 0))


# Leases


def test_a_late_write_is_refused_though_nobody_had_the_tag(server: Server, raw: RawClient) -> None:
    token, refused = won(raw), server.stats()["sets_refused"]
    assert raw.call("CACHE.INVALIDATE", "t") == 0
    assert holder(raw) == raw.client_id
    assert raw.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token, "TAGS", 2, "u", "t") is None
    assert (raw.call("EXISTS", "k"), holder(raw), server.stats()["sets_refused"]) == (0, None, refused + 1)
    assert raw.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token) is None, "its lease is over"


def test_when_a_late_write_is_refused_the_oldest_waiter_takes_over(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    token = won(raw)
    first, second = queue(server, connect, 2)
    raw.call("CACHE.INVALIDATE", "t")
    assert not first.has_reply()
    assert raw.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token, "TAGS", 1, "t") is None
    name, value, token, _ = first.recv()
    assert (name, value, holder(raw), second.has_reply()) == (b"won", None, first.client_id, False)
    assert first.call("CACHE.SETSM", "k", "new", LONG, "TOKEN", token, "TAGS", 1, "t") == b"OK"
    assert second.recv()[:2] == [b"hit", b"new"]


@pytest.mark.parametrize(
    "options",
    [("TOKEN", "TAGS", 1, "other"), ("TOKEN",), ("TAGS", 1, "t"), ()],
    ids=["other tag", "no tag", "no token", "neither"],
)
def test_other_writes_are_not_late(raw: RawClient, options: tuple[Any, ...]) -> None:
    token = won(raw)
    raw.call("CACHE.INVALIDATE", "t")
    options = ("TOKEN", token, *options[1:]) if options[:1] == ("TOKEN",) else options
    assert raw.call("CACHE.SETSM", "k", "new", LONG, *options) == b"OK"
    assert raw.call("CACHE.GET", "k") == b"new"


def test_what_was_invalidated_before_the_lease_does_not_matter(raw: RawClient) -> None:
    raw.call("CACHE.INVALIDATE", "t")
    token = won(raw)
    assert raw.call("CACHE.SETSM", "k", "new", LONG, "TOKEN", token, "TAGS", 1, "t") == b"OK"


def test_an_entry_stored_in_time_is_invalidated_like_any_other(raw: RawClient) -> None:
    token = won(raw)
    put(raw, "other", "t")
    assert raw.call("CACHE.SETSM", "k", "new", LONG, "TOKEN", token, "TAGS", 1, "t") == b"OK"
    assert raw.call("CACHE.INVALIDATE", "t") == 2


@pytest.mark.parametrize("place", PLACES)
def test_the_lease_on_a_stale_entry_with_the_tag_is_voided(
    server: Server, raw: RawClient, connect: Connect, place: str
) -> None:
    if place == "transaction":
        trust_transactions(server)
    put(raw, "k", "t", "u", options=("STALEAT", 1))
    token, voided = won(raw), server.stats()["leases_voided"]
    first, second = queue(server, connect, 2, "k", "MAXSTALE", 1)
    assert run(connect(), place, "CACHE.INVALIDATE", "u") == 1
    name, value, heir, _ = first.recv()
    assert (name, value, holder(raw), second.has_reply()) == (b"won", None, first.client_id, False)
    assert server.stats()["leases_voided"] == voided + 1
    assert raw.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token) is None
    assert first.call("CACHE.SETSM", "k", "new", LONG, "TOKEN", heir) == b"OK"
    assert second.recv()[:2] == [b"hit", b"new"]


def test_with_many_entries_their_leases_are_voided_too(raw: RawClient) -> None:
    put(raw, "k", "t", options=("STALEAT", 1))
    token = won(raw)
    fill(raw, MANY, "t")
    assert raw.call("CACHE.INVALIDATE", "t") == MANY + 1
    assert raw.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token) is None
    assert (holder(raw), state(raw)) == (None, b"won")


def test_a_lease_on_an_entry_without_the_tag_stays(raw: RawClient) -> None:
    put(raw, "k", "u", options=("STALEAT", 1))
    put(raw, "other", "t")
    token = won(raw)
    assert raw.call("CACHE.INVALIDATE", "t") == 1
    assert raw.call("CACHE.RENEW", "k", token, LONG) == 1


def test_the_version_of_a_dead_entry_refuses_nobody(raw: RawClient) -> None:
    fill(raw, MANY, "t")
    put(raw, "k", "t", options=("VERSION", 9))
    lower = ("CACHE.SETSM", "k", "new", LONG, "VERSION", 1)
    assert raw.pipeline([("MULTI",), ("CACHE.INVALIDATE", "t"), lower, ("EXEC",)])[-1] == [MANY + 1, b"OK"]
    assert as_map(raw.call("CACHE.INSPECT", "k"))[b"version"] == 1


# Others who look at the keys


@pytest.mark.parametrize("count", [3, MANY])
def test_each_key_sends_a_del_event(raw: RawClient, connect: Connect, count: int) -> None:
    fill(raw, count, "t")
    heard = listen(raw, connect)
    assert raw.call("CACHE.INVALIDATE", "t") == count
    eventually(lambda: raw.call("DBSIZE") == 0)
    assert sorted(heard()) == sorted((b"del", b"k%d" % number) for number in range(count))


@pytest.mark.parametrize("count", [3, MANY])
def test_a_client_that_cached_a_key_is_told(raw: RawClient, connect: Connect, count: int) -> None:
    if raw.protocol == 2:
        pytest.skip("RESP2 has no push messages")
    fill(raw, count, "t")
    tracker = connect()
    tracker.call("CLIENT", "TRACKING", "ON")
    assert tracker.call("CACHE.GET", "k1") == b"v"
    assert raw.call("CACHE.INVALIDATE", "t") == count
    assert tracker.recv_push() == [b"invalidate", [b"k1"]]


@pytest.mark.parametrize("count", [3, MANY])
def test_a_transaction_that_watches_a_key_does_not_run(raw: RawClient, connect: Connect, count: int) -> None:
    fill(raw, count, "t")
    put(raw, "other", "u")

    def change() -> None:
        assert raw.call("CACHE.INVALIDATE", "t") == count
        eventually(lambda: raw.call("DBSIZE") == 1)

    assert not survives(connect(), ["k1"], change)
    assert survives(connect(), ["other"], lambda: raw.call("CACHE.INVALIDATE", "t"))


@pytest.mark.parametrize("place", PLACES)
def test_it_works_in_transactions_and_scripts(raw: RawClient, place: str) -> None:
    fill(raw, 3, "t")
    assert run(raw, place, "CACHE.INVALIDATE", "t") == 3
    assert raw.call("DBSIZE") == 0


# Replicas


def test_a_replica_is_sent_the_deletion_of_few(fresh_server: Start) -> None:
    pair = Pair(fresh_server)
    stored = [("CACHE.SETSM", key, "v", LONG, "TAGS", 1, "t") for key in "abc"]
    *_, last = sent = pair.sent(*stored, ("CACHE.INVALIDATE", "t", "nobody"), ("CACHE.INVALIDATE", "t"))
    assert [words[0] for words in sent] == ["CACHE.SETSM"] * 3 + ["UNLINK"]
    assert sorted(last[1:]) == ["a", "b", "c"]
    assert is_error(pair.replica.raw().call("CACHE.INVALIDATE", "t"), "READONLY")


def test_a_replica_is_sent_the_invalidation_of_many_and_then_each_deletion(fresh_server: Start) -> None:
    pair = Pair(fresh_server)
    fill(pair.primary.raw(), MANY, "t")
    sent = pair.sent(("CACHE.INVALIDATE", "nobody", "t"), until=lambda: pair.primary.stats()["sweep_backlog"] == 0)
    assert sent[0] == ["CACHE.INVALIDATE", "t"]
    assert {words[0] for words in sent[1:]} <= {"UNLINK", "MULTI", "EXEC"}
    deleted = [key for words in sent if words[0] == "UNLINK" for key in words[1:]]
    assert sorted(deleted) == sorted(f"k{number}" for number in range(MANY))


def test_a_replica_does_not_serve_what_it_has_not_deleted_yet(fresh_server: Start) -> None:
    pair = Pair(fresh_server)
    client, reader = pair.primary.raw(), pair.replica.raw()
    fill(client, MANY, "t")
    pair.replica.wait_for_sync()
    assert reader.call("CACHE.GET", "k0") == b"v"
    held = ("CLIENT", "PAUSE", 60_000, "WRITE")
    assert client.pipeline([("CACHE.INVALIDATE", "t"), held]) == [MANY, b"OK"]
    eventually(lambda: reader.call("CACHE.GET", "k0") is None)
    assert (reader.call("CACHE.TAGCOUNT", "t"), reader.call("CACHE.TAGKEYS", "t")) == (0, [])
    assert reader.call("DBSIZE") > 0
    client.call("CLIENT", "UNPAUSE")
    eventually(lambda: reader.call("DBSIZE") == 0)


def test_a_replica_that_becomes_a_primary_deletes_what_is_left(fresh_server: Start) -> None:
    pair = Pair(fresh_server)
    client, heir = pair.primary.raw(), pair.replica
    fill(client, MANY, "t")
    heir.wait_for_sync()
    held = ("CLIENT", "PAUSE", 60_000, "WRITE")
    assert client.pipeline([("CACHE.INVALIDATE", "t"), held]) == [MANY, b"OK"]
    eventually(lambda: heir.call("CACHE.TAGCOUNT", "t") == 0)
    assert heir.call("DBSIZE") > 0
    heir.replica_of(None)
    eventually(lambda: heir.call("DBSIZE") == 0)
    client.call("CLIENT", "UNPAUSE")


# Permissions


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("rule", ["~app:*", "%W~app:*"])
def test_what_a_user_may_not_delete_is_left_alone(fresh_server: Start, protocol: int, rule: str, place: str) -> None:
    server = fresh_server()
    client = server.raw()
    for key in ("app:1", "app:2"):
        put(client, key, "t", "u")
    put(client, "elsewhere", "u")
    user = restricted(server, protocol, rule)
    assert run(user, place, "CACHE.INVALIDATE", "nobody", "t", "u") == 2
    assert client.call("KEYS", "*") == [b"elsewhere"]
    assert client.call("CACHE.GET", "elsewhere") == b"v"
    assert run(user, place, "CACHE.INVALIDATE", "u") == 0


def test_who_may_only_read_deletes_nothing(fresh_server: Start, protocol: int) -> None:
    server = fresh_server()
    put(server.raw(), "app:1", "t")
    assert restricted(server, protocol, "%R~app:*").call("CACHE.INVALIDATE", "t") == 0
    assert server.call("EXISTS", "app:1") == 1


@pytest.mark.parametrize("place", PLACES)
def test_what_a_user_may_do_is_no_denial(fresh_server: Start, place: str) -> None:
    server = fresh_server()
    put(server.raw(), "app:1", "t")
    rules = ("~app:*", "+@transaction", "+eval", "+hello", "+cache.invalidate")
    server.call("ACL", "SETUSER", "user", "on", ">secret", *rules)
    assert run(server.raw(auth=("user", "secret")), place, "CACHE.INVALIDATE", "t") == 1
    assert server.call("ACL", "LOG") == []


# The command


def test_a_cluster_adds_up_the_counts_of_its_nodes(raw: RawClient) -> None:
    tips = {b"request_policy:all_shards", b"response_policy:agg_sum"}
    assert info(raw, "cache.invalidate") == (-2, {b"write"}, tips)
    assert is_error(raw.call("COMMAND", "GETKEYS", "CACHE.INVALIDATE", "t"), "ERR The command has no key arguments")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_tag_that_is_too_long_and_nothing_changes(server: Server, raw: RawClient, place: int) -> None:
    put(raw, "a", "t", LONGEST)
    digest, token, tags = server.digest(), won(raw), ["t", LONGEST]
    tags.insert(place, b"x" * 1025)
    assert raw.call("CACHE.INVALIDATE", *tags) == TOO_LONG
    assert server.digest() == digest
    assert raw.call("CACHE.SETSM", "k", "v", LONG, "TOKEN", token, "TAGS", 1, "t") == b"OK"


def test_too_few_arguments_are_refused(raw: RawClient) -> None:
    assert is_error(raw.call("CACHE.INVALIDATE"), "ERR wrong number of arguments")


def test_no_more_tags_than_the_server_can_bear_at_once(server: Server, raw: RawClient) -> None:
    put(raw, "a", "t")
    for command in ("CACHE.INVALIDATE", "CACHE.MARKSTALE"):
        tags = [f"{n}" for n in range(10_000)]
        assert raw.call(command, *tags, "t") == "ERR no more than 10000 tags can be given"
        assert raw.call("CACHE.GET", "a", "META")[0] == b"hit"
        assert raw.call(command, *tags[1:], "t") == 1
        put(raw, "a", "t")
