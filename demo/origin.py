"""The slow origin: the database, the model, the upstream service whose answers the cache keeps.

A call takes a fixed time and any number of them may run at once: they are deadlines in the driver's event loop, as a
call is to an asynchronous client. That is kind to the unprotected way, since a real origin slows down when a
thousand callers arrive together. What is true of a real origin as well: every call is counted.
"""

VALUE_SIZE = 100


class Origin:
    """Counts calls and makes a new value for each; `calls - delivered` are under way."""

    def __init__(self, delay: float) -> None:
        """`delay`: seconds that a call takes."""
        self.delay = delay
        self.calls = 0
        self.delivered = 0
        self.calls_at_once_max = 0

    @property
    def calls_under_way(self) -> int:
        return self.calls - self.delivered

    def begin(self, now: float) -> float:
        """Takes a call; returns when it will be answered."""
        self.calls += 1
        self.calls_at_once_max = max(self.calls_at_once_max, self.calls_under_way)
        return now + self.delay

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
