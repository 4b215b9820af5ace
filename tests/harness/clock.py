"""The clocks of a server, moved by a test: `with Clock() as clock, Server(env=clock.env) as server: clock.step(-3_600_000)`.

A small C library is preloaded into the server; it is compiled once per run of the tests (they need `cc`). Servers with the same
clock see the same time. Time runs on beside every step, unless the clocks are held still.

A server that sleeps does not see a step before it wakes: by a command, or by its own cron within 0.1 s.
"""

import mmap
import os
import shutil
import struct
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")
WALL, MONOTONIC, WALL_STILL, MONOTONIC_STILL = range(4)
NUMBER = struct.Struct("q")


@cache
def library() -> Path:
    """The library, compiled for this run."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert compiler, "a C compiler is needed to move a server's clock (set CC)"
    path = Path(tempfile.gettempdir()) / f"cg-clock-{os.getuid()}-{SOURCE.stat().st_mtime_ns}.so"
    if not path.exists():
        made = path.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", str(made), str(SOURCE), "-ldl"], check=True)
        made.rename(path)
    return path


class Clock:
    """What a server takes for the time. All times are in milliseconds."""

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="cg-clock-")
        self._file.truncate(4 * NUMBER.size)
        self._numbers = mmap.mmap(self._file.fileno(), 4 * NUMBER.size)
        self.env = {"LD_PRELOAD": str(library()), "CG_CLOCK": self._file.name}

    def set_ms(self, offset: int) -> None:
        """The wall clock is ahead of the real one by that much (behind, if negative). The monotonic clock stays."""
        self._put(WALL, offset * 1000)

    def step(self, ms: int) -> None:
        """The wall clock jumps by that much; the monotonic one does not, as when an operator or NTP sets the time."""
        self._put(WALL, self._get(WALL) + ms * 1000)

    def pass_ms(self, ms: int) -> None:
        """Both clocks go forward by that much, as if the time had passed."""
        assert ms >= 0, "a monotonic clock does not go back"
        self._put(MONOTONIC, self._get(MONOTONIC) + ms * 1000)
        self.step(ms)

    def hold(self) -> None:
        """Both clocks stand still from now on, the wall clock at a whole millisecond, and move by steps only.

        A server does not do then what its cron does: it does not even stop on SIGTERM before `run`.
        """
        self._put(WALL_STILL, self._get(WALL_STILL) or time.time_ns() // 1_000_000 * 1000)
        self._put(MONOTONIC_STILL, self._get(MONOTONIC_STILL) or time.monotonic_ns() // 1_000_000 * 1000)

    def run(self) -> None:
        """The clocks go on from where they stand, after `hold`."""
        for still, ahead, now_ns in (
            (WALL_STILL, WALL, time.time_ns()),
            (MONOTONIC_STILL, MONOTONIC, time.monotonic_ns()),
        ):
            if stood := self._get(still):
                self._put(ahead, self._get(ahead) + stood - now_ns // 1000)
                self._put(still, 0)

    def now_ms(self) -> int:
        """What the wall clock says, to a server and here."""
        return ((self._get(WALL_STILL) or time.time_ns() // 1000) + self._get(WALL)) // 1000

    def close(self) -> None:
        self._numbers.close()
        self._file.close()

    def __enter__(self) -> "Clock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get(self, at: int) -> int:
        return NUMBER.unpack_from(self._numbers, at * NUMBER.size)[0]

    def _put(self, at: int, microseconds: int) -> None:
        NUMBER.pack_into(self._numbers, at * NUMBER.size, microseconds)
