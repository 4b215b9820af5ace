"""What waiting costs: no processor time while nothing happens, and no memory when it is over."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import Herd, Server, eventually

LONG = 600_000
COUNT = 10_000
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Effort:
    """What a process did within a while."""

    cpu_s: float
    wakes: int


def effort(server: Server, seconds: float) -> Effort:
    """What the server does if it is left alone so long."""

    def read() -> tuple[int, int]:
        process = Path(f"/proc/{server.pid}")
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        return int(fields[11]) + int(fields[12]), int(status["voluntary_ctxt_switches"])

    ticks, wakes = read()
    time.sleep(seconds)  # the measured while itself
    ticks_after, wakes_after = read()
    return Effort((ticks_after - ticks) / TICKS_PER_SECOND, wakes_after - wakes)


def waiters(server: Server) -> int:
    return int(server.stats()["waiters"])


def await_waiters(server: Server, count: int) -> None:
    eventually(lambda: waiters(server) == count, timeout=60, message=lambda: f"{count} wait, not {server.stats()}")


def quiet(server: Server) -> None:
    """Returns when the server has done what the arrival of many clients left to do."""
    eventually(lambda: effort(server, 0.5).cpu_s <= 0.05, timeout=60, message="the server calms down")


def assert_no_more_than(parked: Effort, idle: Effort) -> None:
    assert parked.cpu_s <= idle.cpu_s * 1.5 + 0.06, f"{parked} with waiters, {idle} with idle connections"
    assert parked.wakes <= idle.wakes * 1.2 + 20, f"{parked} with waiters, {idle} with idle connections"


def test_ten_thousand_waiters_cost_no_more_than_idle_connections(server: Server) -> None:
    with server.herd(COUNT) as herd:
        quiet(server)
        idle = effort(server, 2)
        herd.send_each([("CACHE.GETSM", "key", "WAIT", LONG + i, "LEASE", LONG) for i in range(COUNT)])
        await_waiters(server, COUNT - 1)
        quiet(server)
        assert_no_more_than(effort(server, 2), idle)
        assert waiters(server) == COUNT - 1


def test_waiters_on_ten_thousand_keys_cost_no_more_than_idle_connections(server: Server) -> None:
    with server.herd(COUNT) as herd:
        quiet(server)
        idle = effort(server, 2)
        holder = server.raw(timeout=60)
        holder.pipeline([("CACHE.GETSM", f"key:{i}", "LEASE", LONG + i) for i in range(COUNT)])
        herd.send_each([("CACHE.GETSM", f"key:{i}", "WAIT", LONG + i) for i in range(COUNT)])
        await_waiters(server, COUNT)
        quiet(server)
        assert_no_more_than(effort(server, 2), idle)
        assert waiters(server) == COUNT


def test_a_server_goes_back_to_rest_after_answering(server: Server) -> None:
    """Nothing that answering set in motion, such as a timer for the next slice, goes on when all have been answered."""
    with server.herd(COUNT) as herd:
        quiet(server)
        idle = effort(server, 2)
        herd.send("CACHE.GETSM", "key", "WAIT", LONG)
        await_waiters(server, COUNT - 1)
        server.call("CACHE.SETSM", "key", "value", LONG)
        herd.collect(60)
        quiet(server)
        assert_no_more_than(effort(server, 2), idle)


# Memory. The server has two clients of its own for each client that a module parks, 16 KB and more each, and frees
# them fifty at a time some ten times a second. So here few wait at once, and often.

AT_ONCE = 500
TIMES = 20
# A few of those clients that the server keeps, and what its own tables grow by.
SLACK_BYTES = 160 * 1024


def used_memory(server: Server) -> int:
    """With nobody connected but who asks, nothing stored, and when it falls no more."""
    server.close_clients()
    server.call("FLUSHALL")
    eventually(lambda: server.info("clients")["connected_clients"] == 1, timeout=60)
    stats = server.stats()
    assert (stats["waiters"], stats["panics"]) == (0, 0), stats
    assert server.info("clients")["blocked_clients"] == 0
    seen: list[int] = []

    def is_stable() -> bool:
        seen.append(int(server.info("memory")["used_memory"]))
        return len(seen) > 15 and min(seen[-15:]) >= seen[-15]

    eventually(is_stable, timeout=120, interval=0.05)
    return seen[-1]


def assert_nothing_is_left(server: Server, use: Callable[[], None], slack: int = SLACK_BYTES) -> None:
    """Memory is after the second use what it was after the first, in which tables grow that stay."""
    use()
    start = used_memory(server)
    use()
    now = used_memory(server)
    assert now <= start + slack, f"used_memory was {start} and is {now}, {now - start:+} bytes"


# Ways in which waits end. Each is given the herd, of which all but the holder wait for "key", and answers them.


def by_a_value(server: Server, herd: Herd) -> None:
    server.call("CACHE.SETSM", "key", "v" * 1_000, LONG)


def by_a_string(server: Server, herd: Herd) -> None:
    server.call("SET", "key", "v" * 1_000)


def by_another_type(server: Server, herd: Herd) -> None:
    server.call("RPUSH", "key", "v")


def by_an_operator(server: Server, herd: Herd) -> None:
    ways = ["TIMEOUT", "ERROR"]
    with server.raw(timeout=60) as control:
        control.pipeline([("CLIENT", "UNBLOCK", each, ways[i % 2]) for i, each in enumerate(herd.client_ids)])


def by_handing_over(server: Server, herd: Herd) -> None:
    # As often as it takes: of several in one turn all go to the oldest, who has not heard of any yet.
    with server.raw(timeout=60) as control:
        while server.stats()["waiters"]:
            control.call("DEL", "key")


WAYS = [by_a_value, by_a_string, by_another_type, by_an_operator, by_handing_over]


@pytest.mark.parametrize("end", WAYS, ids=lambda end: end.__name__)
def test_ten_thousand_waits_leave_no_memory_behind(server: Server, end: Callable[[Server, Herd], None]) -> None:
    def use() -> None:
        with server.herd(AT_ONCE) as herd:
            for _ in range(TIMES):
                herd.send("CACHE.GETSM", "key", "WAIT", LONG, "LEASE", LONG)
                await_waiters(server, AT_ONCE - 1)
                end(server, herd)
                herd.collect(60)
                server.call("FLUSHALL")
                eventually(lambda: server.stats()["leases"] == 0)

    assert_nothing_is_left(server, use)


def test_waits_that_time_out_leave_no_memory_behind(server: Server) -> None:
    def use() -> None:
        assert server.raw().call("CACHE.GETSM", "key", "LEASE", LONG) is None
        with server.herd(AT_ONCE) as herd:
            for _ in range(TIMES):
                herd.send("CACHE.GETSM", "key", "WAIT", 20, "LEASE", LONG)
                herd.collect(60)

    assert_nothing_is_left(server, use)


@pytest.mark.parametrize("who", ["client", "server"])
def test_waiters_that_go_away_leave_no_memory_behind(server: Server, who: str) -> None:
    """They come, wait and are gone again, without ever having been answered."""

    def use() -> None:
        holder = server.raw()
        assert holder.call("CACHE.GETSM", "key", "LEASE", LONG) is None
        for _ in range(TIMES):
            with server.herd(AT_ONCE) as herd:
                herd.send("CACHE.GETSM", "key", "WAIT", LONG)
                await_waiters(server, AT_ONCE)
                if who == "server":
                    server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await_waiters(server, 0)
            assert server.stats()["leases"] == 1

    assert_nothing_is_left(server, use)


def test_a_hundred_thousand_waits_leave_no_memory_behind(server: Server) -> None:
    """On the same connections, for ten keys, of which each has its own way of ending."""
    names = [f"key:{index % 10}" for index in range(AT_ONCE)]

    def use() -> None:
        with server.herd(AT_ONCE) as herd, server.raw(timeout=60) as control:
            unblocked = herd.client_ids[8::10] + herd.client_ids[9::10]
            for _ in range(100_000 // AT_ONCE // 2):
                control.pipeline([("CACHE.GETSM", name, "LEASE", LONG) for name in names[:10]])
                herd.send_each([("CACHE.GETSM", name, "WAIT", LONG, "LEASE", LONG) for name in names])
                await_waiters(server, AT_ONCE)
                control.pipeline([("CACHE.SETSM", name, "v" * 100, LONG) for name in names[:4]])
                control.pipeline([("SET", name, "v" * 100) for name in names[4:6]])
                control.pipeline([("RPUSH", name, "v") for name in names[6:8]])
                unblocks = control.pipeline([("CLIENT", "UNBLOCK", each, "ERROR") for each in unblocked])
                assert set(unblocks) == {1}
                herd.collect(60)
                server.call("FLUSHALL")
                eventually(lambda: server.stats()["leases"] == 0)

    before = server.stats()["waits"]
    assert_nothing_is_left(server, use)
    assert server.stats()["waits"] - before == 100_000


def test_ten_thousand_at_once_leave_no_memory_behind(server: Server) -> None:
    start = used_memory(server)
    with server.herd(COUNT) as herd:
        herd.send("CACHE.GETSM", "key", "WAIT", LONG)
        await_waiters(server, COUNT - 1)
        by_a_value(server, herd)
        herd.collect(60)
    now = used_memory(server)
    assert now <= start + (1 << 20), f"used_memory was {start} and is {now}"
