"""How much the server does between two commands of others: little, whatever there is to do, and something of each family.

Each waiter has a command behind its own in the same connection. That runs once the waiter is answered, before anything is
done in a later turn: so it tells how many had been answered by then.
"""

from collections.abc import Callable
from typing import Any

import pytest

from harness import Herd, RawClient, Server, eventually, is_error
from harness.line import LONG
from harness.raw import encode

Connect = Callable[..., RawClient]
CROWD = 2_000
LARGE = 1 << 20


def stat(reply: bytes, name: str) -> int:
    fields = dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
    return int(fields[f"cacheguard_{name}"])


def park_crowd(server: Server, holder: RawClient, herd: Herd) -> None:
    assert holder.call("CACHE.GETSM", "crowded", "LEASE", LONG, "META")[0] == b"won"
    herd.send("CACHE.GETSM", "crowded", "WAIT", LONG)
    eventually(lambda: server.stats()["waiters"] == len(herd), 60)


def ask_with_info(client: RawClient, *command: Any) -> RawClient:
    """Asks, and has INFO run as soon as that is answered."""
    return client.send_bytes(encode(*command) + encode("INFO", "cacheguard"))


WAITS: dict[str, tuple[str, tuple[Any, ...], tuple[Any, ...], tuple[Any, ...], Callable[[Any], bool]]] = {
    # What counts it, what the holder asks, what the waiter asks, what frees it, whether the waiter got it.
    "lock": (
        "lock_waiters",
        ("CACHE.LOCK", "k", "a", LONG),
        ("CACHE.LOCK", "k", "b", LONG, "WAIT", LONG),
        ("CACHE.UNLOCK", "k", "a"),
        lambda reply: isinstance(reply, int),
    ),
    "limit": (
        "limits_waiting",
        ("CACHE.RATELIMIT", "k", 1, LONG),
        ("CACHE.RATELIMIT", "k", 1, LONG, "WAIT", LONG),
        ("CACHE.REFUND", "k", 1),
        lambda reply: reply[0] == 1,
    ),
    "lease": (
        "waiters",
        ("CACHE.GETSM", "k", "LEASE", LONG, "META"),
        ("CACHE.GETSM", "k", "WAIT", LONG, "META"),
        ("CACHE.DEL", "k"),
        lambda reply: reply[0] == b"won",
    ),
}


@pytest.mark.parametrize("kind", WAITS)
def test_who_gets_a_right_is_told_before_a_crowd(server: Server, kind: str) -> None:
    counts, hold, wait, free, is_granted = WAITS[kind]
    holder, waiter = server.raw(), server.raw()
    with server.herd(CROWD) as herd:
        park_crowd(server, holder, herd)
        assert not is_error(holder.call(*hold))
        before = server.stats()[counts]
        ask_with_info(waiter, *wait)
        eventually(lambda: server.stats()[counts] == before + 1)
        holder.pipeline([("CACHE.SETSM", "crowded", "v", LONG), free])
        assert is_granted(waiter.recv())
        assert stat(waiter.recv(), "waiters") > CROWD / 2, "the crowd was told first"
        assert {answer.reply for answer in herd.collect(60) if answer is not None} == {b"v"}


@pytest.mark.parametrize("kind", ["lock", "limit"])
def test_a_grant_does_not_stand_behind_waits_that_end(server: Server, kind: str) -> None:
    """Both keys go at once: that of the crowd becomes a string, which ends its waits, and the other one is free."""
    counts, hold, wait, _, is_granted = WAITS[kind]
    holder, waiter = server.raw(), server.raw()
    with server.herd(CROWD) as herd:
        for words in (hold, (*hold[:1], "crowded", *hold[2:])):
            assert not is_error(holder.call(*words))
        herd.send(*wait[:1], "crowded", *wait[2:])
        eventually(lambda: server.stats()[counts] == CROWD, 60)
        waiter.send_bytes(encode(*wait) + encode("INFO", "clients"))
        eventually(lambda: server.stats()[counts] == CROWD + 1)
        holder.pipeline([("SET", "crowded", "v"), ("DEL", "k")])
        assert is_granted(waiter.recv())
        info = waiter.recv().decode()
        still_blocked = int(info.partition("blocked_clients:")[2].split()[0])
        assert still_blocked > CROWD / 2, "the crowd was told first"
        assert all(answer is not None and is_error(answer.reply, "WRONGTYPE") for answer in herd.collect(60))


def in_the_first_turn(server: Server, clients: list[RawClient], *command: Any) -> Callable[[], int]:
    """Lets all of them wait; the result, called once they are answered, tells how many were so in the first turn."""
    for client in clients:
        ask_with_info(client, *command)
    eventually(lambda: server.stats()["waiters"] == len(clients))

    def count() -> int:
        left = []
        for client in clients:
            assert not is_error(client.recv(30))
            left.append(stat(client.recv(30), "waiters"))
        return len(clients) - max(left)

    return count


def test_large_values_are_told_a_few_a_turn(server: Server, connect: Connect) -> None:
    assert connect().call("CACHE.GETSM", "k", "LEASE", LONG, "META")[0] == b"won"
    first = in_the_first_turn(server, [connect(timeout=30) for _ in range(20)], "CACHE.GETSM", "k", "WAIT", LONG)
    assert server.call("CACHE.SETSM", "k", b"v" * LARGE, LONG) == b"OK"
    assert 1 <= first() <= 4


def test_many_large_rows_are_told_a_few_a_turn(server: Server, connect: Connect) -> None:
    keys = [f"k{i}" for i in range(16)]
    for key in keys:
        assert connect().call("CACHE.GETSM", key, "LEASE", LONG, "META")[0] == b"won"
    clients = [connect(timeout=30) for _ in range(20)]
    first = in_the_first_turn(server, clients, "CACHE.MGETSM", len(keys), *keys, "WAIT", LONG)
    server.control().pipeline([("CACHE.SETSM", key, b"v" * (LARGE // 16), LONG) for key in keys])
    assert 1 <= first() <= 4


def test_values_of_a_size_that_is_seen_only_then_are_told_a_few_a_turn(server: Server, connect: Connect) -> None:
    """A value that is stale when it comes is read by each waiter when it is answered."""
    token = connect().call("CACHE.GETSM", "k", "LEASE", LONG, "META")[2]
    clients = [connect(timeout=30) for _ in range(20)]
    first = in_the_first_turn(server, clients, "CACHE.GETSM", "k", "WAIT", LONG)
    assert server.call("CACHE.MARKSTALE", "t") == 0
    assert server.call("CACHE.SETSM", "k", b"v" * LARGE, LONG, "TOKEN", token, "TAGS", 1, "t") == b"OK"
    assert 1 <= first() <= 4


def test_small_replies_are_told_by_the_hundred(server: Server, connect: Connect) -> None:
    assert connect().call("CACHE.GETSM", "k", "LEASE", LONG, "META")[0] == b"won"
    clients = [connect() for _ in range(60)]
    first = in_the_first_turn(server, clients, "CACHE.GETSM", "k", "WAIT", LONG)
    assert server.call("CACHE.SETSM", "k", b"v", LONG) == b"OK"
    assert first() >= 16


def test_a_flush_ends_the_leases_of_all_keys_though_nobody_waits_for_it(server: Server, connect: Connect) -> None:
    """It is noted at once and reaches the leases a few at a time: who asks for any of them finds it ended."""
    client, count = connect(timeout=30), 20_000
    client.pipeline([("CACHE.GETSM", f"k{i}", "LEASE", LONG, "WAIT", 0) for i in range(count)])
    waiter = connect().send("CACHE.GETSM", "k19999", "WAIT", LONG, "META")
    eventually(lambda: server.stats()["waiters"] == 1)
    asked = client.pipeline([("FLUSHALL",), ("CACHE.LEASES", "COUNT", 10_000), ("CACHE.GETSM", "k10000", "META")])
    assert len(asked[1]) <= 1, "a lease that is about to end is not shown"
    assert asked[2][0] == b"won"
    assert waiter.recv()[0] == b"won"
    eventually(lambda: server.stats()["leases"] == 2, 20)
