"""CACHE.GETSM: who is served, who regenerates, who waits, and what ends a wait.

A test that needs somebody parked asks INFO until the server says so. Where nothing may have happened, it asks again
with WAIT 0: that call decides every doubt about the key before it is answered.
"""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, RespError, Server, eventually, is_error
from harness.raw import encode

Connect = Callable[..., RawClient]
LONG = 600_000  # milliseconds; no test lasts as long
LEASED = re.compile(r"LEASED another caller loads this key; its lease ends in (\d+) ms")
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
DATA = {"empty": b"", "nul": b"\0", "any bytes": b"\0k\xff\r\n$-1\r\n", "number": b"12345", "1 MB": b"x" * (1 << 20)}


def parked(server: Server, count: int) -> None:
    eventually(lambda: server.stats()["waiters"] == count, message=lambda: f"{count} wait: {server.stats()}")


def line(server: Server, connect: Connect, count: int, key: bytes | str = "k") -> tuple[RawClient, list[RawClient]]:
    """The holder of the lease on `key`, and `count` who wait behind it, oldest first."""
    holder, waiters, others = connect(), [], server.stats()["waiters"]
    assert holder.call("CACHE.GETSM", key, "LEASE", LONG) is None
    for number in range(1, count + 1):
        waiters.append(connect().send("CACHE.GETSM", key, "WAIT", LONG, "LEASE", LONG))
        parked(server, others + number)
    return holder, waiters


def left_ms(reply: Any) -> int:
    """What a LEASED error says is left of the lease."""
    assert isinstance(reply, RespError), reply
    match = LEASED.fullmatch(reply.text)
    assert match, reply
    return int(match[1])


def ledger(server: Server) -> dict[str, Any]:
    """Everything INFO says about leases and waiters."""
    fields = ("leases", "leases_granted", "leases_voided", "leases_expired", "handovers", "waiters")
    stats = server.stats()
    return {field: stats[field] for field in fields}


def trust_transactions(server: Server) -> None:
    """Redis 7.0 hides who sends a command: for the first ten seconds of watching, any EXEC may end any lease."""
    if server.is_valkey or server.version >= (7, 2):
        return
    client = server.raw()

    def exec_is_harmless() -> bool:
        client.call("CACHE.GETSM", "canary", "LEASE", LONG)
        client.pipeline([("MULTI",), ("EXEC",)])
        return is_error(client.call("CACHE.GETSM", "canary", "WAIT", 0), "LEASED")

    eventually(exec_is_harmless, timeout=20, message="transactions are told apart")
    client.pipeline([("DEL", "canary"), ("CACHE.SETSM", "canary", "", "PXAT", 1)])


def scripted(client: RawClient, where: str, call: str) -> tuple[str, str]:
    """The beginning of a command that calls `call` in a script or in a function."""
    if where == "script":
        return "EVAL", f"return redis.call({call})"
    library = f"#!lua name=cg\nredis.register_function('run', function(KEYS) return redis.call({call}) end)"
    assert client.call("FUNCTION", "LOAD", "REPLACE", library) == b"cg"
    return "FCALL", "run"


# Who is served, who regenerates


def test_a_fresh_value_is_served(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG)
    assert raw.call("cache.getsm", "k") == b"v"
    assert raw.wire == b"$1\r\nv\r\n"


def test_the_first_to_miss_is_told_nil_and_holds_the_lease(
    server: Server, raw: RawClient, connect: Connect, protocol: int
) -> None:
    assert raw.call("CACHE.GETSM", "k") is None
    assert raw.wire == (b"_\r\n" if protocol == 3 else b"$-1\r\n")
    assert server.stats()["leases"] == 1
    assert 0 < left_ms(connect().call("CACHE.GETSM", "k", "WAIT", 0)) <= 10_000


@pytest.mark.parametrize("value", DATA.values(), ids=DATA.keys())
def test_keys_and_values_are_any_bytes(server: Server, connect: Connect, value: bytes) -> None:
    key = value[:1000]
    holder, (waiter,) = line(server, connect, 1, key)
    assert holder.call("CACHE.SETSM", key, value, LONG) == b"OK"
    assert waiter.recv() == value
    assert holder.call("CACHE.GETSM", key) == value


@pytest.mark.parametrize("value, encoding", [(b"12345", b"int"), (b"", b"embstr"), (b"x" * 1000, b"raw")], ids=repr)
def test_a_native_string_is_a_fresh_entry_and_is_left_as_it_is(raw: RawClient, value: bytes, encoding: bytes) -> None:
    raw.call("SET", "k", value, "PX", LONG)
    digest = raw.call("DEBUG", "DIGEST-VALUE", "k")
    assert raw.call("CACHE.GETSM", "k") == value
    assert raw.wire.startswith(b"$")
    assert raw.call("OBJECT", "ENCODING", "k") == encoding
    assert raw.call("DEBUG", "DIGEST-VALUE", "k") == digest
    assert LONG - 60_000 < raw.call("PTTL", "k") <= LONG


@pytest.mark.parametrize("command", ["LPUSH k v", "HSET k f v", "SADD k v", "ZADD k 1 v", "XADD k * f v"])
def test_another_type_is_refused_and_no_lease_is_granted(server: Server, raw: RawClient, command: str) -> None:
    raw.call(*command.split())
    before = ledger(server)
    assert raw.call("CACHE.GETSM", "k") == WRONGTYPE
    assert ledger(server) == before


def test_of_a_stale_value_one_caller_is_told_to_regenerate_and_all_others_are_served_at_once(
    server: Server, connect: Connect
) -> None:
    first, second, third = connect(), connect(), connect()
    now = int(time.time() * 1000)
    assert first.call("CACHE.SETSM", "k", "old", "PXAT", now - 1, "STALE", LONG) == b"OK"
    waits = server.stats()["waits"]
    assert first.call("CACHE.GETSM", "k", "LEASE", LONG) is None
    assert [client.call("CACHE.GETSM", "k", "WAIT", LONG) for client in (second, third, first)] == [b"old"] * 3
    assert (server.stats()["waits"], server.stats()["leases"]) == (waits, 1)
    assert first.call("CACHE.SETSM", "k", "new", LONG, "STALE", LONG) == b"OK"
    assert second.call("CACHE.GETSM", "k") == b"new"
    assert server.stats()["leases"] == 0


def test_whoever_asks_after_the_lease_on_a_stale_value_has_ended_regenerates_next(connect: Connect) -> None:
    first, second = connect(), connect()
    first.call("CACHE.SETSM", "k", "old", "PXAT", int(time.time() * 1000) - 1, "STALE", LONG)
    assert first.call("CACHE.GETSM", "k", "LEASE", 20) is None
    eventually(lambda: second.call("CACHE.GETSM", "k", "LEASE", LONG) is None)
    assert first.call("CACHE.GETSM", "k") == b"old"
    assert first.call("DEL", "k") == 1  # ends the lease on it, too
    assert first.call("CACHE.GETSM", "k", "WAIT", LONG) is None


def test_leases_and_waiters_are_not_in_the_keyspace(server: Server, raw: RawClient, connect: Connect) -> None:
    digest = server.digest()
    line(server, connect, 2)
    assert (raw.call("KEYS", "*"), raw.call("DBSIZE"), raw.call("EXISTS", "k")) == ([], 0, 0)
    assert raw.call("SCAN", 0) == [b"0", []]
    assert (raw.call("RANDOMKEY"), raw.call("TYPE", "k"), server.digest()) == (None, b"none", digest)


# Waiting


@pytest.mark.parametrize("who", ["holder", "stranger"])
def test_a_waiter_is_answered_the_moment_anybody_sets_the_value(
    server: Server, connect: Connect, raw: RawClient, who: str
) -> None:
    holder, waiters = line(server, connect, 3)
    assert (holder if who == "holder" else raw).call("CACHE.SETSM", "k", "v", LONG) == b"OK"
    assert [waiter.recv() for waiter in waiters] == [b"v"] * 3
    assert (server.stats()["waiters"], server.stats()["leases"]) == (0, 0)


def test_a_crowd_larger_than_one_slice_is_answered_whole(server: Server, connect: Connect, protocol: int) -> None:
    holder = connect()
    assert holder.call("CACHE.GETSM", "k", "LEASE", LONG) is None
    herd = server.herd(250, protocol)
    herd.send("CACHE.GETSM", "k", "WAIT", LONG)
    parked(server, 250)
    holder.call("CACHE.SETSM", "k", "v", LONG)
    assert {answer.reply for answer in herd.collect()} == {b"v"}
    assert server.stats()["waiters"] == 0


def test_the_lease_is_granted_in_the_order_of_arrival(server: Server, connect: Connect, raw: RawClient) -> None:
    _, waiters = line(server, connect, 4)
    for place, waiter in enumerate(waiters, 1):
        raw.call("DEL", "k")
        assert waiter.recv() is None
        assert server.stats()["waiters"] == len(waiters) - place
        assert not any(later.has_reply() for later in waiters[place:])


def test_when_a_lease_expires_exactly_one_waiter_the_oldest_regenerates(
    server: Server, connect: Connect, raw: RawClient, protocol: int
) -> None:
    raw.call("CACHE.GETSM", "k", "LEASE", LONG)
    waiters = []
    for number, lease_ms in enumerate((50, LONG, LONG), 1):
        waiters.append(connect().send("CACHE.GETSM", "k", "WAIT", LONG, "LEASE", lease_ms))
        parked(server, number)
    before = server.stats()
    raw.call("DEL", "k")  # now the first holds a lease of 50 ms
    assert [waiter.recv() for waiter in waiters[:2]] == [None, None]
    assert waiters[1].wire == (b"_\r\n" if protocol == 3 else b"$-1\r\n")
    after = server.stats()
    assert (after["leases_expired"] - before["leases_expired"], after["handovers"] - before["handovers"]) == (1, 2)
    assert (after["leases"], after["waiters"]) == (1, 1)
    assert 0 < left_ms(raw.call("CACHE.GETSM", "k", "WAIT", 0)) <= LONG
    assert not waiters[2].has_reply()
    waiters[1].call("CACHE.SETSM", "k", "v", LONG)
    assert waiters[2].recv() == b"v"


def test_wait_0_never_waits(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.GETSM", "k", "LEASE", LONG)
    waits = server.stats()["waits"]
    left_ms(connect().call("CACHE.GETSM", "k", "WAIT", 0))
    assert server.stats()["waits"] == waits


def test_a_wait_that_ends_first_is_told_for_how_long_the_key_is_still_leased(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    raw.call("CACHE.GETSM", "k", "LEASE", LONG)
    timed_out, start = server.stats()["waits_timed_out"], time.monotonic()
    assert LONG - 60_000 < left_ms(connect().call("CACHE.GETSM", "k", "WAIT", 30)) <= LONG - 30
    assert time.monotonic() - start >= 0.030
    stats = server.stats()
    assert (stats["waits_timed_out"], stats["waiters"], stats["leases"]) == (timed_out + 1, 0, 1)


def test_a_wait_that_ended_gives_up_its_place(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.GETSM", "k", "LEASE", LONG)
    first, second = connect(), connect()
    first.send("CACHE.GETSM", "k", "WAIT", 200)
    second.send("CACHE.GETSM", "k", "WAIT", LONG)
    left_ms(first.recv())
    parked(server, 1)
    raw.call("DEL", "k")
    assert second.recv() is None


def test_a_connection_never_waits_for_its_own_lease(server: Server, connect: Connect, raw: RawClient) -> None:
    holder, (waiter,) = line(server, connect, 1)
    left_ms(holder.call("CACHE.GETSM", "k", "WAIT", LONG))
    raw.call("DEL", "k")
    assert waiter.recv() is None
    left_ms(waiter.call("CACHE.GETSM", "k", "WAIT", LONG))


def test_commands_behind_a_wait_stay_in_order(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.GETSM", "k", "LEASE", LONG)
    behind = [("PING", "behind"), ("SET", "x", "1"), ("CACHE.GETSM", "k"), ("GET", "x")]
    waiter = connect().send_bytes(b"".join(encode(*each) for each in [("CACHE.GETSM", "k", "WAIT", LONG), *behind]))
    parked(server, 1)
    assert raw.call("EXISTS", "x") == 0
    raw.call("CACHE.SETSM", "k", "v", LONG)
    assert [waiter.recv() for _ in range(5)] == [b"v", b"behind", b"OK", b"v", b"1"]


def test_databases_are_separate(server: Server, connect: Connect, raw: RawClient) -> None:
    _, (waiter,) = line(server, connect, 1)
    raw.call("SELECT", 1)
    before = ledger(server)
    assert raw.call("CACHE.GETSM", "k", "WAIT", LONG) is None
    assert raw.call("CACHE.SETSM", "k", "elsewhere", LONG) == b"OK"
    raw.call("FLUSHDB")
    raw.call("SELECT", 0)
    left_ms(raw.call("CACHE.GETSM", "k", "WAIT", 0))
    assert ledger(server) == before | {"leases_granted": before["leases_granted"] + 1}
    raw.call("CACHE.SETSM", "k", "here", LONG)
    assert waiter.recv() == b"here"


# Options and settings


@pytest.mark.parametrize("lease_ms", [LONG, 315_360_000_000])
def test_lease_says_how_long_the_lease_lasts(raw: RawClient, connect: Connect, lease_ms: int) -> None:
    assert raw.call("CACHE.GETSM", "k", "lEASE", lease_ms, "wait", lease_ms) is None
    assert lease_ms - 60_000 < left_ms(connect().call("CACHE.GETSM", "k", "LEASE", 1, "WAIT", 0)) <= lease_ms


def test_the_settings_apply_where_an_option_is_not_given(server: Server, connect: Connect) -> None:
    server.call("CONFIG", "SET", "cacheguard.lease-ms", 300_000)
    server.call("CONFIG", "SET", "cacheguard.wait-ms", 0)
    first, second = connect(), connect()
    first.call("CACHE.GETSM", "k")
    waits = server.stats()["waits"]
    assert 240_000 < left_ms(second.call("CACHE.GETSM", "k")) <= 300_000
    assert server.stats()["waits"] == waits
    server.call("CONFIG", "SET", "cacheguard.wait-ms", 20)
    left_ms(second.call("CACHE.GETSM", "k"))
    assert server.stats()["waits"] == waits + 1


def test_beyond_max_waiters_a_caller_is_answered_as_with_wait_0(server: Server, connect: Connect) -> None:
    server.call("CONFIG", "SET", "cacheguard.max-waiters", 2)
    _, waiters = line(server, connect, 2)
    late = connect()
    left_ms(late.call("CACHE.GETSM", "k", "WAIT", LONG))
    assert late.call("CACHE.GETSM", "other", "WAIT", LONG) is None  # a lease needs no room among the waiters
    waiters[0].close()
    parked(server, 1)
    late.send("CACHE.GETSM", "k", "WAIT", LONG)
    parked(server, 2)


@pytest.mark.parametrize(
    "options, error",
    [
        ("WAIT", "ERR WAIT is missing"),
        ("LEASE", "ERR LEASE is missing"),
        ("WAIT -1", "ERR WAIT must be an integer from 0 to 315360000000"),
        ("WAIT 01", "ERR WAIT must be an integer from 0 to 315360000000"),
        ("WAIT 315360000001", "ERR WAIT must be an integer from 0 to 315360000000"),
        ("LEASE 0", "ERR LEASE must be an integer from 1 to 315360000000"),
        ("LEASE 1.0", "ERR LEASE must be an integer from 1 to 315360000000"),
        ("LEASE 18446744073709551616", "ERR LEASE must be an integer from 1 to 315360000000"),
        ("WAIT 1 wait 1", "ERR WAIT was given more than once"),
        ("LEASE 1 WAIT 1 LEASE 1", "ERR LEASE was given more than once"),
        ("NOW", "ERR unknown option 'NOW'"),
        ("WAIT 1 NOW", "ERR unknown option 'NOW'"),
    ],
)
def test_a_call_with_bad_options_is_refused_and_changes_nothing(
    server: Server, raw: RawClient, options: str, error: str
) -> None:
    before = ledger(server)
    assert raw.call("CACHE.GETSM", "k", *options.split()) == error
    raw.call("CACHE.SETSM", "there", "v", LONG)
    assert raw.call("CACHE.GETSM", "there", *options.split()) == error
    assert ledger(server) == before


# Where nobody can be parked


def test_in_a_transaction_it_does_not_wait(server: Server, connect: Connect, raw: RawClient) -> None:
    trust_transactions(server)
    _, (waiter,) = line(server, connect, 1)
    commands = [("MULTI",), ("CACHE.GETSM", "k", "WAIT", LONG), ("CACHE.GETSM", "free"), ("EXEC",)]
    leased, won = raw.pipeline(commands)[-1]
    assert left_ms(leased) <= LONG and won is None
    assert not waiter.has_reply()
    assert server.stats()["leases"] == 2


@pytest.mark.parametrize("where", ["script", "function"])
def test_in_a_script_or_function_it_does_not_wait(server: Server, connect: Connect, raw: RawClient, where: str) -> None:
    run = scripted(raw, where, f"'CACHE.GETSM', KEYS[1], 'WAIT', '{LONG}'")
    line(server, connect, 1)
    assert is_error(raw.call(*run, 1, "k"), "LEASED another caller")
    assert raw.call(*run, 1, "free") is None
    raw.call("CACHE.SETSM", "k", "v", LONG)
    assert raw.call(*run, 1, "k") == b"v"


# Waiters that leave


@pytest.mark.parametrize("how", ["close", "reset", "kill"])
def test_a_waiter_whose_connection_is_gone_is_passed_over(
    server: Server, connect: Connect, raw: RawClient, how: str
) -> None:
    raw.call("CACHE.GETSM", "k", "LEASE", LONG)
    first = connect(tcp=True).send("CACHE.GETSM", "k", "WAIT", LONG)
    parked(server, 1)
    second = connect().send("CACHE.GETSM", "k", "WAIT", LONG)
    parked(server, 2)
    if how == "kill":
        server.call("CLIENT", "KILL", "ID", first.client_id)
    else:
        getattr(first, how)()
    parked(server, 1)
    raw.call("DEL", "k")
    assert second.recv() is None


def test_a_holder_whose_connection_is_gone_still_holds_the_lease(
    server: Server, connect: Connect, raw: RawClient
) -> None:
    holder, (waiter,) = line(server, connect, 1)
    assert server.call("CLIENT", "KILL", "ID", holder.client_id) == 1
    assert left_ms(raw.call("CACHE.GETSM", "k", "WAIT", 0)) > 0
    assert (server.stats()["leases"], waiter.has_reply()) == (1, False)
    raw.call("CACHE.SETSM", "k", "v", LONG)
    assert waiter.recv() == b"v"


@pytest.mark.parametrize("how", [("KILL", "ID"), ("UNBLOCK",)], ids=["kill", "unblock error"])
def test_a_lease_granted_to_a_waiter_that_never_hears_of_it_passes_to_the_next(
    server: Server, connect: Connect, raw: RawClient, how: tuple[str, ...]
) -> None:
    _, (first, second) = line(server, connect, 2)
    before = server.stats()["leases_disconnected"]
    end = ("CLIENT", *how, first.client_id, *(["ERROR"] if how == ("UNBLOCK",) else []))
    # In one turn: the second command decides that the first waiter gets the lease, the third ends its wait.
    deleted, leased, ended = raw.pipeline([("DEL", "k"), ("CACHE.GETSM", "k", "WAIT", 0), end])
    assert (deleted, is_error(leased, "LEASED"), ended) == (0, True, 1)
    assert second.recv() is None
    assert (server.stats()["leases_disconnected"], server.stats()["leases"]) == (before + 1, 1)


@pytest.mark.parametrize("how, told", [("TIMEOUT", "LEASED another"), ("ERROR", "UNBLOCKED")], ids=["timeout", "error"])
def test_client_unblock_ends_the_wait_and_the_next_takes_the_place(
    server: Server, connect: Connect, raw: RawClient, how: str, told: str
) -> None:
    _, (first, second) = line(server, connect, 2)
    assert raw.call("CLIENT", "UNBLOCK", first.client_id, how) == 1
    assert is_error(first.recv(), told)
    assert first.call("PING") == b"PONG"
    parked(server, 1)
    raw.call("DEL", "k")
    assert second.recv() is None


@pytest.mark.parametrize(
    "decided, answer",
    [
        ([("CACHE.SETSM", "k", "v", LONG)], b"v"),
        ([("DEL", "k"), ("CACHE.GETSM", "k", "WAIT", 0)], None),
    ],
    ids=["set", "handed over"],
)
def test_client_unblock_timeout_brings_the_answer_that_had_been_decided(
    server: Server, connect: Connect, raw: RawClient, decided: list, answer: bytes | None
) -> None:
    _, (waiter,) = line(server, connect, 1)
    assert raw.pipeline([*decided, ("CLIENT", "UNBLOCK", waiter.client_id, "TIMEOUT")])[-1] == 1
    assert waiter.recv() == answer
    assert waiter.call("PING") == b"PONG"
    assert (server.stats()["waiters"], server.stats()["leases"]) == (0, 0 if answer else 1)


# Plain commands that invalidate the key (those that put a value there: test_setsm.py)


def void(server: Server, waiters: list[RawClient], voided_before: int) -> None:
    """The oldest of two waiters holds the lease now, and the other one waits."""
    assert waiters[0].recv(timeout=3) is None
    stats = server.stats()
    assert (stats["leases_voided"], stats["leases"], stats["waiters"]) == (voided_before + 1, 1, 1)
    assert not waiters[1].has_reply()
    assert waiters[0].call("CACHE.SETSM", "k", "v", LONG) == b"OK"
    assert waiters[1].recv() == b"v"


REMOVALS = ["DEL", "UNLINK", "GETDEL", "DEL other", "FLUSHDB", "FLUSHALL", "FLUSHALL ASYNC", "SWAPDB 0 1", "SWAPDB 1 0"]


@pytest.mark.parametrize("command", REMOVALS)
def test_an_invalidation_of_the_missing_key_hands_the_lease_to_the_oldest_waiter(
    server: Server, connect: Connect, raw: RawClient, command: str
) -> None:
    _, waiters = line(server, connect, 2)
    voided = server.stats()["leases_voided"]
    raw.call(*command.split(), *([] if command[0] in "FS" else ["k"]))
    void(server, waiters, voided)


@pytest.mark.parametrize("name", ["DEL", "UNLINK"])
@pytest.mark.parametrize("where", ["script", "function"])
def test_an_invalidation_in_a_script_or_function_counts(
    server: Server, connect: Connect, raw: RawClient, where: str, name: str
) -> None:
    _, waiters = line(server, connect, 2)
    voided = server.stats()["leases_voided"]
    assert raw.call(*scripted(raw, where, f"'{name}', KEYS[1]"), 1, "k") == 0
    void(server, waiters, voided)


@pytest.mark.parametrize("queued", ["before the lease", "after the lease"])
def test_an_invalidation_in_a_transaction_counts_when_it_runs(
    server: Server, connect: Connect, raw: RawClient, queued: str
) -> None:
    trust_transactions(server)
    commands = [("MULTI",), ("DEL", "k")]
    if queued == "before the lease":
        raw.pipeline(commands)
    _, waiters = line(server, connect, 2)
    voided = server.stats()["leases_voided"]
    if queued == "after the lease":
        raw.pipeline(commands)
    if server.is_valkey or server.version >= (7, 2):  # Redis 7.0 may take the queued command for another client's
        left_ms(server.control().call("CACHE.GETSM", "k", "WAIT", 0))
        assert server.stats()["leases_voided"] == voided
        assert raw.call("EXEC") == [0]
        void(server, waiters, voided)
    else:
        assert raw.call("EXEC") == [0]
        assert waiters[0].recv() is None


@pytest.mark.parametrize("refused", [("MULTI", "surplus"), ("EVAL", "return redis.pcall('multi')", 0)], ids=str)
def test_an_invalidation_after_a_refused_multi_counts_at_once(
    server: Server, connect: Connect, raw: RawClient, refused: tuple
) -> None:
    _, waiters = line(server, connect, 2)
    voided = server.stats()["leases_voided"]
    assert is_error(raw.call(*refused), "ERR")
    delete = ("EVAL", "return redis.call('DEL', KEYS[1])", 1) if refused[0] == "EVAL" else ("DEL",)
    assert raw.call(*delete, "k") == 0
    void(server, waiters, voided)
