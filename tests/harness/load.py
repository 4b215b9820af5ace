"""A load of all families whose clients know what they may see: after any fault, everything is as it was acknowledged.

Each member of the load has keys of its own and one connection, and sends one command after the other. What it has
been told for sure is its `known` state; the command that was under way when the connection broke may have happened or
not. `check` asks the server and fails if it tells anything else.

Times are long throughout: nothing here ends by itself, so nothing depends on how fast the machine is.
"""

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

from .eventually import eventually
from .raw import RawClient, RespError, as_map, is_error
from .server import Server

LONG = 600_000  # milliseconds; no run lasts as long
YEAR = 365 * 24 * 3600 * 1000
TIMEOUT = 60  # seconds
CROWD = 1_200  # entries: an invalidation leaves some of them to the sweep
SMALL = 40  # units of the limits that are used up


class Member:
    """One client of the load, in a thread of its own."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.random = name, random.Random(f"{name} {seed}")
        self.steps = 0
        self.is_alone = True  # nobody else changes its keys: what it reads can be held against what it knows
        self.refusals: list[RespError] = []
        self._client: RawClient | None = None

    def call(self, *command: Any) -> Any:
        """The reply; an error that the server gives for a fault under way is remembered and returned."""
        assert self._client is not None
        reply = self._client.call(*command)
        if is_error(reply):
            self.refusals.append(reply)
        return reply

    def run(self, client: RawClient, is_over: threading.Event) -> None:
        self._client = client
        try:
            while not is_over.is_set():
                self.step()
                self.steps += 1
        except (ConnectionError, OSError):
            pass  # the server is gone, and with it what was under way
        finally:
            client.close()

    def step(self) -> None:
        raise NotImplementedError

    def check(self, client: RawClient) -> None:
        """AssertionError if the server has lost what was acknowledged, or has more than was asked for."""
        raise NotImplementedError


Seen = tuple[str, bytes | None]
MISS: Seen = ("miss", None)


class Entries(Member):
    """Entries under two tags: stored plainly and with a token, invalidated, marked, touched and deleted."""

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name, seed)
        self.keys = [f"{name}:{n}" for n in range(6)]
        self.tags = [f"{name}:tag:{n}" for n in range(2)]
        self.seen: dict[str, set[Seen]] = {key: {MISS} for key in self.keys}
        self.tagged: dict[str, str | None] = dict.fromkeys(self.keys)
        self.count = 0
        self.token: tuple[str, bytes] | None = None
        self.marked: set[str] = set()  # the tags that were marked stale since the token was issued

    def step(self) -> None:
        key, tag = self.random.choice(self.keys), self.random.choice([*self.tags, None])
        ways = [self.store] * 4 + [self.regenerate] * 2 + [self.delete, self.invalidate, self.mark, self.touch, self.read]
        self.random.choice(ways)(key, tag)

    def change(self, after: dict[str, set[Seen]], *command: Any) -> Any:
        """Sends a command after which the keys look as in `after`, unless it is refused; before its reply either way is right."""
        before = {key: self.seen[key] for key in after}
        self.seen |= {key: before[key] | after[key] for key in after}
        reply = self.call(*command)
        self.seen |= before if is_error(reply) or reply is None else after
        return reply

    def value(self) -> bytes:
        self.count += 1
        return b"%d" % self.count

    def store(self, key: str, tag: str | None, token: bytes | None = None) -> None:
        value = self.value()
        options = ("TAGS", 1, tag) if tag else ()
        options += ("TOKEN", token) if token else ()
        before, state = self.tagged[key], "stale" if token and tag in self.marked else "hit"
        self.tagged[key] = tag
        reply = self.change({key: {(state, value)}}, "CACHE.SETSM", key, value, LONG, "STALE", LONG, *options)
        if is_error(reply) or reply is None:
            self.tagged[key] = before

    def regenerate(self, key: str, tag: str | None) -> None:
        """Stores with the token of a lease, at once or after some other commands."""
        if self.token:
            (key, token), self.token = self.token, None
            return self.store(key, tag, token)
        reply = self.call("CACHE.GETSM", key, "WAIT", 0, "META")
        if not is_error(reply) and reply[0] == b"won" and reply[2] is not None:
            self.token, self.marked = (key, reply[2]), set()

    def delete(self, key: str, tag: str | None) -> None:
        self.change({key: {MISS}}, self.random.choice(["CACHE.DEL", "DEL", "UNLINK"]), key)

    def invalidate(self, key: str, tag: str | None) -> None:
        tag = tag or self.tags[0]
        self.change({key: {MISS} for key in self.keys if self.tagged[key] == tag}, "CACHE.INVALIDATE", tag)

    def mark(self, key: str, tag: str | None) -> None:
        tag = tag or self.tags[0]
        marked = {
            key: {MISS if seen == MISS else ("stale", seen[1]) for seen in self.seen[key]}
            for key in self.keys
            if self.tagged[key] == tag
        }
        self.change(marked, "CACHE.MARKSTALE", tag)
        self.marked.add(tag)

    def touch(self, key: str, tag: str | None) -> None:
        """A stale entry is fresh again by it; its tags have spoken before."""
        touched = {MISS if seen == MISS else ("hit", seen[1]) for seen in self.seen[key]}
        before = self.seen[key]
        if self.change({key: touched}, "CACHE.TOUCH", key, LONG, "STALE", LONG) == 0:
            self.seen[key] = before

    def read(self, key: str, tag: str | None) -> None:
        reply = self.call("CACHE.GET", key, "META")
        if not is_error(reply):
            self.compare(key, reply)

    def compare(self, key: str, row: list[Any]) -> None:
        shown = row[0].decode(), row[1]
        assert not self.is_alone or shown in self.seen[key], f"{key} is {shown}, may be {self.seen[key]}"

    def check(self, client: RawClient) -> None:
        self.token = None
        for key in self.keys:
            row = client.call("CACHE.GET", key, "META")
            self.compare(key, row)
            self.seen[key] = {(row[0].decode(), row[1])}
            tags = client.call("CACHE.TAGS", key) if row[0] != b"miss" else []
            self.tagged[key] = tags[0].decode() if tags else None


class Crowd(Member):
    """More entries under one tag than an invalidation deletes at once."""

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name, seed)
        self.state = "gone"

    def step(self) -> None:
        tags = ("TAGS", 1, f"{self.name}:tag")
        before, self.state = self.state, "unknown"
        assert self._client is not None
        if before == "gone":
            rows = self._client.pipeline(
                [("CACHE.SETSM", f"{self.name}:{n}", "v", LONG, *tags) for n in range(CROWD)], TIMEOUT
            )
            self.state = "stored" if rows == [b"OK"] * CROWD else "unknown"
        else:
            reply = self.call("CACHE.INVALIDATE", f"{self.name}:tag")
            self.state = "unknown" if is_error(reply) else "gone"

    def check(self, client: RawClient) -> None:
        rows = client.pipeline([("CACHE.GET", f"{self.name}:{n}") for n in range(CROWD)], TIMEOUT)
        served = sum(row is not None for row in rows)
        if self.state == "stored":
            assert served == CROWD, f"{CROWD - served} entries of {self.name} are lost"
        elif self.state == "gone":
            assert served == 0, f"{served} invalidated entries of {self.name} are served"


class Locks(Member):
    """A lock of its own, and one that all members take from each other."""

    def __init__(self, name: str, seed: int, shared: str = "lock:shared") -> None:
        super().__init__(name, seed)
        self.key, self.shared = f"{name}:own", shared
        self.fences: list[int] = []  # of the shared lock, as told
        self.own_fences: list[int] = []
        self.holds: set[int | None] = {None}  # the number under which it holds its own lock; None: not at all

    def step(self) -> None:
        if self.random.random() < 0.5:
            self.pass_on()
        elif self.holds == {None}:
            self.lock()
        else:
            self.random.choice([self.unlock, self.extend])()

    def pass_on(self) -> None:
        fence = self.call("CACHE.LOCK", self.shared, self.name, LONG, "WAIT", LONG)
        if isinstance(fence, int):
            self.fences.append(fence)
            self.call("CACHE.UNLOCK", self.shared, self.name)

    def lock(self) -> None:
        self.holds = {None, 0}
        reply = self.call("CACHE.LOCK", self.key, self.name, LONG)
        if isinstance(reply, int):
            self.holds = {reply}
            self.own_fences.append(reply)

    def unlock(self) -> None:
        before, self.holds = self.holds, self.holds | {None}
        reply = self.call("CACHE.UNLOCK", self.key, self.name)
        self.holds = before if is_error(reply) else {None}

    def extend(self) -> None:
        self.call("CACHE.EXTEND", self.key, self.name, LONG)

    def check(self, client: RawClient) -> None:
        holders = [as_map(each) for each in as_map(client.call("CACHE.LOCKINFO", self.key))[b"holders"]]
        fence = holders[0][b"fence"] if holders else None
        # 0 stands for a grant whose number was never heard.
        assert fence in self.holds or fence and 0 in self.holds, f"{self.key}: held as {fence}, may be {self.holds}"
        self.holds = {fence}
        assert self.own_fences == sorted(set(self.own_fences)), f"numbers of {self.key}: {self.own_fences}"
        client.call("CACHE.UNLOCK", self.shared, self.name)  # whoever it was passed to died with its connection


class Limits(Member):
    """Units taken and given back: what is used lies between what was acknowledged and what was asked for."""

    LIMIT = 1_000_000

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name, seed)
        self.algorithms = ["SLIDING", "FIXED"]
        self.used = {algorithm: (0, 0) for algorithm in self.algorithms}
        self.taken, self.round = 0, 0  # of the small limit

    def rule(self, algorithm: str) -> tuple[Any, ...]:
        return f"{self.name}:{algorithm}", self.LIMIT, YEAR, "ALGORITHM", algorithm

    def step(self) -> None:
        algorithm, units = self.random.choice(self.algorithms), self.random.randint(1, 9)
        self.random.choice([self.take, self.take, self.give_back, self.use_up])(algorithm, units)

    def take(self, algorithm: str, units: int) -> None:
        low, high = self.used[algorithm]
        self.used[algorithm] = low, high + units
        reply = self.call("CACHE.RATELIMIT", *self.rule(algorithm), "COST", units)
        allowed = 0 if is_error(reply) else reply[0]
        self.used[algorithm] = low + allowed, high + allowed

    def give_back(self, algorithm: str, units: int) -> None:
        low, high = self.used[algorithm]
        self.used[algorithm] = max(0, low - units), high
        reply = self.call("CACHE.REFUND", self.rule(algorithm)[0], units)
        given = 0 if is_error(reply) else reply
        self.used[algorithm] = max(0, low - given), high - given

    def use_up(self, algorithm: str, units: int) -> None:
        """A small limit, until it refuses: then another takes its place."""
        reply = self.call("CACHE.RATELIMIT", f"{self.name}:small:{self.round}", SMALL, YEAR, "COST", units, "PARTIAL")
        if is_error(reply):
            return
        self.taken += reply[0]
        assert not self.is_alone or self.taken <= SMALL, f"{self.name}: {self.taken} of {SMALL}"
        if reply[0] == 0:
            self.taken, self.round = 0, self.round + 1

    def check(self, client: RawClient) -> None:
        for algorithm, (low, high) in self.used.items():
            peek = client.call("CACHE.RATELIMIT", *self.rule(algorithm), "PEEK")
            used = self.LIMIT - peek[0] - peek[2]
            assert low <= used <= high, f"{self.name} {algorithm}: {used} are used, {low} to {high} were taken"
            self.used[algorithm] = used, used


class Load:
    """Members that run until they are told to stop, or until their connections break."""

    def __init__(self, seed: int, entries: int = 2, locks: int = 3, limits: int = 2, crowds: int = 1) -> None:
        kinds: Sequence[tuple[Callable[[str, int], Member], int]] = (
            (Entries, entries),
            (Locks, locks),
            (Limits, limits),
            (Crowd, crowds),
        )
        self.members = [kind(f"{kind.__name__.lower()}:{n}", seed) for kind, count in kinds for n in range(count)]
        self._failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._is_over = threading.Event()

    @property
    def steps(self) -> int:
        return sum(member.steps for member in self.members)

    def start(self, server: Server, protocol: int = 2, connect: Callable[[], RawClient] | None = None) -> None:
        self._is_over.clear()
        self._threads = [
            threading.Thread(target=self._run, args=(member, connect() if connect else server.raw(protocol, timeout=TIMEOUT)))
            for member in self.members
        ]
        for thread in self._threads:
            thread.start()

    def go_on(self, steps: int) -> None:
        """Waits until so many more commands were answered."""
        wanted = self.steps + steps
        eventually(lambda: self.steps >= wanted or self._failures, TIMEOUT, lambda: f"{self.steps} of {wanted} steps")

    def stop(self) -> None:
        """Lets each member end its step."""
        self._is_over.set()
        self.join()

    def join(self) -> None:
        """Waits for members whose connections are broken, or who were told to stop; what they found wrong is raised."""
        for thread in self._threads:
            thread.join(TIMEOUT)
        assert not [thread for thread in self._threads if thread.is_alive()], "a call was never answered"
        if self._failures:
            raise self._failures[0]

    def check(self, server: Server) -> None:
        client = server.raw(timeout=TIMEOUT)
        for member in self.members:
            member.check(client)
        check_index(client)
        client.close()

    def fences(self) -> list[int]:
        """The numbers of the lock that all take from each other."""
        return [fence for member in self.members if isinstance(member, Locks) for fence in member.fences]

    def _run(self, member: Member, client: RawClient) -> None:
        try:
            member.run(client, self._is_over)
        except BaseException as failure:
            self._failures.append(failure)


def check_index(client: RawClient) -> None:
    """The index of tags says of the selected database exactly what its entries say."""
    by_entries: dict[bytes, set[bytes]] = {}
    for key in scan(client, "SCAN", options=("TYPE", "cg-cached", "COUNT", 1_000)):
        for tag in client.call("CACHE.TAGS", key):
            by_entries.setdefault(tag, set()).add(key)
    tags = set(scan(client, "CACHE.TAGLIST", options=("COUNT", 1_000)))
    by_index = {tag: set(client.call("CACHE.TAGKEYS", tag)) for tag in tags}
    by_index = {tag: keys for tag, keys in by_index.items() if keys}
    assert by_index == by_entries


def scan(client: RawClient, *command: str, options: tuple[Any, ...] = ()) -> list[bytes]:
    found, cursor = [], b"0"
    while True:
        cursor, page = client.call(*command, cursor, *options)
        found += page
        if cursor == b"0":
            return found
