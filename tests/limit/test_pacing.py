"""CACHE.RATELIMIT … WAIT: callers are paced by the server, in order of arrival, without a retry.

When units were taken is read from the AOF, where the server wrote it to the millisecond.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error

Connect = Callable[..., RawClient]
LONG = 600_000  # milliseconds; no test lasts as long


def take_all(client: RawClient, key: str = "k") -> None:
    assert client.call("CACHE.RATELIMIT", key, 1, LONG)[:2] == [1, 1]


def line_up(server: Server, connect: Connect, count: int, *options: Any, key: str = "k") -> list[RawClient]:
    """Connections that wait for a unit of a key, the one that came first first."""
    waiters = []
    for _ in range(count):
        waiters.append(connect().send("CACHE.RATELIMIT", key, 1, LONG, "WAIT", LONG, *options))
        eventually(lambda: server.stats()["limits_waiting"] == len(waiters))
    return waiters


def takings(server: Server) -> list[int]:
    """The instants in the AOF, in milliseconds."""
    text = b"".join(path.read_bytes() for path in sorted(server.dir.rglob("*.aof*")))
    return [int(at) for at in re.findall(rb"\r\nAT\r\n\$\d+\r\n(\d+)\r\n", text)]


def test_fifty_callers_go_through_at_the_rate_and_in_order(fresh_server: Callable[..., Server], protocol: int) -> None:
    server = fresh_server(appendonly=True, config={"appendfsync": "always"})
    with server.herd(50, protocol) as herd:
        # One more for each, so that all fifty are in line when the first goes through.
        assert server.raw().call("CACHE.RATELIMIT", "k", 1, 10, "COST", 1)[0] == 1
        herd.send("CACHE.RATELIMIT", "k", 1, 10, "WAIT", LONG)
        answers = herd.collect()
    assert [answer.reply[:4] for answer in answers] == [[1, 1, 0, 0]] * 50
    assert [answer.order for answer in answers] == list(range(50)), "in the order of arrival"
    instants = takings(server)
    assert len(instants) == 51
    gaps = [after - before for before, after in zip(instants, instants[1:])]
    assert min(gaps) >= 10, "never above the rate"
    assert server.stats()["limits_refused"] == 0, "nobody had to try twice"
    assert server.stats()["limits_waiting"] == 0


@pytest.mark.parametrize("algorithm", ["FIXED", "GCRA"])
def test_the_other_algorithms_pace_as_well(server: Server, protocol: int, algorithm: str) -> None:
    with server.herd(20, protocol) as herd:
        herd.send("CACHE.RATELIMIT", "k", 2, 10, "WAIT", LONG, "ALGORITHM", algorithm)
        answers = herd.collect()
    assert [answer.reply[0] for answer in answers] == [1] * 20
    # Two may go through in one turn, and those the server answers in an order of its own.
    assert max(abs(answer.order - n) for n, answer in enumerate(answers)) <= 1


def test_who_asks_for_little_does_not_overtake_who_asks_for_much(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    rule = ("CACHE.RATELIMIT", "k", 10, LONG)
    assert raw.call(*rule, "COST", 6)[0] == 6
    large = connect().send(*rule, "COST", 8, "WAIT", LONG)
    eventually(lambda: server.stats()["limits_waiting"] == 1)
    small = connect().send(*rule, "WAIT", LONG)
    eventually(lambda: server.stats()["limits_waiting"] == 2)
    for options in [(), ("PARTIAL",), ("PEEK",), ("WAIT", 0)]:
        allowed, limit, remaining, retry, _ = raw.call(*rule, *options)
        assert (allowed, limit, remaining) == (0, 10, 4), "others were there before"
        assert 0 < retry <= LONG
    assert raw.call("CL.THROTTLE", "k", 9, 10, 600)[0] == 1
    assert raw.call("CACHE.REFUND", "k", 4) == 4
    assert large.recv()[:4] == [8, 10, 0, 0]
    assert not small.has_reply()
    assert raw.call("CACHE.REFUND", "k", 1) == 1
    assert small.recv()[:4] == [1, 10, 0, 0]


def test_a_caller_that_leaves_gives_its_place_up(server: Server, raw: RawClient, connect: Connect) -> None:
    take_all(raw)
    first, second, third = line_up(server, connect, 3)
    first.close()
    eventually(lambda: server.stats()["limits_waiting"] == 2)
    assert raw.call("CACHE.REFUND", "k", 1) == 1
    assert second.recv()[0] == 1
    assert not third.has_reply()
    assert raw.call("CLIENT", "KILL", "ID", third.client_id) == 1
    eventually(lambda: server.stats()["limits_waiting"] == 0)
    assert raw.call("CACHE.RATELIMIT", "k", 1, LONG, "PEEK")[2] == 0, "nobody took the place of the third"


def test_units_that_nobody_heard_of_are_given_back(server: Server, raw: RawClient, connect: Connect) -> None:
    """Whether the connection goes before its answer is decided or after, the unit is there at the end."""
    for _ in range(20):
        take_all(raw)
        (waiter,) = line_up(server, connect, 1)
        raw.pipeline([("MULTI",), ("CACHE.REFUND", "k", 1), ("CLIENT", "KILL", "ID", waiter.client_id), ("EXEC",)])
        eventually(lambda: server.stats()["limits_waiting"] == 0)
        eventually(lambda: raw.call("CACHE.RATELIMIT", "k", 1, LONG, "PEEK")[0] == 1)
        raw.call("DEL", "k")


def test_what_counts_is_what_was_heard(server: Server, protocol: int) -> None:
    """A crowd is cut off while its answers are on their way: each unit was told to somebody, or is there again."""
    crowd, rule = 1_000, ("CACHE.RATELIMIT", "k", 3_000, LONG)

    def taken() -> int:
        return 3_000 - server.call(*rule, "COST", 3_000, "PARTIAL", "PEEK")[0]

    def some_are_cut_off() -> bool:
        server.call("DEL", "k")
        assert server.call(*rule, "COST", 3_000)[0] == 3_000
        before = server.stats()["limits_allowed"]
        with server.herd(crowd, protocol) as herd:
            herd.send(*rule, "WAIT", LONG)
            eventually(lambda: server.stats()["limits_waiting"] == crowd, timeout=20)
            server.call("DEL", "k")
            eventually(lambda: server.stats()["limits_waiting"] < crowd, interval=0.0001)
            server.call("CLIENT", "KILL", "TYPE", "normal")
        heard = server.stats()["limits_allowed"] - before
        eventually(lambda: taken() == heard)
        return heard < crowd

    assert eventually(some_are_cut_off, timeout=30)


def test_a_wait_that_ends_is_a_refusal(server: Server, raw: RawClient, connect: Connect) -> None:
    take_all(raw)
    first = connect().send("CACHE.RATELIMIT", "k", 1, LONG, "WAIT", 100)
    second = connect().send("CACHE.RATELIMIT", "k", 1, LONG, "WAIT", 30)
    for waiter in (second, first):
        allowed, limit, remaining, retry, reset = waiter.recv()
        assert (allowed, limit, remaining) == (0, 1, 0)
        assert retry == pytest.approx(LONG, abs=30_000) and reset == pytest.approx(LONG, abs=30_000)
    assert server.stats()["limits_waiting"] == 0


def test_a_wait_for_what_there_never_is_does_not_begin(raw: RawClient) -> None:
    assert raw.call("CACHE.RATELIMIT", "k", 3, LONG, "COST", 4, "WAIT", LONG)[:4] == [0, 3, 3, -1]


@pytest.mark.parametrize(
    "change",
    [
        ("DEL", "k"),
        ("UNLINK", "k"),
        ("PEXPIRE", "k", 1),
        ("RENAME", "k", "other"),
        ("MOVE", "k", 5),
        ("FLUSHDB",),
        ("FLUSHALL", "ASYNC"),
        ("SWAPDB", 0, 1),
    ],
    ids=lambda change: change[0],
)
def test_a_key_that_goes_lets_the_first_through(
    server: Server, raw: RawClient, connect: Connect, change: tuple[Any, ...]
) -> None:
    take_all(raw)
    first, second = line_up(server, connect, 2)
    assert not is_error(raw.call(*change))
    assert first.recv()[:4] == [1, 1, 0, 0]
    assert not second.has_reply()
    assert server.stats()["limits_waiting"] == 1


def test_a_key_that_is_emptied_in_lua_lets_the_first_through(server: Server, raw: RawClient, connect: Connect) -> None:
    take_all(raw)
    (waiter,) = line_up(server, connect, 1)
    assert raw.call("EVAL", "return redis.call('DEL', KEYS[1])", 1, "k") == 1
    assert waiter.recv()[0] == 1


@pytest.mark.parametrize("change", [("SET", "k", "v"), ("RENAME", "string", "k"), ("COPY", "string", "k", "REPLACE")])
def test_a_key_of_another_type_tells_all(
    server: Server, raw: RawClient, connect: Connect, change: tuple[Any, ...]
) -> None:
    raw.call("SET", "string", "v")
    take_all(raw)
    waiters = line_up(server, connect, 3)
    raw.call(*change)
    assert all(is_error(waiter.recv(), "WRONGTYPE") for waiter in waiters)


def test_other_limits_under_the_key_count_from_now_on(server: Server, raw: RawClient, connect: Connect) -> None:
    take_all(raw)
    (waiter,) = line_up(server, connect, 1)
    assert raw.call("CACHE.RATELIMIT", "other", 3, LONG, "COST", 3)[0] == 3
    assert raw.call("RENAME", "other", "k") == b"OK"
    assert raw.call("CACHE.REFUND", "k", 2) == 2
    assert not waiter.has_reply()
    assert raw.call("CACHE.REFUND", "k", 1) == 1
    assert waiter.recv()[:3] == [1, 1, 0]


@pytest.mark.parametrize("kind", ["TIMEOUT", "ERROR"])
def test_an_operator_may_end_a_wait(server: Server, raw: RawClient, connect: Connect, kind: str) -> None:
    take_all(raw)
    first, second = line_up(server, connect, 2)
    assert raw.call("CLIENT", "UNBLOCK", first.client_id, kind) == 1
    reply = first.recv()
    assert is_error(reply, "UNBLOCKED") if kind == "ERROR" else reply[:3] == [0, 1, 0]
    assert first.call("PING") == b"PONG"
    eventually(lambda: server.stats()["limits_waiting"] == 1)
    assert raw.call("CACHE.REFUND", "k", 1) == 1
    assert second.recv()[0] == 1


def test_no_more_wait_than_may(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CONFIG", "SET", "cacheguard.max-waiters", 2)
    take_all(raw)
    line_up(server, connect, 2)
    assert raw.call("CACHE.RATELIMIT", "k", 1, LONG, "WAIT", LONG)[0] == 0


def test_keys_and_databases_have_lines_of_their_own(server: Server, raw: RawClient, connect: Connect) -> None:
    take_all(raw)
    (waiter,) = line_up(server, connect, 1)
    take_all(raw, "other")
    raw.call("SELECT", 1)
    take_all(raw)
    assert raw.call("CACHE.REFUND", "k", 1) == 1
    raw.call("FLUSHDB")
    raw.call("SELECT", 0)
    assert raw.call("DEL", "other") == 1
    assert not waiter.has_reply()
    assert raw.call("DEL", "k") == 1
    assert waiter.recv()[0] == 1


def test_writes_that_are_held_back_hold_waiters_back(server: Server, raw: RawClient, connect: Connect) -> None:
    take_all(raw)
    (waiter,) = line_up(server, connect, 1)
    replicated = server.info("replication")["master_repl_offset"]
    raw.pipeline([("MULTI",), ("CACHE.REFUND", "k", 1), ("CLIENT", "PAUSE", LONG, "WRITE"), ("EXEC",)])
    for _ in range(20):
        raw.call("PING")
        assert not waiter.has_reply()
    assert server.info("replication")["master_repl_offset"] == replicated
    assert raw.call("CLIENT", "UNPAUSE") == b"OK"
    assert waiter.recv()[0] == 1


def test_a_replica_sends_waiters_away(fresh_server: Callable[..., Server], protocol: int) -> None:
    primary, server = fresh_server(), fresh_server()
    take_all(server.raw())
    waiter = server.raw(protocol).send("CACHE.RATELIMIT", "k", 1, LONG, "WAIT", LONG)
    eventually(lambda: server.stats()["limits_waiting"] == 1)
    server.replica_of(primary)
    reply = waiter.recv()
    assert is_error(reply, "READONLY") or is_error(reply, "UNBLOCKED")
    assert server.stats()["limits_waiting"] == 0
    assert is_error(server.raw(protocol).call("CACHE.RATELIMIT", "k", 1, LONG), "READONLY")


@pytest.mark.parametrize("load", ["RELOAD", "LOADAOF"])
def test_a_reload_keeps_the_line_waiting(fresh_server: Callable[..., Server], protocol: int, load: str) -> None:
    server = fresh_server(appendonly=True)
    take_all(server.raw())
    waiter = server.raw(protocol).send("CACHE.RATELIMIT", "k", 1, LONG, "WAIT", LONG)
    eventually(lambda: server.stats()["limits_waiting"] == 1)
    assert server.call("DEBUG", load) == b"OK"
    for _ in range(20):
        assert server.call("PING") == b"PONG" and not waiter.has_reply()
    assert server.call("CACHE.REFUND", "k", 1) == 1
    assert waiter.recv()[0] == 1


@pytest.mark.slow
def test_a_crowd_that_comes_and_goes_leaves_nothing(server: Server, raw: RawClient, protocol: int) -> None:
    for _ in range(3):
        take_all(raw)
        with server.herd(2_000, protocol) as herd:
            herd.send("CACHE.RATELIMIT", "k", 1, LONG, "WAIT", LONG)
            eventually(lambda: server.stats()["limits_waiting"] == 2_000, timeout=30)
        eventually(lambda: server.stats()["limits_waiting"] == 0, timeout=30)
        assert raw.call("CACHE.RATELIMIT", "k", 1, LONG, "PEEK")[2] == 0
        raw.call("DEL", "k")
    assert server.stats()["panics"] == 0
