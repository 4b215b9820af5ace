"""A replica that accepts writes (`replica-read-only no`) decides about no lock: its primary does."""

from collections.abc import Callable

import pytest

from harness import Server, eventually, is_error
from harness.line import LONG, info, owners

Start = Callable[..., Server]

COMMANDS = {
    "lock a free key": ["CACHE.LOCK", "free", "here", LONG],
    "lock a held key": ["CACHE.LOCK", "k", "here", LONG],
    "lock again": ["CACHE.LOCK", "k", "there", LONG],
    "lock and wait": ["CACHE.LOCK", "free", "here", LONG, "WAIT", 1],
    "lock bound": ["CACHE.LOCK", "free", "here", LONG, "BIND"],
    "share": ["CACHE.LOCK", "free", "here", LONG, "SHARED"],
    "as a primary says it": ["CACHE.LOCK", "free", "here", "PXAT", 4_000_000_000_000, "FENCE", 1],
    "unlock": ["CACHE.UNLOCK", "k", "there"],
    "unlock nothing": ["CACHE.UNLOCK", "free", "here"],
    "extend": ["CACHE.EXTEND", "k", "there", LONG],
    "script": ["EVAL", "return redis.call('CACHE.LOCK', KEYS[1], 'here', 1000)", 1, "free"],
}


@pytest.fixture
def replica(fresh_server: Start) -> Server:
    primary, replica = fresh_server(), fresh_server(config={"replica-read-only": "no"})
    replica.replica_of(primary)
    replica.wait_for_sync()
    primary.call("CACHE.LOCK", "k", "there", LONG)
    replica.wait_for_sync()
    return replica


def test_it_refuses_whatever_would_change_a_lock(replica: Server) -> None:
    before = replica.digest()
    for how, command in COMMANDS.items():
        reply = replica.control().call(*command)
        assert is_error(reply) and "READONLY" in reply, f"{how}: {reply}"
    queued = replica.control().pipeline([("MULTI",), COMMANDS["lock a free key"], ("EXEC",)])
    assert is_error(queued[-1][0], "READONLY")
    assert replica.digest() == before and owners(replica) == [b"there"]


def test_it_follows_its_primary_and_decides_once_it_is_one(replica: Server) -> None:
    primary = replica.primary
    assert primary is not None
    primary.call("CACHE.EXTEND", "k", "there", LONG * 2)
    primary.call("CACHE.LOCK", "other", "there", LONG, "SHARED")
    primary.call("CACHE.UNLOCK", "k", "there")
    replica.wait_for_sync()
    eventually(lambda: primary.digest() == replica.digest())
    replica.replica_of(None)
    assert replica.call("CACHE.LOCK", "k", "here", LONG) > info(primary)[b"last_fence"]
    assert replica.call("CACHE.UNLOCK", "other", "there") == 1


def test_a_replica_from_its_first_moment(fresh_server: Start) -> None:
    """Its configuration says so, and the module is loaded before its primary is heard of."""
    config = {"replica-read-only": "no", "replicaof": "127.0.0.1 1"}
    replica = fresh_server(config=config)
    assert is_error(replica.control().call(*COMMANDS["lock a free key"]), "READONLY")
    replica.call("REPLICAOF", "NO", "ONE")
    assert replica.call(*COMMANDS["lock a free key"]) > 0
