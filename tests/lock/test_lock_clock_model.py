"""An exact model of locks beside the server, with a clock that is held by hand: every reply, every holder and every millisecond
must agree.

Time passes only where a rule says so, for the server's both clocks. So deadlines, TTLs given by hand and the moments in which
they coincide are tried to the millisecond, and nothing here depends on how fast the machine is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from harness import Clock, RawClient, Server, as_map, is_error
from harness.line import info

CLIENTS = 6
HEAD_START_MS = 120_000
AHEAD_US = 60_000_000  # the number that a client may ask for
FOREVER = 10**11  # a wait that outlasts every run
keys = st.sampled_from([b"a", b"b", b"\0\r\n"])
names = st.sampled_from([b"one", b"two", b"three", b""])
modes = st.sampled_from(["", "", "SHARED", "SHARED", "PERMITS 2", "PERMITS 2", "PERMITS 3"])
terms = st.sampled_from([1, 2, 5, 5, 50, 1_000, 1_000, 10**9])
numbers = st.integers(0, CLIENTS - 1)


def clash(one: str, other: str) -> bool:
    return one != other and (one.startswith("PERMITS") or other.startswith("PERMITS"))


def places(mode: str) -> int:
    return {"": 1, "SHARED": 10_000}.get(mode) or int(mode.split()[1])


@dataclass
class Holder:
    deadline: int
    client: int | None  # the id of its connection
    bound: bool
    fence: int = 0


@dataclass
class Asks:
    number: int
    client: int
    owner: bytes
    mode: str
    ttl: int
    bound: bool
    at_least: int


@dataclass
class Grant:
    """One that follows from what happened; its number is the server's to say."""

    holder: Holder
    told: list[Asks]
    at_least: int
    is_new: bool


@dataclass
class Key:
    """A lock as it is written, holders past their deadline too, and who waits for it, oldest first."""

    mode: str = ""
    holders: dict[bytes, Holder] = field(default_factory=dict)
    expires: int | None = None
    line: list[Asks] = field(default_factory=list)

    def look(self, now: int) -> bool:
        """Whether the key exists: the server keeps it through the millisecond in which its TTL ends."""
        if self.expires is not None and now > self.expires:
            self.holders.clear()
        if not self.holders:
            self.expires = None
        return bool(self.holders)

    def live(self, now: int) -> dict[bytes, Holder]:
        self.look(now)
        return {owner: holder for owner, holder in self.holders.items() if holder.deadline > now}

    def changed(self) -> None:
        """Each change lets the key go with its last holder."""
        self.expires = max((holder.deadline for holder in self.holders.values()), default=None)

    def drop_overdue(self, now: int) -> None:
        live = self.live(now)
        if len(live) < len(self.holders):
            self.holders = live
            self.changed()

    def judge(self, owner: bytes, mode: str, now: int) -> str:
        live = self.live(now)
        if owner in live:
            return "same" if self.mode == mode else "clash" if clash(self.mode, mode) else "otherwise"
        if not live:
            return "free"
        if clash(self.mode, mode):
            return "clash"
        return "free" if self.mode == mode and len(self.holders) < places(mode) else "busy"

    def hold(self, told: list[Asks], now: int) -> Grant:
        """Those who asked hold it as one: until the latest of their deadlines, as the last of them said."""
        last, before = told[-1], self.live(now).get(told[0].owner)
        deadline = max([now + asks.ttl for asks in told] + ([before.deadline] if before else []))
        at_least = max(asks.at_least for asks in told)
        holder = Holder(deadline, last.client, last.bound, before.fence if before else 0)
        if last.mode != self.mode or last.mode == "":
            self.holders.clear()
        self.mode = last.mode
        self.holders[last.owner] = holder
        self.changed()
        return Grant(holder, told, at_least, before is None or at_least > before.fence)

    def ask(self, asks: Asks, waits: bool, now: int) -> Grant | str:
        self.drop_overdue(now)
        judged = self.judge(asks.owner, asks.mode, now)
        if judged == "same":
            return self.hold([asks], now)
        if judged in ("clash", "otherwise"):
            return judged
        if self.line and clash(self.line[0].mode, asks.mode):
            return "clash"
        if judged == "free" and not self.line:
            return self.hold([asks], now)
        if waits:
            self.line.append(asks)
        return "waits" if waits else "nil"

    def settle(self, now: int) -> tuple[list[Grant], list[tuple[Asks, str]]]:
        """What the line comes to: grants, and errors."""
        grants: list[Grant] = []
        errors: list[tuple[Asks, str]] = []
        if self.line:
            self.drop_overdue(now)
        while self.line:
            head = self.line[0]
            judged = self.judge(head.owner, head.mode, now)
            if judged == "busy":
                break
            if judged in ("clash", "otherwise"):
                errors.append((self.line.pop(0), judged))
                continue
            told = [asks for asks in self.line if (asks.owner, asks.mode) == (head.owner, head.mode)]
            self.line = [asks for asks in self.line if asks not in told]
            grants.append(self.hold(told, now))
        return grants, errors

    def unbound(self) -> dict[bytes, Holder]:
        return {owner: Holder(it.deadline, None, False, it.fence) for owner, it in self.holders.items()}


ERRORS = {"clash": "ERR the key is held or waited for", "otherwise": "ERR the owner holds the lock already"}


class LockMachine(RuleBasedStateMachine):
    server: ClassVar[Server]
    clock: ClassVar[Clock]
    protocol: ClassVar[int]

    @initialize()
    def begin(self) -> None:
        self.server.close_clients()
        self.server.call("CLIENT", "KILL", "TYPE", "normal")
        self.server.call("FLUSHALL")
        self.model: dict[bytes, Key] = {}
        self.parked: dict[int, bytes] = {}
        self.clients: list[RawClient] = [self.server.raw(self.protocol) for _ in range(CLIENTS)]
        self.highest = info(self.server)[b"last_fence"]
        # Each example begins when the numbers of the one before are of the past.
        self.clock.pass_ms(max(0, self.highest // 1000 - self.now) + 1)

    # The world

    @property
    def now(self) -> int:
        return self.clock.now_ms()

    def key(self, name: bytes) -> Key:
        return self.model.setdefault(name, Key())

    def free(self, number: int) -> int:
        """That client, or the next one that does not wait; a new one where all do."""
        for each in range(number, number + CLIENTS):
            if each % CLIENTS not in self.parked:
                return each % CLIENTS
        self.kill(number)
        return number

    def numbered(self, grant: Grant, number: Any, alone: bool) -> None:
        """A grant has a number above all before it, and one that is told again has the one it had."""
        if grant.is_new:
            lowest = max(self.before + 1, self.now * 1000, grant.at_least)
            assert number == lowest if alone else number >= lowest, (grant, number, lowest)
            assert number not in self.step_numbers, "two holders of one number"
            self.step_numbers.add(number)
            grant.holder.fence = number
            self.highest = max(self.highest, number)
        assert number == grant.holder.fence, (grant, number)

    def settle(self, grant: Grant | None = None, reply: Any = None) -> None:
        """What follows from what was done, after the caller's own `grant`, if any, that it was told of by `reply`."""
        self.server.call("PING")
        self.before, self.step_numbers = self.highest, set()
        settled = [key.settle(self.now) for _, key in sorted(self.model.items())]
        grants = [each for grants, _ in settled for each in grants]
        alone = sum(each.is_new for each in grants) + (grant is not None and grant.is_new) == 1
        if grant is not None:
            self.numbered(grant, reply, alone)
        for each in grants:
            replies = [self.recv(asks.number) for asks in each.told]
            assert len(set(replies)) == 1, (each, replies)
            self.numbered(each, replies[0], alone)
        for asks, error in (each for _, errors in settled for each in errors):
            assert is_error(self.recv(asks.number), ERRORS[error])

    def recv(self, number: int) -> Any:
        del self.parked[number]
        return self.clients[number].recv(10)

    def kill(self, number: int) -> None:
        """A connection ends: it waits no longer, and what is bound to it is released. Another comes instead."""
        client = self.clients[number].client_id
        assert self.server.call("CLIENT", "KILL", "ID", client) == 1
        self.clients[number].close()
        self.clients[number] = self.server.raw(self.protocol)
        self.parked.pop(number, None)
        for key in self.model.values():
            key.line = [asks for asks in key.line if asks.number != number]
            key.look(self.now)
            lost = [owner for owner, holder in key.holders.items() if holder.bound and holder.client == client]
            if lost:
                for owner in lost:
                    del key.holders[owner]
                key.changed()
                # The server came across the rest as well.
                key.drop_overdue(self.now)
        self.settle()

    # What clients do

    @rule(number=numbers, name=keys, owner=names, mode=modes, ttl=terms, wait=st.booleans(), bind=st.booleans(),
          ahead=st.sampled_from([None, None, None, 0, 1_000, 1_000_000]))
    def lock(self, number: int, name: bytes, owner: bytes, mode: str, ttl: int, wait: bool, bind: bool,
             ahead: int | None) -> None:  # fmt: skip
        number = self.free(number)
        client, key = self.clients[number], self.key(name)
        at_least = 0 if ahead is None else min(self.highest + ahead, max(self.highest + 1, self.now * 1000 + AHEAD_US))
        asks = Asks(number, client.client_id, owner, mode, ttl, bind, at_least)
        options: list[Any] = [*mode.split(), *(["BIND"] if bind else []), *(["FENCE", at_least] if at_least else [])]
        client.send("CACHE.LOCK", name, owner, ttl, *options, "WAIT", FOREVER if wait else 0)
        wanted = key.ask(asks, wait, self.now)
        if wanted == "waits":
            self.parked[number] = name
            self.settle()
        elif isinstance(wanted, Grant):
            self.settle(wanted, client.recv())
        else:
            reply = client.recv()
            assert reply is None if wanted == "nil" else is_error(reply, ERRORS[wanted]), (wanted, reply)
            self.settle()

    @rule(number=numbers, name=keys, owner=names)
    def unlock(self, number: int, name: bytes, owner: bytes) -> None:
        key, number = self.key(name), self.free(number)
        held = owner in key.live(self.now)
        assert self.clients[number].call("CACHE.UNLOCK", name, owner) == held
        if held:
            del key.holders[owner]
            key.changed()
        self.settle()

    @rule(number=numbers, name=keys, owner=names, ttl=terms)
    def extend(self, number: int, name: bytes, owner: bytes, ttl: int) -> None:
        key, number = self.key(name), self.free(number)
        holder = key.live(self.now).get(owner)
        assert self.clients[number].call("CACHE.EXTEND", name, owner, ttl) == (holder is not None)
        if holder is not None:
            holder.deadline = self.now + ttl
            key.changed()
        self.settle()

    @rule(number=numbers, name=keys)
    def delete(self, number: int, name: bytes) -> None:
        key, number = self.key(name), self.free(number)
        assert self.clients[number].call("DEL", name) == key.look(self.now)
        key.holders.clear()
        self.settle()

    @rule(number=numbers, source=keys, destination=keys, copies=st.booleans())
    def rename(self, number: int, source: bytes, destination: bytes, copies: bool) -> None:
        origin, key, number = self.key(source), self.key(destination), self.free(number)
        if origin is key or not origin.look(self.now):
            return
        command = ["COPY", source, destination, "REPLACE"] if copies else ["RENAME", source, destination]
        assert self.clients[number].call(*command) == (1 if copies else b"OK")
        key.mode, key.holders, key.expires = origin.mode, origin.unbound(), origin.expires
        if not copies:
            origin.holders = {}
        self.settle()

    @rule(number=numbers, name=keys, ttl=terms)
    def expire(self, number: int, name: bytes, ttl: int) -> None:
        key, number = self.key(name), self.free(number)
        exists = key.look(self.now)
        assert self.clients[number].call("PEXPIRE", name, ttl) == exists
        key.expires = self.now + ttl if exists else None
        self.settle()

    @rule(number=numbers, name=keys)
    def persist(self, number: int, name: bytes) -> None:
        key, number = self.key(name), self.free(number)
        assert self.clients[number].call("PERSIST", name) == (key.look(self.now) and key.expires is not None)
        key.expires = None
        self.settle()

    @rule(ms=st.sampled_from([1, 1, 1, 3, 4, 45, 200, 1_000]))
    def time_passes(self, ms: int) -> None:
        self.clock.pass_ms(ms)
        self.settle()

    @rule(number=numbers)
    def connection_ends(self, number: int) -> None:
        self.kill(number)

    @precondition(lambda self: bool(self.parked))
    @rule(choice=numbers)
    def wait_is_ended(self, choice: int) -> None:
        number = sorted(self.parked)[choice % len(self.parked)]
        key = self.model[self.parked[number]]
        key.line = [asks for asks in key.line if asks.number != number]
        assert self.server.call("CLIENT", "UNBLOCK", self.clients[number].client_id) == 1
        assert self.recv(number) is None
        self.settle()

    @invariant()
    def all_agrees(self) -> None:
        now = self.now
        for name, key in self.model.items():
            live = sorted(key.live(now).items(), key=lambda each: each[1].fence)
            seen = info(self.server, name)
            wanted = [(owner, it.fence, it.deadline - now, it.client, int(it.bound)) for owner, it in live]
            assert [tuple(as_map(holder).values()) for holder in seen[b"holders"]] == wanted, name
            assert seen[b"mode"] == ((key.mode.split() or ["exclusive"])[0].lower().encode() if live else b"free")
            assert seen[b"waiters"][b"count"] == len(key.line)
            ttl = -1 if key.expires is None else key.expires - now
            assert self.server.call("PTTL", name) == (ttl if key.look(now) else -2)
        assert not [number for number in self.parked if self.clients[number].has_reply()]


@pytest.fixture
def still() -> Iterator[tuple[Server, Clock]]:
    with Clock() as clock, Server(env=clock.env) as server:
        clock.pass_ms(HEAD_START_MS)  # from here on numbers are the time
        clock.hold()
        yield server, clock
        clock.run()


def run(still: tuple[Server, Clock], protocol: int, **options: Any) -> None:
    server, clock = still
    machine = type("Machine", (LockMachine,), {"server": server, "clock": clock, "protocol": protocol})
    run_state_machine_as_test(machine, settings=settings(phases=[Phase.generate, Phase.shrink], **options))
    assert server.stats()["panics"] == 0


@pytest.mark.parametrize("protocol", [2, 3], ids=["resp2", "resp3"])
def test_the_server_does_what_the_model_predicts(still: tuple[Server, Clock], protocol: int) -> None:
    run(still, protocol, max_examples=60, stateful_step_count=40)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_the_server_does_what_the_model_predicts_for_hours(
    still: tuple[Server, Clock], request: pytest.FixtureRequest
) -> None:
    if "soak" not in request.config.getoption("markexpr"):
        pytest.skip("long: pytest -m soak")
    run(still, 3, max_examples=20_000, stateful_step_count=80, derandomize=False)
