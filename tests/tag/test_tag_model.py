"""Every way a key can come, change, move or go, and after each step the index of tags against a full scan and a model.

The model is a dictionary. What invalidates more entries than are deleted at once leaves dead ones behind, which other
commands still see until the sweep comes: whether they met one they say in their reply, and the model believes them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from harness import RawClient, Server, eventually, is_error

LONG = 600_000  # milliseconds; no run lasts as long
DBS = (0, 1)
MANY = 1_001  # entries that are not deleted within the command
EXAMPLES = 25
FILLER = b"filler:"

names = st.sampled_from([b"a", b"b", b"c", b"\0\r\n", b"e"])
tags = st.sampled_from([b"t", b"u", b"v", b"\xff\0", b""])
tag_lists = st.lists(tags, max_size=4)
dbs = st.sampled_from(DBS)
# How a command reaches the server.
ways = st.sampled_from(["plain", "plain", "multi", "script"])


@dataclass
class Entry:
    """What is under a key: an entry, or a value of another kind, which cannot have tags."""

    tags: list[bytes] = field(default_factory=list)
    stale: bool = False
    kind: str = "entry"

    def copy(self) -> "Entry":
        return replace(self, tags=list(self.tags))


class TagMachine(RuleBasedStateMachine):
    """`server` and `protocol` are set by the test."""

    server: ClassVar[Server]
    protocol: ClassVar[int]
    is_right: ClassVar[Callable[["TagMachine"], None] | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.server.close_clients()
        self.server.call("FLUSHALL")
        self.clients = {db: self.server.raw(self.protocol) for db in DBS}
        for db, client in self.clients.items():
            client.call("SELECT", db)
        self.model: dict[int, dict[bytes, Entry]] = {db: {} for db in DBS}

    def teardown(self) -> None:
        if type(self).is_right is not None:
            type(self).is_right(self)
        for client in self.clients.values():
            client.close()

    def run(self, way: str, db: int, *command: Any) -> Any:
        """The reply to a command, whichever way it takes; errors are returned."""
        client = self.clients[db]
        if way == "multi":
            client.pipeline([("MULTI",), command])
            return client.call("EXEC")[0]
        if way == "script":
            # A script changes the database of its connection for itself only.
            return client.call("EVAL", "return redis.pcall(unpack(ARGV))", 0, *command)
        return client.call(*command)

    # What the module does

    @rule(db=dbs, way=ways, name=names, tags=tag_lists)
    def store(self, db: int, way: str, name: bytes, tags: list[bytes]) -> None:
        options = ["TAGS", len(tags), *tags] if tags else []
        reply = self.run(way, db, "CACHE.SETSM", name, b"v", LONG, *options)
        held = self.model[db].get(name)
        if held and held.kind == "list":
            assert is_error(reply, "WRONGTYPE")
        else:
            assert reply in (b"OK", "OK"), reply
            self.model[db][name] = Entry(list(dict.fromkeys(tags)))

    @rule(db=dbs, way=ways, name=names, tags=st.lists(tags, min_size=1, max_size=3), adds=st.booleans())
    def retag(self, db: int, way: str, name: bytes, tags: list[bytes], adds: bool) -> None:
        reply = self.run(way, db, "CACHE.TAG" if adds else "CACHE.UNTAG", name, *tags)
        held = self.model[db].get(name)
        if held and held.kind != "entry":
            assert is_error(reply, "WRONGTYPE")
            return
        before = set(held.tags) if held else set()
        if held and adds:
            held.tags += [tag for tag in dict.fromkeys(tags) if tag not in before]
        elif held:
            held.tags = [tag for tag in held.tags if tag not in tags]
        assert reply == len(before ^ set(held.tags if held else ())), (name, tags)

    @rule(db=dbs, way=ways, name=names)
    def touch(self, db: int, way: str, name: bytes) -> None:
        held = self.model[db].get(name)
        reply = self.run(way, db, "CACHE.TOUCH", name, LONG)
        if held and held.kind == "list":
            assert is_error(reply, "WRONGTYPE")
            return
        assert reply == int(held is not None)
        if held:
            held.stale, held.kind = False, "entry"

    @rule(db=dbs, way=ways, tags=st.lists(tags, min_size=1, max_size=2), many=st.integers(0, 9))
    def invalidate(self, db: int, way: str, tags: list[bytes], many: int) -> None:
        hit = [name for name, entry in self.model[db].items() if set(entry.tags) & set(tags)]
        if many == 0:
            store = [("CACHE.SETSM", FILLER + b"%d" % n, b"", LONG, "TAGS", 1, tags[0]) for n in range(MANY)]
            self.clients[db].pipeline(store)
            assert self.run(way, db, "CACHE.INVALIDATE", *tags) >= MANY + len(hit)
        else:
            count = self.run(way, db, "CACHE.INVALIDATE", *tags)
            assert count >= len(hit) if self.backlog() else count == len(hit)
        for name in hit:
            del self.model[db][name]

    @rule(db=dbs, way=ways, tag=tags)
    def mark_stale(self, db: int, way: str, tag: bytes) -> None:
        hit = [entry for entry in self.model[db].values() if tag in entry.tags]
        assert self.run(way, db, "CACHE.MARKSTALE", tag) == len(hit)
        for entry in hit:
            entry.stale = True

    @rule(db=dbs, way=ways, tag=tags)
    def forget(self, db: int, way: str, tag: bytes) -> None:
        hit = [entry for entry in self.model[db].values() if tag in entry.tags]
        count = self.run(way, db, "CACHE.TAGDEL", tag)
        assert count >= len(hit) if self.backlog() else count == len(hit)
        for entry in hit:
            entry.tags.remove(tag)

    # What others do

    @rule(db=dbs, way=ways, name=names, how=st.sampled_from(["DEL", "UNLINK", "CACHE.DEL"]))
    def delete(self, db: int, way: str, name: bytes, how: str) -> None:
        held = self.model[db].get(name)
        if how == "CACHE.DEL" and held and held.kind == "list":
            how = "DEL"
        reply = self.run(way, db, how, name)
        assert reply == int(held is not None) or (how != "CACHE.DEL" and held is None), reply
        self.model[db].pop(name, None)

    @rule(db=dbs, way=ways, name=names, kind=st.sampled_from(["SET", "SET", "list"]))
    def overwrite(self, db: int, way: str, name: bytes, kind: str) -> None:
        if kind == "list":
            self.run(way, db, "DEL", name)
            self.run(way, db, "RPUSH", name, b"x")
            self.model[db][name] = Entry(kind="list")
        else:
            self.run(way, db, "SET", name, b"plain", "PX", LONG)
            self.model[db][name] = Entry(kind="string")

    @rule(db=dbs, name=names, actively=st.booleans())
    def expire(self, db: int, name: bytes, actively: bool) -> None:
        client = self.clients[db]
        if actively:
            size = client.call("DBSIZE")
            gone = client.call("PEXPIRE", name, 1)
            eventually(lambda: client.call("DBSIZE") <= size - gone, message="it expires without being looked at")
        else:
            client.call("PEXPIRE", name, 1)
            eventually(lambda: not client.call("EXISTS", name), message="it expires when it is looked at")
        self.model[db].pop(name, None)

    def moved(self, reply: Any, source: tuple[int, bytes], target: tuple[int, bytes], keeps: bool) -> None:
        """The reply to a command that puts what is under one key under another one."""
        if is_error(reply) or reply == 0 or source == target:
            return
        entry = self.model[source[0]].get(source[1])
        self.model[target[0]].pop(target[1], None)
        if entry:
            self.model[target[0]][target[1]] = entry.copy()
        if not keeps:
            self.model[source[0]].pop(source[1], None)

    def is_there(self, db: int) -> set[bytes]:
        return set(self.clients[db].call("KEYS", "*"))

    @rule(db=dbs, way=ways, name=names, to=names, replaces=st.booleans())
    def rename(self, db: int, way: str, name: bytes, to: bytes, replaces: bool) -> None:
        held = self.model[db].get(name)
        free = to not in self.is_there(db)
        reply = self.run(way, db, "RENAME" if replaces else "RENAMENX", name, to)
        if held and name != to and (replaces or free):
            assert not is_error(reply) and reply != 0, reply
        self.moved(reply, (db, name), (db, to), keeps=False)

    @rule(db=dbs, to_db=dbs, way=ways, name=names, to=names, replaces=st.booleans())
    def copy(self, db: int, to_db: int, way: str, name: bytes, to: bytes, replaces: bool) -> None:
        if (db, name) == (to_db, to) or (self.leaves_connection_behind and db != to_db):
            return
        held, free = self.model[db].get(name), to not in self.is_there(to_db)
        reply = self.run(way, db, "COPY", name, to, "DB", to_db, *(["REPLACE"] if replaces else []))
        if held and (replaces or free):
            assert reply == 1, reply
        self.moved(reply, (db, name), (to_db, to), keeps=True)

    @rule(db=dbs, way=ways, name=names)
    def move(self, db: int, way: str, name: bytes) -> None:
        if self.leaves_connection_behind:
            return
        to_db = 1 - db
        held, free = self.model[db].get(name), name not in self.is_there(to_db)
        reply = self.run(way, db, "MOVE", name, to_db)
        if held and free:
            assert reply == 1, reply
        self.moved(reply, (db, name), (to_db, name), keeps=False)

    @property
    def leaves_connection_behind(self) -> bool:
        """Valkey 8.1 forgets which database the caller had selected (mended in 9)."""
        return self.server.is_valkey and self.server.version[:2] == (8, 1)

    @rule(db=dbs, to_db=dbs, way=ways, name=names, to=names)
    def dump_and_restore(self, db: int, to_db: int, way: str, name: bytes, to: bytes) -> None:
        payload = self.clients[db].call("DUMP", name)
        if payload is None:
            return
        reply = self.clients[to_db].call("RESTORE", to, LONG, payload, "REPLACE")
        assert not is_error(reply), reply
        self.moved(reply, (db, name), (to_db, to), keeps=True)

    @rule(way=st.sampled_from(["plain", "multi"]))
    def swap(self, way: str) -> None:
        self.run(way, 0, "SWAPDB", *DBS)
        self.model = {0: self.model[1], 1: self.model[0]}

    @rule(db=dbs, way=ways, all=st.booleans(), mode=st.sampled_from(["SYNC", "ASYNC"]), rare=st.integers(0, 3))
    def flush(self, db: int, way: str, all: bool, mode: str, rare: int) -> None:
        if rare:
            return
        self.run(way, db, "FLUSHALL" if all else "FLUSHDB", mode)
        for each in DBS if all else [db]:
            self.model[each].clear()

    @rule(rare=st.integers(0, 3))
    def reload(self, rare: int) -> None:
        if rare == 0:
            self.reload_server()

    def reload_server(self) -> None:
        self.server.call("DEBUG", "RELOAD")

    # What must hold

    def backlog(self) -> int:
        return self.server.stats()["sweep_backlog"]

    @invariant()
    def the_index_says_what_the_keys_say(self) -> None:
        for db, client in self.clients.items():
            model = {name: entry for name, entry in self.model[db].items() if entry.kind == "entry"}
            held = {name: client.call("CACHE.TAGS", name) for name in model}
            assert held == {name: entry.tags for name, entry in model.items()}
            states = {name: client.call("CACHE.GET", name, "META")[0] for name in model}
            assert states == {name: b"stale" if entry.stale else b"hit" for name, entry in model.items()}
            self.scan(client)

    def scan(self, client: RawClient) -> None:
        found: dict[bytes, set[bytes]] = {}
        for name in client.call("KEYS", "*"):
            tags = client.call("CACHE.TAGS", name)
            for tag in [] if is_error(tags, "WRONGTYPE") else tags:
                found.setdefault(tag, set()).add(name)
        listing = client.call("CACHE.TAGLIST", 0, "COUNT", 1000)
        assert not is_error(listing), listing
        cursor, listed = listing
        assert cursor == b"0"
        settled = not self.backlog()
        for tag in {*found, *listed, b"t"}:
            members = client.call("CACHE.TAGKEYS", tag)
            assert len(members) == len(set(members))
            assert set(members) == found.get(tag, set()), tag
            cursor, walked = client.call("CACHE.TAGSCAN", tag, 0, "COUNT", 1000)
            assert (cursor, sorted(walked)) == (b"0", sorted(members))
            count = client.call("CACHE.TAGCOUNT", tag)
            assert count == len(members) if settled else count >= len(members), tag
        if settled:
            assert set(listed) == set(found)


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_index_is_exact(server: Server, protocol: int) -> None:
    TagMachine.server, TagMachine.protocol, TagMachine.is_right = server, protocol, None
    run_state_machine_as_test(TagMachine, settings=settings(max_examples=EXAMPLES, stateful_step_count=40))
