"""CACHE.RATELIMIT_RO: what CACHE.RATELIMIT … PEEK says, where nothing may be written."""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error

Connect = Callable[..., RawClient]
TEN_YEARS = 315_360_000_000
ALGORITHMS = ["SLIDING", "FIXED", "GCRA"]
CALL = ("CACHE.RATELIMIT_RO", "k", 5, TEN_YEARS)


def same(raw: RawClient, *words: Any) -> list[int]:
    """Both commands say the same, but for the time that passes between them."""
    told = raw.call("CACHE.RATELIMIT_RO", *words)
    assert raw.wire.startswith(b"*5\r\n:")
    peek = raw.call("CACHE.RATELIMIT", *words, "PEEK")
    assert told[:3] == peek[:3] and all(abs(a - b) < 60_000 for a, b in zip(told[3:], peek[3:])), (told, peek)
    return told


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_says_what_a_peek_says(raw: RawClient, algorithm: str) -> None:
    rule = ("k", 5, TEN_YEARS, "ALGORITHM", algorithm)
    assert same(raw, *rule)[:4] == [1, 5, 4, 0]
    assert raw.call("EXISTS", "k") == 0
    raw.call("CACHE.RATELIMIT", *rule, "COST", 3)
    assert same(raw, *rule)[:4] == [1, 5, 1, 0]
    assert same(raw, *rule, "COST", 3)[:3] == [0, 5, 2]
    assert same(raw, *rule, "COST", 3, "PARTIAL")[:3] == [2, 5, 0]
    assert same(raw, *rule, "COST", 6)[3] == -1
    for other in ALGORITHMS:
        same(raw, "k", 4, TEN_YEARS // 2, 9, TEN_YEARS, "ALGORITHM", other)


def test_peek_may_be_said(raw: RawClient) -> None:
    assert raw.call(*CALL, "PEEK")[:4] == raw.call(*CALL)[:4] == [1, 5, 4, 0]


def test_others_that_wait_go_first(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.RATELIMIT", "k", 5, TEN_YEARS, "COST", 4)
    connect().send("CACHE.RATELIMIT", "k", 5, TEN_YEARS, "COST", 2, "WAIT", TEN_YEARS)
    eventually(lambda: server.stats()["limits_waiting"] == 1)
    allowed, limit, remaining, retry, _ = raw.call(*CALL)
    assert (allowed, limit, remaining) == (0, 5, 1) and retry > 0


def test_nothing_is_written_or_counted(server: Server, raw: RawClient) -> None:
    raw.call("CACHE.RATELIMIT", "k", 5, TEN_YEARS)

    def seen() -> tuple[Any, ...]:
        stats = server.stats()
        offset = server.info("replication")["master_repl_offset"]
        return server.digest(), offset, stats["limits_allowed"], stats["limits_refused"]

    before = seen()
    raw.call("WATCH", "k")
    for options in [(), ("COST", 9), ("ALGORITHM", "GCRA"), ("PARTIAL",)]:
        raw.call(*CALL, *options)
    assert raw.pipeline([("MULTI",), ("PING",), ("EXEC",)])[-1] == [b"PONG"]
    assert seen() == before


def test_it_works_where_writes_are_refused(fresh_server: Callable[..., Server], protocol: int) -> None:
    primary, replica = fresh_server(), fresh_server()
    replica.replica_of(primary)
    primary.call("CACHE.RATELIMIT", "k", 5, TEN_YEARS, "COST", 2)
    replica.wait_for_sync()
    client = replica.raw(protocol)
    assert is_error(client.call("CACHE.RATELIMIT", "k", 5, TEN_YEARS, "PEEK"), "READONLY")
    assert client.call(*CALL)[:3] == [1, 5, 2]
    primary.call("CONFIG", "SET", "maxmemory", 1)
    client = primary.raw(protocol)
    assert is_error(client.call("CACHE.RATELIMIT", "k", 5, TEN_YEARS, "PEEK"), "OOM")
    assert client.call(*CALL)[:3] == [1, 5, 2]
    script = "return redis.call('CACHE.RATELIMIT_RO', KEYS[1], 5, 315360000000)"
    assert client.call("EVAL_RO", script, 1, "k")[:3] == [1, 5, 2]
    client.call("CLIENT", "PAUSE", 60_000, "WRITE")
    assert client.call(*CALL)[:3] == [1, 5, 2]
    client.call("CLIENT", "UNPAUSE")
    primary.call("ACL", "SETUSER", "reader", "on", "nopass", "+@all", "%R~k")
    reader = primary.raw(protocol, auth=("reader", ""))
    assert reader.call(*CALL)[:3] == [1, 5, 2]
    assert is_error(reader.call("CACHE.RATELIMIT_RO", "theirs", 5, 1), "NOPERM")


@pytest.mark.parametrize(
    "words, error",
    [
        ("0 1", "ERR limit must be an integer from 1 to 1000000000"),
        ("1 1 WAIT 5", "ERR unknown option 'WAIT'"),
        ("1 1 AT 5", "ERR unknown option 'AT'"),
        ("1 1 PEEK PEEK", "ERR PEEK was given more than once"),
        ("STATE x", "ERR limit must be an integer from 1 to 1000000000"),
        ("1 1 ALGORITHM x", "ERR ALGORITHM must be SLIDING, FIXED or GCRA"),
    ],
)
def test_errors(raw: RawClient, words: str, error: str) -> None:
    assert raw.call("CACHE.RATELIMIT_RO", "k", *words.split()) == error


def test_other_types(raw: RawClient) -> None:
    raw.call("SET", "k", "v")
    assert is_error(raw.call(*CALL), "WRONGTYPE")
