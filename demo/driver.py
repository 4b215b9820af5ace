"""A thousand clients in one process: one epoll loop, one TCP connection per client, no client library.

Each client reads, thinks for 0 to THINK_MS, and reads again. Think times come from a seed, so the clients of every
way think alike. A read's time runs from the moment in which its first command is sent to the moment in which the
client has its value in hand; the driver's own delays count in it, for all ways alike.

A way begins with a warm-up during which nothing is counted and the key does not expire. Then the key is written with
its TTL and expires by itself, again and again; the way ends when the planned number of regenerations is complete and
everybody is answered. So every way is measured over the same number of whole expiries.
"""

import gc
import heapq
import itertools
import random
import select
import socket
import time
from collections.abc import Callable
from typing import Any

from .origin import Origin, number_of, value_of
from .outcome import SEED, THINK_MS, WARMUP_SECONDS, Outcome, Plan, Progress, Spread
from .resp import Incomplete, Push, RespError, encode, parse
from .server import Control
from .strategies import RELEASE, AskOrigin, AwaitMessage, NoProtection, Pause, Read, Request, Send

EVENTS_MAX = 128
RECEIVE_MAX = 1 << 16
REPORT_SECONDS = 0.2
LONG_TTL_MS = 600_000
COMMANDS_OF_CONTROL = 2

clock = time.monotonic


class Client:
    """One connection and the read that is under way on it."""

    __slots__ = ("expected", "messages", "random", "read", "replies", "request", "rest", "sock", "timer", "waits")

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.random = random.Random(SEED + number).random
        self.rest = b""
        self.replies: list[Any] = []
        self.expected = 0
        self.messages = 0
        self.timer = 0
        self.waits = False  # for a published message
        self.read: Read | None = None
        self.request: Request | None = None


class Driver:
    """Runs one way to its end. `report` is called every REPORT_SECONDS."""

    def __init__(self, port: int, plan: Plan, way: type[NoProtection], report: Callable[[Progress], None]) -> None:
        self.plan, self.report = plan, report
        self.origin = Origin(plan.origin_ms / 1000, None if way.unlimited_origin else plan.pool)
        self.strategy = way(self.origin, plan.ttl_ms)
        self.control = Control(port)
        self.clients: dict[int, Client] = {}
        self.epoll = select.epoll()
        self.timers: list[tuple[float, int, Callable[[Client], None], Client]] = []
        self.serial = itertools.count(1)
        self.port = port
        self.reading = self.commands = self.expiries = 0
        self.counting = self.ending = False
        self.first_miss = self.delivered_at = 0.0
        self.hits: list[float] = []
        self.at_expiry: list[float] = []
        self.after_origin: list[float] = []
        self.answered: list[float] = []

    # The course of a way

    def run(self) -> Outcome:
        """Connects everybody, warms up, measures. RuntimeError if an answer is wrong or the time limit passes."""
        self.control.call("FLUSHALL")
        self.control.call("SCRIPT", "LOAD", RELEASE)
        self._connect()
        self._store(LONG_TTL_MS)
        gc.collect()
        gc.freeze()
        gc.disable()
        now = clock()
        for client in self.clients.values():
            self._after(client.random() * THINK_MS / 1000, self._begin, client)
        self._loop(now + WARMUP_SECONDS)
        self._store(self.plan.ttl_ms)
        self.control.call("CONFIG", "RESETSTAT")
        cpu, driver_cpu, start = self._server_cpu_ms(), time.process_time(), clock()
        self.counting = True
        self._loop(start + self.plan.time_limit)
        seconds, driver_cpu = clock() - start, time.process_time() - driver_cpu
        if not (self.ending and not self.reading):
            raise RuntimeError(f"{self.strategy.title}: not finished within {self.plan.time_limit:.0f} s")
        return self._outcome(seconds, driver_cpu / seconds, cpu)

    def close(self) -> None:
        self.control.close()
        for client in self.clients.values():
            client.sock.close()
        self.epoll.close()

    def _connect(self) -> None:
        hello = encode("HELLO", 3)
        for number in range(self.plan.clients):
            sock = socket.create_connection(("127.0.0.1", self.port), timeout=10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(hello)
            if not sock.recv(RECEIVE_MAX).startswith(b"%"):
                raise RuntimeError("the server does not speak RESP3")
            sock.setblocking(False)
            self.clients[sock.fileno()] = Client(sock, number)
            self.epoll.register(sock.fileno(), select.EPOLLIN)

    def _store(self, ttl_ms: int) -> None:
        """Puts the first value under the key, with the way's own command."""
        self.control.call(*parse(self.strategy.write(value_of(0), ttl_ms), 0)[0])

    def _server_cpu_ms(self) -> float:
        info = self.control.info("cpu")
        return 1000 * (float(info["used_cpu_user"]) + float(info["used_cpu_sys"]))

    def _outcome(self, seconds: float, driver_load: float, server_cpu_before: float) -> Outcome:
        stats = self.control.info("stats")
        return Outcome(
            name=self.strategy.name,
            title=self.strategy.title,
            seconds=seconds,
            origin_calls=self.origin.calls,
            origin_calls_at_once=self.origin.calls_at_once_max,
            expiries=int(stats["expired_keys"]),
            answers=len(self.hits) + len(self.at_expiry),
            commands=int(stats["total_commands_processed"]) - COMMANDS_OF_CONTROL,
            overall=Spread.of(self.hits + self.at_expiry),
            at_expiry=Spread.of(self.at_expiry),
            after_origin=Spread.of(self.after_origin),
            server_cpu_ms=self._server_cpu_ms() - server_cpu_before,
            driver_load=driver_load,
            answered=self.answered,
        )

    # The loop

    def _loop(self, until: float) -> None:
        """Serves sockets and timers until that moment, or until the way has ended and everybody is answered."""
        timers, clients, poll = self.timers, self.clients, self.epoll.poll
        start = clock()
        report_at = start + REPORT_SECONDS
        while (now := clock()) < until and not (self.ending and not self.reading):
            while timers and timers[0][0] <= now:
                _, serial, action, client = heapq.heappop(timers)
                if client.timer == serial:
                    client.timer = 0
                    action(client)
            if now >= report_at:
                report_at = now + REPORT_SECONDS
                self.report(self._progress(now - start))
            wake = min(until, report_at, timers[0][0] if timers else until)
            for fd, _ in poll(max(0.0, wake - clock()), EVENTS_MAX):
                self._receive(clients[fd])

    def _after(self, seconds: float, action: Callable[[Client], None], client: Client) -> None:
        client.timer = next(self.serial)
        heapq.heappush(self.timers, (clock() + seconds, client.timer, action, client))

    def _progress(self, seconds: float) -> Progress:
        return Progress(
            name=self.strategy.name,
            seconds=seconds,
            origin_calls=self.origin.calls,
            expiries=self.expiries,
            answers=len(self.hits) + len(self.at_expiry),
            reading=self.reading,
            at_expiry=Spread.of(self.at_expiry),
            commands=self.commands,
        )

    # One client

    def _begin(self, client: Client) -> None:
        if self.ending:
            return
        self.reading += 1
        client.request = Request(clock())
        client.read = self.strategy.read(client.request)
        self._resume(client, None)

    def _resume(self, client: Client, outcome: Any) -> None:
        """Gives the read the outcome of what it wanted, and does what it wants next."""
        try:
            want = client.read.send(outcome)
        except StopIteration as end:
            self._finish(client, end.value)
            return
        kind = type(want)
        if kind is Send:
            self.commands += want.count if self.counting else 0
            client.expected = want.count
            client.replies = []
            if client.sock.send(want.data) != len(want.data):
                raise RuntimeError("a command did not fit into the socket's buffer")
        elif kind is Pause:
            self._after(want.seconds, self._resume_plain, client)
        elif kind is AwaitMessage:
            if client.messages:
                self._resume(client, True)
            else:
                client.waits = True
                self._after(want.seconds, self._message_missed, client)
        elif kind is AskOrigin:
            now = clock()
            if not self.origin.calls_under_way:
                self.first_miss = now
            self._after(self.origin.begin(now) - now, self._delivered, client)

    def _resume_plain(self, client: Client) -> None:
        self._resume(client, None)

    def _message_missed(self, client: Client) -> None:
        client.waits = False
        self._resume(client, False)

    def _delivered(self, client: Client) -> None:
        """The origin answers; with the last answer of the last planned expiry the way comes to its end."""
        value = self.origin.deliver()
        if not self.delivered_at > self.first_miss:
            self.delivered_at = clock()
        if not self.origin.calls_under_way:
            self.expiries += 1
            self.ending = self.expiries >= self.plan.expiries
        self._resume(client, value)

    def _finish(self, client: Client, value: bytes) -> None:
        now = clock()
        number_of(value)  # raises if this is not a value
        request = client.request
        self.reading -= 1
        if self.counting:
            if request.missed:
                self.at_expiry.append(now - request.started)
                self.after_origin.append(now - self.delivered_at)
                self.answered.append(now - self.first_miss)
            else:
                self.hits.append(now - request.started)
        client.read = client.request = None
        if not self.ending:
            self._after(client.random() * THINK_MS / 1000, self._begin, client)

    def _receive(self, client: Client) -> None:
        data = client.sock.recv(RECEIVE_MAX)
        if not data:
            raise RuntimeError("the server closed a connection")
        data = client.rest + data
        pos = 0
        while pos < len(data):
            try:
                reply, pos = parse(data, pos)
            except Incomplete:
                break
            kind = type(reply)
            if kind is RespError:
                raise RuntimeError(f"{self.strategy.title}: {reply}")
            if kind is Push and reply[0] == b"message":
                self._message(client)
            else:
                if kind is Push and reply[0] == b"subscribe":
                    client.messages = 0
                client.replies.append(reply)
                if len(client.replies) == client.expected:
                    self._resume(client, reply if client.expected == 1 else client.replies)
        client.rest = data[pos:]

    def _message(self, client: Client) -> None:
        client.messages += 1
        if client.waits:
            client.waits = False
            client.timer = 0
            self._resume(client, True)
