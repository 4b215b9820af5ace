"""Fencing numbers rise strictly, whatever happens to the lock, its key and its server."""

from collections.abc import Callable
from typing import Any

import pytest

from harness import Clock, RawClient, Server, eventually, is_error
from harness.line import LONG, info
from harness.payload import body_of, signed

JAVASCRIPT_MAX = 2**53 - 1
HOUR_US = 3_600_000_000


def take(client: RawClient | Server, key: str = "k", owner: str = "me") -> int:
    fence = client.call("CACHE.LOCK", key, owner, LONG)
    assert isinstance(fence, int), fence
    return fence


def payload(server: Server, fence: int) -> bytes:
    """A lock as it was dumped by a server whose numbers are elsewhere."""
    sample = server.call("DUMP", "k")
    return signed(sample, body_of(sample, [0, 0, 1, b"another", fence, 9_000_000_000_000]))


HANDS: dict[str, Callable[[RawClient], Any]] = {
    "unlock": lambda r: r.call("CACHE.UNLOCK", "k", "me"),
    "del": lambda r: r.call("DEL", "k"),
    "expiry": lambda r: r.call("PEXPIREAT", "k", 1),
    "deadline": lambda r: (r.call("CACHE.EXTEND", "k", "me", 1), eventually(lambda: r.call("EXISTS", "k") == 0)),
    "flushall": lambda r: r.call("FLUSHALL"),
    "swapdb": lambda r: r.pipeline([("SELECT", 1), ("FLUSHDB",), ("SELECT", 0), ("SWAPDB", 0, 1)]),
    "overwritten": lambda r: (r.call("SET", "k", "v"), r.call("DEL", "k")),
    "rename": lambda r: r.call("RENAME", "k", "away"),
}


@pytest.mark.parametrize("hand", HANDS)
def test_they_rise_whatever_ends_the_lock(raw: RawClient, hand: str) -> None:
    fences = [take(raw)]
    for _ in range(3):
        HANDS[hand](raw)
        fences.append(take(raw))
    assert fences == sorted(set(fences)) and fences[-1] <= JAVASCRIPT_MAX


def test_an_old_dump_neither_revives_a_holder_nor_a_number(server: Server, raw: RawClient) -> None:
    old = take(raw)
    payload = raw.call("DUMP", "k")
    raw.call("DEL", "k")
    new = take(raw)
    raw.call("RESTORE", "k", 0, payload, "REPLACE")
    assert info(raw)[b"holders"][0][b"fence"] == old, "that is what the dump says"
    raw.call("DEL", "k")
    assert take(raw) > new


def test_a_dump_of_a_lock_that_ended_is_free(raw: RawClient) -> None:
    raw.call("CACHE.LOCK", "k", "me", 30)
    payload = raw.call("DUMP", "k")
    eventually(lambda: raw.call("EXISTS", "k") == 0)
    raw.call("RESTORE", "k", 0, payload)
    assert info(raw)[b"mode"] == b"free"
    assert take(raw, owner="you") > 0


def test_a_number_from_another_server_is_surpassed(fresh_server: Callable[..., Server]) -> None:
    """A lock restored from a server whose numbers are ahead."""
    server = fresh_server()
    ahead = take(server) + HOUR_US
    server.call("RESTORE", "restored", 0, payload(server, ahead))
    assert take(server, "another key") > ahead
    server.call("FLUSHALL")
    assert take(server) > ahead


@pytest.mark.parametrize("how", ["term", "kill -9"])
def test_a_restart_without_persistence(fresh_server: Callable[..., Server], how: str) -> None:
    server, fences = fresh_server(), []
    for _ in range(3):
        fences += [take(server, f"k{number}") for number in range(50)]
        server.restart(kill=how == "kill -9")
        assert server.call("DBSIZE") == 0
    fences.append(take(server))
    assert fences == sorted(set(fences)) and fences[-1] <= JAVASCRIPT_MAX


@pytest.mark.parametrize("appendonly", [True, False], ids=["aof", "rdb"])
def test_a_restart_with_persistence_keeps_the_lock(fresh_server: Callable[..., Server], appendonly: bool) -> None:
    server = fresh_server(appendonly=appendonly, config={"appendfsync": "always"})
    fence = take(server)
    server.restart(kill=appendonly, save=not appendonly)
    assert take(server) == fence, "the same holder, the same number"
    assert server.call("CACHE.LOCK", "k", "you", LONG) is None
    server.call("CACHE.UNLOCK", "k", "me")
    assert take(server) > fence


def test_a_failover_to_a_replica_that_lags(fresh_server: Callable[..., Server]) -> None:
    primary, replica = fresh_server(), fresh_server()
    replica.replica_of(primary)
    replica.wait_for_sync()
    known = take(primary, "known")
    replica.wait_for_sync()
    replica.call("DEBUG", "SLEEP", 0)
    replica.call("CLIENT", "KILL", "TYPE", "master")
    replica.replica_of(None)  # it hears of nothing from here on
    unheard = [take(primary, f"k{number}") for number in range(100)]
    primary.kill9()
    assert info(replica, "known")[b"holders"][0][b"fence"] == known
    assert take(replica, "k0", "new") > max(unheard)
    assert take(replica, "other") > max(unheard)


def test_a_replica_has_seen_what_it_replicated(fresh_server: Callable[..., Server]) -> None:
    primary, replica = fresh_server(), fresh_server()
    replica.replica_of(primary)
    replica.wait_for_sync()
    ahead = take(primary) + HOUR_US
    primary.call("RESTORE", "restored", 0, payload(primary, ahead))
    primary.call("CACHE.UNLOCK", "k", "me")
    ahead = take(primary)
    replica.wait_for_sync()
    replica.replica_of(None)
    assert take(replica, "other") > ahead


def test_a_hostile_number_is_refused_and_uses_up_nothing(raw: RawClient) -> None:
    fence = take(raw)
    at = int(raw.call("TIME")[0]) * 1000 + LONG
    assert is_error(raw.call("CACHE.LOCK", "other", "me", "PXAT", at, "FENCE", JAVASCRIPT_MAX), "ERR FENCE is more")
    assert fence < take(raw, "other") < fence + 10**9


def test_an_owner_that_asks_for_a_higher_number_is_given_one(server: Server, raw: RawClient) -> None:
    first = take(raw)
    higher = first + 1_000
    assert raw.call("CACHE.LOCK", "k", "me", LONG, "FENCE", higher) >= higher
    (holder,) = info(raw)[b"holders"]
    raised = holder[b"fence"]
    assert raw.call("CACHE.LOCK", "k", "me", LONG, "FENCE", first) == raised, "it has one that is high enough"
    assert raw.call("CACHE.LOCK", "k", "me", LONG) == raised
    assert take(raw, "another key") > raised


def test_those_who_are_granted_a_lock_together_have_the_highest_number_that_any_of_them_asked_for(
    server: Server, connect: Callable[..., RawClient]
) -> None:
    high = take(server, owner="holder") + 10_000_000
    waiters = [connect(), connect(), connect()]
    for waiter, options in zip(waiters, ([], ["FENCE", high], [])):
        before = server.stats()["lock_waiters"]
        waiter.send("CACHE.LOCK", "k", "me", LONG, "WAIT", LONG, *options)
        eventually(lambda: server.stats()["lock_waiters"] == before + 1)
    server.call("CACHE.UNLOCK", "k", "holder")
    numbers = [waiter.recv() for waiter in waiters]
    assert len(set(numbers)) == 1 and numbers[0] >= high


def test_a_number_that_was_raised_is_replicated_and_kept(fresh_server: Callable[..., Server]) -> None:
    primary, replica = fresh_server(appendonly=True), fresh_server()
    replica.replica_of(primary)
    replica.wait_for_sync()
    for owner in ("me", "you"):
        primary.call("CACHE.LOCK", "k", owner, LONG, "SHARED")
    first = info(primary)[b"holders"][0][b"fence"]
    assert primary.call("CACHE.LOCK", "k", "me", LONG, "SHARED", "FENCE", first + 10_000_000) > first
    assert [holder[b"owner"] for holder in info(primary)[b"holders"]] == [b"you", b"me"], "in the order of numbers"
    replica.wait_for_sync()
    before = primary.digest_value("k")
    assert replica.digest_value("k") == before
    primary.restart()
    assert primary.digest_value("k") == before


@pytest.mark.parametrize("behind_s", [0, 30, 59])
def test_a_number_that_a_client_asked_for_is_surpassed_after_a_restart(behind_s: int) -> None:
    """Nothing was on disk, and the clock is set back across the restart: by less than a minute, after a run of two."""
    with Clock() as clock, Server(env=clock.env) as server:
        clock.pass_ms(120_000)
        ahead = clock.now_ms() * 1000 + 59_000_000
        before = server.call("CACHE.LOCK", "k", "me", LONG, "FENCE", ahead)
        assert before >= ahead
        clock.step(-behind_s * 1000)
        server.restart()
        assert server.call("DBSIZE") == 0
        assert take(server) > before
