"""Loading: what is not understood is said in the log, and a load that failed leaves no trace."""

from collections.abc import Callable

import pytest

from harness import Server, is_error
from harness.server import module_path

Start = Callable[..., Server]
NAMES = ["lease-ms", "wait-ms", "retry-ms", "jitter-percent", "max-waiters", "sweep-cpu-percent", "early-beta", "cl-throttle"]
WRONG = [
    ("nonsense 5", "unknown argument 'nonsense'"),
    ("cacheguard.lease-ms 5", "the names of arguments have no 'cacheguard.' in front"),
    ("lease-ms", "argument lease-ms has no value"),
    ("lease-ms 0", "argument lease-ms must be an integer from 1 to"),
    ("lease-ms 5 Lease-MS 6", "argument Lease-MS was given more than once"),
    ("early-beta -1", "argument early-beta must be a number of at least 0"),
    ("cl-throttle maybe", "argument cl-throttle must be yes or no"),
    ("wait-ms 7 CONFIG cacheguard.lease-ms 8", "in MODULE LOADEX, CONFIG must come before ARGS"),
]


def load(server: Server, how: str, *words: str) -> object:
    path = str(module_path())
    return server.raw().call("MODULE", how, path, *words)


@pytest.mark.parametrize("words, said", WRONG)
def test_a_wrong_argument_is_named_and_leaves_no_trace(fresh_server: Start, words: str, said: str) -> None:
    server = fresh_server(module=None)
    assert is_error(load(server, "LOAD", *words.split()))
    assert said in server.log()
    assert "cacheguard does not load" in server.log()
    assert b"cacheguard" not in [row for modules in server.call("MODULE", "LIST") for row in modules]
    first = {name: defaults(fresh_server(), name) for name in NAMES}
    assert load(server, "LOAD") == b"OK"
    assert {name: defaults(server, name) for name in NAMES} == first
    assert server.raw().call("CACHE.GETSM", "k") is None


def defaults(server: Server, name: str) -> bytes:
    return server.call("CONFIG", "GET", f"cacheguard.{name}")[1]


def test_an_unknown_argument_is_told_which_there_are(fresh_server: Start) -> None:
    server = fresh_server(module=None)
    assert is_error(load(server, "LOAD", "nonsense"))
    line = next(line for line in server.log().splitlines() if "unknown argument" in line)
    names = server.call("CONFIG", "GET", "cacheguard.*")
    assert names == []
    assert all(name in line for name in NAMES)


def test_a_setting_out_of_range_is_named(fresh_server: Start) -> None:
    server = fresh_server(module=None)
    assert is_error(load(server, "LOADEX", "CONFIG", "cacheguard.wait-ms", "7", "CONFIG", "cacheguard.lease-ms", "0"))
    assert "cacheguard.lease-ms" in server.log()
    assert load(server, "LOAD") == b"OK"
    assert defaults(server, "wait-ms") == defaults(fresh_server(), "wait-ms")


def test_loadex_takes_settings_and_arguments(fresh_server: Start) -> None:
    server = fresh_server(module=None)
    assert load(server, "LOADEX", "CONFIG", "cacheguard.wait-ms", "7", "ARGS", "lease-ms", "8") == b"OK"
    assert (defaults(server, "wait-ms"), defaults(server, "lease-ms")) == (b"7", b"8")
