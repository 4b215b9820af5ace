"""A TCP proxy that breaks connections as networks do: at any byte, late, on one side only, or silently.

    with Proxy(server.port) as proxy:
        client = RawClient(proxy.address)
        proxy.limit(up=10)      # the server gets 10 bytes more, then both sides are cut
        proxy.stall()           # nothing passes any more, and neither side learns of it (half-open)
        proxy.delay(0.05)       # every piece waits so long
        proxy.cut()             # all connections are gone, by RST

What is set holds for the connections that are open and for those to come, until `heal`. One thread moves the bytes.
"""

import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

PIECE_BYTES = 1 << 16
TICK = 0.005  # seconds between two looks at what was delayed


@dataclass(eq=False)
class Way:
    """One direction of a connection."""

    source: socket.socket
    target: socket.socket
    is_up: bool  # towards the server
    held: list[tuple[float, bytes]] = field(default_factory=list)  # when it may pass
    passed: int = 0


class Proxy:
    """Listens on a free port of 127.0.0.1 and connects to `port` there."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._ways: list[Way] = []
        self._guard = threading.RLock()
        self._is_closed = False
        self._left: dict[bool, int | None] = {True: None, False: None}
        self._delay = 0.0
        self._is_stalled = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def port(self) -> int:
        return self._listener.getsockname()[1]

    @property
    def connections(self) -> int:
        with self._guard:
            return len(self._ways) // 2

    def passed(self, up: bool) -> int:
        """Bytes that went that way on the connections that are open."""
        with self._guard:
            return sum(way.passed for way in self._ways if way.is_up == up)

    def limit(self, up: int | None = None, down: int | None = None) -> None:
        """So many bytes pass in each direction, all connections together; then all connections are cut."""
        with self._guard:
            self._left = {True: up, False: down}
            if 0 in self._left.values():
                self.cut()

    def delay(self, seconds: float) -> None:
        with self._guard:
            self._delay = seconds

    def stall(self) -> None:
        with self._guard:
            self._is_stalled = True

    def heal(self) -> None:
        """From here on everything passes, what was held first."""
        with self._guard:
            self._left, self._delay, self._is_stalled = {True: None, False: None}, 0.0, False

    def end_upwards(self) -> None:
        """The server reads an end of the stream from all who are connected; what it answers still passes."""
        with self._guard:
            for way in self._ways:
                if way.is_up:
                    way.target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Ends all connections with RST on both sides; what was held is lost."""
        with self._guard:
            for way in list(self._ways):
                self._drop(way)

    def close(self) -> None:
        self._is_closed = True
        self._thread.join()
        self.cut()
        self._listener.close()
        self._selector.close()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The thread

    def _run(self) -> None:
        while not self._is_closed:
            ready = self._selector.select(TICK)
            with self._guard:
                for key, _ in ready:
                    self._accept() if key.data is None else self._read(key.data)
                for way in list(self._ways):
                    self._pass_on(way)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        for source, target, is_up in ((client, server, True), (server, client, False)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            way = Way(source, target, is_up)
            self._ways.append(way)
            self._selector.register(source, selectors.EVENT_READ, way)

    def _read(self, way: Way) -> None:
        if way not in self._ways:
            return
        try:
            piece = way.source.recv(PIECE_BYTES)
        except OSError:
            piece = b""
        # The end of a stream is held like any piece, behind what was sent before.
        way.held.append((time.monotonic() + self._delay, piece))
        if not piece:
            self._selector.unregister(way.source)

    def _pass_on(self, way: Way) -> None:
        now = time.monotonic()
        while way.held and way in self._ways and not self._is_stalled and way.held[0][0] <= now:
            _, piece = way.held.pop(0)
            left = self._left[way.is_up]
            if not piece:
                return self._drop(way)
            try:
                way.target.sendall(piece if left is None else piece[:left])
            except OSError:
                return self._drop(way)
            way.passed += len(piece)
            if left is not None:
                self._left[way.is_up] = max(0, left - len(piece))
                if left <= len(piece):
                    return self._drop(way, is_reset=False)

    def _drop(self, way: Way, is_reset: bool = True) -> None:
        """Ends both directions; without RST the bytes that were passed still arrive."""
        for other in [each for each in self._ways if each.source in (way.source, way.target)]:
            self._ways.remove(other)
            try:
                self._selector.unregister(other.source)
            except KeyError:
                pass
            if is_reset:
                other.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            other.source.close()
