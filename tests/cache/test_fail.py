"""CACHE.FAIL: the origin is down; it is left alone for a while, and everyone is told at once.

A failure is remembered beside the keyspace until its window ends, so each test has a key of its own.
"""

import itertools
import time
from collections.abc import Callable

import pytest

from harness import RawClient, Server, eventually, is_error
from test_release import LONG, NO_TOKENS, holder, queue, won

Connect = Callable[..., RawClient]
RETRY_RANGE = "ERR RETRY must be an integer from 1 to 315360000000"
numbers = itertools.count()


@pytest.fixture
def key() -> str:
    return f"k{next(numbers)}"


def make_stale(client: RawClient, key: str, value: str = "old") -> None:
    """Stores a value that has just turned stale."""
    stored = client.call("CACHE.SETSM", key, value, "PXAT", int(time.time() * 1000) - 1, "STALE", LONG)
    assert stored == b"OK"


def failed(client: RawClient, key: str, *options: str | int) -> None:
    """Takes the lease and fails."""
    assert client.call("CACHE.FAIL", key, won(client, key), *options) == 1


def test_all_waiters_are_told_at_once(server: Server, raw: RawClient, connect: Connect, key: str) -> None:
    token, count = won(raw, key), server.stats()["leases_failed"]
    rows = queue(server, connect, 2, key)
    plain = connect().send("CACHE.GETSM", key, "WAIT", LONG)
    eventually(lambda: server.stats()["waiters"] == 3)
    assert raw.call("cache.fail", key, token, "message", "db down", "retry", LONG) == 1
    assert raw.wire == b":1\r\n"
    for client in rows:
        assert client.recv() == [b"failed", None, None, pytest.approx(LONG, abs=30_000)]
    assert plain.recv() == "FAILED db down"
    assert (server.stats()["waiters"], server.stats()["leases"]) == (0, 0)
    assert server.stats()["leases_failed"] == count + 1


@pytest.mark.parametrize("refusal, others", [(b"failed", b"leased"), (b"stale", b"stale")], ids=["missing", "stale"])
def test_for_the_time_of_retry_nobody_is_granted_the_lease_then_exactly_one(
    server: Server, raw: RawClient, key: str, refusal: bytes, others: bytes
) -> None:
    if refusal == b"stale":
        make_stale(raw, key)
    token = won(raw, key)
    began = time.monotonic()
    assert raw.call("CACHE.FAIL", key, token, "RETRY", 1000) == 1
    ended = time.monotonic()
    with server.herd(100) as herd:
        while True:
            sent = herd.send("CACHE.GETSM", key, "WAIT", 0, "LEASE", LONG, "META")
            answers = herd.collect()
            states = [answer.reply[0] for answer in answers]
            if b"won" in states:
                break
            assert set(states) == {refusal}
            if refusal == b"failed":
                assert (sent - ended) * 1000 + answers[0].reply[3] <= 1001
                assert (answers[0].at - began) * 1000 + answers[0].reply[3] >= 999
        granted = max(answer.at for answer in answers if answer.reply[0] == b"won")
        assert (granted - began) * 1000 >= 999
        assert states.count(b"won") == 1
        assert set(states) - {b"won"} <= {refusal, others}
        herd.send("CACHE.GETSM", key, "WAIT", 0, "META")
        assert {answer.reply[0] for answer in herd.collect()} == {others}


def test_during_the_window_a_stale_value_is_served_to_all(raw: RawClient, connect: Connect, key: str) -> None:
    make_stale(raw, key)
    failed(raw, key, "RETRY", LONG)
    assert connect().call("CACHE.GETSM", key) == b"old"
    name, value, token, ms = connect().call("CACHE.GETSM", key, "META")
    assert (name, value, token, ms) == (b"stale", b"old", None, pytest.approx(LONG, abs=30_000))
    assert holder(raw, key) is None


def test_waiters_get_the_stale_value_if_there_is_one(
    server: Server, raw: RawClient, connect: Connect, key: str
) -> None:
    """One comes to be there while they wait: a stale entry is renamed onto the key."""
    won(raw, key)
    first = queue(server, connect, 1, key)[0]
    plain = connect().send("CACHE.GETSM", key, "WAIT", LONG)
    eventually(lambda: server.stats()["waiters"] == 2)
    make_stale(raw, key + "'")
    raw.call("RENAME", key + "'", key)
    name, value, token, _ = first.recv()
    assert (name, value) == (b"won", b"old")
    assert raw.call("CACHE.FAIL", key, token, "RETRY", LONG) == 1
    assert plain.recv() == b"old"


def test_a_caller_that_accepts_nothing_so_stale_is_told_of_the_failure(
    server: Server, raw: RawClient, connect: Connect, key: str
) -> None:
    make_stale(raw, key)
    eventually(lambda: raw.call("CACHE.GET", key, "META")[3] < LONG - 5)
    failed(raw, key, "RETRY", LONG, "MESSAGE", "no")
    assert raw.call("CACHE.GETSM", key, "MAXSTALE", 1) == "FAILED no"
    assert raw.call("CACHE.GETSM", key, "MAXSTALE", LONG) == b"old"


@pytest.mark.parametrize("end", ["SETSM", "TOUCH", "SETSM TOKEN"])
def test_a_value_ends_the_window(raw: RawClient, connect: Connect, key: str, end: str) -> None:
    make_stale(raw, key)
    token = won(raw, key)
    assert raw.call("CACHE.FAIL", key, token, "RETRY", LONG) == 1
    if end == "SETSM TOKEN":
        assert raw.call("CACHE.SETSM", key, "late", LONG, "TOKEN", token) is None
        assert raw.call("CACHE.GETSM", key, "META")[:2] == [b"stale", b"old"]
        return
    assert raw.call(f"CACHE.{end}", key, *(["new"] if end == "SETSM" else []), LONG) in (b"OK", 1)
    assert connect().call("CACHE.GETSM", key) == (b"new" if end == "SETSM" else b"old")
    assert raw.call("DEL", key) == 1
    assert won(raw, key) != token


def test_a_value_of_a_plain_command_is_served_in_the_window(raw: RawClient, key: str) -> None:
    failed(raw, key, "RETRY", LONG)
    raw.call("SET", key, "v")
    assert raw.call("CACHE.GETSM", key) == b"v"


def test_without_retry_the_window_is_as_configured(raw: RawClient, key: str) -> None:
    assert raw.call("CONFIG", "GET", "cacheguard.retry-ms") in (
        [b"cacheguard.retry-ms", b"1000"],
        {b"cacheguard.retry-ms": b"1000"},
    )
    failed(raw, key)
    assert 0 <= raw.call("CACHE.GETSM", key, "META")[3] <= 1000
    raw.call("CONFIG", "SET", "cacheguard.retry-ms", LONG)
    failed(raw, key + "'")
    assert raw.call("CACHE.GETSM", key + "'", "META") == [b"failed", None, None, pytest.approx(LONG, abs=30_000)]


def test_the_message_is_the_last_holders_and_cannot_break_the_protocol(raw: RawClient, key: str) -> None:
    failed(raw, key, "RETRY", LONG)
    assert raw.call("CACHE.GETSM", key) == "FAILED the origin failed"
    for number, (given, told) in enumerate(
        {b"": "", b"a\r\n-ERR b\0c": "a  -ERR b c", b"x" * 1024: "x" * 1024}.items()
    ):
        failed(raw, f"{key}.{number}", "RETRY", LONG, "MESSAGE", given)
        assert raw.call("CACHE.GETSM", f"{key}.{number}") == f"FAILED {told}".rstrip() or told == ""
        assert raw.call("PING") == b"PONG"
    failed(raw, f"{key}.utf8", "RETRY", LONG, "MESSAGE", "für".encode() + b"\xff")
    assert raw.call("CACHE.GETSM", f"{key}.utf8").startswith("FAILED für")


def test_only_the_holder_can_fail(raw: RawClient, connect: Connect, key: str) -> None:
    token, stranger = won(raw, key), connect()
    for wrong in [*NO_TOKENS, token[:-1]]:
        assert stranger.call("CACHE.FAIL", key, wrong, "RETRY", LONG) == 0
    assert stranger.call("CACHE.FAIL", key + "'", token) == 0
    assert holder(raw, key) == raw.client_id
    assert stranger.call("CACHE.FAIL", key, token, "RETRY", LONG) == 1, "the token is what counts"
    assert stranger.call("CACHE.FAIL", key, token, "RETRY", LONG) == 0


def test_a_holder_whose_lease_has_expired_changes_nothing(raw: RawClient, key: str) -> None:
    token = won(raw, key, "LEASE", 1)
    eventually(lambda: holder(raw, key) is None)
    assert raw.call("CACHE.FAIL", key, token, "RETRY", LONG) == 0
    won(raw, key)


def test_a_failure_concerns_one_key_of_one_database(raw: RawClient, connect: Connect, key: str) -> None:
    failed(raw, key, "RETRY", LONG)
    won(raw, key + "'")
    raw.call("SELECT", 1)
    won(raw, key)


def test_a_failed_early_refresh_leaves_the_value_alone(raw: RawClient, key: str) -> None:
    eager = ("EARLY", 1e9)
    assert raw.call("CACHE.SETSM", key, "v", LONG, "COST", 1000) == b"OK"
    assert raw.call("CACHE.FAIL", key, won(raw, key, *eager), "RETRY", LONG) == 1
    assert [raw.call("CACHE.GETSM", key, "META", *eager)[:2] for _ in range(20)] == [[b"hit", b"v"]] * 20


def test_rows_of_mgetsm_tell_it(server: Server, raw: RawClient, connect: Connect, key: str) -> None:
    token = won(raw, key)
    group = connect().send("CACHE.MGETSM", 1, key, "WAIT", LONG)
    eventually(lambda: server.stats()["waiters"] == 1)
    assert raw.call("CACHE.FAIL", key, token, "RETRY", LONG) == 1
    assert group.recv() == [[b"failed", None, None, pytest.approx(LONG, abs=30_000)]]
    assert raw.call("CACHE.MGETSM", 1, key) == [[b"failed", None, None, pytest.approx(LONG, abs=30_000)]]


@pytest.mark.parametrize(
    "options, error",
    [
        ("RETRY", "ERR RETRY is missing"),
        ("MESSAGE", "ERR MESSAGE is missing"),
        ("RETRY 0", RETRY_RANGE),
        ("RETRY -1", RETRY_RANGE),
        ("RETRY 1.5", RETRY_RANGE),
        ("RETRY 315360000001", RETRY_RANGE),
        ("RETRY 5 retry 5", "ERR RETRY was given more than once"),
        ("MESSAGE a MESSAGE a", "ERR MESSAGE was given more than once"),
        ("WAIT 5", "ERR unknown option 'WAIT'"),
        (f"MESSAGE {'x' * 1025}", "ERR MESSAGE must not be longer than 1024 bytes"),
    ],
)
def test_a_refused_call_changes_nothing(raw: RawClient, key: str, options: str, error: str) -> None:
    token = won(raw, key)
    assert raw.call("CACHE.FAIL", key, token, *options.split()) == error
    assert holder(raw, key) == raw.client_id


@pytest.mark.parametrize("arguments", [(), ("k",)], ids=len)
def test_too_few_arguments_are_refused(raw: RawClient, arguments: tuple[str, ...]) -> None:
    assert is_error(raw.call("CACHE.FAIL", *arguments), "ERR wrong number of arguments")
