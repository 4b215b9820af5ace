"""What the tests of tags share: entries with tags, entries that are dead and not yet swept, the places a command can come
from, and what a replica is sent."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from .eventually import eventually
from .raw import RawClient, is_error
from .server import Server

LONG = 600_000
Connect = Callable[..., RawClient]
Start = Callable[..., Server]
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
BINARY, LONGEST = b"\0\r\n*\xff", b"t" * 1024
NAMES = [b"", b"t", BINARY, LONGEST]
TOO_LONG = "ERR tag must not be longer than 1024 bytes"
MANY = 1_001  # an invalidation leaves so many to the sweep
STEPS_MAX = 20_000
PLACES = ["client", "transaction", "script"]


def put(client: RawClient, key: bytes | str, *tags: bytes | str, options: tuple[Any, ...] = ()) -> None:
    """An entry of the value `v` with these tags."""
    words = ("TAGS", len(tags), *tags) if tags else ()
    assert client.call("CACHE.SETSM", key, "v", LONG, *options, *words) == b"OK"


def fill(client: RawClient, count: int, *tags: bytes | str) -> None:
    """The entries `k0`, `k1`, … with these tags."""
    stored = client.pipeline([("CACHE.SETSM", f"k{i}", "v", LONG, "TAGS", len(tags), *tags) for i in range(count)])
    assert stored == [b"OK"] * count


def while_dead(client: RawClient, *commands: tuple[Any, ...]) -> list[Any]:
    """The replies to commands that come when all entries `k0`, `k1`, … of `t` are dead and none is swept yet."""
    fill(client, MANY, "t")
    count, *replies = client.pipeline([("MULTI",), ("CACHE.INVALIDATE", "t"), *commands, ("EXEC",)])[-1]
    assert count == MANY
    return replies


def tags_of(client: RawClient, key: bytes | str) -> list[bytes]:
    return client.call("CACHE.TAGS", key)


def run(client: RawClient, place: str, *command: Any) -> Any:
    """The reply to a command that is sent alone, in a transaction or from a script."""
    if place == "transaction":
        (reply,) = client.pipeline([("MULTI",), command, ("EXEC",)])[-1]
        return reply
    script = ("EVAL", "return redis.call(unpack(ARGV))", 0) if place == "script" else ()
    return client.call(*script, *command)


def info(client: RawClient, name: str) -> tuple[int, set[bytes], set[bytes]]:
    """Arity, flags and tips of a command."""
    (row,) = client.call("COMMAND", "INFO", name)
    return row[1], set(row[2]) - {b"module"}, set(row[7])


def restricted(server: Server, protocol: int, *rules: str) -> RawClient:
    """A user who may call everything, on the keys that `rules` allow."""
    server.call("ACL", "SETUSER", "user", "on", ">secret", "+@all", *rules)
    return server.raw(protocol, auth=("user", "secret"))


def listen(client: RawClient, connect: Connect) -> Callable[[], list[tuple[bytes, bytes]]]:
    """Hears keyspace events; a call returns those since the last, as pairs of event and key."""
    client.call("CONFIG", "SET", "notify-keyspace-events", "Egd")
    hearer = connect()
    receive = hearer.recv_push if hearer.protocol == 3 else hearer.recv
    hearer.send("PSUBSCRIBE", "__keyevent@*__:*")
    receive()

    def heard() -> list[tuple[bytes, bytes]]:
        client.call("PUBLISH", "__keyevent@0__:end", "")
        events = iter(lambda: receive()[-2:], [b"__keyevent@0__:end", b""])
        return [(channel.partition(b":")[2], key) for channel, key in events]

    return heard


def survives(watcher: RawClient, keys: Iterable[bytes | str], change: Callable[[], Any]) -> bool:
    """Whether a transaction that watches `keys` runs after the change."""
    assert watcher.call("WATCH", *keys) == b"OK"
    change()
    return watcher.pipeline([("MULTI",), ("PING",), ("EXEC",)])[-1] == [b"PONG"]


def pages(
    client: RawClient, command: tuple[Any, ...], options: tuple[Any, ...], between: Callable[[], Any] = lambda: None
) -> list[list[bytes]]:
    """What each step of a whole walk returns; `between` is called after each but the last."""
    found, cursor = [], b"0"
    while len(found) < STEPS_MAX:
        cursor, names = client.call(*command, cursor, *options)
        found.append(names)
        if cursor == b"0":
            return found
        between()
    raise AssertionError(f"a walk of {STEPS_MAX} steps has not ended")


def all_of(pages: list[list[bytes]]) -> list[bytes]:
    return sorted(name for page in pages for name in page)


class Pair:
    """A primary with a replica, and what the one sends the other."""

    def __init__(self, start: Start) -> None:
        self.primary, self.replica = start(), start()
        self.replica.replica_of(self.primary)
        self.replica.wait_for_sync()
        self._monitor = self.replica.raw()
        assert self._monitor.call("MONITOR") == b"OK"

    def sent(self, *commands: tuple[Any, ...], until: Callable[[], bool] = lambda: True) -> list[list[str]]:
        """What the replica gets for these commands until something is so, without what only says in which database."""
        client = self.primary.raw()
        replies = client.pipeline([("CACHE.SETSM", "begin", "", LONG), *commands])
        assert not [reply for reply in replies if is_error(reply)]
        eventually(until)
        client.call("CACHE.SETSM", "end", "", LONG)
        self.replica.wait_for_sync()
        found: list[list[str]] = []
        while not found or found[-1][1:2] != ["end"]:
            found.append(re.findall(r'"((?:[^"\\]|\\.)*)"', self._monitor.recv().decode()))
        start = next(at for at, words in enumerate(found) if words[1:2] == ["begin"])
        return [words for words in found[start + 1 : -1] if words[0].upper() not in ("SELECT", "PING")]

    def assert_equal(self, *keys: str) -> None:
        self.replica.wait_for_sync()
        assert self.primary.digest_value(*keys) == self.replica.digest_value(*keys)
