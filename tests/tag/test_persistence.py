"""The index after a restart, on a replica and after a failover: built anew, the same; what was invalidated stays gone."""

from collections.abc import Callable

import pytest

from harness import Server, eventually

LONG = 600_000
MANY = 3_000  # more than are deleted within the command
SLOWLY = ("CONFIG", "SET", "cacheguard.sweep-cpu-percent", 1)
NAMES = [b"plain", b"tagged", b"\0\r\n", b"stale", b"renamed", b"retagged", b"elsewhere"]
TAGS = [b"t", b"u", b"\xff\0", b""]


def fill(server: Server) -> None:
    """A bit of everything, in two databases."""
    client = server.raw()
    client.call("CACHE.SETSM", "plain", "v", LONG)
    client.call("CACHE.SETSM", "tagged", "v", LONG, "STALE", LONG, "VERSION", 7, "COST", 5, "TAGS", 2, "t", "u")
    client.call("CACHE.SETSM", b"\0\r\n", b"\0", LONG, "TAGS", 3, b"\xff\0", "", "t")
    client.call("CACHE.SETSM", "stale", "v", "PERSIST", "TAGS", 2, "u", "marked")
    client.call("CACHE.SETSM", "before", "v", LONG, "TAGS", 1, "t")
    client.call("RENAME", "before", "renamed")
    client.call("CACHE.SETSM", "retagged", "v", LONG, "TAGS", 2, "t", "gone")
    client.call("CACHE.TAG", "retagged", "u", "later")
    client.call("CACHE.UNTAG", "retagged", "t")
    client.call("CACHE.TAGDEL", "gone")
    client.call("CACHE.SETSM", "dead", "v", LONG, "TAGS", 1, "dead")
    client.call("CACHE.INVALIDATE", "dead")
    client.call("CACHE.MARKSTALE", "marked")
    client.call("SELECT", 3)
    client.call("CACHE.SETSM", "elsewhere", "v", LONG, "TAGS", 1, "t")


def state(server: Server) -> dict:
    """All that can be asked about tags, by database."""
    found = {}
    for db in (0, 3):
        client = server.raw()
        client.call("SELECT", db)
        _, tags = client.call("CACHE.TAGLIST", 0, "COUNT", 1000)
        found[db] = {
            "of keys": {name: client.call("CACHE.TAGS", name) for name in NAMES},
            "of tags": {tag: sorted(client.call("CACHE.TAGKEYS", tag)) for tag in sorted(tags)},
            "counts": {tag: client.call("CACHE.TAGCOUNT", tag) for tag in sorted(tags)},
            "states": {name: client.call("CACHE.GET", name, "META")[0] for name in NAMES},
        }
        client.close()
    return found


def assert_right(found: dict) -> None:
    here, there = found[0], found[3]
    assert here["of keys"][b"tagged"] == [b"t", b"u"]
    assert here["of keys"][b"\0\r\n"] == [b"\xff\0", b"", b"t"]
    assert here["of keys"][b"retagged"] == [b"u", b"later"]
    assert here["of tags"][b"t"] == sorted([b"tagged", b"\0\r\n", b"renamed"])
    assert there["of tags"] == {b"t": [b"elsewhere"]}
    assert here["states"][b"stale"] == b"stale"
    assert here["states"][b"tagged"] == b"hit"


PERSISTENCE = {
    "RDB": {"config": {"save": "3600 1"}},
    "AOF": {"appendonly": True, "config": {"aof-use-rdb-preamble": "no"}},
    "AOF that begins with an RDB": {"appendonly": True, "config": {"aof-use-rdb-preamble": "yes"}},
}


@pytest.mark.parametrize("how", PERSISTENCE)
@pytest.mark.parametrize("rewritten", [False, True])
def test_a_restart_rebuilds_the_index(fresh_server: Callable[..., Server], how: str, rewritten: bool) -> None:
    server = fresh_server(**PERSISTENCE[how])
    fill(server)
    before, digest = state(server), server.digest()
    assert_right(before)
    if rewritten and how != "RDB":
        server.call("BGREWRITEAOF")
        eventually(lambda: not server.info("persistence")["aof_rewrite_in_progress"])
        eventually(lambda: not server.info("persistence")["aof_rewrite_scheduled"])
    server.restart(save=how == "RDB")
    assert (state(server), server.digest()) == (before, digest)


def test_a_reload_rebuilds_the_index(server: Server) -> None:
    fill(server)
    before = state(server)
    server.call("DEBUG", "RELOAD")
    assert state(server) == before


def test_a_replica_has_the_same_index(fresh_server: Callable[..., Server]) -> None:
    primary, replica = fresh_server(), fresh_server()
    fill(primary)
    replica.replica_of(primary)
    replica.wait_for_sync()
    assert state(replica) == state(primary)
    # And by the stream.
    primary.call("FLUSHALL")
    fill(primary)
    replica.wait_for_sync()
    found = state(replica)
    assert_right(found)
    assert found == state(primary)
    assert replica.digest() == primary.digest()
    replica.replica_of(None)
    assert state(replica) == found
    assert replica.call("CACHE.INVALIDATE", "t") == 3


def entries(server: Server, count: int = MANY) -> None:
    store = [("CACHE.SETSM", f"k{n}", "v", LONG, "TAGS", 2, "many", f"t{n % 7}") for n in range(count)]
    server.raw(timeout=30).pipeline([*store, ("CACHE.SETSM", "other", "v", LONG, "TAGS", 1, "other")])


def served(server: Server) -> list[bytes]:
    """Those of the invalidated that are served."""
    replies = server.raw(timeout=30).pipeline([("CACHE.GET", f"k{n}") for n in range(MANY)])
    return [reply for reply in replies if reply is not None]


def assert_all_go(server: Server) -> None:
    assert served(server) == []
    server.call("CONFIG", "SET", "cacheguard.sweep-cpu-percent", 100)
    eventually(lambda: server.call("DBSIZE") == 1, timeout=20, message="the sweep goes on")
    assert server.call("CACHE.GET", "other") == b"v"
    assert server.call("CACHE.TAGLIST", 0) == [b"0", [b"other"]]
    assert server.stats()["sweep_backlog"] == 0


@pytest.mark.parametrize("how", PERSISTENCE)
def test_killed_in_the_middle_of_the_sweep(fresh_server: Callable[..., Server], how: str) -> None:
    options = PERSISTENCE[how]
    options = options | {"config": options["config"] | {"appendfsync": "always"}}
    server = fresh_server(**options, module_args=("sweep-cpu-percent", 1))
    entries(server)
    assert server.call("CACHE.INVALIDATE", "many") == MANY
    assert server.stats()["sweep_backlog"] > 0
    if how == "RDB":
        server.call("SAVE")
    left = server.call("DBSIZE")
    assert left > 1, "the sweep was over already"
    server.kill9()
    server.start()
    assert server.call("DBSIZE") > 1
    assert_all_go(server)


def test_an_aof_rewritten_in_the_middle_of_the_sweep(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(**PERSISTENCE["AOF"], module_args=("sweep-cpu-percent", 1))
    entries(server)
    server.call("CACHE.INVALIDATE", "many")
    server.call("BGREWRITEAOF")
    eventually(lambda: not server.info("persistence")["aof_rewrite_in_progress"])
    server.kill9()
    server.start()
    assert_all_go(server)


def test_a_replica_that_comes_in_the_middle_of_the_sweep(fresh_server: Callable[..., Server]) -> None:
    primary, replica = (fresh_server(module_args=("sweep-cpu-percent", 1)) for _ in range(2))
    entries(primary)
    primary.call("CACHE.INVALIDATE", "many")
    replica.replica_of(primary)
    replica.wait_for_sync()
    assert served(replica) == []
    assert_all_go(primary)
    eventually(lambda: replica.call("DBSIZE") == 1, message="the replica hears of each deletion")
    replica.wait_for_sync()
    assert replica.stats()["sweep_backlog"] == 0
    assert replica.digest() == primary.digest()


def test_a_replica_does_not_sweep_until_it_is_promoted(fresh_server: Callable[..., Server]) -> None:
    primary, replica = (fresh_server(module_args=("sweep-cpu-percent", 1)) for _ in range(2))
    replica.replica_of(primary)
    replica.wait_for_sync()
    entries(primary, 30_000)
    replica.wait_for_sync()
    primary.call("CACHE.INVALIDATE", "many")
    eventually(lambda: replica.stats()["sweep_backlog"] > 0, message="it hears of the invalidation")
    primary.kill9()
    replica.call("CONFIG", "SET", "cacheguard.sweep-cpu-percent", 100)
    # Two rounds of its own timer, at least.
    ticks = replica.info("server")["uptime_in_seconds"]
    eventually(lambda: replica.info("server")["uptime_in_seconds"] >= ticks + 2)
    assert replica.call("DBSIZE") > 1, "a replica deletes nothing on its own"
    assert served(replica) == []
    replica.replica_of(None)
    assert_all_go(replica)
