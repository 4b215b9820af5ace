"""No reader is served what was invalidated: races against a model of a database.

Once drawn and interleaved command by command, so that a seed repeats it, and once with as many threads as there are
clients, so that commands of several meet in one turn of the server.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually
from test_token import LONG, trust_transactions

Command = tuple[Any, ...]
REMOVALS: list[list[Command]] = [
    [("DEL", "k")],
    [("UNLINK", "k")],
    [("CACHE.DEL", "k")],
    [("EVAL", "redis.call('DEL', KEYS[1])", 1, "k")],
    [("FLUSHDB",)],
    [("FLUSHALL",)],
    [("SELECT", 9), ("FLUSHDB",), ("SELECT", 0), ("SWAPDB", 0, 9)],
]


class Race:
    """Readers, loaders and writers, interleaved at random, command by command.

    `rows` is the database: the version of each row. `floor` is the version whose invalidation was answered: whoever asks
    after that must never be served less. The interleaving is drawn, so a seed repeats it.
    """

    KEYS = ("a", "b", "c")

    def __init__(self, server: Server, seed: int) -> None:
        self.rng, self.server = random.Random(seed), server
        self.rows, self.floor = dict.fromkeys(self.KEYS, 0), dict.fromkeys(self.KEYS, 0)
        self.readers = [Reader(self, server.raw()) for _ in range(8)]
        self.writers = [Updater(self, server.raw()) for _ in range(3)]
        self.refused = self.written = self.stale = 0

    def run(self, steps: int) -> None:
        actors = self.readers * 5 + self.writers
        for _ in range(steps):
            self.rng.choice(actors).step()
        for writer in self.writers:
            while writer.plan:
                writer.step()
        eventually(self.settled, timeout=20, message="everyone is answered")

    def settled(self) -> bool:
        for reader in self.readers:
            if reader.state != "idle":
                reader.step()
        return all(reader.state == "idle" for reader in self.readers)


class Reader:
    """Asks; if it wins, reads the row, and some steps later writes what it read."""

    def __init__(self, race: Race, client: RawClient) -> None:
        self.race, self.client, self.state = race, client, "idle"
        self.key, self.floor, self.token, self.read, self.old = "", 0, b"", 0, None

    def step(self) -> None:
        getattr(self, self.state)()

    def idle(self) -> None:
        rng, self.key = self.race.rng, self.race.rng.choice(self.race.KEYS)
        self.floor = self.race.floor[self.key]
        options = [("WAIT", rng.choice([1, LONG])), ("LEASE", rng.choice([2, LONG, LONG, LONG])), ("EARLY", 1)]
        options += [("MAXSTALE", 1)] * rng.randint(0, 1)
        self.client.send("CACHE.GETSM", self.key, *(word for option in options for word in option), "META")
        self.state = "asking"

    def asking(self) -> None:
        if not self.client.has_reply():
            return
        state, value, self.token, _ = self.client.recv()
        self.old = value and int(value)
        if state in (b"hit", b"stale"):
            assert self.old >= self.floor, f"{self.key}: served {self.old} after {self.floor} was invalidated"
            self.race.stale += state == b"stale"
        self.state = "won" if state == b"won" else "idle"

    def won(self) -> None:
        self.read, self.state = self.race.rows[self.key], "loaded"

    def loaded(self) -> None:
        rng, key, token = self.race.rng, self.key, ("TOKEN", self.token)
        self.state = "idle"
        match rng.randrange(10):
            case 0:
                self.client.call("CACHE.RELEASE", key, self.token)
            case 1:
                self.client.call("CACHE.FAIL", key, self.token, "RETRY", 1)
            case 2 | 3 if self.old == self.read:
                self.count(self.client.call("CACHE.TOUCH", key, rng.choice([1, 50]), "STALE", LONG, *token))
            case _:
                ttl = (
                    ("PERSIST",) if rng.randrange(3) == 0 else (rng.choice([1, 5, 50]), "STALE", rng.choice([0, LONG]))
                )
                self.count(self.client.call("CACHE.SETSM", key, self.read, *ttl, "COST", 20, *token))

    def count(self, reply: Any) -> None:
        if reply in (b"OK", 1):
            self.race.written += 1
        else:
            assert reply in (None, 0)
            self.race.refused += 1


class Updater:
    """Changes a row and then invalidates the key, in one of many ways, each command a step of its own."""

    def __init__(self, race: Race, client: RawClient) -> None:
        self.race, self.client = race, client
        self.plan: list[Callable[[], Any]] = []
        self.version = 0

    def step(self) -> None:
        if not self.plan:
            self.make_plan()
        self.plan.pop(0)()

    def make_plan(self) -> None:
        rng, key = self.race.rng, self.race.rng.choice(self.race.KEYS)
        removal = [tuple(key if word == "k" else word for word in each) for each in rng.choice(REMOVALS)]
        call, run = self.client.call, self.client.pipeline
        update, answered = (lambda: self.update(key)), (lambda: self.answered(key))
        match rng.randrange(4):
            case 0:
                self.plan = [update, lambda: (run(removal), answered())]
            case 1:  # queued first, then the row changes, then it runs
                queued = [lambda: call("MULTI"), lambda: run(removal), update]
                self.plan = [*queued, lambda: (call("EXEC"), answered())]
            case 2:
                queued = [update, lambda: call("MULTI"), lambda: call("GET", "x"), lambda: run(removal)]
                self.plan = [*queued, lambda: (call("EXEC"), answered())]
            case _:  # writes the row's value through, read in the same step
                self.plan = [update, lambda: (self.write_through(key), answered())]

    def update(self, key: str) -> None:
        self.race.rows[key] += 1
        self.version = self.race.rows[key]

    def answered(self, key: str) -> None:
        self.race.floor[key] = max(self.race.floor[key], self.version)

    def write_through(self, key: str) -> None:
        value, call = self.race.rows[key], self.client.call
        match self.race.rng.randrange(4):
            case 0:
                assert call("SET", key, value, "PX", 50) == b"OK"
            case 1:
                assert call("CACHE.SETSM", key, value, 50, "STALE", 50, "COST", 20) == b"OK"
            case 2:
                assert self.client.pipeline([("SET", "tmp", value), ("RENAME", "tmp", key)]) == [b"OK"] * 2
            case _:
                assert self.client.pipeline([("MULTI",), ("DEL", key), ("SET", key, value), ("EXEC",)])[-1][1] == b"OK"


def race(server: Server, seeds: range, steps: int) -> None:
    trust_transactions(server)
    refused = written = stale = 0
    for seed in seeds:
        server.close_clients()
        server.call("FLUSHALL")
        running = Race(server, seed)
        try:
            running.run(steps)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        refused, written, stale = refused + running.refused, written + running.written, stale + running.stale
    assert min(refused, written, stale) >= len(seeds) / 2, f"too little happened: {refused=} {written=} {stale=}"


def test_no_reader_is_served_what_was_invalidated(server: Server) -> None:
    race(server, range(20), steps=400)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_reader_is_served_what_was_invalidated_in_many_races(server: Server) -> None:
    race(server, range(100, 400), steps=1_000)


class Database:
    """Rows with versions, and of each the version whose invalidation was answered. A read or write takes an instant."""

    def __init__(self, keys: int) -> None:
        self.rows, self.floor = [0] * keys, [0] * keys
        self.lock, self.over = threading.Lock(), threading.Event()
        self.counts = {"hit": 0, "stale": 0, "OK": 0, "refused": 0}
        self.failures: list[str] = []

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1


def read_on(database: Database, client: RawClient, seed: int) -> None:
    """Cache-aside with META and TOKEN, until it is over."""
    rng = random.Random(seed)
    while not database.over.is_set():
        key = rng.randrange(len(database.rows))
        floor = database.floor[key]
        state, value, token, _ = client.call("CACHE.GETSM", key, "WAIT", 20, "LEASE", rng.choice([1, 1000]), "META")
        if state in (b"hit", b"stale"):
            database.count(state.decode())
            if int(value) < floor:
                database.failures.append(f"{key}: served {int(value)} after {floor} was invalidated")
        elif state == b"won":
            row = database.rows[key]
            database.over.wait(rng.choice([0, 0, 0.001]))  # the time the load takes
            ttl = (rng.choice([1, 100]), "STALE", 1000)
            stored = client.call("CACHE.SETSM", key, row, *ttl, "TOKEN", token)
            database.count("OK" if stored else "refused")


def write_on(database: Database, client: RawClient, seed: int) -> None:
    """Changes rows and invalidates their keys, sometimes in the same packet as other commands on them."""
    rng = random.Random(seed)
    while not database.over.is_set():
        key = rng.randrange(len(database.rows))
        removal = [tuple(key if word == "k" else word for word in each) for each in rng.choice(REMOVALS[:5])]
        if rng.randrange(3) == 0:
            removal = [("MULTI",), *removal, ("EXEC",)]
        with database.lock:
            database.rows[key] += 1
            version = database.rows[key]
        client.pipeline([("PING",), *removal, ("CACHE.GET", key)])
        with database.lock:
            database.floor[key] = max(database.floor[key], version)
        database.over.wait(rng.choice([0, 0.001]))


@pytest.mark.slow
@pytest.mark.parametrize("keys", [1, 20])
def test_no_reader_is_served_what_was_invalidated_by_threads(server: Server, keys: int) -> None:
    trust_transactions(server)
    database = Database(keys)
    actors = [(read_on, number) for number in range(6)] + [(write_on, number) for number in range(2)]
    threads = [threading.Thread(target=act, args=(database, server.raw(timeout=30), seed)) for act, seed in actors]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 5
    eventually(lambda: database.failures or time.monotonic() > deadline, timeout=20)
    database.over.set()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert not database.failures, database.failures[:5]
    assert min(database.counts["hit"], database.counts["OK"], database.counts["refused"]) > 100, database.counts
