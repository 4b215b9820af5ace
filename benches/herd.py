"""Answering a herd, beside PUBLISH to as many: how long it takes, and how long others wait meanwhile.

The same connections (RESP3) are both the waiters of one missing key and the subscribers of one channel, so both
figures pay for the same sockets, the same reader and about the same bytes. Rounds alternate:

    SETSM     from the moment CACHE.SETSM is sent until the last connection has its value
    PUBLISH   from the moment PUBLISH is sent until the last connection has its message

Meanwhile another process sends PINGs, one at a time with a pause of half a millisecond; the longest that overlaps a
round is that round's stall. The reader only counts arrivals and reads when the clock has stopped; `reader busy` is the
part of the round in which it had the processor, and shows that it was not what took the time. `server` is the
processor time of the server's main thread within the round, from the kernel's scheduler.

Usage: python benches/herd.py [--connections 10000] [--rounds 7] [--value-bytes 100] [--tcp] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import select
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from harness import Herd, RawClient, Server, eventually  # noqa: E402
from harness.raw import Address, encode  # noqa: E402

RATIO_MAX = 1.5
PING_MS_MAX = 15.0
PING_PAUSE_S = 0.0005
ROUND_TIMEOUT_S = 60
EVENTS_MAX = 1024


@dataclass(frozen=True)
class Round:
    """One round, all in milliseconds but `reader_busy`."""

    total_ms: float
    longest_ping_ms: float | None  # None: no PING overlapped the round
    pings: int
    server_ms: float
    reader_busy: float


class Prober:
    """A process that sends PINGs while it is told to."""

    def __init__(self, address: Address) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=self._run, args=(address, theirs), daemon=True)
        self._process.start()

    def begin(self) -> None:
        self._pipe.send("begin")
        self._pipe.recv()

    def end(self) -> list[tuple[float, float]]:
        """When each PING was sent and answered."""
        self._pipe.send("end")
        return self._pipe.recv()

    @staticmethod
    def _run(address: Address, pipe: Connection) -> None:
        client = RawClient(address, timeout=ROUND_TIMEOUT_S)
        while pipe.recv() == "begin":
            seen: list[tuple[float, float]] = []
            pipe.send("begun")
            while not pipe.poll():
                start = time.monotonic()
                client.call("PING")
                seen.append((start, time.monotonic()))
                time.sleep(PING_PAUSE_S)
            pipe.recv()
            pipe.send(seen)


class Reader:
    """Notices what arrives at the members of a herd, and reads it when the clock has stopped.

    A read costs as much as the server's write, so a reader that reads could be what takes the time. The poll is edge
    triggered: it tells of each arrival once, though nothing is read.
    """

    def __init__(self, herd: Herd) -> None:
        self._fds = herd.members
        self._poll = select.epoll(len(herd.members))
        for fd in herd.members:
            os.set_blocking(fd, False)
            self._poll.register(fd, select.EPOLLIN | select.EPOLLET)

    def arrived(self, bytes_each: int) -> tuple[float, float]:
        """When every member had got that many bytes (time.monotonic()), and the reader's processor time in seconds."""
        busy, poll = time.process_time(), self._poll.poll
        silent = set(self._fds)
        while silent:
            events = poll(ROUND_TIMEOUT_S, EVENTS_MAX)
            assert events, f"{len(silent)} connections got nothing within {ROUND_TIMEOUT_S} s"
            silent.difference_update([fd for fd, _ in events])
        at, busy = time.monotonic(), time.process_time() - busy
        # A long reply comes in parts; then the clock runs on until all of them are there.
        was_whole = [self._read(fd, bytes_each) for fd in self._fds]
        return (at if all(was_whole) else time.monotonic()), busy

    @staticmethod
    def _read(fd: int, count: int) -> bool:
        """Reads that many bytes; whether all were there already."""
        was_whole = True
        while count:
            try:
                data = os.read(fd, count)
                assert data, "the server closed a connection"
                count -= len(data)
            except BlockingIOError:
                was_whole = False
                select.select([fd], [], [], ROUND_TIMEOUT_S)
        return was_whole


def server_seconds(server: Server) -> float:
    """Processor time of the server's main thread."""
    return int(Path(f"/proc/{server.pid}/schedstat").read_text().split()[0]) / 1e9


class Stage:
    """A server, its herd, and who watches."""

    def __init__(self, server: Server, prober: Prober, options: argparse.Namespace) -> None:
        self.server, self.prober = server, prober
        self.value = b"v" * options.value_bytes
        self.herd = Herd(server.address(options.tcp), options.connections, protocol=3)
        self.sender = server.raw()
        self.reader = Reader(self.herd)

    def park(self) -> None:
        """Every connection but the sender, which holds the lease, waits for the key."""
        self.sender.call("DEL", "key")
        assert self.sender.call("CACHE.GETSM", "key", "LEASE", 600_000) is None
        self.herd.send("CACHE.GETSM", "key", "WAIT", 600_000)
        eventually(lambda: self.server.stats()["waiters"] == len(self.herd), timeout=60, message="all are parked")

    def settle(self) -> Round:
        self.park()
        return self._round(("CACHE.SETSM", "key", self.value, 600_000), encode(self.value)[4:])

    def publish(self) -> Round:
        self._all("SUBSCRIBE", "news", reply=b">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
        message = b">3\r\n" + encode("message", "news", self.value)[4:]
        figures = self._round(("PUBLISH", "news", self.value), message)
        # Valkey 8.1 and later let no subscriber wait.
        self._all("UNSUBSCRIBE", reply=b">3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:0\r\n")
        return figures

    def _all(self, *command: str, reply: bytes) -> None:
        self.herd.send(*command)
        self.reader.arrived(len(reply))

    def _round(self, command: tuple, expected: bytes) -> Round:
        self.prober.begin()
        time.sleep(0.02)  # what the preparation left to do is over
        server = server_seconds(self.server)
        start = time.monotonic()
        self.sender.send(*command)
        end, busy = self.reader.arrived(len(expected))
        server = server_seconds(self.server) - server
        self.sender.recv()
        pings = [(sent, got) for sent, got in self.prober.end() if got >= start and sent <= end]
        return Round(
            total_ms=(end - start) * 1000,
            longest_ping_ms=max(((got - sent) * 1000 for sent, got in pings), default=None),
            pings=len(pings),
            server_ms=server * 1000,
            reader_busy=busy / (end - start),
        )


def median(rounds: list[Round], field: str) -> float:
    return statistics.median(getattr(each, field) for each in rounds)


def stalls(rounds: list[Round]) -> list[float]:
    return [each.longest_ping_ms for each in rounds if each.longest_ping_ms is not None] or [math.nan]


def report(server: Server, options: argparse.Namespace, rounds: dict[str, list[Round]]) -> None:
    ratio = median(rounds["CACHE.SETSM"], "total_ms") / median(rounds["PUBLISH"], "total_ms")
    server_ratio = median(rounds["CACHE.SETSM"], "server_ms") / median(rounds["PUBLISH"], "server_ms")
    longest = max(stalls(rounds["CACHE.SETSM"]))
    version = f"{'Valkey' if server.is_valkey else 'Redis'} {'.'.join(map(str, server.version))}"
    if options.json:
        figures = {name: [asdict(each) for each in of] for name, of in rounds.items()}
        head = {"server": version, "connections": options.connections, "value_bytes": options.value_bytes}
        print(json.dumps(head | {"ratio": ratio, "server_ratio": server_ratio, "rounds": figures}))
        return
    where = "TCP" if options.tcp else "unix socket"
    print(f"{version}, {options.connections:,} connections ({where}), {options.value_bytes}-byte value,", end=" ")
    print(f"median of {options.rounds} alternating rounds (least to most)\n")
    print("| | total ms | server ms | longest PING ms | PINGs meanwhile | reader busy |\n|---|---|---|---|---|---|")
    for name, of in rounds.items():
        totals = [each.total_ms for each in of]
        pings = stalls(of)
        print(
            f"| {name} | {statistics.median(totals):.0f} ({min(totals):.0f} to {max(totals):.0f}) "
            f"| {median(of, 'server_ms'):.0f} "
            f"| {statistics.median(pings):.1f} ({min(pings):.1f} to {max(pings):.1f}) "
            f"| {median(of, 'pings'):.0f} | {median(of, 'reader_busy') * 100:.0f} % |"
        )
    print(f"\nCACHE.SETSM / PUBLISH: {ratio:.2f} (limit {RATIO_MAX}), by the server's time {server_ratio:.2f}")
    print(f"longest PING of all rounds while waiters are answered: {longest:.1f} ms (limit {PING_MS_MAX:.0f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--tcp", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with Server() as server:
        prober = Prober(server.address(options.tcp))
        stage = Stage(server, prober, options)
        stage.settle(), stage.publish()  # the first of each warms up and does not count
        rounds: dict[str, list[Round]] = {"CACHE.SETSM": [], "PUBLISH": []}
        for _ in range(options.rounds):
            rounds["CACHE.SETSM"].append(stage.settle())
            rounds["PUBLISH"].append(stage.publish())
        report(server, options, rounds)
        stage.herd.close()


if __name__ == "__main__":
    main()
