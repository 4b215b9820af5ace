"""The wall clock is set while callers wait: no wait, lease, line or sweep takes longer for it.

The server keeps the timers of modules by the wall clock. Small steps come again and again, so that a timer that is late by
each of them would never fire.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness import Clock, RawClient, Server, eventually, is_error
from harness.line import LONG
from harness.tags import fill

HOUR = 3_600_000
SHORT = 400
DEADLINE_S = 20
STEPS = {
    "an hour back": [-HOUR],
    "two seconds back, again and again": [-2_000] * 200,
    "an hour on": [HOUR],
    "on and back": [HOUR, -HOUR] * 100,
}


@pytest.fixture
def clock() -> Iterator[Clock]:
    with Clock() as clock:
        yield clock


@pytest.fixture
def moved(clock: Clock) -> Iterator[Server]:
    with Server(env=clock.env) as server:
        yield server


def step_until(clock: Clock, steps: list[int], is_done: Callable[[], bool]) -> None:
    """Makes the steps, a tenth of a second apart, until it is done; fails if that takes too long."""
    deadline = time.monotonic() + DEADLINE_S
    left = iter(steps)
    while not is_done():
        assert time.monotonic() < deadline, "it takes as long as the clock was put back"
        clock.step(next(left, 0))
        until = min(deadline, time.monotonic() + 0.1)
        while time.monotonic() < until and not is_done():
            time.sleep(0.005)


def answered(client: RawClient) -> Callable[[], bool]:
    return lambda: client.has_reply()


def park(server: Server, stat: str, *command: Any, protocol: int = 2) -> RawClient:
    client = server.raw(protocol)
    before = server.stats()[stat]
    client.send(*command)
    eventually(lambda: server.stats()[stat] == before + 1, 10, lambda: f"{command} waits")
    return client


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_a_lease_ends_and_the_next_in_line_takes_over(moved: Server, clock: Clock, steps: list[int]) -> None:
    assert moved.call("CACHE.GETSM", "k", "LEASE", SHORT, "META")[0] == b"won"
    waiter = park(moved, "waiters", "CACHE.GETSM", "k", "WAIT", LONG, "META")
    step_until(clock, steps, answered(waiter))
    assert waiter.recv()[0] == b"won"


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_a_wait_for_a_value_ends(moved: Server, clock: Clock, steps: list[int]) -> None:
    assert moved.call("CACHE.GETSM", "k", "LEASE", LONG, "META")[0] == b"won"
    waiter = park(moved, "waiters", "CACHE.GETSM", "k", "WAIT", SHORT)
    step_until(clock, steps, answered(waiter))
    reply = waiter.recv()
    assert is_error(reply) and reply.text.startswith("LEASED"), reply


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_a_wait_for_several_values_ends(moved: Server, clock: Clock, steps: list[int]) -> None:
    for key in ("a", "b"):
        assert moved.call("CACHE.GETSM", key, "LEASE", LONG, "META")[0] == b"won"
    waiter = park(moved, "waiters", "CACHE.MGETSM", 2, "a", "b", "WAIT", SHORT)
    step_until(clock, steps, answered(waiter))
    assert [row[0] for row in waiter.recv()] == [b"leased"] * 2


@pytest.mark.parametrize("steps", [[-HOUR], [-2_000] * 200], ids=list(STEPS)[:2])
def test_a_wait_for_a_lock_ends(moved: Server, clock: Clock, steps: list[int]) -> None:
    assert isinstance(moved.call("CACHE.LOCK", "k", "a", LONG), int)
    waiter = park(moved, "lock_waiters", "CACHE.LOCK", "k", "b", LONG, "WAIT", SHORT)
    step_until(clock, steps, answered(waiter))
    assert waiter.recv() is None


@pytest.mark.parametrize("steps", [[-HOUR], [-2_000] * 200], ids=list(STEPS)[:2])
def test_a_wait_for_a_limit_ends(moved: Server, clock: Clock, steps: list[int]) -> None:
    assert moved.call("CACHE.RATELIMIT", "k", 1, LONG)[0] == 1
    waiter = park(moved, "limits_waiting", "CACHE.RATELIMIT", "k", 1, LONG, "WAIT", SHORT)
    step_until(clock, steps, answered(waiter))
    assert waiter.recv()[0] == 0


def test_a_lock_is_handed_over_when_its_key_goes_though_the_clock_was_put_on(moved: Server, clock: Clock) -> None:
    assert isinstance(moved.call("CACHE.LOCK", "k", "a", HOUR), int)
    waiter = park(moved, "lock_waiters", "CACHE.LOCK", "k", "b", LONG, "WAIT", LONG)
    step_until(clock, [HOUR + 1_000], answered(waiter))
    assert isinstance(waiter.recv(), int)


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_entries_that_were_invalidated_are_swept(moved: Server, clock: Clock, steps: list[int]) -> None:
    moved.call("CONFIG", "SET", "cacheguard.sweep-cpu-percent", 1)
    client = moved.raw()
    fill(client, 5_000, "t")
    assert client.call("CACHE.INVALIDATE", "t") == 5_000
    step_until(clock, steps, lambda: moved.stats()["sweep_backlog"] == 0)
    eventually(lambda: moved.call("DBSIZE") == 0)


def test_a_step_ends_no_lease_early(moved: Server, clock: Clock) -> None:
    assert moved.call("CACHE.GETSM", "k", "LEASE", LONG, "META")[0] == b"won"
    marker = park(moved, "waiters", "CACHE.GETSM", "k", "WAIT", SHORT)
    step_until(clock, STEPS["on and back"], answered(marker))
    assert moved.stats()["leases"] == 1 and moved.stats()["leases_expired"] == 0
