"""CACHE.MARKSTALE: all entries of a tag turn stale at once: one caller refreshes each, the others are served."""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually, is_error
from test_release import LONG, holder, queue, won
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
    tags_of,
    while_dead,
)

Start = Callable[..., Server]


def state(client: RawClient, key: bytes | str = "k") -> bytes:
    return client.call("CACHE.GET", key, "META")[0]


# What turns stale, and what is counted


def test_it_counts_the_entries_and_they_are_stale(raw: RawClient) -> None:
    put(raw, "a", "t", "u")
    put(raw, "b", "t")
    put(raw, "c", "u")
    assert raw.call("cache.markstale", "t") == 2
    assert raw.wire == b":2\r\n"
    assert [state(raw, key) for key in "abc"] == [b"stale", b"stale", b"hit"]
    assert raw.call("CACHE.MARKSTALE", "nobody") == 0


def test_the_first_caller_refreshes_and_the_others_are_served(raw: RawClient, connect: Connect) -> None:
    put(raw, "k", "t")
    raw.call("CACHE.MARKSTALE", "t")
    name, value, token, _ = raw.call("CACHE.GETSM", "k", "META")
    assert (name, value) == (b"won", b"v")
    name, value, *_ = connect().call("CACHE.GETSM", "k", "META")
    assert (name, value) == (b"stale", b"v")
    assert raw.call("CACHE.SETSM", "k", "new", LONG, "TOKEN", token, "TAGS", 1, "t") == b"OK"
    assert (state(raw), raw.call("CACHE.GETSM", "k")) == (b"hit", b"new")


def test_all_but_its_age_stays(raw: RawClient) -> None:
    put(raw, "k", "t", "u", options=("STALE", 60_000, "VERSION", 7, "COST", 250))
    before, end = as_map(raw.call("CACHE.INSPECT", "k")), raw.call("PEXPIRETIME", "k")
    raw.call("CACHE.MARKSTALE", "t")
    after = as_map(raw.call("CACHE.INSPECT", "k"))
    for field in (b"size", b"version", b"cost_ms", b"tags"):
        assert after[field] == before[field]
    assert (after[b"state"], after[b"fresh_ms"], raw.call("PEXPIRETIME", "k")) == (b"stale", 0, end)
    assert after[b"stale_ms"] == pytest.approx(LONG + 60_000 - 15_000, abs=15_000), "until the key goes"


def test_an_entry_without_end_stays_stale_without_end(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", "PERSIST", "TAGS", 1, "t")
    raw.call("CACHE.MARKSTALE", "t")
    assert raw.call("CACHE.GET", "k", "META") == [b"stale", b"v", None, -1]


def test_entries_that_are_stale_count_too(raw: RawClient) -> None:
    put(raw, "a", "t", options=("STALEAT", 1))
    put(raw, "b", "t")
    assert [raw.call("CACHE.MARKSTALE", "t") for _ in range(2)] == [2, 2]


def test_an_entry_under_several_of_the_tags_counts_once(raw: RawClient) -> None:
    put(raw, "a", "t", "u")
    put(raw, "b", "u", "w")
    assert raw.call("CACHE.MARKSTALE", "t", "nobody", "u", "t", "w") == 2


def test_keys_and_tags_are_any_bytes(raw: RawClient) -> None:
    for tag in NAMES:
        for key in NAMES:
            put(raw, key, tag)
        assert raw.call("CACHE.MARKSTALE", tag) == len(NAMES)
        assert {state(raw, key) for key in NAMES} == {b"stale"}


def test_many_turn_stale_at_once(raw: RawClient) -> None:
    fill(raw, 3_000, "t", "u")
    replies = raw.pipeline([("CACHE.MARKSTALE", "t"), ("CACHE.GET", "k0", "META"), ("CACHE.GET", "k2999", "META")])
    assert [replies[0], *[row[0] for row in replies[1:]]] == [3_000, b"stale", b"stale"]
    assert (raw.call("DBSIZE"), raw.call("CACHE.TAGCOUNT", "t")) == (3_000, 3_000)
    assert raw.call("CACHE.MARKSTALE", "t", "u") == 6_000, "many are counted once for each tag"


def test_it_does_not_bring_back_what_was_invalidated(raw: RawClient) -> None:
    assert while_dead(raw, ("CACHE.MARKSTALE", "t"), ("CACHE.GET", "k0")) == [0, None]


def test_what_is_stored_afterwards_is_fresh(raw: RawClient) -> None:
    put(raw, "k", "t")
    raw.call("CACHE.MARKSTALE", "t")
    put(raw, "other", "t")
    put(raw, "k", "t")
    assert (state(raw, "other"), state(raw)) == (b"hit", b"hit")


def test_a_stale_entry_stays_stale_wherever_it_goes(raw: RawClient) -> None:
    for key in "abc":
        put(raw, key, "t")
    raw.call("CACHE.MARKSTALE", "t")
    payload = raw.call("DUMP", "c")
    for move in (("RENAME", "a", "renamed"), ("COPY", "b", "copied"), ("RESTORE", "restored", 0, payload)):
        raw.call(*move)
    assert {state(raw, key) for key in ("renamed", "b", "copied", "restored")} == {b"stale"}
    assert tags_of(raw, "renamed") == [b"t"]


def test_maxstale_counts_from_the_moment_of_the_mark(raw: RawClient) -> None:
    put(raw, "k", "t")
    eventually(lambda: raw.call("PTTL", "k") < LONG - 300)
    narrow = ("CACHE.GETSM", "k", "WAIT", 0, "MAXSTALE", 250)
    replies = raw.pipeline([("CACHE.MARKSTALE", "t"), ("CACHE.GETSM", "k", "LEASE", LONG), narrow])
    assert replies == [1, None, b"v"]
    eventually(lambda: is_error(raw.call(*narrow), "LEASED"))
    assert raw.call("CACHE.GETSM", "k", "MAXSTALE", LONG) == b"v"
    raw.call("CACHE.MARKSTALE", "t")
    assert is_error(raw.call(*narrow), "LEASED"), "a second mark does not make it younger"


# Leases


def test_a_lease_stays_and_its_write_is_stored_stale(raw: RawClient) -> None:
    token = won(raw)
    assert raw.call("CACHE.MARKSTALE", "t") == 0
    assert holder(raw) == raw.client_id
    assert raw.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token, "TAGS", 2, "u", "t") == b"OK"
    assert raw.call("CACHE.GET", "k", "META")[:2] == [b"stale", b"late"]
    assert holder(raw) is None


def test_who_waits_for_a_late_write_is_served_it_and_the_next_caller_refreshes(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    token = won(raw)
    waiters = queue(server, connect, 2)
    raw.call("CACHE.MARKSTALE", "t")
    assert raw.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token, "TAGS", 1, "t") == b"OK"
    assert [waiter.recv()[:2] for waiter in waiters] == [[b"stale", b"late"]] * 2
    assert connect().call("CACHE.GETSM", "k", "META")[:2] == [b"won", b"late"]


@pytest.mark.parametrize(
    "options", [("TOKEN", "TAGS", 1, "other"), ("TOKEN",), ("TAGS", 1, "t")], ids=["other tag", "no tag", "no token"]
)
def test_other_writes_are_not_late(raw: RawClient, options: tuple[Any, ...]) -> None:
    token = won(raw)
    raw.call("CACHE.MARKSTALE", "t")
    options = ("TOKEN", token, *options[1:]) if options[:1] == ("TOKEN",) else options
    assert raw.call("CACHE.SETSM", "k", "new", LONG, *options) == b"OK"
    assert state(raw) == b"hit"


def test_a_refresh_that_began_before_the_mark_touches_the_entry_but_leaves_it_stale(raw: RawClient) -> None:
    put(raw, "k", "t", options=("STALEAT", 1))
    token = won(raw)
    assert raw.call("CACHE.MARKSTALE", "t") == 1
    assert raw.call("CACHE.TOUCH", "k", 2 * LONG, "TOKEN", token) == 1
    assert (state(raw), raw.call("PTTL", "k") > LONG) == (b"stale", True)


# Others who look at the keys


def test_no_value_changes_so_nobody_is_told(raw: RawClient, connect: Connect) -> None:
    put(raw, "k", "t")
    heard = listen(raw, connect)
    if raw.protocol == 3:
        tracker = connect()
        tracker.call("CLIENT", "TRACKING", "ON")
        tracker.call("CACHE.GET", "k")
    assert survives(connect(), ["k"], lambda: raw.call("CACHE.MARKSTALE", "t"))
    assert heard() == []
    if raw.protocol == 3:
        assert tracker.call("PING") == b"PONG" and not tracker.pushes


@pytest.mark.parametrize("place", PLACES)
def test_it_works_in_transactions_and_scripts(raw: RawClient, place: str) -> None:
    put(raw, "k", "t")
    assert run(raw, place, "CACHE.MARKSTALE", "t") == 1
    assert state(raw) == b"stale"


@pytest.mark.parametrize("count", [3, MANY])
def test_a_replica_is_sent_the_tags_that_entries_have(fresh_server: Start, count: int) -> None:
    pair = Pair(fresh_server)
    fill(pair.primary.raw(), count, "t")
    sent = pair.sent(("CACHE.MARKSTALE", "nobody", "t"), ("CACHE.MARKSTALE", "nobody"))
    ((command, word, since, tag),) = sent
    assert (command, word, tag) == ("CACHE.MARKSTALE", "STALEAT", "t") and int(since) > 1_700_000_000_000
    pair.assert_equal("k0", "k2")
    assert state(pair.replica.raw(), "k0") == b"stale"
    assert is_error(pair.replica.raw().call("CACHE.MARKSTALE", "t"), "READONLY")


def test_a_late_write_arrives_stale_since_the_mark(fresh_server: Start) -> None:
    pair = Pair(fresh_server)
    client = pair.primary.raw()
    token = won(client)
    client.call("CACHE.MARKSTALE", "t")
    (sent,) = pair.sent(("CACHE.SETSM", "k", "late", LONG, "TOKEN", token, "TAGS", 1, "t"))
    assert sent[:4] == ["CACHE.SETSM", "k", "late", "PXAT"] and sent[-3:] == ["TAGS", "1", "t"]
    assert "STALEAT" in sent
    pair.assert_equal("k")
    assert state(pair.replica.raw()) == b"stale"


# Permissions and the command


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("rule", ["~app:*", "%W~app:*"])
def test_what_a_user_may_not_change_is_left_alone(fresh_server: Start, protocol: int, rule: str, place: str) -> None:
    server = fresh_server()
    client = server.raw()
    put(client, "app:1", "t", "u")
    put(client, "elsewhere", "u")
    user = restricted(server, protocol, rule)
    assert run(user, place, "CACHE.MARKSTALE", "t", "u", "nobody") == 1
    assert [state(client, key) for key in ("app:1", "elsewhere")] == [b"stale", b"hit"]
    assert run(user, place, "CACHE.MARKSTALE", "u") == 1, "as it would be if all were theirs"


def test_who_may_only_read_marks_nothing(fresh_server: Start, protocol: int) -> None:
    server = fresh_server()
    client = server.raw()
    put(client, "app:1", "t")
    assert restricted(server, protocol, "%R~app:*").call("CACHE.MARKSTALE", "t") == 0
    assert state(client, "app:1") == b"hit"


def test_a_cluster_adds_up_the_counts_of_its_nodes(raw: RawClient) -> None:
    tips = {b"request_policy:all_shards", b"response_policy:agg_sum"}
    assert info(raw, "cache.markstale") == (-2, {b"write"}, tips)
    assert is_error(raw.call("COMMAND", "GETKEYS", "CACHE.MARKSTALE", "t"), "ERR The command has no key arguments")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_tag_that_is_too_long_and_nothing_changes(server: Server, raw: RawClient, place: int) -> None:
    put(raw, "a", "t", LONGEST)
    digest, tags = server.digest(), ["t", LONGEST]
    tags.insert(place, b"x" * 1025)
    assert raw.call("CACHE.MARKSTALE", *tags) == TOO_LONG
    assert (server.digest(), state(raw, "a")) == (digest, b"hit")


def test_too_few_arguments_are_refused(raw: RawClient) -> None:
    assert is_error(raw.call("CACHE.MARKSTALE"), "ERR wrong number of arguments")
