"""Connections that break: at every byte of a request and of a reply, silently, late, on one side; of clients and replicas."""

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually
from harness.line import info
from harness.load import YEAR, Load
from harness.proxy import Proxy
from harness.raw import encode

LONG = 600_000  # milliseconds; no test lasts as long
Start = Callable[..., Server]


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as between:
        yield between


def until_waiting(server: Server, count: int, field: str = "waiters") -> None:
    eventually(lambda: server.stats()[field] == count, 20, lambda: f"{count} wait: {server.stats()}")


def until_gone(server: Server, client: RawClient) -> None:
    eventually(lambda: not server.control().call("CLIENT", "LIST", "ID", client.client_id), 20)


# name: what it sends, and how what it did is seen
COMMANDS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], Callable[[Any], int]]] = {
    "store": (("CACHE.SETSM", "k", "value", LONG, "TAGS", 1, "t"), ("CACHE.TAGCOUNT", "t"), int),
    "lock": (("CACHE.LOCK", "k", "me", LONG), ("CACHE.LOCKINFO", "k"), lambda told: len(as_map(told)[b"holders"])),
    "take": (("CACHE.RATELIMIT", "k", 10, YEAR), ("CACHE.RATELIMIT", "k", 10, YEAR, "PEEK"), lambda told: 9 - told[2]),
    "throttle": (("CL.THROTTLE", "k", 10, 1, 3_600_000), ("EXISTS", "k"), int),
    "invalidate": (("CACHE.INVALIDATE", "u"), ("CACHE.TAGINFO", "u"), lambda told: as_map(told)[b"invalidations"] if told else 0),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_request_that_is_cut_did_nothing_or_was_whole(server: Server, proxy: Proxy, name: str) -> None:
    command, question, count = COMMANDS[name]
    for bytes_sent in range(1, len(encode(*command)) + 1):
        server.call("FLUSHALL")
        before = count(server.call(*question))
        client = RawClient(proxy.address)
        proxy.limit(up=bytes_sent)
        client.send(*command)
        until_gone(server, client)
        is_whole = bytes_sent == len(encode(*command))
        assert count(server.call(*question)) - before == int(is_whole), f"cut after {bytes_sent} bytes"
        proxy.heal()
        client.close()
    server.assert_alive()


def test_a_bound_lease_ends_wherever_its_reply_is_cut(server: Server, proxy: Proxy, protocol: int) -> None:
    sample = server.raw(protocol)
    sample.call("CACHE.GETSM", "sample", "WAIT", 0, "META", "BIND")
    for bytes_heard in range(len(sample.wire)):
        holder, heir = RawClient(proxy.address, protocol), server.raw(protocol)
        proxy.limit(down=bytes_heard) if bytes_heard else proxy.stall()
        holder.send("CACHE.GETSM", "k", "WAIT", 0, "META", "BIND")
        if not bytes_heard:
            proxy.heal()
            eventually(lambda: proxy.passed(up=False) > 0, 20)
            proxy.cut()
        until_gone(server, holder)
        assert heir.call("CACHE.GETSM", "k", "WAIT", 0, "META")[0] == b"won", f"cut after {bytes_heard} bytes"
        server.call("CACHE.DEL", "k")
        proxy.heal()
        holder.close()
        heir.close()


def test_who_waits_on_a_cut_connection_is_passed_over(server: Server, proxy: Proxy, protocol: int) -> None:
    holder = server.raw(protocol)
    assert holder.call("CACHE.GETSM", "k", "WAIT", 0, "META")[0] == b"won"
    assert holder.call("CACHE.LOCK", "l", "holder", LONG) > 0
    assert holder.call("CACHE.RATELIMIT", "r", 1, YEAR)[0] == 1
    waits = {
        "waiters": ("CACHE.GETSM", "k", "WAIT", LONG, "META"),
        "lock_waiters": ("CACHE.LOCK", "l", "waiter", LONG, "WAIT", LONG),
        "limits_waiting": ("CACHE.RATELIMIT", "r", 1, YEAR, "WAIT", LONG),
    }
    for how in (proxy.cut, proxy.end_upwards):
        gone = {field: RawClient(proxy.address, protocol).send(*command) for field, command in waits.items()}
        for field in gone:
            until_waiting(server, 1, field)
        stayed = {}
        for field, command in waits.items():
            command = tuple("heir" if word == "waiter" else word for word in command)
            stayed[field] = server.raw(protocol).send(*command)
            until_waiting(server, 2, field)
        how()
        for field in waits:
            until_waiting(server, 1, field)
        if how == proxy.cut:
            for field, client in stayed.items():
                client.close()
                until_waiting(server, 0, field)
    token = server.raw().call("CACHE.LEASES")
    assert token
    assert holder.call("CACHE.UNLOCK", "l", "holder") == 1
    assert stayed["lock_waiters"].recv() > 0
    assert holder.call("CACHE.REFUND", "r", 1) == 1
    assert stayed["limits_waiting"].recv()[0] == 1
    assert holder.call("CACHE.SETSM", "k", "v", LONG) == b"OK"
    assert stayed["waiters"].recv()[:2] == [b"hit", b"v"]


def test_a_holder_that_falls_silent_keeps_what_it_has_for_its_time_and_no_longer(
    server: Server, proxy: Proxy, protocol: int
) -> None:
    """Half-open: the server does not learn that the connection is dead, and BIND cannot help; the deadline does."""
    holder = RawClient(proxy.address, protocol)
    assert holder.call("CACHE.GETSM", "k", "WAIT", 0, "LEASE", 300, "META", "BIND")[0] == b"won"
    fence = holder.call("CACHE.LOCK", "l", "holder", 300, "BIND")
    proxy.stall()
    heir, next_owner = server.raw(protocol), server.raw(protocol)
    heir.send("CACHE.GETSM", "k", "WAIT", LONG, "META")
    assert next_owner.call("CACHE.LOCK", "l", "heir", LONG, "WAIT", LONG) > fence
    assert heir.recv()[0] == b"won"


def test_bound_locks_and_leases_end_when_the_silence_does(server: Server, proxy: Proxy, protocol: int) -> None:
    holder, heir = RawClient(proxy.address, protocol), server.raw(protocol)
    assert holder.call("CACHE.GETSM", "k", "WAIT", 0, "LEASE", LONG, "META", "BIND")[0] == b"won"
    assert holder.call("CACHE.LOCK", "l", "holder", LONG, "BIND") > 0
    proxy.stall()
    holder.close()
    heir.send("CACHE.LOCK", "l", "heir", LONG, "WAIT", LONG)
    until_waiting(server, 1, "lock_waiters")
    assert info(server, "l")[b"holders"][0][b"owner"] == b"holder", "nobody has told the server"
    proxy.heal()
    assert heir.recv() > 0
    assert heir.call("CACHE.GETSM", "k", "WAIT", 0, "META")[0] == b"won"


def test_a_slow_connection_gets_whole_answers(server: Server, proxy: Proxy, protocol: int) -> None:
    proxy.delay(0.02)
    slow, quick = RawClient(proxy.address, protocol), server.raw(protocol)
    assert quick.call("CACHE.GETSM", "k", "WAIT", 0, "META")[0] == b"won"
    slow.send("CACHE.GETSM", "k", "WAIT", LONG, "META")
    until_waiting(server, 1)
    value = b"\0\r\n" * 100_000
    assert quick.call("CACHE.SETSM", "k", value, LONG) == b"OK"
    assert slow.recv()[:2] == [b"hit", value]
    assert slow.call("ECHO", "next") == b"next"


def replicate_through_cuts(start: Start, seed: int, goes_on: Callable[[int], bool]) -> int:
    """A replica whose link is cut, stalled and delayed at random under a load; in the end it is as its primary."""
    chance, load, done = random.Random(seed), Load(seed), 0
    primary, replica = start(config={"repl-backlog-size": "1mb"}), start(config={"repl-timeout": 2})
    with Proxy(primary.port) as link:
        replica.primary = primary
        replica.call("REPLICAOF", "127.0.0.1", link.port)
        replica.wait_for_sync()
        load.start(primary)
        while goes_on(done):
            fault = chance.choice(["cut", "limit", "limit", "delay", "stall"])
            if fault == "cut":
                link.cut()
            elif fault == "limit":
                link.limit(down=chance.randint(1, 50_000))
            elif fault == "delay":
                link.delay(chance.random() / 20)
            else:
                link.stall()
            load.go_on(chance.randint(50, 400))
            link.heal()
            done += 1
        load.stop()
        eventually(lambda: primary.stats()["sweep_backlog"] == 0, 20)
        replica.wait_for_sync(60)
        assert primary.digest() == replica.digest()
    load.check(primary)
    return load.steps


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_replica_behind_a_bad_link_ends_as_its_primary(fresh_server: Start) -> None:
    replicate_through_cuts(fresh_server, 1, lambda done: done < 12)


@pytest.mark.soak
def test_replicas_behind_bad_links(fresh_server: Start, soak_seconds: float) -> None:
    end, seed = time.monotonic() + soak_seconds, int(time.time())
    while time.monotonic() < end:
        steps = replicate_through_cuts(fresh_server, seed, lambda done: done < 50 and time.monotonic() < end)
        print(f"seed {seed}: {steps} commands answered")
        seed += 1
