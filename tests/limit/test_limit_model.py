"""RATELIMIT, REFUND, their looks and CL.THROTTLE beside exact models, on a server whose clock is held by the test.

Every integer of every reply must agree; a replica by another clock must hold the same bytes; who is refused must be refused
one millisecond before the time it is told, and allowed at it. `pytest -m soak` does the same for longer.
"""

import os
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from harness import Clock, RawClient, Server, as_map
from harness.limit_model import MODELS, Cell, Model, Rules, flat

START = 1_800_000_000_123
limits = st.one_of(st.integers(1, 6), st.integers(1, 40), st.integers(1, 5_000))
windows = st.one_of(st.integers(1, 30), st.integers(1, 1_000), st.integers(1, 10**7))
rule_sets = st.lists(st.tuples(limits, windows), min_size=1, max_size=4).map(tuple)
units = st.one_of(st.just(1), st.just(1), st.integers(1, 5), st.integers(1, 6_000))


class ClockMachine(RuleBasedStateMachine):
    """`clock`, `client` and `replica` are set by the test."""

    clock: ClassVar[Clock]
    client: ClassVar[RawClient]
    replica: ClassVar[RawClient]
    now: int

    def __init__(self) -> None:
        super().__init__()
        self.client.call("FLUSHALL")
        self.set_clock(START)

    def until(self) -> int | None:
        raise NotImplementedError

    def gone(self) -> None:
        raise NotImplementedError

    def set_clock(self, now: int) -> None:
        """A key whose time has passed goes when somebody looks."""
        self.now = now
        self.clock.step(now - self.clock.now_ms())
        self.client.call("EXISTS", "k")
        until = self.until()
        if until is not None and now > until:
            self.gone()

    @invariant()
    def the_replica_holds_the_same(self) -> None:
        self.client.call("WAIT", 1, 10_000)
        seen = [(each.call("DEBUG", "DIGEST-VALUE", "k"), each.call("PEXPIRETIME", "k")) for each in (self.client, self.replica)]
        assert seen[0] == seen[1]


class LimitMachine(ClockMachine):
    """One key; `algorithm` is set by the test. Only a log can be weighed exactly under rules that change."""

    algorithm: ClassVar[str]
    model: Model | None = None
    sets: list[Rules]

    @initialize(sets=st.lists(rule_sets, min_size=1, max_size=3))
    def choose(self, sets: list[Rules]) -> None:
        self.sets = sets if self.algorithm == "SLIDING" else sets[:1]

    def until(self) -> int | None:
        return self.model.until() if self.model else None

    def gone(self) -> None:
        self.model = None

    @rule(data=st.data())
    def time_passes(self, data: st.DataObject) -> None:
        window = data.draw(st.sampled_from([window for rules in self.sets for _, window in rules]))
        self.set_clock(self.now + data.draw(st.one_of(st.integers(0, 3), st.integers(0, window), st.integers(0, 3 * window))))

    @precondition(lambda self: self.model is not None)
    @rule(data=st.data())
    def time_steps_back(self, data: st.DataObject) -> None:
        window = data.draw(st.sampled_from([window for rules in self.sets for _, window in rules]))
        self.set_clock(self.now - data.draw(st.one_of(st.integers(1, 3), st.integers(1, 3 * window))))

    def dated(self, rules: Rules) -> tuple[Model, bool]:
        """The state that a decision finds, and whether the clock had stepped back behind it."""
        model = deepcopy(self.model) if self.model else MODELS[self.algorithm](rules)
        stepped = model.dated(self.now)
        return model.under(rules), stepped

    def words(self, rules: Rules, count: int, partial: bool) -> list[Any]:
        return ["k", *flat(rules), "COST", count, "ALGORITHM", self.algorithm, *(["PARTIAL"] if partial else [])]

    @rule(data=st.data(), count=units, partial=st.booleans())
    def ask(self, data: st.DataObject, count: int, partial: bool) -> None:
        rules = data.draw(st.sampled_from(self.sets))
        model, stepped = self.dated(rules)
        verdict = model.ask(count, partial, self.now)
        words = self.words(rules, count, partial)
        assert self.client.call("CACHE.RATELIMIT_RO", *words) == verdict
        assert self.client.call("CACHE.RATELIMIT", *words, "PEEK") == verdict
        assert self.client.call("CACHE.RATELIMIT", *words) == verdict
        if verdict[0]:
            model.take(verdict[0], self.now)
            self.model = model
        elif stepped:
            self.model.dated(self.now)
        # A key lives as long as its own rules reach: under others it may be gone before their time.
        if verdict[0] == 0 and verdict[3] > 0 and self.model and self.model.rules == rules:
            self.refused_before_and_allowed_at(words, self.now + verdict[3])

    def refused_before_and_allowed_at(self, words: list[Any], at: int) -> None:
        now = self.now
        for moment, allowed in ((at - 1, False), (at, True)):
            self.clock.step(moment - self.clock.now_ms())
            assert (self.client.call("CACHE.RATELIMIT_RO", *words)[0] > 0) == allowed
        self.clock.step(now - self.clock.now_ms())

    @rule(count=units)
    def refund(self, count: int) -> None:
        given = 0
        if self.model:
            self.model.dated(self.now)
            given = self.model.refund(count, self.now)
        assert self.client.call("CACHE.REFUND", "k", count) == given
        until = self.until()
        if given and (until is None or until <= self.now):
            self.model = None

    @rule()
    def look(self) -> None:
        told = as_map(self.client.call("CACHE.LIMITINFO", "k"))
        seen = [as_map(each) for each in told[b"rules"]]
        if self.model is None:
            assert (told[b"algorithm"], seen) == (None, [])
        else:
            model = deepcopy(self.model)
            model.dated(self.now)
            assert (told[b"algorithm"], seen) == (self.algorithm.lower().encode(), model.usage(self.now))

    @rule()
    def delete(self) -> None:
        assert self.client.call("DEL", "k") == (self.model is not None)
        self.model = None


class ThrottleMachine(ClockMachine):
    cell: Cell | None = None

    @initialize(
        ways=st.lists(
            st.tuples(
                st.one_of(st.integers(0, 20), st.sampled_from([999_999_998, 999_999_999])),
                st.one_of(st.integers(1, 30), st.sampled_from([7, 10**6, 10**9])),
                st.one_of(st.just(1), st.just(60), st.integers(1, 10**5)),
            ).filter(lambda way: way[2] * 10**9 // way[1] * (way[0] + 1) <= 315_360_000_000 * 10**6),
            min_size=1,
            max_size=2,
        )
    )
    def choose(self, ways: list[tuple[int, int, int]]) -> None:
        self.ways = ways

    def until(self) -> int | None:
        return self.cell.until() if self.cell else None

    def gone(self) -> None:
        self.cell = None

    @rule(data=st.data(), back=st.integers(0, 9))
    def time_goes(self, data: st.DataObject, back: int) -> None:
        _, count, period = data.draw(st.sampled_from(self.ways))
        unit_ms = max(1, period * 1000 // count)
        by = data.draw(st.one_of(st.integers(0, 3), st.integers(0, 3 * unit_ms), st.integers(0, 3_000)))
        self.set_clock(self.now - by if back == 0 else self.now + by)

    @rule(data=st.data(), count=st.one_of(st.just(1), st.integers(0, 3), st.integers(0, 10**9)))
    def ask(self, data: st.DataObject, count: int) -> None:
        burst, rate, period = data.draw(st.sampled_from(self.ways))
        cell = self.cell or Cell()
        assert self.client.call("CL.THROTTLE", "k", burst, rate, period, count) == cell.throttle(
            burst, rate, period, count, self.now
        )
        if cell.empty_at is not None:
            self.cell = cell


@pytest.fixture(scope="module")
def held() -> Iterator[tuple[Clock, Server, Server]]:
    """A primary by a clock that stands, and a replica by one that runs an hour behind."""
    quiet = {"repl-timeout": 1_000_000, "repl-ping-replica-period": 100_000, "hz": 10}
    with Clock() as clock, Clock() as behind, Server(env=clock.env, config=quiet) as primary:
        behind.set_ms(-3_600_000)
        with Server(env=behind.env, config=quiet) as replica:
            replica.replica_of(primary)
            replica.wait_for_sync()
            primary.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
            clock.hold()
            yield clock, primary, replica
            clock.run()


def run(machine: type[ClockMachine], held: tuple[Clock, Server, Server], protocol: int, examples: int, **more: Any) -> None:
    clock, primary, replica = held
    fields = {"clock": clock, "client": primary.raw(protocol), "replica": replica.raw(protocol), **more}
    phases = [Phase.explicit, Phase.generate, Phase.shrink]
    run_state_machine_as_test(
        type(machine.__name__, (machine,), fields),
        settings=settings(max_examples=examples, stateful_step_count=40, phases=phases, database=None),
    )
    primary.assert_alive()


@pytest.mark.parametrize("algorithm", MODELS)
def test_limits_agree_with_the_model(held: tuple[Clock, Server, Server], protocol: int, algorithm: str) -> None:
    run(LimitMachine, held, protocol, 25, algorithm=algorithm)


def test_cl_throttle_agrees_with_the_model(held: tuple[Clock, Server, Server], protocol: int) -> None:
    run(ThrottleMachine, held, protocol, 25)


SOAK_EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "2000"))


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("algorithm", MODELS)
def test_limits_agree_with_the_model_for_long(held: tuple[Clock, Server, Server], algorithm: str) -> None:
    run(LimitMachine, held, 3, SOAK_EXAMPLES, algorithm=algorithm)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_cl_throttle_agrees_with_the_model_for_long(held: tuple[Clock, Server, Server]) -> None:
    run(ThrottleMachine, held, 3, SOAK_EXAMPLES)
