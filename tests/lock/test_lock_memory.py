"""Whatever happens to a lock, its memory comes back: holders, bonds, waiters, deadlines, and what is yet to be looked at.

The connections live on: what is kept for each lock would add up. The first round makes what grows once and stays.
"""

from collections.abc import Callable, Iterator

import pytest

from harness import Clock, RawClient, Server, eventually
from harness.line import LONG, in_line

COUNT = 400
BYTES_MAX = 50  # for each lock; what a server's own tables and buffers grow by is less
MINUTE = 60_000


class Two:
    """A server whose clocks a test moves, and two connections: one that holds and one that waits."""

    def __init__(self, server: Server, clock: Clock) -> None:
        self.server, self.clock = server, clock
        self.holder, self.waiter = server.raw(timeout=30), server.raw(timeout=30)

    def waits(self, *options: str) -> RawClient:
        self.waiter.send("CACHE.LOCK", "k", "w", LONG, "WAIT", LONG, *options)
        eventually(lambda: in_line(self.server) == 1, timeout=20, interval=0.0002)
        return self.waiter

    def gone(self) -> None:
        self.server.call("DEL", "k")


def times_out(two: Two, owner: str) -> None:
    two.holder.call("CACHE.LOCK", "k", owner, MINUTE, "BIND")
    waiter = two.waits("BIND")
    two.clock.pass_ms(MINUTE)
    two.server.call("PING")
    assert waiter.recv() > 0
    two.gone()


def one_of_several_times_out(two: Two, owner: str) -> None:
    two.holder.call("CACHE.LOCK", "k", owner, MINUTE, "BIND", "PERMITS", 2)
    two.holder.call("CACHE.LOCK", "k", "stays", LONG, "BIND", "PERMITS", 2)
    two.waiter.send("CACHE.LOCK", "k", "w", LONG, "WAIT", LONG, "PERMITS", 2, "BIND")
    eventually(lambda: in_line(two.server) == 1, timeout=20, interval=0.0002)
    two.clock.pass_ms(MINUTE)
    two.server.call("PING")
    assert two.waiter.recv() > 0
    two.gone()


def ends_unseen(two: Two, owner: str) -> None:
    two.holder.call("CACHE.LOCK", "k", owner, MINUTE, "BIND", "SHARED")
    two.holder.call("CACHE.LOCK", "k", f"{owner} too", MINUTE, "BIND", "SHARED")
    two.clock.pass_ms(MINUTE)
    assert two.holder.call("CACHE.LOCK", "k", "next", MINUTE) > 0
    two.gone()


def is_given_up(two: Two, owner: str) -> None:
    two.holder.call("CACHE.LOCK", "k", owner, MINUTE, "BIND")
    waiter = two.waits("BIND")
    two.holder.call("CACHE.UNLOCK", "k", owner)
    assert waiter.recv() > 0 and waiter.call("CACHE.UNLOCK", "k", "w") == 1


def is_taken_over(two: Two, owner: str) -> None:
    """The same owner asks on another connection, bound and then not, with a higher number."""
    fence = two.holder.call("CACHE.LOCK", "k", owner, MINUTE, "BIND")
    two.waiter.call("CACHE.LOCK", "k", owner, MINUTE, "BIND", "FENCE", fence + 1)
    two.holder.call("CACHE.EXTEND", "k", owner, MINUTE)
    two.holder.call("CACHE.LOCK", "k", owner, MINUTE)
    two.gone()


def is_renamed(two: Two, owner: str) -> None:
    two.holder.call("CACHE.LOCK", "k", owner, MINUTE, "BIND")
    two.holder.call("RENAME", "k", "away")
    two.holder.call("COPY", "away", "k")
    two.holder.call("CACHE.EXTEND", "away", owner, MINUTE)
    two.holder.call("DEL", "k", "away")


def is_overwritten(two: Two, owner: str) -> None:
    two.holder.call("CACHE.LOCK", "k", owner, MINUTE, "BIND")
    waiter = two.waits()
    two.holder.call("SET", "k", "v")
    assert waiter.recv().startswith("WRONGTYPE")
    two.gone()


def is_flushed(two: Two, owner: str) -> None:
    two.holder.call("CACHE.LOCK", "k", owner, MINUTE, "BIND")
    waiter = two.waits("BIND")
    two.holder.call("FLUSHALL")
    assert waiter.recv() > 0
    two.gone()


def is_swapped(two: Two, owner: str) -> None:
    two.holder.call("CACHE.LOCK", "k", owner, MINUTE, "BIND")
    two.holder.call("SWAPDB", 0, 1)
    two.holder.call("SWAPDB", 0, 1)
    two.gone()


def waits_in_vain(two: Two, owner: str) -> None:
    two.holder.call("CACHE.LOCK", "k", owner, LONG, "BIND")
    two.waiter.send("CACHE.LOCK", "k", "w", LONG, "WAIT", MINUTE)
    eventually(lambda: in_line(two.server) == 1, timeout=20, interval=0.0002)
    two.clock.pass_ms(MINUTE)
    two.server.call("PING")
    assert two.waiter.recv() is None
    two.gone()


def is_unblocked(two: Two, owner: str) -> None:
    two.holder.call("CACHE.LOCK", "k", owner, LONG, "BIND")
    waiter = two.waits("BIND")
    assert two.holder.call("CLIENT", "UNBLOCK", waiter.client_id) == 1
    assert waiter.recv() is None
    two.gone()


FATES: list[Callable[[Two, str], None]] = [
    times_out,
    one_of_several_times_out,
    ends_unseen,
    is_given_up,
    is_taken_over,
    is_renamed,
    is_overwritten,
    is_flushed,
    is_swapped,
    waits_in_vain,
    is_unblocked,
]


@pytest.fixture(scope="module")
def moved() -> Iterator[tuple[Server, Clock]]:
    with Clock() as clock, Server(env=clock.env) as server:
        yield server, clock


def settled_memory(server: Server) -> int:
    """When the server has given back the clients that it keeps for those who waited."""
    seen: list[int] = []

    def is_stable() -> bool:
        seen.append(server.info("memory")["used_memory"])
        return len(seen) > 10 and max(seen[-10:]) - min(seen[-10:]) < 1_000

    eventually(is_stable, timeout=30, interval=0.05)
    return min(seen[-10:])


@pytest.mark.parametrize("fate", FATES, ids=lambda fate: fate.__name__)
def test_nothing_is_left_of_a_lock(moved: tuple[Server, Clock], fate: Callable[[Two, str], None]) -> None:
    server, clock = moved
    server.close_clients()
    server.call("CLIENT", "KILL", "TYPE", "normal")
    server.call("FLUSHALL")
    two = Two(server, clock)

    def use(count: int, first: int) -> int:
        for number in range(first, first + count):
            fate(two, f"{number:032}")
        assert server.call("DBSIZE") == 0 and in_line(server) == 0
        return settled_memory(server)

    before = use(COUNT // 4, 0)
    left = use(COUNT, COUNT) - before
    assert left < COUNT * BYTES_MAX, f"{left / COUNT:.0f} bytes are left of each lock"


def test_a_crowd_of_holders_gives_its_room_back(moved: tuple[Server, Clock]) -> None:
    """A semaphore that was held by thousands is held by one."""
    server, _ = moved
    client = server.raw(timeout=60)
    crowd = 3_000
    client.pipeline([("CACHE.LOCK", "k", f"{number:032}", LONG, "SHARED") for number in range(crowd)], timeout=60)
    full = client.call("MEMORY", "USAGE", "k")
    client.pipeline([("CACHE.UNLOCK", "k", f"{number:032}") for number in range(1, crowd)], timeout=60)
    assert client.call("MEMORY", "USAGE", "k") < full / 50
    client.call("DEL", "k")
