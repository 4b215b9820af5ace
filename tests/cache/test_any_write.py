"""Whatever command the server has: a write to a leased key ends the lease or answers those who wait, a read does not.

Which commands there are, and what they do to their keys, is what the running server says: no list of names here either.
"""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually, is_error

Connect = Callable[..., RawClient]
LONG = 600_000
LOSE = {b"OW", b"RM", b"delete"}  # what leaves nothing of the old value, or takes something away


def won(client: RawClient, key: str = "k") -> bytes:
    row = client.call("CACHE.GETSM", key, "LEASE", LONG, "META")
    assert row[0] == b"won", row
    return row[2]


def waiting(server: Server, client: RawClient, key: str = "k") -> RawClient:
    before = server.stats()["waiters"]
    client.send("CACHE.GETSM", key, "WAIT", LONG, "LEASE", LONG, "META")
    eventually(lambda: server.stats()["waiters"] == before + 1)
    return client


def on_one_key(server: Server, flag: bytes) -> list[tuple[bytes, list[Any]]]:
    """The server's own commands with that flag whose first argument is a key; each with enough arguments."""
    found = []
    for row in server.call("COMMAND"):
        name, arity, flags, first, specs = row[0], row[1], row[2], row[3], row[8]
        if flag not in flags or first != 1 or b"blocking" in flags or name.startswith((b"cache.", b"cl.", b"gcra")):
            continue
        uses = set(as_map(specs[0])[b"flags"])
        found.append((name, uses, [name, b"k", *[b"1"] * (abs(arity) - 2)]))
    assert len(found) > 30
    return found


def test_every_command_that_replaces_or_removes_ends_the_lease(server: Server) -> None:
    """Even where the server then refuses the arguments we made up: better one load too many."""
    client, writer = server.raw(), server.raw()
    losing = [words for _, uses, words in on_one_key(server, b"write") if uses & LOSE]
    assert any(words[0] == b"del" for words in losing)
    for words in losing:
        token = won(client)
        writer.call(*words)
        assert client.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token) is None, words
        client.call("FLUSHALL")


def test_no_command_that_reads_ends_the_lease(server: Server) -> None:
    client, other = server.raw(), server.raw()
    token = won(client)
    for _, _, words in on_one_key(server, b"readonly"):
        other.call(*words)
        assert client.call("CACHE.RENEW", "k", token, LONG) == 1, words


@pytest.mark.parametrize("command", ["DELIFEQ k old", "DELEX k", "MSETEX 1 k new", "GETSET k new", "SET k new GET"])
def test_newer_commands_too(server: Server, command: str) -> None:
    client, words = server.raw(), command.split()
    if server.call("COMMAND", "INFO", words[0]) in ([None], []):
        pytest.skip(f"this server has no {words[0]}")
    token = won(client)
    assert not is_error(server.raw().call(*words))
    assert client.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token) is None


ONTO = {
    "SORT": [("RPUSH", "list", 1, 2), ("SORT", "list", "STORE", "k")],
    "SORT with options": [("RPUSH", "list", 1), ("SORT", "list", "BY", "nosort", "LIMIT", 0, 5, "STORE", "k")],
    "GEORADIUS": [("GEOADD", "geo", 1, 1, "a"), ("GEORADIUS", "geo", 1, 1, 9, "km", "STORE", "k")],
    "ZUNIONSTORE": [("ZADD", "z", 1, "a"), ("ZUNIONSTORE", "k", 1, "z")],
    "BITOP": [("SET", "bits", "a"), ("BITOP", "NOT", "k", "bits")],
    "RESTORE": [("SET", "s", "a"), ("COPY", "s", "k")],
    "PFMERGE": [("PFADD", "h", 1), ("PFMERGE", "k", "h")],
    "XGROUP": [("XGROUP", "CREATE", "k", "g", "$", "MKSTREAM")],
    "LMOVE": [("RPUSH", "list", 1), ("LMOVE", "list", "k", "LEFT", "LEFT")],
    "lock": [("CACHE.LOCK", "k", "owner", LONG)],
    "limit": [("CACHE.RATELIMIT", "k", 1, LONG)],
}


@pytest.mark.parametrize("how", ONTO)
@pytest.mark.parametrize("where", ["client", "script", "transaction"])
def test_a_value_of_any_kind_is_told_to_who_waits(server: Server, connect: Connect, how: str, where: str) -> None:
    token = won(server.raw())
    waiter, writer = waiting(server, connect()), server.raw()
    if where == "client":
        replies = [writer.call(*command) for command in ONTO[how]]
    elif where == "script":
        calls = (", ".join(f"'{word}'" for word in command) for command in ONTO[how])
        replies = [writer.call("EVAL", "; ".join(f"redis.call({call})" for call in calls), 0)]
    else:
        replies = writer.pipeline([("MULTI",), *ONTO[how], ("EXEC",)])
    assert not [reply for reply in replies if is_error(reply)]
    reply = waiter.recv()
    strings = ("BITOP", "RESTORE", "PFMERGE")
    assert reply[0] == b"hit" if how in strings else is_error(reply, "WRONGTYPE"), reply
    late = server.raw().call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token)
    assert late is None if how in strings else is_error(late, "WRONGTYPE")


def test_a_value_that_is_called_as_a_leased_key_is_no_key(server: Server) -> None:
    client = server.raw()
    token = won(client)
    for command in (("SET", "other", "k"), ("HSET", "hash", "k", "k"), ("RPUSH", "list", "k"), ("MSET", "a", "k", "b", "k")):
        client.call(*command)
    client.call("EVAL", "redis.call('SET', 'other', ARGV[1])", 0, "k")
    assert client.call("CACHE.RENEW", "k", token, LONG) == 1


def test_an_exec_outside_of_a_transaction_ends_nothing(server: Server) -> None:
    if not server.is_valkey and server.version < (7, 2):
        pytest.skip("Redis 7.0 hides who sends a command: see docs/decisions/0004")
    client = server.raw()
    token = won(client)
    assert is_error(server.raw().call("EXEC"), "ERR")
    assert client.call("CACHE.RENEW", "k", token, LONG) == 1


def test_emptying_a_slot_ends_leases(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(config={"cluster-enabled": "yes"})
    client = server.raw()
    assert client.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383) == b"OK"
    eventually(lambda: b"cluster_state:ok" in server.call("CLUSTER", "INFO"), 20)
    token, slot = won(client), client.call("CLUSTER", "KEYSLOT", "k")
    other = server.raw()
    if is_error(other.call("CLUSTER", "FLUSHSLOT", slot)) and is_error(other.call("SFLUSH", slot, slot)):
        pytest.skip("this server cannot")
    assert client.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token) is None
