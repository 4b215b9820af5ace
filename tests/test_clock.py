"""The harness's clock: servers see the time that a test gives them."""

from collections.abc import Iterator

import pytest

from harness import Clock, Server, eventually

HOUR = 3_600_000


@pytest.fixture
def clock() -> Iterator[Clock]:
    with Clock() as clock:
        yield clock


@pytest.fixture
def moved(clock: Clock) -> Iterator[Server]:
    with Server(env=clock.env) as server:
        yield server


def told_ms(server: Server) -> int:
    seconds, micros = server.call("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


def agrees(server: Server, clock: Clock) -> bool:
    before = clock.now_ms()
    return before <= told_ms(server) <= clock.now_ms()


def test_a_step_moves_the_wall_clock(moved: Server, clock: Clock) -> None:
    eventually(lambda: agrees(moved, clock))
    for ms in (HOUR, -2 * HOUR, 1):
        clock.step(ms)
        moved.call("PING")
        eventually(lambda: agrees(moved, clock))


def test_a_clock_that_is_held_stands_still_until_it_is_moved(moved: Server, clock: Clock) -> None:
    clock.hold()
    at = clock.now_ms()
    moved.call("SET", "k", "v", "PXAT", at + 10)
    assert [moved.call("PTTL", "k") for _ in range(5)] == [10] * 5
    clock.step(4)
    assert clock.now_ms() == at + 4 and moved.call("PTTL", "k") == 6
    clock.step(7)  # a server keeps a key through its last millisecond
    assert moved.call("PTTL", "k") == -2
    clock.run()
    eventually(lambda: agrees(moved, clock))


def test_a_step_of_the_wall_clock_leaves_the_monotonic_one_alone(moved: Server, clock: Clock) -> None:
    holder, waiter = moved.raw(), moved.raw()
    holder.call("CACHE.GETSM", "k", "LEASE", HOUR)
    waiter.send("CACHE.GETSM", "k", "WAIT", HOUR // 2)
    eventually(lambda: moved.stats()["waiters"] == 1)
    clock.step(2 * HOUR)
    for _ in range(3):
        moved.call("PING")
    assert moved.stats()["waiters"] == 1 and not waiter.has_reply()
    clock.pass_ms(HOUR // 2)
    assert waiter.recv().startswith("LEASED")
