"""What went wrong once: each of these was a fault that a search found."""

import time
from collections.abc import Callable

import pytest

from harness import RawClient, Server, eventually, is_error

LONG = 600_000


@pytest.fixture
def client(server: Server) -> RawClient:
    return server.raw()


def put(client: RawClient, key: str, *tags: str) -> None:
    assert client.call("CACHE.SETSM", key, "v", LONG, "TAGS", len(tags), *tags) == b"OK"


@pytest.mark.parametrize("pattern", ["~*:*", "~*cache*", "~*g*", "~?*:*", "%RW~*guard:*", "~[a-z]*", "~app:*", "~"])
@pytest.mark.parametrize("command", ["CACHE.INVALIDATE", "CACHE.MARKSTALE", "CACHE.TAGDEL"])
def test_no_pattern_with_text_in_it_is_taken_for_all_keys(server: Server, pattern: str, command: str) -> None:
    put(server.raw(), "OTHER", "t")
    server.call("ACL", "SETUSER", "narrow", "reset", "on", ">pw", pattern, "+@all")
    narrow = server.raw(auth=("narrow", "pw"))
    assert is_error(narrow.call("DEL", "OTHER"), "NOPERM")
    assert narrow.call(command, "t") == 0
    assert server.call("CACHE.TAGS", "OTHER") == [b"t"]
    assert server.call("CACHE.GET", "OTHER", "META")[0] == b"hit"
    server.call("ACL", "DELUSER", "narrow")


@pytest.mark.parametrize("pattern", ["~*", "allkeys", "%RW~*", "~**", "~?*"])
def test_a_pattern_for_all_keys_is_known_as_one(server: Server, pattern: str) -> None:
    put(server.raw(), "key", "t")
    server.call("ACL", "SETUSER", "wide", "reset", "on", ">pw", pattern, "+@all")
    assert server.raw(auth=("wide", "pw")).call("CACHE.INVALIDATE", "t") == 1
    server.call("ACL", "DELUSER", "wide")


def test_untag_knows_any_number_of_names(client: RawClient) -> None:
    put(client, "k", "z")
    assert client.call("CACHE.UNTAG", "k", *(f"n{n}" for n in range(140)), "z", "z") == 1
    assert client.call("CACHE.TAGS", "k") == []


@pytest.mark.parametrize("command", ["CACHE.INVALIDATE", "CACHE.MARKSTALE"])
def test_entries_of_several_tags_count_once(client: RawClient, command: str) -> None:
    client.pipeline([("CACHE.SETSM", f"k{n}", "v", LONG, "TAGS", 2, "a", "b") for n in range(900)])
    assert client.call(command, "a", "b", "a") == 900
    client.pipeline([("CACHE.SETSM", f"k{n}", "v", LONG, "TAGS", 2, "a", "b") for n in range(1_900)])
    assert client.call(command, "a", "b") == 1_900
    client.pipeline([("CACHE.SETSM", f"k{n}", "v", LONG, "TAGS", 1, "a") for n in range(1_900)])
    assert client.call(command, "a", "a", "b") == 1_900


def test_who_does_not_accept_what_was_stored_stale_may_load_it(server: Server) -> None:
    holder, first, second = (server.raw() for _ in range(3))
    _, _, token, _ = holder.call("CACHE.GETSM", "k", "META", "LEASE", LONG)
    for number, waiter in enumerate((first, second), 1):
        waiter.send("CACHE.GETSM", "k", "META", "MAXSTALE", 1, "WAIT", LONG, "LEASE", LONG)
        eventually(lambda number=number: server.stats()["waiters"] == number)
    server.call("CACHE.MARKSTALE", "t")
    # So much older than MAXSTALE that no clock is too slow for it.
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 0.05)
    assert holder.call("CACHE.SETSM", "k", "v", LONG, "TOKEN", token, "TAGS", 1, "t") == b"OK"
    states = sorted([first.recv()[0], second.recv()[0]])
    assert states == [b"leased", b"won"], "one of them holds the lease now"
    assert server.stats()["leases"] == 1


def test_since_when_it_is_stale_is_the_same_on_a_replica(fresh_server: Callable[..., Server]) -> None:
    primary, replica = fresh_server(appendonly=True, config={"aof-use-rdb-preamble": "no"}), fresh_server()
    replica.replica_of(primary)
    replica.wait_for_sync()
    put(primary.raw(), "k", "t", "STALEAT")
    assert primary.call("CACHE.MARKSTALE", "STALEAT") == 1, "a tag of that name, to a client"
    put(primary.raw(), "k", "t", "STALEAT")
    primary.call("CACHE.MARKSTALE", "t")
    replica.wait_for_sync()
    payload = primary.call("DUMP", "k")
    assert replica.call("DUMP", "k") == payload
    replica.replica_of(None)
    primary.restart()
    assert primary.call("DUMP", "k") == payload, "also after a replay"


def test_without_unlink_deletions_are_told_as_del(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(config={"rename-command": 'UNLINK ""'})
    client = server.raw()
    for count in (3, 3_000):
        client.pipeline([("CACHE.SETSM", f"k{n}", "v", LONG, "TAGS", 1, "t") for n in range(count)])
        assert client.call("CACHE.INVALIDATE", "t") == count
        eventually(lambda: server.call("DBSIZE") == 0, 20)
    assert server.stats()["panics"] == 0


def test_a_time_that_no_command_takes_is_not_restored(server: Server, client: RawClient) -> None:
    """Or the entry could not be read back from an AOF."""
    latest = 2**63 // 2 - 1
    assert client.call("CACHE.SETSM", "k", "v", "PERSIST", "STALEAT", latest) == b"OK"
    payload = client.call("DUMP", "k")
    assert client.call("RESTORE", "copy", 0, payload) == b"OK"
    assert is_error(client.call("CACHE.SETSM", "k", "v", "PERSIST", "STALEAT", latest + 1), "ERR STALEAT")


def test_what_nobody_can_ask_for_is_forgotten_with_the_last_lease(server: Server, client: RawClient) -> None:
    used = int(server.info("memory")["used_memory"])
    token = client.call("CACHE.GETSM", "k", "META", "LEASE", LONG)[2]
    for n in range(0, 50_000, 1_000):
        client.pipeline([("CACHE.INVALIDATE", f"nobody:{n + each}") for each in range(1_000)])
    assert int(server.info("memory")["used_memory"]) - used > 3_000_000
    assert client.call("CACHE.RELEASE", "k", token) == 1
    server.call("CACHE.GETSM", "other", "LEASE", 20)  # on Redis 7.0 the timer comes for the next lease
    eventually(lambda: int(server.info("memory")["used_memory"]) - used < 1_500_000, 20)


def test_a_move_is_replicated_from_where_it_was_called(fresh_server: Callable[..., Server]) -> None:
    """Valkey 8.1 takes the target's database for the caller's as soon as a module listens."""
    primary, replica = fresh_server(appendonly=True), fresh_server()
    replica.replica_of(primary)
    replica.wait_for_sync()
    client = primary.raw()
    put(client, "tagged", "t")
    for n, way in enumerate(["plain", "multi", "script"]):
        client.call("SET", f"k{n}", "v")
        if way == "multi":
            client.pipeline([("MULTI",), ("MOVE", f"k{n}", 1), ("EXEC",)])
        elif way == "script":
            client.call("EVAL", "return redis.call('MOVE', KEYS[1], 1)", 1, f"k{n}")
        else:
            client.call("MOVE", f"k{n}", 1)
        client.call("SET", f"after{n}", "v")
    assert client.call("DBSIZE") == 4, "the caller is where it was"
    replica.wait_for_sync()
    assert replica.digest() == primary.digest()
    digest = primary.digest()
    primary.restart()
    assert primary.digest() == digest
