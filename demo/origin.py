"""The slow origin: the database, the model, the upstream service whose answers the cache keeps.

A call takes a fixed time. As a database behind a pool of connections does, it works on so many calls at once and lets
the others queue, first come, first served. `pool=None` takes away that limit: an origin of any size, which is as kind
to the unprotected way as can be. Every call is counted. Calls are deadlines in the driver's event loop.
"""

from collections import deque

VALUE_SIZE = 100


class Origin:
    """Counts calls and makes a new value for each; `calls - delivered` are under way."""

    def __init__(self, delay: float, pool: int | None = None) -> None:
        """`delay`: seconds that a call takes once it is worked on; `pool`: how many are worked on at once."""
        self.delay, self.pool = delay, pool
        self.calls = 0
        self.delivered = 0
        self.calls_at_once_max = 0
        self._free_at: deque[float] = deque()  # when each place of the pool is free again, the first one first

    @property
    def calls_under_way(self) -> int:
        return self.calls - self.delivered

    def begin(self, now: float) -> float:
        """Takes a call; returns when it will be answered."""
        self.calls += 1
        self.calls_at_once_max = max(self.calls_at_once_max, self.calls_under_way)
        if self.pool is None:
            return now + self.delay
        full = len(self._free_at) >= self.pool
        starts = max(now, self._free_at.popleft()) if full else now
        self._free_at.append(starts + self.delay)
        return starts + self.delay

    def deliver(self) -> bytes:
        """The answer to the oldest call."""
        self.delivered += 1
        return value_of(self.delivered)


def value_of(number: int) -> bytes:
    """What the origin's answer number `number` looks like; 0 is the value that is there before the first."""
    return (b"%09d:" % number).ljust(VALUE_SIZE, b"x")


def number_of(value: bytes) -> int:
    """Which answer of the origin this is; ValueError if it is none."""
    if len(value) != VALUE_SIZE:
        raise ValueError(f"not a value of the origin: {value!r}")
    return int(value[:9])
