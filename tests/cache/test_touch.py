"""CACHE.TOUCH: the origin said "not modified", so the value is re-armed without being sent."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually, is_error
from test_release import LONG, NO_TOKENS, holder, queue, state, won

Connect = Callable[..., RawClient]
TTL_RANGE = "ERR ttl must be an integer from 1 to 315360000000"
STALE_RANGE = "ERR STALE must be an integer from 0 to 315360000000"
PXAT_RANGE = f"ERR PXAT must be an integer from 1 to {(2**63 - 1) // 2}"
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


def make_stale(client: RawClient, *options: Any) -> None:
    stored = client.call("CACHE.SETSM", "k", "old", "PXAT", int(time.time() * 1000) - 1, "STALE", LONG, *options)
    assert stored == b"OK"


def inspect(client: RawClient) -> dict[bytes, Any]:
    return as_map(client.call("CACHE.INSPECT", "k"))


def about(ms: int) -> Any:
    return pytest.approx(ms - 15_000, abs=15_000)


def test_a_stale_entry_is_fresh_again_and_keeps_all_but_its_times(raw: RawClient) -> None:
    make_stale(raw, "VERSION", 7, "COST", 250)
    assert state(raw) == b"won"
    assert raw.call("cache.touch", "k", LONG, "STALE", 60_000) == 1
    assert raw.wire == b":1\r\n"
    entry = inspect(raw)
    assert (entry[b"state"], entry[b"version"], entry[b"cost_ms"]) == (b"fresh", 7, 250)
    assert (entry[b"fresh_ms"], entry[b"stale_ms"]) == (about(LONG), 60_000)
    assert raw.call("PTTL", "k") == about(LONG + 60_000)
    assert raw.call("CACHE.GETSM", "k") == b"old"


@pytest.mark.parametrize(
    "ttl, pttl", [("60000", 60_000), ("60000 STALE 0", 60_000), ("PERSIST", None), ("persist STALE 7", None)]
)
def test_without_stale_the_stale_period_is_gone(raw: RawClient, ttl: str, pttl: int | None) -> None:
    make_stale(raw)
    assert raw.call("CACHE.TOUCH", "k", *ttl.split()) == 1
    assert raw.call("PTTL", "k") == (-1 if pttl is None else about(pttl))


def test_an_absolute_time_is_kept_to_the_millisecond(raw: RawClient) -> None:
    make_stale(raw)
    at = int(time.time() * 1000) + LONG
    assert raw.call("CACHE.TOUCH", "k", "PXAT", at, "STALE", 5) == 1
    assert raw.call("PEXPIRETIME", "k") == at + 5


def test_a_time_that_is_over_deletes_the_key(server: Server, raw: RawClient) -> None:
    make_stale(raw)
    assert raw.call("CACHE.TOUCH", "k", "PXAT", 1, "STALE", 5) == 1
    assert raw.call("EXISTS", "k") == 0


def test_a_fresh_entry_lives_longer_or_shorter(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", 60_000)
    for ttl in (LONG, 30_000):
        assert raw.call("CACHE.TOUCH", "k", ttl) == 1
        assert raw.call("PTTL", "k") == about(ttl)


def test_nothing_is_there_to_touch(server: Server, raw: RawClient, connect: Connect) -> None:
    assert raw.call("CACHE.TOUCH", "k", LONG) == 0
    token = won(raw)
    (waiter,) = queue(server, connect, 1)
    assert raw.call("CACHE.TOUCH", "k", LONG, "TOKEN", token) == 0
    assert (raw.call("EXISTS", "k"), holder(raw), waiter.has_reply()) == (0, raw.client_id, False)


@pytest.mark.parametrize("value", [b"v", b"12345", b"", b"\xff" * 1000], ids=repr)
def test_a_native_string_becomes_an_entry_of_the_same_value(raw: RawClient, value: bytes) -> None:
    raw.call("SET", "k", value)
    assert raw.call("CACHE.TOUCH", "k", LONG, "STALE", 60_000) == 1
    assert raw.call("TYPE", "k") == b"cg-cached"
    assert raw.call("CACHE.GETSM", "k") == value
    assert raw.call("PTTL", "k") == about(LONG + 60_000)


@pytest.mark.parametrize("token", ["its own", None])
def test_it_ends_the_lease_and_answers_waiters(
    server: Server, raw: RawClient, connect: Connect, token: str | None
) -> None:
    make_stale(raw)
    held = won(raw)
    eventually(lambda: raw.call("CACHE.GET", "k", "META")[3] < LONG - 5)
    waiters = queue(server, connect, 2, "k", "MAXSTALE", 1)
    assert raw.call("CACHE.TOUCH", "k", LONG, *(("TOKEN", held) if token else ())) == 1
    assert [waiter.recv() for waiter in waiters] == [[b"hit", b"old", None, about(LONG)]] * 2
    assert (holder(raw), server.stats()["waiters"]) == (None, 0)
    assert raw.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", held) is None
    assert raw.call("CACHE.GETSM", "k") == b"old"


def test_a_token_that_is_not_the_leases_changes_nothing(server: Server, raw: RawClient, connect: Connect) -> None:
    make_stale(raw)
    dead = won(raw)
    assert raw.call("CACHE.RELEASE", "k", dead) == 1
    held, digest = won(connect()), server.digest()
    for wrong in [*NO_TOKENS, dead]:
        assert raw.call("CACHE.TOUCH", "k", LONG, "TOKEN", wrong) == 0
    assert server.digest() == digest
    assert state(raw) == b"stale"
    assert raw.call("CACHE.TOUCH", "k", LONG, "TOKEN", held) == 1


def test_the_cost_is_not_measured_by_a_touch(raw: RawClient) -> None:
    """Asking whether something changed says nothing of what it costs to load."""
    make_stale(raw, "COST", 12_345)
    token = won(raw)
    assert raw.call("CACHE.TOUCH", "k", LONG, "TOKEN", token) == 1
    assert inspect(raw)[b"cost_ms"] == 12_345


def test_the_configured_jitter_does_not_move_it(raw: RawClient) -> None:
    raw.call("CONFIG", "SET", "cacheguard.jitter-percent", 50)
    raw.call("CACHE.SETSM", "k", "v", LONG)
    for _ in range(20):
        assert raw.call("CACHE.TOUCH", "k", LONG) == 1
        assert raw.call("PTTL", "k") == about(LONG)


def test_other_types_are_refused_and_left_alone(server: Server, raw: RawClient) -> None:
    raw.call("LPUSH", "k", "x")
    digest = server.digest()
    assert raw.call("CACHE.TOUCH", "k", LONG) == WRONGTYPE
    assert server.digest() == digest


def test_it_tells_subscribers_watchers_and_nobody_when_nothing_changed(raw: RawClient, connect: Connect) -> None:
    raw.call("CONFIG", "SET", "notify-keyspace-events", "EAd")
    make_stale(raw)
    hearer = connect()
    hearer.send("PSUBSCRIBE", "__keyevent@0__:*")
    (hearer.recv_push if hearer.protocol == 3 else hearer.recv)()
    watcher = connect()
    assert watcher.call("WATCH", "k") == b"OK"
    assert raw.call("CACHE.TOUCH", "k", LONG, "TOKEN", "0" * 32) == 0
    assert watcher.pipeline([("MULTI",), ("PING",), ("EXEC",)])[-1] == [b"PONG"]
    assert watcher.call("WATCH", "k") == b"OK"
    assert raw.call("CACHE.TOUCH", "k", LONG) == 1
    assert watcher.pipeline([("MULTI",), ("PING",), ("EXEC",)])[-1] is None
    event = (hearer.recv_push if hearer.protocol == 3 else hearer.recv)()
    assert event[-2:] == [b"__keyevent@0__:cache.touch", b"k"]


@pytest.mark.parametrize(
    "arguments, error",
    [
        ("0", TTL_RANGE),
        ("-1", TTL_RANGE),
        ("1.5", TTL_RANGE),
        ("315360000001", TTL_RANGE),
        ("never", TTL_RANGE),
        ("5 STALE", "ERR STALE is missing"),
        ("5 STALE -1", STALE_RANGE),
        ("5 STALE 315360000001", STALE_RANGE),
        ("5 STALE 1 stale 1", "ERR STALE was given more than once"),
        ("5 TOKEN", "ERR TOKEN is missing"),
        ("5 TOKEN a TOKEN a", "ERR TOKEN was given more than once"),
        ("5 VERSION 1", "ERR unknown option 'VERSION'"),
        ("5 JITTER 1", "ERR unknown option 'JITTER'"),
        ("5 6", "ERR unknown option '6'"),
        ("PXAT", "ERR PXAT is missing"),
        ("PXAT 0", PXAT_RANGE),
        ("PXAT 9223372036854775807", PXAT_RANGE),
        ("PERSIST 5", "ERR unknown option '5'"),
    ],
)
def test_a_refused_call_changes_nothing(server: Server, raw: RawClient, arguments: str, error: str) -> None:
    make_stale(raw)
    won(raw)
    digest = server.digest()
    assert raw.call("CACHE.TOUCH", "k", *arguments.split()) == error
    assert (server.digest(), holder(raw)) == (digest, raw.client_id)


@pytest.mark.parametrize("arguments", [(), ("k",)], ids=len)
def test_too_few_arguments_are_refused(raw: RawClient, arguments: tuple[str, ...]) -> None:
    assert is_error(raw.call("CACHE.TOUCH", *arguments), "ERR wrong number of arguments")


def test_it_makes_fresh_what_was_marked_stale_and_keeps_the_tags(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG, "TAGS", 2, "t", "u")
    raw.call("CACHE.MARKSTALE", "t")
    assert state(raw) == b"won"
    assert raw.call("CACHE.TOUCH", "k", LONG) == 1
    assert (state(raw), raw.call("CACHE.TAGS", "k")) == (b"hit", [b"t", b"u"])
    assert [raw.call(command, "u") for command in ("CACHE.MARKSTALE", "CACHE.INVALIDATE")] == [1, 1]


def test_an_invalidated_entry_is_not_there_to_touch(raw: RawClient) -> None:
    stored = [("CACHE.SETSM", f"k{number}", "v", LONG, "TAGS", 1, "t") for number in range(1_001)]
    raw.pipeline(stored)
    touch = ("CACHE.TOUCH", "k5", LONG)
    replies = raw.pipeline([("MULTI",), ("CACHE.INVALIDATE", "t"), touch, ("CACHE.GET", "k5"), ("EXEC",)])[-1]
    assert replies == [1_001, 0, None]


@pytest.mark.parametrize("tags", [(), ("TAGS", 1, "t")], ids=["no tags", "tags"])
def test_staleat_leaves_it_stale_since_then(raw: RawClient, connect: Connect, tags: tuple[Any, ...]) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG, *tags)
    assert raw.call("CACHE.TOUCH", "k", LONG, "staleat", int(time.time() * 1000) - 60_000) == 1
    won(raw)
    assert raw.call("CACHE.GETSM", "k", "MAXSTALE", LONG) == b"v"
    assert is_error(connect().call("CACHE.GETSM", "k", "WAIT", 0, "MAXSTALE", 50_000), "LEASED")


@pytest.mark.parametrize(
    "arguments, error",
    [
        ("5 STALEAT", "ERR STALEAT is missing"),
        ("5 STALEAT -1", f"ERR STALEAT must be an integer from 0 to {(2**63 - 1) // 2}"),
        ("5 STALEAT 1 staleat 1", "ERR STALEAT was given more than once"),
        ("5 TAGS 1 t", "ERR unknown option 'TAGS'"),
    ],
)
def test_a_refused_call_leaves_the_tags(server: Server, raw: RawClient, arguments: str, error: str) -> None:
    make_stale(raw, "TAGS", 1, "t")
    digest = server.digest()
    assert raw.call("CACHE.TOUCH", "k", *arguments.split()) == error
    assert (server.digest(), raw.call("CACHE.TAGS", "k")) == (digest, [b"t"])
