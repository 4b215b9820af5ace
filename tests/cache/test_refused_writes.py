"""A server that refuses writes still serves what it has: a failing disk, too few replicas, or a replica."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error
from test_token import LONG, make_stale, won

Start = Callable[..., Server]


def fill(client: RawClient) -> None:
    client.call("CACHE.SETSM", "fresh", "v", LONG, "STALE", LONG)
    client.call("CACHE.SETSM", "simple", "v", LONG)
    client.call("CACHE.SETSM", "costly", "v", LONG, "COST", 100_000)
    client.call("SET", "native", "n")
    make_stale(client, "stale")


def served(client: RawClient) -> None:
    """Fresh and stale values are served by every reader, for as often as they are asked for."""
    for _ in range(3):
        assert client.call("CACHE.GETSM", "fresh") == b"v"
        assert client.call("CACHE.GETSM", "simple") == b"v"
        assert client.call("CACHE.GETSM", "native", "META")[:2] == [b"hit", b"n"]
        assert client.call("CACHE.GETSM", "stale", "META")[:2] == [b"stale", b"old"]
        assert client.call("CACHE.GETSM", "stale") == b"old"
        rows = client.call("CACHE.MGETSM", 3, "fresh", "stale", "native")
        assert [row[:2] for row in rows] == [[b"hit", b"v"], [b"stale", b"old"], [b"hit", b"n"]]
        assert [client.call("CACHE.GET", key) for key in ("fresh", "stale", "missing")] == [b"v", b"old", None]
        assert client.call("CACHE.INSPECT", "fresh")


def holders_may_end_what_they_began(client: RawClient, refusal: str) -> None:
    """A miss is granted the lease. Its value cannot be stored, so the holder fails or releases, which is no write."""
    token = won(client, "missing")
    for write in (
        ("CACHE.SETSM", "missing", "v", LONG, "TOKEN", token),
        ("CACHE.TOUCH", "fresh", LONG),
        ("CACHE.DEL", "fresh"),
    ):
        assert is_error(client.call(*write), refusal)
    assert client.call("CACHE.RENEW", "missing", token, LONG) == 1
    assert client.call("CACHE.RELEASE", "missing", token) == 1
    assert client.call("CACHE.FAIL", "missing", won(client, "missing"), "RETRY", 1) == 1


def break_the_disk(server: Server) -> None:
    """The folder of the data is gone, so that saving fails."""
    shutil.rmtree(server.dir)
    client = server.raw()
    client.call("BGSAVE")
    eventually(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err", timeout=20)
    assert is_error(client.call("SET", "x", "y"), "MISCONF")


def test_with_a_failing_disk(fresh_server: Start, protocol: int) -> None:
    server = fresh_server(config={"save": "3600 1000000", "stop-writes-on-bgsave-error": "yes"})
    client = server.raw(protocol)
    fill(client)
    won(client, "stale")
    try:
        break_the_disk(server)
        served(client)
        holders_may_end_what_they_began(client, "MISCONF")
    finally:
        server.call("CONFIG", "SET", "save", "")  # else it refuses to end


def test_with_too_few_replicas(fresh_server: Start, protocol: int) -> None:
    server = fresh_server()
    client = server.raw(protocol)
    fill(client)
    won(client, "stale")
    server.call("CONFIG", "SET", "min-replicas-to-write", 1)
    assert is_error(client.call("SET", "x", "y"), "NOREPLICAS")
    served(client)
    holders_may_end_what_they_began(client, "NOREPLICAS")


def test_with_no_memory_left(fresh_server: Start, protocol: int) -> None:
    server = fresh_server()
    client = server.raw(protocol)
    fill(client)
    token = won(client, "stale")
    server.call("CONFIG", "SET", "maxmemory", 1)
    served(client)
    assert is_error(client.call("CACHE.SETSM", "stale", "new", LONG, "TOKEN", token), "OOM")
    assert client.call("CACHE.TOUCH", "stale", LONG, "TOKEN", token) == 1, "that needs no memory"
    assert client.call("CACHE.DEL", "fresh") == 1


def replica_of(fresh_server: Start, **options: Any) -> Server:
    primary, replica = fresh_server(), fresh_server(**options)
    fill(primary.raw())
    replica.replica_of(primary)
    replica.wait_for_sync()
    return replica


def test_on_a_replica_hits_are_served_and_leases_are_not_granted(fresh_server: Start, protocol: int) -> None:
    replica = replica_of(fresh_server)
    client = replica.raw(protocol)
    served(client)
    assert is_error(client.call("CACHE.GETSM", "missing"), "READONLY")
    assert is_error(client.call("CACHE.GETSM", "missing", "WAIT", LONG, "META"), "READONLY")
    assert is_error(client.call("CACHE.GETSM", "stale", "MAXSTALE", 1), "READONLY"), "it would have to load"
    assert is_error(client.call("CACHE.MGETSM", 2, "fresh", "missing"), "READONLY")
    for write in (("CACHE.SETSM", "k", "v", LONG), ("CACHE.TOUCH", "fresh", LONG), ("CACHE.DEL", "fresh")):
        assert is_error(client.call(*write), "READONLY")
    for held in (("CACHE.RENEW", "k", "0" * 32, LONG), ("CACHE.RELEASE", "k", "0" * 32), ("CACHE.FAIL", "k", "0" * 32)):
        assert client.call(*held) == 0
    rows = [client.call("CACHE.GETSM", "costly", "EARLY", 1e9, "META")[:2] for _ in range(20)]
    assert rows == [[b"hit", b"v"]] * 20, "a replica refreshes nothing"
    stats = replica.stats()
    assert (stats["leases_granted"], stats["waits"], stats["leases"]) == (0, 0, 0)


def test_a_writable_replica_grants_none_either(fresh_server: Start) -> None:
    replica = replica_of(fresh_server, config={"replica-read-only": "no"})
    client = replica.raw()
    served(client)
    assert is_error(client.call("CACHE.GETSM", "missing"), "READONLY")


@pytest.mark.parametrize("form", ["plain", "META"])
def test_a_replica_whose_link_is_down_serves_what_it_has(fresh_server: Start, form: str) -> None:
    replica = replica_of(fresh_server)
    replica.primary.kill9()
    eventually(lambda: replica.info("replication")["master_link_status"] == "down")
    reply = replica.raw().call("CACHE.GETSM", "stale", *(["META"] if form == "META" else []))
    assert reply == b"old" or reply[:2] == [b"stale", b"old"]
