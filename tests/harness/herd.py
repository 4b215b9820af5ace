"""Thousands of connections that send the same command: for stampedes, where a thread per client would measure itself.

One epoll loop, raw file descriptors, and no parsing of a reply whose bytes are those of the reply before. A time is
that of the poll which reported the reply, shared by all replies of that poll, on the clock of time.monotonic().
"""

import os
import resource
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .raw import Address, Arg, Incomplete, as_map, connect, encode, parse

POLL_EVENTS_MAX = 256


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply to one member of the herd: `at` in seconds of time.monotonic(), `order` counts arrivals from 0."""

    reply: Any
    at: float
    order: int


def raise_file_limit(count: int) -> None:
    """Makes room for `count` open files in this process; OSError if the machine does not allow it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        room = hard if hard == resource.RLIM_INFINITY else max(hard, count)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, room))
        except ValueError as error:
            raise OSError(f"{count} open files are needed, the limit is {hard} (ulimit -Hn)") from error


class Herd:
    """`count` connections to one server. Every `timeout` is in seconds."""

    def __init__(self, address: Address, count: int, protocol: int = 2, timeout: float = 60) -> None:
        raise_file_limit(count + 256)
        self._socks: dict[int, socket.socket] = {}
        self.members: list[int] = []
        self.client_ids: list[int] = []
        try:
            for _ in range(count):
                sock = connect(address, timeout)
                sock.setblocking(True)
                self._socks[sock.fileno()] = sock
                self.members.append(sock.fileno())
            self.send("HELLO", protocol)
            for answer in self.collect(timeout):
                self.client_ids.append(as_map(answer.reply)[b"id"])
        except BaseException:
            self.close()
            raise

    def send(self, *args: Arg) -> float:
        """Sends one command on every open connection; the time (time.monotonic(), seconds) before the first."""
        data, start = encode(*args), time.monotonic()
        for fd in self.members:
            if fd in self._socks:
                self._write(fd, data)
        return start

    def send_each(self, commands: Sequence[Sequence[Arg]]) -> float:
        """Sends command i on connection i."""
        assert len(commands) == len(self.members)
        start = time.monotonic()
        for fd, command in zip(self.members, commands):
            self._write(fd, encode(*command))
        return start

    def collect(self, timeout: float = 30, count: int | None = None) -> list[Answer | None]:
        """One reply per connection, at the connection's place; None where it is missing.

        Without `count` every open connection must answer within `timeout` (AssertionError names how many did not);
        with it, returns as soon as so many have. A connection that the server closed answers ConnectionError.
        """
        waiting = {fd: index for index, fd in enumerate(self.members) if fd in self._socks}
        wanted = len(waiting) if count is None else count
        answers: list[Answer | None] = [None] * len(self.members)
        partial: dict[int, bytes] = {}
        last_bytes, last_reply, order = b"", None, 0
        deadline = time.monotonic() + timeout
        with select.epoll(max(1, len(waiting))) as poll:
            for fd in waiting:
                poll.register(fd, select.EPOLLIN)
            while order < wanted:
                events = poll.poll(max(0.0, deadline - time.monotonic()), POLL_EVENTS_MAX)
                at = time.monotonic()
                if not events:
                    break
                for fd, _ in events:
                    data = self._read(fd)
                    if fd in partial:
                        data = partial.pop(fd) + data
                    if data != last_bytes:
                        try:
                            reply, end = parse(data) if data else (ConnectionError("closed"), 0)
                        except Incomplete:
                            partial[fd] = data
                            continue
                        assert end == len(data), f"more than one reply: {data[:200]!r}"
                        last_bytes, last_reply = data, reply
                    answers[waiting[fd]] = Answer(last_reply, at, order)
                    poll.unregister(fd)
                    order += 1
        if count is None:
            assert order == wanted, f"{wanted - order} of {wanted} connections got no reply within {timeout} s"
        return answers

    def silent(self, within_ms: float = 0) -> bool:
        """Whether no connection gets anything within that time."""
        with select.epoll() as poll:
            for fd in self._socks:
                poll.register(fd, select.EPOLLIN)
            return not poll.poll(within_ms / 1000, 1)

    def close(self, indices: Sequence[int] | None = None) -> None:
        """Closes the connections at these places, or all; a place keeps its number."""
        chosen = list(self._socks) if indices is None else [self.members[index] for index in indices]
        for fd in chosen:
            if sock := self._socks.pop(fd, None):
                sock.close()

    def __len__(self) -> int:
        return len(self._socks)

    def __enter__(self) -> "Herd":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, fd: int, data: bytes) -> None:
        sent = os.write(fd, data)
        if sent < len(data):
            self._socks[fd].sendall(data[sent:])

    @staticmethod
    def _read(fd: int) -> bytes:
        try:
            return os.read(fd, 1 << 16)
        except ConnectionError:
            return b""
