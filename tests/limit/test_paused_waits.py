"""CACHE.RATELIMIT … WAIT while the server takes no writes, and when somebody moves the end of the key: waits end when
they should, and what nobody heard of comes back."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually

Connect = Callable[..., RawClient]
LONG = 600_000  # milliseconds; no test lasts as long
RULE = ("CACHE.RATELIMIT", "k", 1, LONG)


def waiting(server: Server) -> int:
    return server.stats()["limits_waiting"]


def wait_in_line(server: Server, client: RawClient, *options: Any, wait: int = LONG) -> RawClient:
    before = waiting(server)
    client.send(*RULE, "WAIT", wait, *options)
    eventually(lambda: waiting(server) == before + 1)
    return client


def test_a_wait_ends_while_writes_are_paused(server: Server, raw: RawClient, connect: Connect) -> None:
    """A refusal changes nothing, so it may be told: to the first in line and to those behind."""
    raw.call(*RULE)
    waiters = [connect() for _ in range(3)]
    for waiter in waiters:
        waiter.send(*RULE, "WAIT", 700)
    eventually(lambda: waiting(server) == 3)
    began = time.monotonic()
    raw.call("CLIENT", "PAUSE", 60_000, "WRITE")
    try:
        for waiter in waiters:
            allowed, limit, remaining, retry, _ = waiter.recv(timeout=20)
            assert (allowed, limit, remaining) == (0, 1, 0) and retry > 0
        assert time.monotonic() - began < 30, "long before the pause ends"
    finally:
        raw.call("CLIENT", "UNPAUSE")
    assert waiting(server) == 0


def test_units_that_exist_are_not_taken_while_writes_are_paused(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    raw.call(*RULE)
    waiter = wait_in_line(server, connect(), wait=1_000)
    raw.pipeline([("MULTI",), ("DEL", "k"), ("CLIENT", "PAUSE", 60_000, "WRITE"), ("EXEC",)])
    digest, offset = server.digest(), server.info("replication")["master_repl_offset"]
    allowed, limit, remaining, retry, _ = waiter.recv(timeout=20)
    assert (allowed, limit, remaining) == (0, 1, 1) and retry >= 1, "there, and not to be had now"
    assert (server.digest(), server.info("replication")["master_repl_offset"]) == (digest, offset)
    raw.call("CLIENT", "UNPAUSE")
    assert raw.call(*RULE)[0] == 1


@pytest.mark.parametrize("other_line", [False, True], ids=["alone", "beside another line"])
def test_what_nobody_heard_of_is_back_after_a_pause(
    server: Server, raw: RawClient, connect: Connect, other_line: bool
) -> None:
    crowd, rule = 1_000, ("CACHE.RATELIMIT", "k", 1_000, LONG)
    if other_line:
        raw.call("CACHE.RATELIMIT", "other", 1, LONG)
        connect().send("CACHE.RATELIMIT", "other", 1, LONG, "WAIT", LONG)
    assert raw.call(*rule, "COST", crowd)[0] == crowd
    with server.herd(crowd) as herd:
        herd.send(*rule, "WAIT", LONG)
        eventually(lambda: waiting(server) == crowd + other_line, timeout=30)
        heard_before = server.stats()["limits_allowed"]
        # All are let through, and cut off before most of them are told; then nothing may be written.
        server.call("DEL", "k")
        server.control().pipeline([("CLIENT", "KILL", "TYPE", "normal"), ("CLIENT", "PAUSE", 60_000, "WRITE")])
    heard = server.stats()["limits_allowed"] - heard_before
    client = connect()
    client.call("CLIENT", "UNPAUSE")

    def left() -> int:
        return client.call("CACHE.RATELIMIT_RO", "k", 1_000, LONG, "COST", crowd, "PARTIAL")[0]

    eventually(lambda: left() == crowd - heard, message=lambda: f"{left()} are left, {heard} were told")


def test_a_ttl_given_by_hand_is_noticed_when_it_ends(server: Server, raw: RawClient, connect: Connect) -> None:
    """Nobody else looks at the key: the server's own search for what has expired is off."""
    server.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    try:
        raw.call(*RULE)
        raw.call("PEXPIRE", "k", 300)
        assert connect().send(*RULE, "WAIT", LONG).recv(timeout=20)[0] == 1
    finally:
        server.call("DEBUG", "SET-ACTIVE-EXPIRE", 1)


def test_many_waits_that_end_together_leave_time_for_others(server: Server, raw: RawClient) -> None:
    """Each is told what a long log says, and none of them costs a copy of it."""
    log, crowd = 200_000, 500
    window = 36_000_000_000
    runs = b"\0" + b"\x02" * (log - 1)
    fields = b"".join(varint(n) for n in (1, 0, 1, log, window, int(time.time() * 1000), len(runs)))
    assert raw.call("CACHE.RATELIMIT", "k", "STATE", fields + runs) == b"OK"
    rule = ("CACHE.RATELIMIT", "k", log, window)
    assert raw.call(*rule)[0] == 0
    with server.herd(crowd) as herd:
        herd.send(*rule, "WAIT", 300)
        answers = herd.collect()
    assert all(answer.reply[:3] == [0, log, 0] for answer in answers)


def varint(n: int) -> bytes:
    parts = []
    while n >= 0x80:
        parts.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*parts, n])
