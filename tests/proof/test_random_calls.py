"""Random calls of all commands from several connections, alone, in transactions and in scripts, in both protocols.

Whatever comes: the server lives, each call has one reply, an error has changed nothing, nothing that waits is
forgotten, and what was stored can be saved and loaded. A failure shows the seed and the last calls.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually, is_error
from harness.calls import Call, Grammar
from harness.eventually import SLOWER
from harness.load import check_index

CLIENTS = 6
PARKED_MAX = 3
PATIENCE_MS = 40 * SLOWER  # a call without a reply by then is taken for one that waits
ROUND = 40  # calls between two looks at everything
SHOWN = 25
LONG = 600_000  # milliseconds; no test lasts as long
COPY = "a copy"
NO_DIGEST = b"0" * 40
GONE = -2  # PEXPIRETIME of a key whose time ended between two questions
SLACK_MS = 5  # between a time that a server tells as what is left and the clock here
Holders = dict[tuple[bytes, int], float]  # owner and number: until when
Snapshot = dict[bytes, tuple[bytes | Holders, int]]


class Fuzz:
    def __init__(self, server: Server, protocol: int, seed: int) -> None:
        self.server, self.chance, self.seed = server, random.Random(seed), seed
        server.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
        self.control = server.raw(timeout=30)
        self.grammar = Grammar(self.control)
        self.clients = [server.raw(protocol, timeout=30) for _ in range(CLIENTS)]
        self.parked: dict[RawClient, Call] = {}
        self.last: deque[Any] = deque(maxlen=SHOWN)
        self.calls = 0
        self.errors = 0

    def round(self) -> None:
        try:
            for _ in range(ROUND):
                self.step()
            self.look()
        except BaseException:
            print(f"seed {self.seed}, call {self.calls}; the last calls:", *self.last, sep="\n  ")
            raise

    def step(self) -> None:
        self.collect()
        if len(self.parked) >= PARKED_MAX:
            self.unblock(self.chance.choice(list(self.parked)))
        client = self.chance.choice([each for each in self.clients if each not in self.parked])
        way = self.chance.choice([self.alone] * 6 + [self.in_transaction, self.in_script])
        way(client)
        self.calls += 1

    def alone(self, client: RawClient) -> None:
        call = self.grammar.draw(self.chance)
        before = None if self.parked else self.snapshot()
        self.last.append((client.client_id, call))
        client.send(*call)
        if not client.has_reply(PATIENCE_MS):
            self.parked[client] = call
            return
        reply = self.reply_of(client)
        if is_error(reply):
            self.errors += 1
            if before is not None:
                self.assert_unchanged(before, call, reply)
        elif len(call) > 1:
            self.assert_can_be_loaded(call[1])

    def in_transaction(self, client: RawClient) -> None:
        calls = [self.grammar.draw(self.chance) for _ in range(self.chance.randint(1, 4))]
        self.last.append((client.client_id, "MULTI", calls))
        replies = client.pipeline([[b"MULTI"], *calls, [b"EXEC"]])
        queued = [reply for reply in replies[1:-1] if reply == b"QUEUED"]
        is_refused = is_error(replies[-1], "EXECABORT")
        assert is_refused or len(replies[-1]) == len(queued) == len(calls), replies
        self.settled(client)

    def in_script(self, client: RawClient) -> None:
        call = self.grammar.draw(self.chance)
        self.last.append((client.client_id, "EVAL", call))
        before = None if self.parked else self.snapshot()
        reply = client.call("EVAL", "return redis.call(unpack(ARGV))", 0, *call)
        if is_error(reply) and before is not None:
            self.assert_unchanged(before, call, reply)
        self.settled(client)

    def reply_of(self, client: RawClient) -> Any:
        reply = client.recv()
        self.last.append((client.client_id, reply))
        self.grammar.learn(reply)
        self.settled(client)
        return reply

    def settled(self, client: RawClient) -> None:
        """There was one reply and no other."""
        marker = f"marker {self.calls}"
        assert client.call("ECHO", marker) == marker.encode()

    def collect(self) -> None:
        for client in [each for each in self.parked if each.has_reply()]:
            del self.parked[client]
            self.reply_of(client)

    def unblock(self, client: RawClient) -> None:
        """Ends its wait; where it was slow rather than waiting, its reply comes by itself."""
        self.control.call("CLIENT", "UNBLOCK", client.client_id, self.chance.choice(["TIMEOUT", "ERROR"]))
        del self.parked[client]
        self.reply_of(client)

    def snapshot(self) -> Snapshot:
        """What is in database 0, and until when."""
        keys = sorted(self.control.call("KEYS", "*"))
        if not keys:
            return {}
        digests: list[bytes | Holders] = self.control.call("DEBUG", "DIGEST-VALUE", *keys)
        for at, kind in enumerate(self.control.pipeline([("TYPE", key) for key in keys])):
            if kind == b"cg-locked":
                digests[at] = self.holders(keys[at])
        ends = self.control.pipeline([("PEXPIRETIME", key) for key in keys])
        return {key: (digest, end) for key, digest, end in zip(keys, digests, ends) if end != GONE}

    def holders(self, key: bytes) -> Holders:
        told = self.control.call("CACHE.LOCKINFO", key)
        now = time.time() * 1000
        rows = [as_map(row) for row in as_map(told)[b"holders"]]
        return {(row[b"owner"], row[b"fence"]): now + row[b"left_ms"] for row in rows}

    def assert_unchanged(self, before: Snapshot, call: Call, reply: Any) -> None:
        changed = changes(before, self.snapshot())
        assert not changed, f"{call} was answered {reply} and has changed {changed}"

    def assert_can_be_loaded(self, key: bytes) -> None:
        """What a call left under its key is read from what is written of it."""
        payload, end = self.control.pipeline([("DUMP", key), ("PEXPIRETIME", key)])
        if payload is None or end == GONE:
            return
        ttl = 0 if end < 0 else LONG  # whether there is one is part of the digest
        assert self.control.call("RESTORE", COPY, ttl, payload, "REPLACE") == b"OK"
        digests = self.control.call("DEBUG", "DIGEST-VALUE", key, COPY)
        assert self.control.call("DEL", COPY) == 1
        assert digests[0] in (digests[1], NO_DIGEST), "restored as something else"

    def look(self) -> None:
        for client in list(self.parked):
            self.unblock(client)
        self.server.assert_alive()
        stats = self.server.stats()
        assert stats["panics"] == 0
        assert not {name: value for name, value in stats.items() if isinstance(value, (int, float)) and value < 0}
        eventually(
            lambda: [self.server.stats()[name] for name in ("waiters", "lock_waiters", "limits_waiting")] == [0] * 3, 20
        )
        assert self.server.info("clients")["blocked_clients"] == 0
        for database in (1, 0):
            self.control.call("SELECT", database)
            check_index(self.control)
        before = self.snapshot()
        assert self.control.call("DEBUG", "RELOAD") == b"OK"
        self.control.call("SELECT", 0)  # Valkey 8.1 leaves the caller where the last key was loaded
        assert not changes(before, self.snapshot())


def changes(before: Snapshot, after: Snapshot) -> list[tuple[Any, ...]]:
    """What differs, but for what only time has done: keys whose time is over are gone, and so are holders of locks.

    A holder past its deadline is nobody: whoever comes to the lock may write it out of the value.
    """
    now = time.time() * 1000 + SLACK_MS
    found: list[tuple[Any, ...]] = [(key, None, after[key]) for key in after.keys() - before.keys()]
    for key, (value, end) in before.items():
        if key not in after:
            if not 0 < end <= now:
                found.append((key, (value, end), None))
            continue
        later, later_end = after[key]
        if isinstance(value, dict) and isinstance(later, dict):
            gone = [until for holder, until in value.items() if holder not in later]
            is_same = later.keys() <= value.keys() and all(until <= now for until in gone)
        else:
            is_same = value == later
        if not is_same or end != later_end:
            found.append((key, before[key], after[key]))
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_random_calls_do_no_harm(fresh_server: Callable[..., Server], protocol: int, seed: int) -> None:
    fuzz = Fuzz(fresh_server(), protocol, seed)
    while fuzz.calls < 2_000:
        fuzz.round()
    assert 0.1 < fuzz.errors / fuzz.calls < 0.9, f"{fuzz.errors} errors of {fuzz.calls} calls: one-sided"


@pytest.mark.soak
def test_random_calls_for_long(fresh_server: Callable[..., Server], soak_seconds: float) -> None:
    end, seed, calls = time.monotonic() + soak_seconds, int(time.time()), 0
    while time.monotonic() < end:
        server = fresh_server()
        fuzz = Fuzz(server, 2 + seed % 2, seed)
        while fuzz.calls < 20_000 and time.monotonic() < end:
            fuzz.round()
        calls += fuzz.calls
        server.stop()
        seed += 1
    print(f"{calls} calls, the last seed {seed - 1}")
