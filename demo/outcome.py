"""What is asked of a run, what a run found, and what it tells while it is under way.

"At expiry" are the reads that found the key missing: they asked the origin, or waited for somebody who did. All
other reads are hits. Percentiles are of the nearest rank: a time that a client really saw.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

THINK_MS = 200
WARMUP_SECONDS = 0.3
SEED = 20150831


@dataclass(frozen=True, slots=True)
class Plan:
    """The options of a run, the same for every way."""

    clients: int
    expiries: int
    ttl_ms: int
    origin_ms: int
    pool: int

    @property
    def time_limit(self) -> float:
        """Seconds after which a way that has not finished is given up."""
        all_queued = self.origin_ms * -(-self.clients // self.pool)
        return 15 + 10 * self.expiries * (self.ttl_ms + 2 * self.origin_ms + all_queued) / 1000


@dataclass(frozen=True, slots=True)
class Spread:
    """Answer times in ms."""

    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread":
        """NaN where there is nothing to measure."""
        if not seconds:
            return cls(math.nan, math.nan, math.nan)
        ordered = sorted(seconds)

        def rank(share: float) -> float:
            return ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1000

        return cls(rank(0.50), rank(0.99), ordered[-1] * 1000)


@dataclass(frozen=True, slots=True)
class Progress:
    """A look at a way under way. `reading`: clients that have asked and have no value yet."""

    name: str
    seconds: float
    origin_calls: int
    expiries: int
    answers: int
    reading: int
    at_expiry: Spread
    commands: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one way needed for the same work.

    `expiries` is the server's own count of expired keys, `commands` its count of processed commands. `at_expiry` are
    the answer times of reads at expiry, `after_origin` the part of them after the origin's first answer: the time in
    which the value existed and the client did not have it. `answered` has the moments of these answers, in seconds
    since the first miss of their expiry. `driver_load` is the share of one core that the measuring took.
    """

    name: str
    title: str
    seconds: float
    origin_calls: int
    origin_calls_at_once: int
    expiries: int
    answers: int
    commands: int
    overall: Spread
    at_expiry: Spread
    after_origin: Spread
    server_cpu_ms: float
    driver_load: float
    answered: list[float] = field(repr=False)

    @property
    def calls_per_expiry(self) -> float:
        return self.origin_calls / self.expiries if self.expiries else math.nan

    @property
    def extra_commands(self) -> float:
        """Commands per expiry beyond the one that each read needs; a lone SET of the value makes it 1."""
        return max(0, self.commands - self.answers) / self.expiries if self.expiries else math.nan
