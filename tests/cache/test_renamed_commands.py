"""An operator may rename any command of the server, or take it away: what the module does must not depend on it."""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error

Start = Callable[..., Server]
LONG = 600_000
AWAY = '""'
# What the module calls or replicates, or did in former releases, and what guides tell operators to take away.
NAMES = ["GET", "EXISTS", "UNLINK", "DEL", "COMMAND", "UNLINK DEL", "COMMAND GET DEL UNLINK EXISTS"]
# Strings as the server encodes them: number, short, long; any bytes, and none.
STRINGS = [b"12345", b"-1", b"short", b"long " * 100, b"\0\r\n\xff", b"", b"x" * 1_000_000]


def renames(names: str, to: str) -> dict[str, str]:
    """Lines of the configuration; `to` is a prefix, or AWAY."""
    return {f"rename-command {name}": AWAY if to == AWAY else to + name for name in names.split()}


@pytest.fixture(params=NAMES)
def names(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[AWAY, "my-"], ids=["away", "renamed"])
def server(request: pytest.FixtureRequest, names: str, fresh_server: Start) -> Server:
    return fresh_server(config=renames(names, request.param))


def won(client: RawClient, key: str = "k") -> bytes:
    row = client.call("CACHE.GETSM", key, "LEASE", LONG, "META")
    assert row[0] == b"won", row
    return row[2]


def test_native_strings_are_served(server: Server) -> None:
    client = server.raw()
    for value in STRINGS:
        client.call("SET", "k", value, "PX", LONG)
        assert client.call("CACHE.GETSM", "k") == value
        assert client.call("CACHE.GETSM", "k", "META")[:2] == [b"hit", value]
        assert client.call("CACHE.GET", "k") == value
        assert client.call("STRLEN", "k") == len(value)
        assert client.call("CACHE.TOUCH", "k", LONG) == 1, "it becomes an entry"
        assert client.call("CACHE.GET", "k") == value
        assert client.call("CACHE.DEL", "k") == 1


def test_a_number_can_still_be_counted_on(server: Server) -> None:
    client = server.raw()
    client.call("SET", "k", "41")
    assert client.call("CACHE.GETSM", "k") == b"41"
    assert client.call("INCR", "k") == 42
    assert client.call("CACHE.GETSM", "k") == b"42"


def test_a_write_under_any_name_ends_the_lease(server: Server, names: str) -> None:
    client, writer = server.raw(), server.raw()
    commands = [("DEL", "k"), ("UNLINK", "k"), ("GETDEL", "k"), ("SET", "k", "v", "PX", 1)]
    for name, *words in commands + ([] if "COMMAND" in names else [("SUNIONSTORE", "k", "nothing")]):
        token = won(client)
        replies = [writer.call(called, *words) for called in (name, "my-" + name)]
        exists = not all(is_error(reply) for reply in replies)
        if not exists:
            assert server.config.get(f"rename-command {name}") == AWAY
        stored = client.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token)
        if is_error(replies[0]) and "COMMAND" in names:
            assert "COMMAND was renamed or disabled" in server.log(), "nothing tells what the new name means"
        else:
            assert (stored is None) == exists, name
        client.call("CACHE.DEL", "k")


def test_entries_go_on_replicas_and_in_the_log(server: Server, fresh_server: Start) -> None:
    replica = fresh_server(config={key: value for key, value in server.config.items() if "rename" in key})
    server.call("CONFIG", "SET", "appendonly", "yes")
    replica.replica_of(server)
    replica.wait_for_sync()
    client = server.raw()
    client.pipeline([("CACHE.SETSM", f"k{n}", "v", LONG, "TAGS", 1, "t") for n in range(2_000)])
    client.call("CACHE.SETSM", "gone", "v", LONG)
    assert client.call("CACHE.LOCK", "lock", "owner", LONG) > 0
    client.call("SET", "native", "v")
    assert client.call("CACHE.INVALIDATE", "t") == 2_000
    assert client.call("CACHE.DEL", "gone", "native") == 2
    assert client.call("CACHE.UNLOCK", "lock", "owner") == 1
    eventually(lambda: server.call("DBSIZE") == 0, 20)
    replica.wait_for_sync()
    eventually(lambda: replica.call("DBSIZE") == 0, 20)
    assert b"unknown command" not in replica.log().encode().lower()
    server.restart(kill=True, config={"appendonly": "yes"})
    assert server.call("DBSIZE") == 0
    assert (server.stats()["panics"], replica.stats()["panics"]) == (0, 0)


def test_a_script_may_invalidate(server: Server) -> None:
    """Whose permissions count in a script is found out by a call of the server."""
    client = server.raw()
    client.call("CACHE.SETSM", "k", "v", LONG, "TAGS", 1, "t")
    assert client.call("EVAL", "return redis.call('CACHE.INVALIDATE', 't')", 0) == 1
    assert client.call("CACHE.GET", "k") is None


@pytest.mark.parametrize("names", ["MULTI EXEC DISCARD RESET SET"], indirect=True)
def test_transactions_under_other_names_are_seen(names: str, fresh_server: Start) -> None:
    server = fresh_server(config=renames(names, "my-"))
    client, writer = server.raw(), server.raw()
    token = won(client)
    writer.pipeline([("my-MULTI",), ("DEL", "k")])
    discarded = server.raw()
    discarded.pipeline([("my-MULTI",), ("DEL", "k"), ("my-DISCARD",)])
    if server.is_valkey or server.version >= (7, 2):  # Redis 7.0 hides who sends a command
        assert client.call("CACHE.RENEW", "k", token, LONG) == 1
    assert writer.call("my-EXEC") == [0]
    assert client.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token) is None


def test_the_encoding_of_a_string_is_left_alone(fresh_server: Start) -> None:
    client = fresh_server().raw()
    for value in STRINGS:
        client.call("SET", "k", value)
        encoding = client.call("OBJECT", "ENCODING", "k")
        assert client.call("CACHE.GETSM", "k") == value
        assert client.call("OBJECT", "ENCODING", "k") == encoding


def test_a_command_that_took_the_name_get_is_not_called(fresh_server: Start) -> None:
    """Least of all one that deletes what it reads."""
    server = fresh_server(config={"rename-command GET": AWAY, "rename-command GETDEL": "GET"})
    client = server.raw()
    client.call("SET", "k", "v")
    assert [client.call("CACHE.GETSM", "k") for _ in range(2)] == [b"v", b"v"]
    assert client.call("GET", "k") == b"v"
    assert client.call("CACHE.GET", "k") is None


@pytest.mark.parametrize("to", [AWAY, "my-"])
def test_waiters_of_a_slot_that_moved_are_told(fresh_server: Start, to: str) -> None:
    config: dict[str, str] = {"cluster-enabled": "yes", "cluster-require-full-coverage": "no"}
    server = fresh_server(config=config | renames("EXISTS COMMAND GET", to))
    client = server.raw()
    assert client.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383) == b"OK"
    eventually(lambda: b"cluster_state:ok" in server.call("CLUSTER", "INFO"), 20)
    won(client, "stays")
    won(client, "goes")
    stays, goes = server.raw(), server.raw()
    stays.send("CACHE.GETSM", "stays", "WAIT", LONG)
    goes.send("CACHE.GETSM", "goes", "WAIT", LONG)
    eventually(lambda: server.stats()["waiters"] == 2)
    slot: Any = client.call("CLUSTER", "KEYSLOT", "goes")
    assert client.call("CLUSTER", "DELSLOTS", slot) == b"OK"
    reply = goes.recv()
    assert is_error(reply, "TRYAGAIN") or is_error(reply, "MOVED") or is_error(reply, "CLUSTERDOWN"), reply
    assert not stays.has_reply()


@pytest.mark.parametrize("to", [AWAY, "my-"], ids=["away", "renamed"])
@pytest.mark.parametrize("preamble", ["yes", "no"])
def test_an_aof_is_rewritten_without_persist(fresh_server: Start, to: str, preamble: str) -> None:
    config = renames("PERSIST", to) | {"aof-use-rdb-preamble": preamble}
    server = fresh_server(appendonly=True, config=config)
    client = server.raw()
    client.call("CACHE.SETSM", "entry", "v", LONG)
    fence = client.call("CACHE.LOCK", "lock", "me", LONG)
    client.call("CACHE.RATELIMIT", "limit", 10, LONG)
    client.call("BGREWRITEAOF")
    eventually(lambda: server.info("persistence")["aof_rewrite_in_progress"] == 0)
    assert server.info("persistence")["aof_last_bgrewrite_status"] == "ok"
    server.restart()
    client = server.raw()
    assert client.call("CACHE.GET", "entry") == b"v"
    assert client.call("CACHE.LOCK", "lock", "me", LONG) == fence
    assert client.call("CACHE.RATELIMIT_RO", "limit", 10, LONG)[2] == 8
