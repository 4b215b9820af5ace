"""CL.THROTTLE: redis-cell's command and reply, without what made redis-cell a danger to its server.

The engine's property tests hold the arithmetic to redis-cell's at the same instants. Where the library itself is at
hand, `REDIS_CELL_MODULE=path/to/libredis_cell.so` lets both modules answer the same calls side by side.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import RawClient, Server, as_map, is_error
from test_ratelimit import LONG, WRONGTYPE

SETTING = "cacheguard.cl-throttle"


def test_the_example_of_redis_cell(raw: RawClient) -> None:
    assert raw.call("CL.THROTTLE", "user123", 15, 30, 60) == [0, 16, 15, -1, 2]
    assert raw.wire == b"*5\r\n:0\r\n:16\r\n:15\r\n:-1\r\n:2\r\n"


def test_a_burst_and_then_no_more(raw: RawClient) -> None:
    call = ("cl.throttle", "k", 4, 1, 10_000)
    assert [raw.call(*call) for _ in range(5)] == [[0, 5, 4 - n, -1, 10_000 * (n + 1)] for n in range(5)]
    assert raw.call(*call) == [1, 5, 0, 10_000, 50_000]
    assert raw.call(*call, 3) == [1, 5, 0, 30_000, 50_000]
    assert raw.call(*call, 6) == [1, 5, 0, -1, 50_000], "more than there ever is"
    assert raw.call("TYPE", "k") == b"cg-limits"
    assert raw.call("PTTL", "k") == pytest.approx(50_000_000, abs=30_000)


def test_a_quantity_of_nothing_only_looks(server: Server, raw: RawClient) -> None:
    call = ("CL.THROTTLE", "k", 4, 1, 10_000)
    assert raw.call(*call, 0) == [0, 5, 5, -1, 0]
    assert raw.call("EXISTS", "k") == 0
    assert raw.call(*call, 5) == [0, 5, 0, -1, 50_000]
    digest = server.digest()
    assert raw.call(*call, 0) == [0, 5, 0, -1, 50_000]
    assert server.digest() == digest


def test_it_shares_its_state_with_gcra(raw: RawClient) -> None:
    assert raw.call("CL.THROTTLE", "k", 9, 10, 10_000, 10)[0] == 0
    assert raw.call("CACHE.RATELIMIT", "k", 10, 10_000_000, "ALGORITHM", "GCRA")[:3] == [0, 10, 0]
    assert raw.call("CACHE.REFUND", "k", 4) == 4
    assert raw.call("CACHE.RATELIMIT", "k", 10, 10_000_000, "ALGORITHM", "GCRA", "COST", 4)[:3] == [4, 10, 0]
    assert raw.call("CL.THROTTLE", "k", 9, 10, 10_000)[:2] == [1, 10]


def test_other_parameters_keep_the_instant_as_redis_cell_does(raw: RawClient) -> None:
    assert raw.call("CL.THROTTLE", "k", 9, 1, 1_000, 6) == [0, 10, 4, -1, 6_000]
    assert raw.call("CL.THROTTLE", "k", 1, 1, 1_000) == [1, 2, 0, 5_000, 6_000]


def test_keys_are_any_bytes_and_other_types_an_error(server: Server, raw: RawClient) -> None:
    for key in (b"", b"\xff\0\xfe", b"a\r\nb"):
        assert raw.call("CL.THROTTLE", key, 0, 1, 1_000)[0] == 0
        assert raw.call("CL.THROTTLE", key, 0, 1, 1_000)[0] == 1
    raw.call("HSET", "k", "f", "v")
    digest = server.digest()
    assert raw.call("CL.THROTTLE", "k", 1, 1, 1) == WRONGTYPE
    assert server.digest() == digest


UNITS = "must be an integer from 1 to 1000000000"


@pytest.mark.parametrize(
    "arguments, error",
    [
        ("-1 1 1", "ERR max_burst must be an integer from 0 to 999999999"),
        ("x 1 1", "ERR max_burst must be an integer from 0 to 999999999"),
        ("1 0 1", f"ERR count {UNITS}"),
        ("1 1 0", "ERR period must be an integer from 1 to 315360000"),
        ("1 1 315360001", "ERR period must be an integer from 1 to 315360000"),
        ("1 1 1 -1", "ERR quantity must be an integer from 0 to 1000000000"),
        ("1 1 1 1 1", "ERR unknown option '1'"),
        ("1 1 315360000", "ERR max_burst at this rate needs more than 315360000000 ms to be fully restored"),
    ],
)
def test_a_refused_call_changes_nothing(server: Server, raw: RawClient, arguments: str, error: str) -> None:
    raw.call("CL.THROTTLE", "k", 1, 1, 1_000)
    digest = server.digest()
    assert raw.call("CL.THROTTLE", "k", *arguments.split()) == error
    assert server.digest() == digest


@pytest.mark.parametrize("arguments", [(), ("k",), ("k", 1), ("k", 1, 1)], ids=len)
def test_too_few_arguments_are_refused(raw: RawClient, arguments: tuple[Any, ...]) -> None:
    assert is_error(raw.call("CL.THROTTLE", *arguments), "ERR wrong number of arguments")


def test_a_setting_leaves_it_out(fresh_server: Callable[..., Server]) -> None:
    for options in ({"module_args": ["cl-throttle", "no"]}, {"config": {SETTING: "no"}}):
        server = fresh_server(**options)
        assert is_error(server.raw().call("CL.THROTTLE", "k", 1, 1, 1), "ERR unknown command")
        assert as_map(server.call("CONFIG", "GET", SETTING)) == {SETTING.encode(): b"no"}
        assert "CL.THROTTLE" not in server.command_names()
        assert server.raw().call("CACHE.RATELIMIT", "k", 1, LONG)[0] == 1


def test_the_setting_is_read_once(server: Server, raw: RawClient) -> None:
    assert as_map(raw.call("CONFIG", "GET", SETTING)) == {SETTING.encode(): b"yes"}
    assert is_error(raw.call("CONFIG", "SET", SETTING, "no"), "ERR")
    assert raw.call("CL.THROTTLE", "k", 1, 1, 1)[0] == 0


def test_a_server_does_not_start_with_a_bad_setting(fresh_server: Callable[..., Server]) -> None:
    with pytest.raises(RuntimeError, match="argument cl-throttle must be yes or no"):
        fresh_server(module_args=["cl-throttle", "maybe"])


@pytest.fixture
def redis_cell() -> Path:
    path = os.environ.get("REDIS_CELL_MODULE")
    if not path:
        pytest.skip("REDIS_CELL_MODULE names no library")
    return Path(path)


def test_where_redis_cell_is_loaded_its_command_stays_its_own(
    fresh_server: Callable[..., Server], redis_cell: Path
) -> None:
    server = fresh_server(config={"loadmodule": redis_cell})
    assert "CL.THROTTLE" not in server.command_names()
    assert server.raw().call("CL.THROTTLE", "k", 15, 30, 60) == [0, 16, 15, -1, 2]
    assert server.raw().call("TYPE", "k") == b"string"


def test_redis_cell_gives_the_same_integers(fresh_server: Callable[..., Server], redis_cell: Path) -> None:
    """Periods are so long that the moments between two calls do not matter; quantities and bursts vary."""
    ours, theirs = fresh_server(), fresh_server(module=redis_cell)
    rng, mine, other = random.Random(5), ours.raw(), theirs.raw()
    for n in range(300):
        max_burst, count, period = rng.randrange(20), rng.randrange(1, 9), rng.randrange(100_000, 900_000)
        for _ in range(rng.randrange(1, 12)):
            call = ("CL.THROTTLE", f"k{n}", max_burst, count, period, rng.randrange(max_burst + 4))
            a, b = mine.call(*call), other.call(*call)
            assert a[:3] == b[:3] and all(abs(x - y) <= 1 for x, y in zip(a[3:], b[3:])), (call, a, b)
