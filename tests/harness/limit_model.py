"""Rate limits as the pages define them, in a few lines of exact arithmetic: what a server must answer to the integer.

A model holds what was taken from one key. Times are whole milliseconds of a clock that the caller holds. `rules` are pairs
`(limit, window)`. Where the clock has stepped back, what lies ahead is dated to now: that is `dated`.
"""

from collections.abc import Sequence
from copy import deepcopy
from fractions import Fraction
from math import ceil, floor

Rules = tuple[tuple[int, int], ...]


class Model:
    """What the three algorithms have in common: the tightest rule speaks."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def dated(self, now: int) -> bool:
        raise NotImplementedError

    def used(self, at: int, now: int) -> int:
        raise NotImplementedError

    def retry(self, at: int, units: int, now: int) -> int:
        raise NotImplementedError

    def reset(self, at: int, units: int, now: int) -> int:
        raise NotImplementedError

    def take(self, units: int, now: int) -> None:
        raise NotImplementedError

    def refund(self, units: int, now: int) -> int:
        raise NotImplementedError

    def until(self) -> int | None:
        raise NotImplementedError

    def under(self, rules: Rules) -> "Model":
        """The same under other rules."""
        assert rules == self.rules
        return deepcopy(self)

    def room(self, at: int, now: int) -> int:
        return max(0, self.rules[at][0] - self.used(at, now))

    def ask(self, units: int, partial: bool, now: int) -> list[int]:
        """The five integers; nothing is taken yet."""
        rooms = [self.room(at, now) for at in range(len(self.rules))]
        least = min(rooms)
        allowed = min(units, least) if partial else units if units <= least else 0
        if allowed:
            tightest = max(
                (at for at, room in enumerate(rooms) if room == least), key=lambda at: (self.reset(at, units, now), -at)
            )
            return [allowed, self.rules[tightest][0], least - allowed, 0, self.reset(tightest, allowed, now)]
        needed = 1 if partial else units
        waits = {
            at: float("inf") if needed > self.rules[at][0] else self.retry(at, needed, now)
            for at, room in enumerate(rooms)
            if room < needed
        }
        slowest = max(waits, key=lambda at: (waits[at], -at))
        never = waits[slowest] == float("inf")
        retry = -1 if never else int(waits[slowest])
        return [0, self.rules[slowest][0], rooms[slowest], retry, self.reset(slowest, 0, now)]

    def usage(self, now: int) -> list[dict[bytes, int]]:
        return [
            {
                b"limit": limit,
                b"window": window,
                b"used": self.used(at, now),
                b"remaining": self.room(at, now),
                b"reset_ms": self.reset(at, 0, now),
            }
            for at, (limit, window) in enumerate(self.rules)
        ]


class Sliding(Model):
    """A list of what was taken when, as long as the widest window of the rules at each taking."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.log: list[tuple[int, int]] = []

    def under(self, rules: Rules) -> "Model":
        other = deepcopy(self)
        other.rules = rules
        return other

    def dated(self, now: int) -> bool:
        ahead = self.log[-1][0] - now if self.log else 0
        if ahead > 0:
            self.log = [(then - ahead, units) for then, units in self.log]
        return ahead > 0

    def used(self, at: int, now: int) -> int:
        return sum(units for then, units in self.log if now - then < self.rules[at][1])

    def retry(self, at: int, units: int, now: int) -> int:
        limit, window = self.rules[at]
        ends = (then + window for then, _ in self.log if now - then < window)
        return next(end for end in ends if self.used(at, end) + units <= limit) - now

    def reset(self, at: int, units: int, now: int) -> int:
        window = self.rules[at][1]
        if units:
            return window
        return window - (now - self.log[-1][0]) if self.used(at, now) else 0

    def take(self, units: int, now: int) -> None:
        widest = max(window for _, window in self.rules)
        self.log = [(then, taken) for then, taken in self.log if now - then < widest]
        if self.log and self.log[-1][0] == now:
            units += self.log.pop()[1]
        self.log.append((now, units))

    def refund(self, units: int, now: int) -> int:
        left = given = min(units, max(self.used(at, now) for at in range(len(self.rules))))
        while left:
            then, taken = self.log.pop()
            if taken > left:
                self.log.append((then, taken - left))
            left -= min(taken, left)
        return given

    def until(self) -> int | None:
        return self.log[-1][0] + max(window for _, window in self.rules) if self.log else None


class Fixed(Model):
    """A count for the present window of each rule; windows begin with each multiple of their length."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.counts = [(0, 0)] * len(rules)  # which window, how many units

    def dated(self, now: int) -> bool:
        ahead = any(window > now // length for (window, _), (_, length) in zip(self.counts, self.rules))
        if ahead:
            self.counts = [
                (min(window, now // length), units) for (window, units), (_, length) in zip(self.counts, self.rules)
            ]
        return ahead

    def end(self, at: int, now: int) -> int:
        length = self.rules[at][1]
        return (now // length + 1) * length

    def used(self, at: int, now: int) -> int:
        window, units = self.counts[at]
        return units if now // self.rules[at][1] <= window else 0

    def retry(self, at: int, units: int, now: int) -> int:
        return self.end(at, now) - now

    def reset(self, at: int, units: int, now: int) -> int:
        return self.end(at, now) - now if self.used(at, now) + units else 0

    def take(self, units: int, now: int) -> None:
        self.counts = [(now // length, self.used(at, now) + units) for at, (_, length) in enumerate(self.rules)]

    def refund(self, units: int, now: int) -> int:
        given = [min(units, self.used(at, now)) for at in range(len(self.rules))]
        self.counts = [(window, held - back) for (window, held), back in zip(self.counts, given)]
        return max(given)

    def until(self) -> int | None:
        ends = [(window + 1) * length for (window, units), (_, length) in zip(self.counts, self.rules) if units]
        return max(ends, default=None)


class Gcra(Model):
    """A bucket a rule, which holds `limit` units and leaks them evenly in one window; exact fractions of a millisecond."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.empty_at = [Fraction(0)] * len(rules)

    def level(self, at: int, now: int) -> Fraction:
        """How long what is in the bucket takes to leak."""
        return max(Fraction(0), self.empty_at[at] - now)

    def unit(self, at: int) -> Fraction:
        return Fraction(self.rules[at][1], self.rules[at][0])

    def dated(self, now: int) -> bool:
        full = [Fraction(now + window) for _, window in self.rules]
        ahead = any(empty > most for empty, most in zip(self.empty_at, full))
        self.empty_at = [min(empty, most) for empty, most in zip(self.empty_at, full)]
        return ahead

    def used(self, at: int, now: int) -> int:
        return ceil(self.level(at, now) / self.unit(at))

    def room(self, at: int, now: int) -> int:
        return floor((self.rules[at][1] - self.level(at, now)) / self.unit(at))

    def retry(self, at: int, units: int, now: int) -> int:
        return ceil(self.level(at, now) + units * self.unit(at) - self.rules[at][1])

    def reset(self, at: int, units: int, now: int) -> int:
        return ceil(self.level(at, now) + units * self.unit(at))

    def take(self, units: int, now: int) -> None:
        self.empty_at = [now + self.level(at, now) + units * self.unit(at) for at in range(len(self.rules))]

    def refund(self, units: int, now: int) -> int:
        most = 0
        for at in range(len(self.rules)):
            given = min(units, self.used(at, now))
            self.empty_at[at] -= min(self.level(at, now), given * self.unit(at))
            most = max(most, given)
        return most

    def until(self) -> int | None:
        end = max(ceil(empty) for empty in self.empty_at)
        return end or None


MODELS: dict[str, type[Model]] = {"SLIDING": Sliding, "FIXED": Fixed, "GCRA": Gcra}


class Cell:
    """One key of CL.THROTTLE: redis-cell's arithmetic in nanoseconds, with the differences that its page lists."""

    MS, S = 10**6, 10**9

    def __init__(self) -> None:
        self.empty_at: int | None = None
        self.tolerance = 0

    def until(self) -> int | None:
        return None if self.empty_at is None else -(-self.empty_at // self.MS)

    def throttle(self, burst: int, count: int, period: int, quantity: int, now_ms: int) -> list[int]:
        now, interval = now_ms * self.MS, period * self.S // count
        tolerance, wanted = interval * (burst + 1), interval * quantity
        empty_at = self.empty_at
        if empty_at is not None and empty_at - now > self.tolerance:
            empty_at = now + self.tolerance
            if quantity:
                self.empty_at = empty_at
        filled = max(now, empty_at or 0)
        too_much = filled + wanted - now - tolerance
        limited = too_much > 0
        if not limited:
            filled += wanted
            if quantity:
                self.empty_at, self.tolerance = filled, tolerance
        left = max(0, (tolerance - (filled - now)) // interval)
        retry = -(-too_much // self.S) if limited and wanted <= tolerance else -1
        reset = -(-((filled - now) // self.MS) // 1000)
        return [int(limited), burst + 1, left, retry, reset]


def flat(rules: Sequence[tuple[int, int]]) -> list[int]:
    return [number for rule in rules for number in rule]
