"""CACHE.GET: just the value. It takes no lease, waits for nobody and changes nothing."""

import time
from collections.abc import Callable

import pytest

from harness import RawClient, Server, is_error
from test_release import LONG, holder, queue, won

Connect = Callable[..., RawClient]
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


def nil(client: RawClient) -> bytes:
    return b"_\r\n" if client.protocol == 3 else b"$-1\r\n"


def test_it_gives_the_value_while_fresh_and_while_stale_else_nil(raw: RawClient) -> None:
    assert raw.call("cache.get", "k") is None
    assert raw.wire == nil(raw)
    raw.call("CACHE.SETSM", "k", "v", LONG)
    assert raw.call("CACHE.GET", "k") == b"v"
    assert raw.wire == b"$1\r\nv\r\n"
    raw.call("CACHE.SETSM", "k", "old", "PXAT", int(time.time() * 1000) - 1, "STALE", LONG)
    assert raw.call("CACHE.GET", "k") == b"old"
    raw.call("SET", "k", b"\0native")
    assert raw.call("CACHE.GET", "k") == b"\0native"
    raw.call("DEL", "k")
    assert raw.call("CACHE.GET", "k") is None


def test_meta_tells_the_state_and_how_long_it_lasts(raw: RawClient) -> None:
    assert raw.call("CACHE.GET", "k", "meta") == [b"miss", None, None, None]
    assert raw.wire == b"*4\r\n$4\r\nmiss\r\n" + 3 * nil(raw)

    def bounds(expected: bytes, value: bytes, ends_at: int) -> None:
        early = int(time.time() * 1000)
        name, seen, token, ms = raw.call("CACHE.GET", "k", "META")
        late = int(time.time() * 1000)
        assert (name, seen, token) == (expected, value, None)
        assert ends_at - late <= ms <= ends_at - early

    now = int(time.time() * 1000)
    raw.call("CACHE.SETSM", "k", "v", "PXAT", now + 100_000, "STALE", 50_000)
    bounds(b"hit", b"v", now + 100_000)
    raw.call("CACHE.SETSM", "k", "v", "PXAT", now - 10, "STALE", 50_000)
    bounds(b"stale", b"v", now + 49_990)
    raw.call("SET", "k", "native", "PXAT", now + 70_000)
    bounds(b"hit", b"native", now + 70_000)
    for store in (("SET", "k", "v"), ("CACHE.SETSM", "k", "v", "PERSIST")):
        raw.call(*store)
        assert raw.call("CACHE.GET", "k", "META") == [b"hit", b"v", None, -1]


def test_it_takes_no_lease_and_disturbs_none(server: Server, raw: RawClient, connect: Connect) -> None:
    granted = server.stats()["leases_granted"]
    assert raw.call("CACHE.GET", "k") is None
    raw.call("CACHE.SETSM", "stale", "old", "PXAT", int(time.time() * 1000) - 1, "STALE", LONG)
    assert raw.call("CACHE.GET", "stale") == b"old"
    assert server.stats()["leases_granted"] == granted
    token = won(connect())
    (waiter,) = queue(server, connect, 1)
    assert raw.call("CACHE.GET", "k", "META", timeout=2) == [b"miss", None, None, None]
    assert (waiter.has_reply(), raw.call("CACHE.RENEW", "k", token, LONG)) == (False, 1)


def test_an_early_refresh_is_not_its_business(server: Server, raw: RawClient) -> None:
    raw.call("CONFIG", "SET", "cacheguard.early-beta", "1000000000")
    raw.call("CACHE.SETSM", "k", "v", LONG, "COST", 100_000)
    assert [raw.call("CACHE.GET", "k", "META")[0] for _ in range(20)] == [b"hit"] * 20
    assert holder(raw) is None


def test_it_changes_nothing(server: Server, raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG, "STALE", LONG, "VERSION", 7)
    raw.call("SET", "n", "12345", "PX", LONG)
    digest, ttl = server.digest(), raw.call("PEXPIRETIME", "k")
    for key in ("k", "n", "missing"):
        raw.call("CACHE.GET", key)
        raw.call("CACHE.GET", key, "META")
    assert (server.digest(), raw.call("PEXPIRETIME", "k")) == (digest, ttl)
    assert raw.call("OBJECT", "ENCODING", "n") == b"int"
    assert raw.call("DBSIZE") == 2


@pytest.mark.parametrize("where", ["transaction", "script", "read-only script"])
def test_it_works_in_transactions_and_scripts(raw: RawClient, where: str) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG)
    if where == "transaction":
        assert raw.pipeline([("MULTI",), ("CACHE.GET", "k"), ("EXEC",)])[-1] == [b"v"]
    else:
        command = "EVAL_RO" if where == "read-only script" else "EVAL"
        assert raw.call(command, "return redis.call('CACHE.GET', KEYS[1])", 1, "k") == b"v"


def test_it_works_on_a_replica(fresh_server: Callable[..., Server], protocol: int) -> None:
    primary, replica = fresh_server(), fresh_server()
    client = primary.raw(protocol)
    client.call("CACHE.SETSM", "fresh", "v", LONG)
    client.call("CACHE.SETSM", "stale", "old", "PXAT", int(time.time() * 1000) - 1, "STALE", LONG)
    client.call("SET", "native", "n")
    replica.replica_of(primary)
    replica.wait_for_sync()
    reader = replica.raw(protocol)
    states = {key: reader.call("CACHE.GET", key, "META")[:2] for key in ("fresh", "stale", "native", "missing")}
    assert states == {
        "fresh": [b"hit", b"v"],
        "stale": [b"stale", b"old"],
        "native": [b"hit", b"n"],
        "missing": [b"miss", None],
    }
    assert reader.call("CACHE.GET", "missing") is None


def test_it_counts_in_info(server: Server, raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "fresh", "v", LONG)
    raw.call("CACHE.SETSM", "stale", "v", "PXAT", int(time.time() * 1000) - 1, "STALE", LONG)
    fields = ("hits", "stale_hits", "misses")
    before = server.stats()
    raw.pipeline([("CACHE.GET", "fresh"), ("CACHE.GET", "stale"), ("CACHE.GET", "missing")])
    after = server.stats()
    assert [after[field] - before[field] for field in fields] == [1, 1, 1]


@pytest.mark.parametrize("command", ["LPUSH k v", "HSET k f v", "XADD k * f v"])
def test_another_type_is_refused(raw: RawClient, command: str) -> None:
    raw.call(*command.split())
    assert raw.call("CACHE.GET", "k") == WRONGTYPE
    assert raw.call("CACHE.GET", "k", "META") == WRONGTYPE


@pytest.mark.parametrize(
    "options, error",
    [
        ("META META", "ERR META was given more than once"),
        ("WAIT 5", "ERR unknown option 'WAIT'"),
        ("a-word-longer-than-any-option", "ERR unknown option 'a-word-longer-than-any-option'"),
    ],
)
def test_wrong_options_are_refused(raw: RawClient, options: str, error: str) -> None:
    assert raw.call("CACHE.GET", "k", *options.split()) == error


def test_too_few_arguments_are_refused(raw: RawClient) -> None:
    assert is_error(raw.call("CACHE.GET"), "ERR wrong number of arguments")
