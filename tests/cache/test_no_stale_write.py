"""No stale write, ever.

A reader wins the lease and reads the old row. A writer changes the row and invalidates the key, in whatever way and
from wherever. From then on the reader's token is dead, and the oldest waiter, who will read the new row, is the holder.
"""

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually
from test_token import LONG, holder, make_stale, queue, trust_transactions, won, write_late

Connect = Callable[..., RawClient]
Command = tuple[Any, ...]

# What leaves nothing under the key `k`, and what leaves a value there.
REMOVALS: dict[str, list[Command]] = {
    "DEL": [("DEL", "k")],
    "del among others": [("del", "a", "k", "b")],
    "UNLINK": [("UNLINK", "k")],
    "GETDEL": [("GETDEL", "k")],
    "CACHE.DEL": [("CACHE.DEL", "k")],
    "FLUSHDB": [("FLUSHDB",)],
    "FLUSHDB ASYNC": [("FLUSHDB", "ASYNC")],
    "FLUSHALL": [("FLUSHALL",)],
    "SWAPDB": [("SWAPDB", 0, 1)],
    "SWAPDB reversed": [("SWAPDB", 7, 0)],
    "SET and DEL": [("SET", "k", "v"), ("DEL", "k")],
}
REMOVALS_OF_A_VALUE: dict[str, list[Command]] = {
    "RENAME away": [("RENAME", "k", "elsewhere")],
    "MOVE away": [("MOVE", "k", 1)],
}
VALUES: dict[str, list[Command]] = {
    "SET": [("SET", "k", "new")],
    "SET PX": [("SET", "k", "new", "PX", LONG)],
    "SETEX": [("SETEX", "k", 600, "new")],
    "PSETEX": [("PSETEX", "k", LONG, "new")],
    "MSET": [("MSET", "a", "b", "k", "new")],
    "RENAME onto": [("SET", "other", "new"), ("RENAME", "other", "k")],
    "COPY onto": [("SET", "other", "new"), ("COPY", "other", "k", "REPLACE")],
    "SETSM": [("CACHE.SETSM", "k", "new", LONG)],
    "SETSM after DEL": [("DEL", "k"), ("CACHE.SETSM", "k", "new", LONG)],
}
VALUES_ON_A_MISSING_KEY: dict[str, list[Command]] = {
    "SETNX": [("SETNX", "k", "new")],
    "GETSET": [("GETSET", "k", "new")],
    "MSETNX": [("MSETNX", "k", "new", "a", "b")],
    "RENAMENX onto": [("SET", "other", "new"), ("RENAMENX", "other", "k")],
    "APPEND": [("APPEND", "k", "new")],
    "SETRANGE": [("SETRANGE", "k", 0, "new")],
}
ON_MISSING = REMOVALS | VALUES | VALUES_ON_A_MISSING_KEY
ON_STALE = {name: each for name, each in (REMOVALS | REMOVALS_OF_A_VALUE | VALUES).items() if name != "GETDEL"}
CASES = [("missing", name) for name in ON_MISSING] + [("stale", name) for name in ON_STALE]
ONE_BY_ONE = {"SET and DEL", "SETSM after DEL"}  # two invalidations, if others are served in between
WHERE = ["client", "pipeline", "transaction", "transaction queued before", "script", "function"]


def lua(commands: list[Command]) -> str:
    calls = (", ".join(f"'{word}'" for word in command) for command in commands)
    return "; ".join(f"redis.call({call})" for call in calls) + "; return 1"


class Writer:
    """Invalidates from somewhere. `prepare` comes before the lease is granted."""

    def __init__(self, client: RawClient, where: str, commands: list[Command]) -> None:
        self.client, self.where, self.commands = client, where, commands

    def prepare(self) -> None:
        if self.where == "transaction queued before":
            self.client.pipeline([("MULTI",), *self.commands])
        elif self.where == "function":
            body = f"#!lua name=cg\nredis.register_function('run', function(keys) {lua(self.commands)} end)"
            assert self.client.call("FUNCTION", "LOAD", "REPLACE", body) == b"cg"

    def invalidate(self) -> None:
        match self.where:
            case "client":
                replies = [self.client.call(*command) for command in self.commands]
            case "pipeline":
                replies = self.client.pipeline(self.commands)
            case "transaction":
                replies = self.client.pipeline([("MULTI",), *self.commands, ("EXEC",)])[-1]
            case "transaction queued before":
                replies = self.client.call("EXEC")
            case "script":
                replies = [self.client.call("EVAL", lua(self.commands), 1, "k")]
            case _:
                replies = [self.client.call("FCALL", "run", 1, "k")]
        assert None not in replies or ("GETDEL", "k") in self.commands or self.commands[0][0] == "GETSET"
        assert all(isinstance(reply, (int, bytes, type(None))) for reply in replies), replies


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("kind, how", CASES, ids=[f"{kind}-{how}" for kind, how in CASES])
def test_a_late_write_is_refused_and_the_oldest_waiter_is_promoted(
    server: Server, kind: str, how: str, where: str
) -> None:
    commands = (ON_MISSING if kind == "missing" else ON_STALE)[how]
    if where == "client" and how in ONE_BY_ONE:
        pytest.skip("that is another story")
    if where.startswith("transaction"):
        trust_transactions(server)
    reader, waiters_of = server.raw(), server.raw
    writer = Writer(server.raw(), where, commands)
    if kind == "stale":
        make_stale(reader)
    writer.prepare()
    token = won(reader)
    first, second = queue(server, waiters_of, 2, "k", *(("MAXSTALE", 1) if kind == "stale" else ()))

    writer.invalidate()
    digest = server.digest()
    assert write_late(reader, token) is None
    assert server.digest() == digest, "a refused write changes nothing"
    if commands[-1][0] in ("APPEND", "SETRANGE") or how in VALUES or how in VALUES_ON_A_MISSING_KEY:
        assert [waiter.recv()[:2] for waiter in (first, second)] == [[b"hit", b"new"]] * 2
        assert holder(reader) is None
    else:
        assert holder(reader) == first.client_id
        name, value, token, _ = first.recv()
        assert (name, value, second.has_reply()) == (b"won", None, False)
        assert first.call("CACHE.SETSM", "k", "new", LONG, "TOKEN", token) == b"OK"
        assert second.recv()[:2] == [b"hit", b"new"]
    assert reader.call("CACHE.GETSM", "k") == b"new"


@pytest.mark.parametrize(
    "command", [("RESTORE", "k", 0), ("RESTORE", "k", 0, "REPLACE"), ("MOVE",), ("SWAPDB",)], ids=repr
)
def test_values_from_elsewhere_answer_waiters_too(server: Server, command: Command) -> None:
    reader, far = server.raw(), server.raw()
    far.call("SELECT", 1)
    far.call("CACHE.SETSM", "k", "new", LONG)
    payload = far.call("DUMP", "k")
    token = won(reader)
    waiters = queue(server, server.raw, 2)
    if command[0] == "RESTORE":
        assert server.raw().call(*command[:3], payload, *command[3:]) == b"OK"
    elif command[0] == "MOVE":
        assert far.call("MOVE", "k", 0) == 1
    else:
        assert far.call("SWAPDB", 0, 1) == b"OK"
    assert [waiter.recv()[:2] for waiter in waiters] == [[b"hit", b"new"]] * 2
    assert write_late(reader, token) is None


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    "commands",
    [
        [("DEL", "other")],
        [("SET", "other", "v"), ("UNLINK", "other")],
        [("GET", "k"), ("EXISTS", "k"), ("TTL", "k"), ("TYPE", "k")],
        [("PEXPIRETIME", "k"), ("STRLEN", "k"), ("GETRANGE", "k", 0, 1)],
        [("SWAPDB", 3, 4)],
        [("EXPIRE", "k", 0)],
        [("CACHE.GET", "k"), ("CACHE.INSPECT", "k")],
    ],
    ids=lambda commands: commands[0][0] + " " + str(commands[0][-1]),
)
def test_what_does_not_concern_the_key_leaves_the_lease_alone(
    server: Server, commands: list[Command], where: str
) -> None:
    if where.startswith("transaction"):
        trust_transactions(server)
    writer = Writer(server.raw(), where, commands)
    writer.prepare()
    reader = server.raw()
    token = won(reader)
    try:
        writer.invalidate()
    except AssertionError:  # replies of reads are of many types
        pass
    assert reader.call("CACHE.RENEW", "k", token, LONG) == 1


@pytest.mark.parametrize(
    "command", [("EXPIRE", "k", 0), ("PEXPIREAT", "k", 1), ("SUNIONSTORE", "k", "nothing")], ids=repr
)
def test_rarer_ways_to_delete_a_value_count_too(server: Server, command: Command) -> None:
    reader = server.raw()
    make_stale(reader)
    token = won(reader)
    (waiter,) = queue(server, server.raw, 1, "k", "MAXSTALE", 1)
    server.raw().call(*command)
    assert reader.call("EXISTS", "k") == 0
    assert write_late(reader, token) is None
    assert waiter.recv()[0] == b"won"


@pytest.mark.parametrize(
    "command", [("PEXPIRETIME", "k"), ("BITCOUNT", "k"), ("EVAL_RO", "return 1", 1, "k")], ids=repr
)
@pytest.mark.parametrize("kind", ["early", "stale"])
def test_a_read_of_the_key_does_not_end_a_refresh(server: Server, kind: str, command: Command) -> None:
    """The value was there before; that it is there now says nothing of the lease."""
    reader = server.raw()
    if kind == "stale":
        make_stale(reader)
        token = won(reader)
    else:
        assert reader.call("CACHE.SETSM", "k", "v", LONG, "COST", 1000) == b"OK"
        token = won(reader, "k", "EARLY", 1e9)
    server.raw().call(*command)
    assert reader.call("CACHE.SETSM", "k", "new", LONG, "TOKEN", token) == b"OK"


def test_other_databases_are_told_apart_where_the_server_can(server: Server) -> None:
    reader, elsewhere = server.raw(), server.raw()
    elsewhere.call("SELECT", 5)
    for invalidation in (("FLUSHDB",), ("SWAPDB", 5, 6)):
        token = won(reader)
        elsewhere.call(*invalidation)
        assert reader.call("CACHE.RENEW", "k", token, LONG) == 1
        assert reader.call("CACHE.RELEASE", "k", token) == 1


# Transactions of several connections


def test_transactions_that_began_before_the_first_lease(fresh_server: Callable[..., Server]) -> None:
    """Nothing was watched when they were queued."""
    server = fresh_server()
    writers = [server.raw() for _ in range(3)]
    for writer in writers:
        writer.pipeline([("MULTI",), ("DEL", "k")])
    reader = server.raw()
    for writer in writers:
        token = won(reader)
        assert writer.call("EXEC") == [0]
        assert write_late(reader, token) is None


STRAYS: dict[str, list[Command]] = {
    "EXEC without MULTI": [("EXEC",)],
    "DISCARD without MULTI": [("DISCARD",)],
    "RESET": [("RESET",)],
    "MULTI in MULTI": [("MULTI",), ("MULTI",), ("DISCARD",)],
    "discarded": [("MULTI",), ("DEL", "b"), ("DISCARD",)],
    "reset": [("MULTI",), ("DEL", "b"), ("RESET",)],
    "executed": [("MULTI",), ("DEL", "b"), ("EXEC",)],
    "aborted": [("MULTI",), ("DEL",), ("EXEC",)],
    "none": [],
}


@pytest.mark.parametrize("opens_another", [False, True], ids=["", "and another opens"])
@pytest.mark.parametrize("stray", STRAYS)
def test_transactions_of_others_in_between(server: Server, stray: str, opens_another: bool) -> None:
    if opens_another and "without MULTI" in stray and not server.is_valkey and server.version < (7, 2):
        pytest.skip("Redis 7.0 hides who sends a command: see docs/decisions/0004")
    trust_transactions(server)
    writer, other, third, reader = (server.raw() for _ in range(4))
    writer.pipeline([("MULTI",), ("DEL", "k")])
    other.pipeline(STRAYS[stray])
    if opens_another:
        third.call("MULTI")
    token = won(reader)
    assert writer.call("EXEC") == [0]
    assert write_late(reader, token) is None


def test_a_transaction_of_somebody_who_left_is_forgotten(server: Server) -> None:
    trust_transactions(server)
    gone, reader = server.raw(), server.raw()
    gone.pipeline([("MULTI",), ("DEL", "k")])
    token = won(reader)
    gone.close()
    eventually(lambda: f"id={gone.client_id} " not in server.call("CLIENT", "LIST").decode())
    assert reader.call("CACHE.RENEW", "k", token, LONG) == 1


def test_transactions_of_those_who_left_take_no_memory(server: Server) -> None:
    """A lease is out all the time, so that the watching never ends."""
    won(server.raw(), "held")

    def come_and_go() -> int:
        with server.herd(2_000) as herd:
            herd.send("MULTI")
            herd.collect()
        eventually(lambda: server.info("clients")["connected_clients"] <= 5)
        return server.info("memory")["used_memory"]

    come_and_go()
    grown = [come_and_go() for _ in range(4)]
    assert grown[-1] - grown[0] < 100_000, grown


def test_a_writer_that_is_paused_invalidates_when_it_is_heard(server: Server) -> None:
    """CLIENT PAUSE holds writers back; what they send then must count once it runs."""
    reader, writer = server.raw(), server.raw()
    token = won(reader, "paused")
    server.call("CLIENT", "PAUSE", LONG, "WRITE")
    writer.send("DEL", "paused")
    eventually(lambda: b" cmd=del " in server.call("CLIENT", "LIST", "ID", writer.client_id), message="it has come")
    server.call("CLIENT", "UNPAUSE")
    assert writer.recv() == 0
    assert write_late(reader, token, "paused") is None


def test_pipelines_that_mix_everything_in_one_turn(server: Server) -> None:
    """Grant, invalidation and late write leave in one packet, in random order; at most the last grant can write."""
    rng, client, other = random.Random(7), server.raw(), server.raw()
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        token = won(client)
        commands = [("CACHE.SETSM", "k", "late", LONG, "TOKEN", token)]
        invalidation = rng.choice([name for name in ON_MISSING if name not in ("MSETNX", "RENAMENX onto")])
        at = rng.randint(0, 1)
        commands[at:at] = ON_MISSING[invalidation]
        replies = client.pipeline(commands)
        written = replies[0 if at else len(ON_MISSING[invalidation])]
        assert written == (b"OK" if at else None), invalidation
        other.call("FLUSHALL")
