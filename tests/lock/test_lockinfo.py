"""CACHE.LOCKINFO: who holds a lock and who waits for it, changing nothing."""

from collections.abc import Callable

import pytest

from harness import RawClient, Server, eventually, is_error
from harness.line import LONG, info, stand_in_line

Connect = Callable[..., RawClient]


def test_a_free_lock(raw: RawClient) -> None:
    fence = raw.call("CACHE.LOCK", "other", "me", LONG)
    assert info(raw) == {
        b"mode": b"free",
        b"permits": 0,
        b"holders": [],
        b"waiters": {b"count": 0, b"oldest_ms": 0},
        b"last_fence": fence,
    }
    assert raw.call("EXISTS", "k") == 0


@pytest.mark.parametrize(
    "options, mode, permits",
    [([], b"exclusive", 1), (["SHARED"], b"shared", 0), (["PERMITS", 7], b"permits", 7)],
)
def test_a_held_lock(server: Server, raw: RawClient, options: list, mode: bytes, permits: int) -> None:
    fence = raw.call("CACHE.LOCK", "k", "\xff", 60_000, *options, "BIND")
    told = info(raw)
    assert (told[b"mode"], told[b"permits"], told[b"last_fence"]) == (mode, permits, fence)
    [holder] = told[b"holders"]
    assert 0 < holder.pop(b"left_ms") <= 60_000
    assert holder == {b"owner": "\xff".encode(), b"fence": fence, b"client": raw.client_id, b"bound": 1}


def test_a_copy_is_held_on_no_connection(raw: RawClient, protocol: int) -> None:
    fence = raw.call("CACHE.LOCK", "k", "me", LONG, "BIND")
    raw.call("COPY", "k", "copy")
    [holder] = info(raw, "copy")[b"holders"]
    assert (holder[b"fence"], holder[b"client"], holder[b"bound"]) == (fence, None, 0)


def test_who_waits(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "me", LONG)
    for number in range(3):
        stand_in_line(server, connect(), number)
    assert info(raw)[b"waiters"][b"count"] == 3
    eventually(lambda: info(raw)[b"waiters"][b"oldest_ms"] >= 20)


def test_one_past_its_deadline_is_not_shown(server: Server, raw: RawClient) -> None:
    raw.call("CACHE.LOCK", "k", "short", 20, "SHARED")
    raw.call("CACHE.LOCK", "k", "long", LONG, "SHARED")
    eventually(lambda: [holder[b"owner"] for holder in info(raw)[b"holders"]] == [b"long"])
    raw.call("CACHE.LOCK", "gone", "me", 20)
    raw.call("PERSIST", "gone")
    eventually(lambda: info(raw, "gone")[b"mode"] == b"free", message="without a TTL too")
    assert raw.call("CACHE.LOCK", "gone", "you", LONG) > 0


def test_looking_changes_nothing(server: Server, raw: RawClient) -> None:
    raw.call("CACHE.LOCK", "k", "me", LONG)
    before = server.digest()
    info(raw)
    raw.call("WATCH", "k")
    info(raw)
    assert raw.pipeline([("MULTI",), ("PING",), ("EXEC",)])[-1] == [b"PONG"]
    assert server.digest() == before


def test_errors(raw: RawClient) -> None:
    assert is_error(raw.call("CACHE.LOCKINFO"), "ERR wrong number of arguments")
    assert is_error(raw.call("CACHE.LOCKINFO", "a", "b"), "ERR wrong number of arguments")
    raw.call("SET", "string", "v")
    assert is_error(raw.call("CACHE.LOCKINFO", "string"), "WRONGTYPE")
