"""A RESP3 connection that has subscribed to a channel: where the server lets it wait it waits, elsewhere it is told why not."""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error
from harness.line import LONG
from harness.raw import encode

CANNOT_WAIT = "ERR a connection that has subscribed to a channel cannot wait on this server; use another connection, or WAIT 0"
WAIT: dict[str, tuple[Any, ...]] = {
    "waiters": ("CACHE.GETSM", "k", "WAIT", LONG, "META"),
    "lock_waiters": ("CACHE.LOCK", "l", "b", LONG, "WAIT", LONG),
    "limits_waiting": ("CACHE.RATELIMIT", "r", 1, LONG, "WAIT", LONG),
}


@pytest.fixture
def subscriber(server: Server) -> RawClient:
    client = server.raw(3)
    client.send("SUBSCRIBE", "news").recv_push()
    return client


@pytest.fixture(autouse=True)
def held(server: Server) -> None:
    for command in (("CACHE.GETSM", "k", "LEASE", LONG), ("CACHE.LOCK", "l", "a", LONG), ("CACHE.RATELIMIT", "r", 1, LONG)):
        server.call(*command)


def may_wait(server: Server) -> bool:
    return not server.is_valkey or server.version < (8, 1)


@pytest.mark.parametrize("counts", WAIT)
def test_it_waits_or_is_told_why_not(server: Server, subscriber: RawClient, counts: str) -> None:
    subscriber.send_bytes(encode(*WAIT[counts]) + encode("ECHO", "next"))
    if may_wait(server):
        eventually(lambda: server.stats()[counts] == 1)
        assert server.call("CLIENT", "UNBLOCK", subscriber.client_id) == 1
        assert not is_error(subscriber.recv())
    else:
        refused = subscriber.recv()
        assert is_error(refused) and refused.text == CANNOT_WAIT
        assert server.stats()[counts] == 0
    assert subscriber.recv() == b"next", "one reply to one command"


def test_several_keys(server: Server, subscriber: RawClient) -> None:
    server.call("CACHE.GETSM", "k2", "LEASE", LONG)
    subscriber.send("CACHE.MGETSM", 2, "k", "k2", "WAIT", LONG)
    if may_wait(server):
        eventually(lambda: server.stats()["waiters"] == 1)
    else:
        refused = subscriber.recv()
        assert is_error(refused) and refused.text == CANNOT_WAIT
        assert server.stats()["waiters"] == 0


def test_it_asks_without_waiting(subscriber: RawClient) -> None:
    assert subscriber.call("CACHE.GETSM", "k", "WAIT", 0, "META")[0] == b"leased"
    assert subscriber.call("CACHE.GETSM", "free", "META")[0] == b"won"
    assert subscriber.call("CACHE.LOCK", "l", "b", LONG) is None
    assert subscriber.call("CACHE.RATELIMIT", "r", 1, LONG)[0] == 0


def test_it_gets_at_once_what_is_there(subscriber: RawClient) -> None:
    assert subscriber.call("CACHE.GETSM", "free", "WAIT", LONG, "META")[0] == b"won"
    assert isinstance(subscriber.call("CACHE.LOCK", "free lock", "b", LONG, "WAIT", LONG), int)
    assert subscriber.call("CACHE.RATELIMIT", "free limit", 1, LONG, "WAIT", LONG)[0] == 1


def test_in_a_transaction_it_is_answered_at_once(subscriber: RawClient) -> None:
    replies = subscriber.pipeline([("MULTI",), *WAIT.values(), ("EXEC",)])[-1]
    # Redis 7.0 does not say who sends a command, so there a transaction soon after the first lease ends all leases.
    assert replies[0][0] in (b"leased", b"won") and replies[1] is None and replies[2][0] == 0


def test_a_value_comes_to_one_who_waits_beside_its_messages(server: Server, subscriber: RawClient) -> None:
    if not may_wait(server):
        pytest.skip("this server lets it not wait")
    subscriber.send(*WAIT["waiters"])
    eventually(lambda: server.stats()["waiters"] == 1)
    server.call("PUBLISH", "news", "hello")
    assert server.call("CACHE.SETSM", "k", "v", LONG) == b"OK"
    assert subscriber.recv()[1] == b"v"
    assert subscriber.recv_push()[-1] == b"hello"
