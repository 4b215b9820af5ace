"""Locks: taken and given up alone, and passed on among many; beside the ways that need no module.

    alone        one client takes a lock and gives it up, one command after the other: CACHE.LOCK + CACHE.UNLOCK, and
                 SET NX PX + the usual script that compares and deletes; also in pipelines of 50 pairs
    passed on    many clients take one lock, give it up at once and want it again:
                 CACHE.LOCK WAIT; SET NX, with a message to all on release (pub/sub); redis-py's Lock, which polls
    bound        a process that holds a lock with BIND is killed, another one waits: how long until it is told

`grants` counts every time somebody got the lock, `hand-overs` those on which it was not the one that had just given it
up: who polls is mostly overtaken by the one that never slept. The waiting time is from wanting the lock to having it,
`shares` how often one client got the lock in a typical round, from the least to the most. Server time is that of the
server's main thread, from the kernel's scheduler.

CACHE.LOCK and pub/sub run in the same event loop in one process; redis-py's Lock has a thread for each client. Rounds
alternate, figures are medians of the rounds.

Usage: python benches/locks.py [--clients 64] [--rounds 5] [--seconds 2] [--pairs 20000] [--tcp]
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import redis  # noqa: E402
from harness import RawClient, Server  # noqa: E402
from harness.line import stand_in_line  # noqa: E402
from harness.raw import Address, connect, encode  # noqa: E402

TTL_MS = 60_000
TESTS = Path(__file__).parent.parent / "tests"
COMPARE_AND_DELETE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
AND_TELL = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]);"
    " redis.call('PUBLISH', KEYS[1], '') return 1 end return 0"
)


# Alone


def take_turns(address: Address, commands: list[bytes], pairs: int) -> float:
    """Pairs a second, one command after the other."""
    sock = connect(address, 30)
    start = time.perf_counter()
    for _ in range(pairs):
        for command in commands:
            sock.sendall(command)
            sock.recv(4096)
    elapsed = time.perf_counter() - start
    sock.close()
    return pairs / elapsed


def in_pipelines(address: Address, commands: list[bytes], pairs: int, depth: int = 50) -> float:
    """Pairs a second, `depth` pairs at once; every reply is one line."""
    sock = connect(address, 30)
    batch, lines = b"".join(commands) * depth, depth * len(commands)
    start = time.perf_counter()
    for _ in range(pairs // depth):
        sock.sendall(batch)
        seen = 0
        while seen < lines:
            seen += sock.recv(1 << 16).count(b"\n")
    elapsed = time.perf_counter() - start
    sock.close()
    return pairs / elapsed


def processor_s(server: Server) -> float:
    """What the server's main thread has used."""
    return int(Path(f"/proc/{server.pid}/task/{server.pid}/schedstat").read_text().split()[0]) / 1e9


def alone(server: Server, args: argparse.Namespace) -> None:
    address = server.address(args.tcp)
    script = server.call("SCRIPT", "LOAD", COMPARE_AND_DELETE)
    ours = [encode("CACHE.LOCK", "lock", "owner", TTL_MS), encode("CACHE.UNLOCK", "lock", "owner")]
    theirs = [encode("SET", "plain", "owner", "NX", "PX", TTL_MS), encode("EVALSHA", script, 1, "plain", "owner")]
    print("| alone, in pairs a second | CACHE.LOCK + UNLOCK | SET NX PX + script | ratio | server time a pair | ratio |")
    print("|---|---|---|---|---|---|")
    for name, way in (("one command after the other", take_turns), ("pipelines of 50 pairs", in_pipelines)):
        rates: list[tuple[float, float]] = []
        costs: list[tuple[float, float]] = []
        for _ in range(args.rounds * 2):
            both = []
            for commands in (ours, theirs):
                before = processor_s(server)
                both.append((way(address, commands, args.pairs), (processor_s(server) - before) / args.pairs * 1e6))
            rates.append((both[0][0], both[1][0]))
            costs.append((both[0][1], both[1][1]))
        mine, other = (statistics.median(column) for column in zip(*rates))
        ratio = statistics.median(one / two for one, two in rates)
        cost = [statistics.median(column) for column in zip(*costs)]
        cheaper = statistics.median(two / one for one, two in costs)
        row = f"{mine:,.0f} | {other:,.0f} | {ratio:.2f} | {cost[0]:.2f} and {cost[1]:.2f} µs | {cheaper:.2f}"
        print(f"| {name} | {row} |", flush=True)


# Passed on


@dataclass
class Tally:
    """What one way of passing the lock on came to."""

    grants: list[tuple[float, int]] = field(default_factory=list)  # when, and to whom
    waits: list[float] = field(default_factory=list)
    seconds: float = 0.0
    server_s: float = 0.0

    def hand_overs(self) -> int:
        owners = [client for _, client in sorted(self.grants)]
        return sum(one != two for one, two in zip(owners, owners[1:]))


class Member:
    """A client in the event loop: what it sends, and what it makes of what it reads."""

    def __init__(self, number: int, tally: Tally) -> None:
        self.number, self.tally, self.asked = number, tally, 0.0

    def sockets(self) -> list[socket.socket]:
        raise NotImplementedError

    def begin(self) -> None:
        raise NotImplementedError

    def readable(self, sock: socket.socket) -> None:
        raise NotImplementedError

    def granted(self) -> None:
        now = time.perf_counter()
        self.tally.grants.append((now, self.number))
        self.tally.waits.append(now - self.asked)


class Waits(Member):
    """CACHE.LOCK … WAIT: gives the lock up and asks for it again in one write."""

    def __init__(self, number: int, tally: Tally, address: Address, _server: Server, key: str) -> None:
        super().__init__(number, tally)
        self.sock = connect(address, 30)
        self.lock = encode("CACHE.LOCK", key, f"owner {number}", TTL_MS, "WAIT", TTL_MS)
        self.again = encode("CACHE.UNLOCK", key, f"owner {number}") + self.lock

    def sockets(self) -> list[socket.socket]:
        return [self.sock]

    def begin(self) -> None:
        self.asked = time.perf_counter()
        self.sock.sendall(self.lock)

    def readable(self, sock: socket.socket) -> None:
        for line in sock.recv(4096).split(b"\r\n")[:-1]:
            if len(line) > 4:  # a fencing number; the reply to UNLOCK is :1
                self.granted()
                self.asked = time.perf_counter()
                self.sock.sendall(self.again)


class Hears(Member):
    """SET NX, again whenever a message says that the lock was given up."""

    def __init__(self, number: int, tally: Tally, address: Address, server: Server, key: str) -> None:
        super().__init__(number, tally)
        self.sock, self.news = connect(address, 30), connect(address, 30)
        self.news.sendall(encode("SUBSCRIBE", key))
        self.news.recv(4096)
        script = server.call("SCRIPT", "LOAD", AND_TELL)
        self.lock = encode("SET", key, f"owner {number}", "NX", "PX", TTL_MS)
        self.release = encode("EVALSHA", script, 1, key, f"owner {number}")
        self.told, self.expects = False, deque[str]()

    def sockets(self) -> list[socket.socket]:
        return [self.sock, self.news]

    def begin(self) -> None:
        self.asked = time.perf_counter()
        self.try_it()

    def try_it(self) -> None:
        self.told = False
        self.expects.append("set")
        self.sock.sendall(self.lock)

    def readable(self, sock: socket.socket) -> None:
        data = sock.recv(1 << 16)
        if sock is self.news:
            self.told = True
            if not self.expects:
                self.try_it()
            return
        for line in data.split(b"\r\n")[:-1]:
            expected = self.expects.popleft()
            if expected == "set" and line == b"+OK":
                self.granted()
                self.expects.append("release")
                self.sock.sendall(self.release)
            elif expected == "set" and self.told:
                self.try_it()
            elif expected == "release":
                self.asked = time.perf_counter()
                self.try_it()


def in_a_loop(kind: Callable[..., Member], server: Server, key: str, args: argparse.Namespace) -> Tally:
    tally, poll, places = Tally(), select.epoll(), {}
    members = [kind(number, tally, server.address(args.tcp), server, key) for number in range(args.clients)]
    for member in members:
        for sock in member.sockets():
            poll.register(sock.fileno(), select.EPOLLIN)
            places[sock.fileno()] = (member, sock)
    start = time.perf_counter()
    for member in members:
        member.begin()
    while time.perf_counter() - start < args.seconds:
        for fd, _ in poll.poll(0.1):
            member, sock = places[fd]
            member.readable(sock)
    tally.seconds = time.perf_counter() - start
    for _, sock in places.values():
        sock.close()
    return tally


def polling(server: Server, key: str, args: argparse.Namespace) -> Tally:
    """redis-py's Lock as it comes: it sleeps 0.1 s between two tries."""
    tally, over, guard = Tally(), threading.Event(), threading.Lock()

    def contend(number: int) -> None:
        client = server.client(tcp=args.tcp)
        lock = client.lock(key, timeout=TTL_MS / 1000)
        grants, waits = [], []
        while not over.is_set():
            asked = time.perf_counter()
            if not lock.acquire(blocking_timeout=args.seconds):
                break
            now = time.perf_counter()
            grants.append((now, number))
            waits.append(now - asked)
            lock.release()
        with guard:
            tally.grants += grants
            tally.waits += waits

    threads = [threading.Thread(target=contend, args=(number,), daemon=True) for number in range(args.clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(args.seconds)
    over.set()
    for thread in threads:
        thread.join(30)
    tally.seconds = time.perf_counter() - start
    tally.grants = [grant for grant in tally.grants if grant[0] - start <= args.seconds]
    tally.seconds = min(tally.seconds, args.seconds)
    return tally


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1000 if ordered else float("nan")


def passed_on(server: Server, args: argparse.Namespace) -> None:
    ways: dict[str, Callable[[str], Tally]] = {
        "CACHE.LOCK WAIT": lambda key: in_a_loop(Waits, server, key, args),
        "SET NX and pub/sub": lambda key: in_a_loop(Hears, server, key, args),
        "redis-py's Lock": lambda key: polling(server, key, args),
    }
    found: dict[str, list[Tally]] = {name: [] for name in ways}
    for number in range(args.rounds):
        for name, way in ways.items():
            before = processor_s(server)
            tally = way(f"{name} {number}")  # a key of its own: the last holder of a round is never heard of again
            tally.server_s = processor_s(server) - before
            found[name].append(tally)
    head = "grants/s | hand-overs/s | server time a grant | waiting: median | 99 % | longest | shares"
    print(f"\n| passed on among {args.clients} | {head} |\n|---|---|---|---|---|---|---|---|")
    rates = {}
    for name, tallies in found.items():
        waits = [wait for tally in tallies for wait in tally.waits]
        grants = statistics.median(len(tally.grants) / tally.seconds for tally in tallies)
        rates[name] = statistics.median(tally.hand_overs() / tally.seconds for tally in tallies)
        typical = sorted(tallies, key=lambda tally: len(tally.grants))[len(tallies) // 2]
        counts = [[client for _, client in typical.grants].count(number) for number in range(args.clients)]
        times = " | ".join(f"{percentile(waits, each):,.2f} ms" for each in (50, 99, 100))
        cost = statistics.median(tally.server_s / max(1, len(tally.grants)) * 1e6 for tally in tallies)
        row = f"{grants:,.0f} | {rates[name]:,.0f} | {cost:,.0f} µs | {times} | {min(counts)} to {max(counts)}"
        print(f"| {name} | {row} |")
    ours = rates.pop("CACHE.LOCK WAIT")
    for name, rate in rates.items():
        print(f"\nHand-overs, CACHE.LOCK to {name}: {ours / max(rate, 1):.1f}", end="")
    print(flush=True)


# Bound

HOLDER = """
import sys, time
from harness import RawClient
client = RawClient(sys.argv[1], timeout=60)
client.call("CACHE.LOCK", "bound", "process", 600000, "BIND")
print("holds", flush=True)
time.sleep(600)
"""


def bound(server: Server, args: argparse.Namespace) -> None:
    took = []
    for _ in range(20):
        command = [sys.executable, "-c", HOLDER, server.socket_path]
        with subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            waiter: RawClient = stand_in_line(server, server.raw(timeout=60), "waiter", key="bound")
            start = time.perf_counter()
            process.send_signal(signal.SIGKILL)
            waiter.recv()
            took.append((time.perf_counter() - start) * 1000)
            server.call("CACHE.UNLOCK", "bound", "waiter")
    print(f"\nFrom kill -9 of a bound holder to the grant of the next: median {statistics.median(took):.1f} ms,", end=" ")
    print(f"longest of {len(took)} {max(took):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--tcp", action="store_true")
    args = parser.parse_args()
    with Server() as server:
        print(f"{server}, load {os.getloadavg()[0]:.1f}, redis-py {redis.__version__}\n")
        alone(server, args)
        passed_on(server, args)
        bound(server, args)


if __name__ == "__main__":
    main()
