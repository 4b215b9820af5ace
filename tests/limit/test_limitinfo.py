"""CACHE.LIMITINFO: how much of a limit is used and who waits for it, changing nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually, is_error

Connect = Callable[..., RawClient]
LONG = 600_000  # milliseconds; no test lasts as long
TEN_YEARS = 315_360_000_000


def info(client: RawClient | Server, key: str = "k") -> dict[bytes, Any]:
    """The reply with its maps as dicts, in either protocol."""
    told = as_map(client.call("CACHE.LIMITINFO", key))
    told[b"rules"] = [as_map(rule) for rule in told[b"rules"]]
    return told


def test_no_key(raw: RawClient) -> None:
    assert info(raw) == {b"algorithm": None, b"rules": [], b"waiting": 0, b"oldest_wait_ms": 0}
    assert raw.call("EXISTS", "k") == 0


def test_it_is_a_map_in_resp3(raw: RawClient, protocol: int) -> None:
    raw.call("CACHE.RATELIMIT", "k", 5, LONG)
    told = raw.call("CACHE.LIMITINFO", "k")
    assert isinstance(told, dict if protocol == 3 else list)
    assert raw.wire.startswith(b"%4\r\n" if protocol == 3 else b"*8\r\n")


@pytest.mark.parametrize("algorithm", ["SLIDING", "FIXED", "GCRA"])
def test_each_rule_tells_what_is_used_and_left(raw: RawClient, algorithm: str) -> None:
    assert raw.call("CACHE.RATELIMIT", "k", 5, TEN_YEARS, 9, TEN_YEARS, "COST", 3, "ALGORITHM", algorithm)[0] == 3
    told = info(raw)
    assert told[b"algorithm"] == algorithm.lower().encode()
    resets = [rule.pop(b"reset_ms") for rule in told[b"rules"]]
    assert all(0 < reset <= TEN_YEARS for reset in resets)
    assert told[b"rules"] == [
        {b"limit": 5, b"window": TEN_YEARS, b"used": 3, b"remaining": 2},
        {b"limit": 9, b"window": TEN_YEARS, b"used": 3, b"remaining": 6},
    ]


def test_a_bucket_of_cl_throttle(raw: RawClient) -> None:
    assert raw.call("CL.THROTTLE", "k", 15, 30, 60, 5)[0] == 0
    told = info(raw)
    [rule] = told[b"rules"]
    assert (told[b"algorithm"], rule[b"limit"], rule[b"window"]) == (b"gcra", 16, 32_000)
    assert rule[b"used"] + rule[b"remaining"] == 16 and rule[b"reset_ms"] <= 10_000


def test_who_waits(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.RATELIMIT", "k", 1, LONG)
    for _ in range(3):
        connect().send("CACHE.RATELIMIT", "k", 1, LONG, "WAIT", LONG)
    eventually(lambda: info(raw)[b"waiting"] == 3)
    eventually(lambda: info(raw)[b"oldest_wait_ms"] >= 20)
    assert info(raw, "other")[b"waiting"] == 0
    raw.call("SELECT", 1)
    assert info(raw)[b"waiting"] == 0, "lines are of a database"


def test_looking_changes_nothing(server: Server, raw: RawClient) -> None:
    raw.call("CACHE.RATELIMIT", "k", 5, LONG)
    before = server.digest(), server.info("replication")["master_repl_offset"]
    raw.call("WATCH", "k")
    info(raw)
    assert raw.pipeline([("MULTI",), ("PING",), ("EXEC",)])[-1] == [b"PONG"]
    assert (server.digest(), server.info("replication")["master_repl_offset"]) == before


def test_it_may_be_asked_of_a_replica_and_by_who_may_only_read(fresh_server: Callable[..., Server]) -> None:
    primary, replica = fresh_server(), fresh_server()
    replica.replica_of(primary)
    primary.call("CACHE.RATELIMIT", "k", 5, LONG)
    replica.wait_for_sync()
    assert info(replica)[b"rules"][0][b"used"] == 1
    replica.call("CONFIG", "SET", "maxmemory", 1)
    assert info(replica)[b"rules"][0][b"used"] == 1
    primary.call("ACL", "SETUSER", "reader", "on", "nopass", "+@all", "%R~k")
    reader = primary.raw(auth=("reader", ""))
    assert info(reader)[b"rules"][0][b"remaining"] == 4
    assert is_error(reader.call("CACHE.LIMITINFO", "theirs"), "NOPERM")


def test_errors(raw: RawClient) -> None:
    assert is_error(raw.call("CACHE.LIMITINFO"), "ERR wrong number of arguments")
    assert is_error(raw.call("CACHE.LIMITINFO", "a", "b"), "ERR wrong number of arguments")
    raw.call("SET", "string", "v")
    assert is_error(raw.call("CACHE.LIMITINFO", "string"), "WRONGTYPE")
