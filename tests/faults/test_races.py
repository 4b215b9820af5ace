"""No reply is ever lost, and none comes twice, whatever falls into one turn of the event loop.

A round parks a handful of connections on a few keys and then lets deadlines, writes, invalidations, CLIENT UNBLOCK,
CLIENT KILL and closed sockets meet: in one MULTI, in one pipeline, on several connections whose commands wait behind
a DEBUG SLEEP, or behind the GETSM of connections that are parked themselves. At the end of a round a write to each
key frees whoever is left. Then every connection that lives has exactly one reply, which the ECHO behind it proves;
the server has neither waiters nor blocked clients; and each lease that was granted was heard of or passed on.

Rounds are drawn from a seeded generator; a failure names the round, its seed and its script.
"""

import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness import RawClient, RespError, Server, as_map, eventually, is_error
from harness.raw import Incomplete, connect, encode, parse
from harness.server import binary_version, server_binary

TESTS = Path(__file__).parents[1]
LONG = 600_000
MEMBERS = 12
CONTROLS = 2
TIMEOUT = 20
IO_THREADS = max(2, min(4, os.cpu_count() or 2))
SEED = int(os.environ.get("RACES_SEED", "1"))
ROUNDS = int(os.environ.get("RACES_ROUNDS", "2500"))

Command = Sequence[Any]


@dataclass
class Member:
    """One connection, and what it has got since `expect` was last set."""

    sock: socket.socket
    client_id: int
    buffer: bytes = b""
    replies: list[Any] = field(default_factory=list)
    expected: int = 0
    is_open: bool = True
    may_close: bool = False


class Flock:
    """Connections that are read by one loop, as whole replies, with none skipped."""

    def __init__(self, server: Server, count: int) -> None:
        self.server = server
        self._poll = select.epoll()
        self._by_fd: dict[int, Member] = {}
        self.members = [self.join() for _ in range(count)]

    def join(self) -> Member:
        sock = connect(self.server.address(), TIMEOUT)
        sock.sendall(encode("HELLO", 2))
        data, reply = b"", None
        while reply is None:
            data += sock.recv(4096)
            try:
                reply, _ = parse(data)
            except Incomplete:
                pass
        sock.setblocking(False)
        member = Member(sock, as_map(reply)[b"id"])
        self._by_fd[sock.fileno()] = member
        self._poll.register(sock.fileno(), select.EPOLLIN)
        return member

    def send(self, member: Member, *commands: Command) -> None:
        member.expected += len(commands)
        try:
            member.sock.send(b"".join(encode(*command) for command in commands))
        except (BrokenPipeError, ConnectionResetError):
            assert member.may_close

    def settle(self) -> None:
        """Reads until every connection has what it expects or is closed; AssertionError if that does not happen."""
        deadline = time.monotonic() + TIMEOUT
        while lacking := [m for m in self.members if m.is_open and len(m.replies) < m.expected]:
            events = self._poll.poll(max(0.0, deadline - time.monotonic()))
            assert events, "no reply for " + ", ".join(
                f"client {m.client_id} (has {m.replies} of {m.expected})" for m in lacking
            )
            for fd, _ in events:
                self._read(self._by_fd[fd])

    def _read(self, member: Member) -> None:
        try:
            data = member.sock.recv(65_536)
        except ConnectionResetError:
            data = b""
        if not data:
            assert member.may_close, f"client {member.client_id} was closed by the server: {member.replies}"
            self._drop(member)
            return
        member.buffer += data
        start = 0
        try:
            while start < len(member.buffer):
                reply, start = parse(member.buffer, start)
                member.replies.append(reply)
        except Incomplete:
            pass
        member.buffer = member.buffer[start:]

    def _drop(self, member: Member) -> None:
        if member.is_open:
            member.is_open = False
            self._poll.unregister(member.sock.fileno())
            del self._by_fd[member.sock.fileno()]
            member.sock.close()

    def hang_up(self, member: Member) -> None:
        member.may_close = True
        self._drop(member)

    def begin(self) -> None:
        """Forgets the last round; whoever is gone is replaced."""
        for index, member in enumerate(self.members):
            if not member.is_open:
                self.members[index] = member = self.join()
            assert not member.buffer and not member.may_close
            member.replies, member.expected = [], 0

    def close(self) -> None:
        for member in list(self._by_fd.values()):
            self._drop(member)
        self._poll.close()


@dataclass
class Round:
    """What is asked, what is done to it, and how that is sent."""

    keys: list[str]
    asks: list[list[Command]]
    scripts: list[list[Command]]
    fenced: bool
    echo_behind: bool
    hang_ups: list[int]


class Races:
    """Plays rounds on one server."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server, self.rng = server, random.Random(seed)
        self.flock = Flock(server, MEMBERS)
        self.controls = [server.raw(timeout=TIMEOUT) for _ in range(CONTROLS)]
        self.nils = self.uncertain = 0
        self.kinds: dict[str, int] = {}
        self.before = server.stats()

    def play(self, rounds: int, draw: Callable[["Races", int], Round]) -> None:
        for number in range(rounds):
            self.flock.begin()
            state = self.rng.getstate()
            drawn = draw(self, number)
            try:
                self._play(drawn, number)
            except AssertionError as failure:
                self.rng.setstate(state)
                raise AssertionError(f"round {number} of seed {SEED}: {failure}\n{drawn}") from failure
            if number % 50 == 49:
                self.check()
        self.check()

    def _play(self, drawn: Round, number: int) -> None:
        flock, members = self.flock, self.flock.members
        tag = f"round-{number}"
        for member, commands in zip(members, drawn.asks):
            flock.send(member, *commands, *([("ECHO", tag)] if drawn.echo_behind else []))
        if drawn.fenced:
            self._fence()
        for script in drawn.scripts:
            self._expect_closes(script)
        for control, script in zip(self.controls, drawn.scripts):
            control.send_bytes(b"".join(encode(*command) for command in script))
        for index in drawn.hang_ups:
            flock.hang_up(members[index])
        for control, script in zip(self.controls, drawn.scripts):
            for _ in script:
                reply = control.recv()
                errors = [each for each in (reply if isinstance(reply, list) else [reply]) if is_error(each)]
                assert not errors, errors
        last = [("CACHE.SETSM", key, f"{key} last", 10_000) for key in drawn.keys]
        assert self.controls[0].pipeline(last) == [b"OK"] * len(last)
        flock.settle()
        if not drawn.echo_behind:
            for member in members:
                if member.is_open:
                    flock.send(member, ("ECHO", tag))
            flock.settle()
        for member, commands in zip(members, drawn.asks):
            self._judge(member, commands, tag.encode())
        self.controls[0].pipeline([("UNLINK", *drawn.keys)])

    def _expect_closes(self, script: list[Command]) -> None:
        for command in script:
            if command[:2] == ("CLIENT", "KILL"):
                next(m for m in self.flock.members if m.client_id == command[3]).may_close = True

    def _judge(self, member: Member, commands: list[Command], tag: bytes) -> None:
        """One reply for each command, of a kind it may have; then the ECHO, and nothing else."""
        replies = member.replies
        if member.is_open and member.may_close:
            # Killed while a reply was under way, it is closed after that; or the server had not come to it yet.
            self._await_close(member)
        if member.may_close:
            assert len(replies) <= len(commands) + 1
            self.uncertain += 1
        else:
            assert len(replies) == len(commands) + 1 and replies[-1] == tag, f"client {member.client_id}: {replies}"
        for command, reply in zip(commands, replies):
            if command[0] == "CACHE.GETSM":
                self._count(command[1], reply)
            else:
                assert reply in (0, 1, b"OK"), f"{command}: {reply}"

    def _await_close(self, member: Member) -> None:
        deadline = time.monotonic() + TIMEOUT
        while member.is_open:
            assert time.monotonic() < deadline, f"client {member.client_id} was killed and lives"
            self.flock._poll.poll(0.01)
            try:
                self.flock._read(member)
            except BlockingIOError:
                pass

    def _count(self, key: str, reply: Any) -> None:
        kind = reply.code if isinstance(reply, RespError) else "nil" if reply is None else "value"
        assert kind in ("nil", "value", "LEASED", "UNBLOCKED"), reply
        assert kind != "value" or reply.startswith(f"{key} ".encode()), f"{reply} is not of {key}"
        self.nils += kind == "nil"
        self.uncertain += kind == "UNBLOCKED"  # the lease it was to get may have ended by then
        self.kinds[kind] = self.kinds.get(kind, 0) + 1

    def _fence(self) -> None:
        for _ in range(2):
            assert self.controls[0].call("PING") == b"PONG"

    def check(self) -> None:
        """Nobody is left behind, and every lease that was granted was heard of or ended."""
        stats = eventually(self._is_quiet, message=lambda: f"nobody waits: {self.server.stats()}")
        granted = int(stats["leases_granted"]) - int(self.before["leases_granted"])
        given_back = int(stats["leases_disconnected"]) - int(self.before["leases_disconnected"])
        unheard = granted - given_back - self.nils
        assert 0 <= unheard <= self.uncertain, f"{unheard} leases went to nobody, {self.uncertain} connections died"

    def _is_quiet(self) -> dict[str, Any] | None:
        stats = self.server.stats()
        assert stats["panics"] == 0
        blocked = self.server.info("clients")["blocked_clients"]
        return stats if (stats["waiters"], stats["leases"], blocked) == (0, 0, 0) else None

    # Drawing

    def draw_asks(self, keys: list[str]) -> list[list[Command]]:
        rng, asks = self.rng, []
        for _ in self.flock.members:
            wait = rng.choice([LONG, LONG, 1, 2, 3, 5])
            lease = rng.choice([LONG, LONG, 1, 2, 3])
            asks.append([("CACHE.GETSM", rng.choice(keys), "WAIT", wait, "LEASE", lease)])
        return asks

    def draw_script(self, keys: list[str], length: int, kills: bool = True) -> list[Command]:
        """What is done to some of the connections and keys, in random order."""
        rng, script = self.rng, []
        for _ in range(length):
            key, member = rng.choice(keys), rng.choice(self.flock.members)
            kind = rng.choice("SSDDUUEEEKXF" if kills else "SSDDUUUEEEXF")
            script.append(
                {
                    "S": ("CACHE.SETSM", key, f"{key} value", 10_000),
                    "D": ("DEL", key),
                    "U": ("CLIENT", "UNBLOCK", member.client_id, "TIMEOUT"),
                    "E": ("CLIENT", "UNBLOCK", member.client_id, "ERROR"),
                    "K": ("CLIENT", "KILL", "ID", member.client_id),
                    "X": ("SET", key, f"{key} string", "PX", 10_000),
                    "F": ("PEXPIRE", key, 1),
                }[kind]
            )
        return script

    def close(self) -> None:
        self.flock.close()


def keys_of(number: int, count: int) -> list[str]:
    return [f"key:{number}:{index}" for index in range(count)]


def in_a_transaction(races: Races, number: int) -> Round:
    """All in one MULTI, half of the time with a sleep in it that lets deadlines pass."""
    rng, keys = races.rng, keys_of(number, races.rng.randint(1, 3))
    script = races.draw_script(keys, rng.randint(2, 10))
    if rng.random() < 0.5:
        script.insert(rng.randrange(len(script) + 1), ("DEBUG", "SLEEP", rng.choice(["0.001", "0.002", "0.004"])))
    return Round(
        keys,
        races.draw_asks(keys),
        [[("MULTI",), *script, ("EXEC",)]],
        fenced=rng.random() < 0.8,
        echo_behind=rng.random() < 0.5,
        hang_ups=rng.sample(range(MEMBERS), rng.choice([0, 0, 0, 1, 2])),
    )


def in_a_pipeline(races: Races, number: int) -> Round:
    """The same as separate commands that arrive together, at times half a millisecond before a deadline."""
    drawn = in_a_transaction(races, number)
    drawn.scripts = [drawn.scripts[0][1:-1]]
    return drawn


def on_two_connections(races: Races, number: int) -> Round:
    """One connection sleeps in the server while another's commands, closed sockets and deadlines pile up."""
    rng, keys = races.rng, keys_of(number, races.rng.randint(1, 3))
    first = races.draw_script(keys, rng.randint(1, 5))
    second = races.draw_script(keys, rng.randint(1, 8))
    first.insert(0, ("DEBUG", "SLEEP", rng.choice(["0.0005", "0.001", "0.002", "0.003"])))
    return Round(
        keys,
        races.draw_asks(keys),
        [first, second],
        fenced=rng.random() < 0.8,
        echo_behind=rng.random() < 0.5,
        hang_ups=rng.sample(range(MEMBERS), rng.choice([0, 0, 0, 1, 2])),
    )


def from_parked_connections(races: Races, number: int) -> Round:
    """What unblocks others is sent behind a GETSM and so runs in the moment in which its connection is answered."""
    rng, keys = races.rng, keys_of(number, races.rng.randint(1, 2))
    asks = races.draw_asks(keys)
    for commands in asks:
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            other = rng.choice(races.flock.members)
            commands.append(("CLIENT", "UNBLOCK", other.client_id, rng.choice(["TIMEOUT", "ERROR"])))
        if rng.random() < 0.1:
            key = rng.choice(keys)
            commands.append(("CACHE.SETSM", key, f"{key} behind", 10_000))
        if rng.random() < 0.2:
            commands.append(("CACHE.GETSM", rng.choice(keys), "WAIT", rng.choice([LONG, 2]), "LEASE", LONG))
    return Round(
        keys,
        asks,
        [races.draw_script(keys, rng.randint(1, 4), kills=False)],
        fenced=rng.random() < 0.9,
        echo_behind=True,
        hang_ups=[],
    )


KINDS = [in_a_transaction, in_a_pipeline, on_two_connections, from_parked_connections]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def play(server: Server, kind: Callable[[Races, int], Round], rounds: int, needed: set[str]) -> None:
    races = Races(server, SEED)
    try:
        races.play(rounds, kind)
    finally:
        races.close()
    assert needed <= races.kinds.keys(), f"the rounds were one-sided: {races.kinds}"


@pytest.mark.slow
@pytest.mark.timeout(600)
@kinds
def test_every_connection_gets_exactly_one_reply(server: Server, kind: Callable[[Races, int], Round]) -> None:
    play(server, kind, ROUNDS, {"nil", "value", "LEASED", "UNBLOCKED"})


@kinds
def test_every_connection_gets_exactly_one_reply_in_short(server: Server, kind: Callable[[Races, int], Round]) -> None:
    play(server, kind, 150, {"nil", "value"})


class Traffic:
    """A process whose bursts of PINGs on many connections keep the server's io-threads at work."""

    CODE = """
import sys
from harness import Herd
with Herd(sys.argv[1], 40) as herd:
    print("ready", flush=True)
    while True:
        herd.send("PING")
        herd.collect(60)
"""

    def __init__(self, server: Server) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, server.socket_path], cwd=TESTS, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Traffic":
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture
def threaded_server(fresh_server: Callable[..., Server]) -> Server:
    """With io-threads that also read; newer servers have no setting for the latter, since theirs always do.

    Not more of them than processors: those of Redis 7.0 wait for each other by spinning.
    """
    binary = server_binary()
    _, version = binary_version(binary)
    reads = {} if version >= (8, 0, 0) else {"io-threads-do-reads": "yes"}
    return fresh_server(config={"io-threads": IO_THREADS} | reads, binary=binary)


@pytest.mark.slow
@pytest.mark.timeout(600)
@kinds
def test_every_connection_gets_exactly_one_reply_with_io_threads(
    threaded_server: Server, kind: Callable[[Races, int], Round]
) -> None:
    with Traffic(threaded_server):
        play(threaded_server, kind, ROUNDS // 2, {"nil", "value"})
    threads = {name: value for name, value in threaded_server.info().items() if "io_thread" in name}
    assert threads.get("io_threaded_reads_processed", 1) > 0, f"no thread ever read: {threads}"
    threaded_server.assert_alive()
    assert threaded_server.stats()["panics"] == 0


def queue_up(server: Server, lease_ms: int = LONG) -> tuple[RawClient, list[RawClient]]:
    """A connection that holds the lease of "key", and three that wait for it, oldest first."""
    holder, queue = server.raw(), [server.raw() for _ in range(3)]
    assert holder.call("CACHE.GETSM", "key", "LEASE", lease_ms) is None
    for place, client in enumerate(queue, 1):
        client.send("CACHE.GETSM", "key", "WAIT", LONG, "LEASE", LONG)
        eventually(lambda: server.stats()["waiters"] == place)
    return holder, queue


def invalidated_by_a_delete(server: Server) -> list[Command]:
    """The lease ends; it is handed over when this turn's commands are done."""
    return [("DEL", "key")]


def invalidated_and_asked_for(server: Server) -> list[Command]:
    """The lease is handed over at once, since the next caller must know who has it; the answer is still under way."""
    return [("DEL", "key"), ("CACHE.GETSM", "key", "WAIT", 0)]


def expired(server: Server) -> list[Command]:
    """The lease has run out and the next caller ends it; the answer is still under way."""
    return [("DEBUG", "SLEEP", "0.3"), ("CACHE.GETSM", "key", "WAIT", 0)]


ENDS = [invalidated_by_a_delete, invalidated_and_asked_for, expired]


@pytest.mark.parametrize("sent", ["multi", "pipeline"])
@pytest.mark.parametrize("death", ["KILL", "UNBLOCK ERROR"])
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_a_lease_under_way_to_a_connection_that_ends_passes_on(
    server: Server, end: Callable[[Server], list[Command]], death: str, sent: str
) -> None:
    holder, (first, second, third) = queue_up(server, 250 if end is expired else LONG)
    kill = ("CLIENT", "KILL", "ID", first.client_id)
    unblock = ("CLIENT", "UNBLOCK", first.client_id, "ERROR")
    commands = [*end(server), kill if death == "KILL" else unblock]
    holder.pipeline([("MULTI",), *commands, ("EXEC",)] if sent == "multi" else commands)
    if death == "KILL":
        try:
            reply = first.recv()
        except ConnectionError:
            reply = b"closed"
        assert reply == b"closed"
    else:
        assert is_error(first.recv(), "UNBLOCKED ")
    assert second.recv() is None
    assert not third.has_reply(within_ms=30)
    assert server.stats()["leases"] == 1
    holder.call("CACHE.SETSM", "key", "value", LONG)
    assert third.recv() == b"value"


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_of_two_in_line_that_end_in_the_same_turn_neither_keeps_the_lease(
    server: Server, end: Callable[[Server], list[Command]]
) -> None:
    holder, (first, second, third) = queue_up(server, 250 if end is expired else LONG)
    kills = [("CLIENT", "KILL", "ID", client.client_id) for client in (first, second)]
    holder.pipeline([("MULTI",), *end(server), *kills, ("EXEC",)])
    assert third.recv() is None
    assert server.stats()["waiters"] == 0 and server.stats()["leases"] == 1


@pytest.mark.parametrize("how", ["TIMEOUT", "ERROR"])
def test_a_value_under_way_reaches_all_but_who_is_unblocked_with_an_error(server: Server, how: str) -> None:
    holder, queue = queue_up(server)
    unblocks = [("CLIENT", "UNBLOCK", client.client_id, how) for client in queue[:2]]
    # Not in MULTI: Redis 7.0 does not say who sent a command, and then EXEC may have invalidated any key.
    assert holder.pipeline([("CACHE.SETSM", "key", "value", LONG), *unblocks]) == [b"OK", 1, 1]
    replies = [client.recv() for client in queue]
    if how == "TIMEOUT":
        assert replies == [b"value"] * 3
    else:
        assert all(is_error(reply, "UNBLOCKED ") for reply in replies[:2]) and replies[2] == b"value"
    assert [client.call("PING") for client in queue] == [b"PONG"] * 3


@pytest.mark.parametrize("how", ["TIMEOUT", "ERROR"])
def test_a_connection_unblocked_over_and_over_gets_one_reply(server: Server, how: str) -> None:
    holder, queue = queue_up(server)
    unblock = ("CLIENT", "UNBLOCK", queue[0].client_id, how)
    assert sum(holder.pipeline([unblock] * 20)) == 1
    assert is_error(queue[0].recv(), "LEASED " if how == "TIMEOUT" else "UNBLOCKED ")
    assert queue[0].call("PING") == b"PONG"


def test_of_many_writes_in_one_turn_the_first_is_the_answer(server: Server) -> None:
    holder, queue = queue_up(server)
    writes = [("CACHE.SETSM", "key", f"value {index}", LONG) for index in range(50)]
    holder.pipeline([*writes, ("DEL", "key")])
    assert [client.recv() for client in queue] == [b"value 0"] * 3
    assert [client.call("PING") for client in queue] == [b"PONG"] * 3
