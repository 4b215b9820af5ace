"""CACHE.GET under CLIENT TRACKING: the way to wait on one connection that many share.

A client that read a key, present or missing, gets a push the moment it changes. A GETSM is not tracked: its answer may
come much later than its question (see the decisions).
"""

import time
from collections.abc import Callable

import pytest

from harness import Push, RawClient, Server, eventually
from test_token import LONG, make_stale, queue, won

Connect = Callable[..., RawClient]


@pytest.fixture
def tracker(server: Server) -> RawClient:
    client = server.raw(3)
    assert client.call("CLIENT", "TRACKING", "ON") == b"OK"
    return client


def told(client: RawClient) -> Push:
    return client.recv_push(timeout=5)


def unheard(client: RawClient) -> bool:
    """No push has come for anything that happened before this."""
    assert client.call("PING") == b"PONG"
    return not client.pushes


INVALIDATED = Push([b"invalidate", [b"k"]])
CHANGES_OF_A_MISSING_KEY = {
    "SETSM": ("CACHE.SETSM", "k", "v", LONG),
    "SET": ("SET", "k", "v"),
    "RENAME": ("RENAME", "other", "k"),
    "RESTORE": None,
}
CHANGES = {
    "SETSM": ("CACHE.SETSM", "k", "v", LONG),
    "TOUCH": ("CACHE.TOUCH", "k", LONG),
    "DEL": ("DEL", "k"),
    "CACHE.DEL": ("CACHE.DEL", "k"),
    "SET": ("SET", "k", "v"),
    "EXPIRE": ("EXPIRE", "k", 60),
    "RENAME away": ("RENAME", "k", "other"),
    "SETSM in the past": ("CACHE.SETSM", "k", "v", "PXAT", 1),
    "TOUCH in the past": ("CACHE.TOUCH", "k", "PXAT", 1),
}


@pytest.mark.parametrize("options", [(), ("META",)], ids=["plain", "META"])
@pytest.mark.parametrize("change", CHANGES_OF_A_MISSING_KEY)
def test_who_read_a_missing_key_is_told_when_it_is_there(
    server: Server, tracker: RawClient, change: str, options: tuple[str, ...]
) -> None:
    writer = server.raw()
    writer.call("CACHE.SETSM", "other", "v", LONG)
    payload = writer.call("DUMP", "other")
    assert tracker.call("CACHE.GET", "k", *options) in (None, [b"miss", None, None, None])
    writer.call(*(CHANGES_OF_A_MISSING_KEY[change] or ("RESTORE", "k", 0, payload)))
    assert told(tracker) == INVALIDATED
    assert tracker.call("CACHE.GET", "k") == b"v"


@pytest.mark.parametrize("kind", ["entry", "stale", "string"])
@pytest.mark.parametrize("change", CHANGES)
def test_who_read_a_key_is_told_when_it_changes(server: Server, tracker: RawClient, change: str, kind: str) -> None:
    writer = server.raw()
    if kind == "stale":
        make_stale(writer)
    else:
        writer.call(*(("CACHE.SETSM", "k", "v0", LONG) if kind == "entry" else ("SET", "k", "v0")))
    assert tracker.call("CACHE.GET", "k") is not None
    writer.call(*CHANGES[change])
    assert told(tracker) == INVALIDATED
    writer.call(*CHANGES[change])
    assert unheard(tracker), "once for each read"


def test_who_read_a_key_is_told_when_it_expires(server: Server, tracker: RawClient) -> None:
    server.raw().call("CACHE.SETSM", "k", "v", 50)
    assert tracker.call("CACHE.GET", "k") == b"v"
    assert told(tracker) == INVALIDATED
    assert tracker.call("CACHE.GET", "k") is None


def test_who_read_a_key_is_told_when_its_lease_ends_with_a_value(server: Server, tracker: RawClient) -> None:
    """The pattern for one shared connection: GET, and if it is missing wait for the push."""
    loader = server.raw()
    token = won(loader)
    assert tracker.call("CACHE.GET", "k") is None
    assert loader.call("CACHE.RENEW", "k", token, LONG) == 1
    assert unheard(tracker), "a lease is not a change of the key"
    assert loader.call("CACHE.SETSM", "k", "v", LONG, "TOKEN", token) == b"OK"
    assert told(tracker) == INVALIDATED


def test_what_changes_nothing_tells_nobody(server: Server, tracker: RawClient) -> None:
    writer = server.raw()
    writer.call("CACHE.SETSM", "k", "v", LONG, "VERSION", 7)
    assert tracker.call("CACHE.GET", "k") == b"v"
    assert tracker.call("CACHE.GET", "missing") is None
    writer.call("CACHE.SETSM", "k", "w", LONG, "VERSION", 6)
    writer.call("CACHE.SETSM", "k", "w", LONG, "TOKEN", "0" * 32)
    writer.call("CACHE.TOUCH", "k", LONG, "TOKEN", "0" * 32)
    writer.call("CACHE.SETSM", "k", "w", 0)
    writer.call("CACHE.GETSM", "k")
    writer.call("CACHE.INSPECT", "k")
    writer.call("CACHE.DEL", "missing")
    writer.call("CACHE.TOUCH", "missing", LONG)
    writer.call("CACHE.RELEASE", "missing", won(writer, "missing"))
    assert unheard(tracker)


def test_a_getsm_is_not_tracked(server: Server, tracker: RawClient) -> None:
    writer = server.raw()
    writer.call("CACHE.SETSM", "k", "v", LONG)
    assert tracker.call("CACHE.GETSM", "k") == b"v"
    writer.call("CACHE.SETSM", "k", "w", LONG)
    assert unheard(tracker)


def test_a_redirected_resp2_client_is_told(server: Server) -> None:
    hearer, reader, writer = server.raw(2), server.raw(2), server.raw(2)
    hearer.call("SUBSCRIBE", "__redis__:invalidate")
    assert reader.call("CLIENT", "TRACKING", "ON", "REDIRECT", hearer.client_id) == b"OK"
    assert reader.call("CACHE.GET", "k") is None
    writer.call("CACHE.SETSM", "k", "v", LONG)
    assert hearer.recv() == [b"message", b"__redis__:invalidate", [b"k"]]


def test_one_connection_can_wait_for_many_keys(server: Server, tracker: RawClient) -> None:
    writer, keys = server.raw(), [f"k{number}" for number in range(100)]
    assert tracker.pipeline([("CACHE.GET", key) for key in keys]) == [None] * 100
    writer.pipeline([("CACHE.SETSM", key, "v", LONG) for key in keys[::2]])
    assert {told(tracker)[1][0].decode() for _ in keys[::2]} == set(keys[::2])
    assert unheard(tracker)


def test_a_flush_tells_that_everything_is_gone(server: Server, tracker: RawClient) -> None:
    server.raw().call("CACHE.SETSM", "k", "v", LONG)
    assert tracker.call("CACHE.GET", "k") == b"v"
    server.raw().call("FLUSHALL")
    assert told(tracker) == Push([b"invalidate", None])


def test_on_a_replica(fresh_server: Callable[..., Server]) -> None:
    primary, replica = fresh_server(), fresh_server()
    replica.replica_of(primary)
    replica.wait_for_sync()
    writer, tracker = primary.raw(), replica.raw(3)
    tracker.call("CLIENT", "TRACKING", "ON")
    assert tracker.call("CACHE.GET", "k") is None
    writer.call("CACHE.SETSM", "k", "v", LONG, "STALE", LONG)
    assert told(tracker) == INVALIDATED
    assert tracker.call("CACHE.GET", "k") == b"v"
    for change in (("CACHE.TOUCH", "k", LONG), ("CACHE.DEL", "k")):
        writer.call(*change)
        assert told(tracker) == INVALIDATED
        tracker.call("CACHE.GET", "k")
    writer.call("CACHE.SETSM", "k", "v", 50)
    assert told(tracker) == INVALIDATED
    if tracker.call("CACHE.GET", "k") is not None:
        assert told(tracker) == INVALIDATED, "expiry, decided by the primary"


def test_waiters_and_trackers_hear_of_one_write(server: Server, tracker: RawClient) -> None:
    loader = server.raw()
    token = won(loader)
    waiter = queue(server, server.raw, 1)[0]
    assert tracker.call("CACHE.GET", "k") is None
    began = time.monotonic()
    assert loader.call("CACHE.SETSM", "k", "v", LONG, "TOKEN", token) == b"OK"
    assert told(tracker) == INVALIDATED
    assert waiter.recv()[:2] == [b"hit", b"v"]
    assert time.monotonic() - began < 5
    eventually(lambda: server.stats()["waiters"] == 0)
