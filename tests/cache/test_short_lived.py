"""Entries that live for a millisecond: their time may be over in the middle of any command, and no key is open by then.

From Redis 8.6 on the server looks a key up when it is signalled as modified, and frees it if its time is over. The module
counts each key that is open when it asks the server for something that may do that, as it counts panics.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest

from harness import RawClient, Server

Start = Callable[..., Server]
ROUNDS = 300
KEYS = ["a", "b"]
LARGE = b"v" * (1 << 20)


def commands(key: str, at: int) -> list[tuple[Any, ...]]:
    """All that changes entries, in an order in which each finds one that is about to go, is stale, or is gone."""
    return [
        ("CACHE.SETSM", key, "v", 1),
        ("CACHE.TOUCH", key, 1),
        ("CACHE.SETSM", key, "v", 1, "STALE", 1, "TAGS", 2, "t", key),
        ("CACHE.TAG", key, "u"),
        ("CACHE.UNTAG", key, "t"),
        ("CACHE.MARKSTALE", "u"),
        ("CACHE.GETSM", key, "WAIT", 0),
        ("CACHE.TOUCH", key, 1, "STALE", 1),
        ("CACHE.INVALIDATE", "u"),
        ("SET", key, "native", "PX", 1),
        ("CACHE.TOUCH", key, 1),
        ("CACHE.SETSM", key, "v", "PXAT", at),
        ("CACHE.DEL", key),
        ("CACHE.SETSM", key, "v", 1, "TAGS", 1, "t"),
        ("CACHE.TAGDEL", "t"),
        ("CACHE.INSPECT", key),
    ]


def now_ms(server: Server) -> int:
    seconds, micros = server.call("TIME")
    return int(seconds) * 1_000 + int(micros) // 1_000


def run_noise(server: Server, client: RawClient) -> None:
    for _ in range(ROUNDS):
        client.pipeline(list(chain.from_iterable(commands(key, now_ms(server) + 1) for key in KEYS)))


@pytest.mark.timeout(120)
def test_a_server_lives_through_keys_of_a_millisecond(fresh_server: Start) -> None:
    primary = fresh_server(appendonly=True, config={"hz": 100})
    replica = fresh_server()
    replica.replica_of(primary)
    replica.wait_for_sync()
    run_noise(primary, primary.raw())
    replica.wait_for_sync()
    for server in (primary, replica):
        server.assert_alive()
        assert server.stats()["panics"] == 0


def test_a_time_that_is_over_when_it_is_set(server: Server, raw: RawClient) -> None:
    """To copy a large value takes longer than it lives."""
    for _ in range(20):
        assert raw.call("CACHE.SETSM", "k", LARGE, 1) == b"OK"
        assert raw.call("SET", "native", LARGE) == b"OK"
        assert raw.call("CACHE.TOUCH", "native", 1) == 1
    server.assert_alive()
    assert server.stats()["panics"] == 0


@pytest.mark.parametrize("place", ["transaction", "script"])
def test_inside_transactions_and_scripts(server: Server, raw: RawClient, place: str) -> None:
    """Time stands still there for what expires, and goes on for what is set."""
    for _ in range(50):
        asked = commands("k", now_ms(server) + 1)
        if place == "transaction":
            raw.pipeline([("MULTI",), *asked, ("EXEC",)])
        else:
            for command in asked:
                raw.call("EVAL", "return redis.pcall(unpack(ARGV))", 1, "k", *command)
    server.assert_alive()
    assert server.stats()["panics"] == 0
