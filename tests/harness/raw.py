"""A small blocking RESP2/RESP3 client with its own parser.

redis-py hides what a test of a server module must see: the type of a nil, a reply that comes too early, an error as
a value, a connection cut with RST. Replies come as plain Python values:

    simple and bulk string   bytes          integer, big number   int
    double                   float          boolean               bool
    any nil                  None           error                 RespError (a value, never raised)
    array                    list           map                   dict (RESP3; RESP2 sends a flat list: see as_map)
    set                      RespSet        push                  Push (kept apart in RawClient.pushes)

Where the kind of nil matters, RawClient.wire holds the bytes of the reply returned last.
"""

import socket
import struct
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from .eventually import SLOWER

Arg = bytes | str | int | float
Address = str | tuple[str, int]


class Incomplete(Exception):
    """The buffer ends inside a reply."""


class RespError:
    """An error reply. Equal to another error or a string of the same text; `code` is its first word."""

    def __init__(self, text: str) -> None:
        self.text = text

    @property
    def code(self) -> str:
        return self.text.split(" ", 1)[0]

    def startswith(self, prefix: str) -> bool:
        return self.text.startswith(prefix)

    def __contains__(self, part: str) -> bool:
        return part in self.text

    def __eq__(self, other: object) -> bool:
        return self.text == (other.text if isinstance(other, RespError) else other)

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"RespError({self.text!r})"


class RespSet(list):
    """A RESP3 set, in the order sent (members may be unhashable)."""


class Push(list):
    """A RESP3 push message."""


def is_error(reply: Any, prefix: str = "") -> bool:
    """Whether the reply is an error that begins with `prefix`."""
    return isinstance(reply, RespError) and reply.startswith(prefix)


def as_map(reply: Any) -> dict:
    """A map reply of either protocol as a dict."""
    if isinstance(reply, dict):
        return reply
    assert isinstance(reply, list) and len(reply) % 2 == 0, f"not a map: {reply!r}"
    return dict(zip(reply[::2], reply[1::2]))


def encode(*args: Arg) -> bytes:
    """One command as an array of bulk strings."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        data = arg if isinstance(arg, bytes) else str(arg).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


def parse(buffer: bytes | bytearray, start: int = 0) -> tuple[Any, int]:
    """The reply that begins at `start` and the position after it; Incomplete if its end is not there yet."""
    end = buffer.find(b"\r\n", start)
    if end < 0:
        raise Incomplete
    kind, line, pos = buffer[start : start + 1], bytes(buffer[start + 1 : end]), end + 2
    if kind == b"+":
        return line, pos
    if kind == b"-":
        return RespError(line.decode("utf-8", "backslashreplace")), pos
    if kind in (b":", b"("):
        return int(line), pos
    if kind == b",":
        return float(line), pos
    if kind == b"#":
        return line == b"t", pos
    if kind == b"_":
        return None, pos
    if kind not in (b"$", b"=", b"!", b"*", b"~", b">", b"%", b"|"):
        raise ValueError(f"not RESP: {bytes(buffer[start : start + 80])!r}")
    count = int(line)
    if count < 0:
        return None, pos
    if kind in (b"$", b"=", b"!"):
        stop = pos + count
        if len(buffer) < stop + 2:
            raise Incomplete
        body = bytes(buffer[pos:stop])
        if kind == b"!":
            return RespError(body.decode("utf-8", "backslashreplace")), stop + 2
        return body[4:] if kind == b"=" else body, stop + 2
    items = []
    for _ in range(count * 2 if kind in (b"%", b"|") else count):
        item, pos = parse(buffer, pos)
        items.append(item)
    if kind == b"|":  # attributes come before the reply they belong to
        return parse(buffer, pos)
    if kind == b"%":
        return {_hashable(key): value for key, value in zip(items[::2], items[1::2])}, pos
    return {b"*": list, b"~": RespSet, b">": Push}[bytes(kind)](items), pos


def _hashable(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key


def connect(address: Address, timeout: float) -> socket.socket:
    """A connected socket: a path means a unix socket, a pair TCP. `timeout` in seconds."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET:
            sock.settimeout(timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:  # a non-blocking connect fails at once when the backlog is full; a blocking one waits, this long
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout) or 1, 0))
        sock.connect(address)
        sock.settimeout(timeout)
    except BaseException:
        sock.close()
        raise
    return sock


class RawClient:
    """One connection. Every `timeout` is in seconds; TimeoutError when it passes, ConnectionError at the end of the stream."""

    def __init__(
        self, address: Address, protocol: int = 2, timeout: float = 10, auth: tuple[str, str] | None = None
    ) -> None:
        self.address, self.protocol, self.timeout = address, protocol, timeout * SLOWER
        self.pushes: deque[Push] = deque()
        self.wire = b""
        self._buffer = bytearray()
        self._replies: deque[tuple[Any, bytes]] = deque()
        self._sock = connect(address, self.timeout)
        self.client_id = 0
        hello = self.call("HELLO", protocol, *(("AUTH", *auth) if auth else ()))
        if isinstance(hello, RespError):
            self.close()
            raise ConnectionError(hello.text)
        self.client_id = as_map(hello)[b"id"]

    def send(self, *args: Arg) -> "RawClient":
        """Sends a command and does not wait; returns self, so that `client.send(...).recv()` reads well."""
        return self.send_bytes(encode(*args))

    def send_bytes(self, data: bytes) -> "RawClient":
        self._sock.settimeout(self.timeout)
        self._sock.sendall(data)
        return self

    def recv(self, timeout: float | None = None) -> Any:
        """The next reply; pushes met on the way go to `pushes`."""
        if not self._fill(self._replies, self.timeout if timeout is None else timeout * SLOWER):
            raise TimeoutError(f"client {self.client_id}: no reply; the stream holds {bytes(self._buffer[:200])!r}")
        reply, self.wire = self._replies.popleft()
        return reply

    def recv_push(self, timeout: float | None = None) -> Push:
        if not self._fill(self.pushes, self.timeout if timeout is None else timeout * SLOWER):
            raise TimeoutError(f"client {self.client_id}: no push")
        return self.pushes.popleft()

    def call(self, *args: Arg, timeout: float | None = None) -> Any:
        return self.send(*args).recv(timeout)

    def pipeline(self, commands: Iterable[Sequence[Arg]], timeout: float | None = None) -> list[Any]:
        """Sends all commands in one write and returns their replies."""
        encoded = [encode(*command) for command in commands]
        self.send_bytes(b"".join(encoded))
        return [self.recv(timeout) for _ in encoded]

    def has_reply(self, within_ms: float = 0) -> bool:
        """Whether a whole reply is there within that time; it stays there for `recv`."""
        return self._fill(self._replies, within_ms / 1000)

    def is_closed(self, within_ms: float = 0) -> bool:
        """Whether the server ends the connection within that time; replies that come first are kept."""
        deadline = time.monotonic() + within_ms / 1000
        try:
            while self._read(deadline):
                pass
        except ConnectionError:
            return True
        return False

    def close(self) -> None:
        self._sock.close()

    def reset(self) -> None:
        """Cuts the connection with RST, as a dying peer does (TCP only)."""
        assert self._sock.family == socket.AF_INET, "RST needs TCP: server.raw(tcp=True)"
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RawClient {self.client_id} RESP{self.protocol}>"

    def _fill(self, queue: deque, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not queue:
            if not self._read(deadline):
                return False
        return True

    def _read(self, deadline: float) -> bool:
        """Takes what has arrived until `deadline`; False when nothing has."""
        self._sock.settimeout(max(0.0, deadline - time.monotonic()))
        try:
            data = self._sock.recv(1 << 20)
        except (TimeoutError, BlockingIOError):
            return False
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data
        pos = 0
        try:
            while pos < len(self._buffer):
                reply, end = parse(self._buffer, pos)
                if isinstance(reply, Push):
                    self.pushes.append(reply)
                else:
                    self._replies.append((reply, bytes(self._buffer[pos:end])))
                pos = end
        except Incomplete:
            pass
        del self._buffer[:pos]
        return True
