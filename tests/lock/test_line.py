"""The line before a lock: who comes first is first, and who leaves it costs the next one nothing."""

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from harness import Herd, RawClient, Server, eventually, is_error
from harness.line import LONG, in_line, info, owners, stand_in_line, until_in_line
from harness.raw import encode

Connect = Callable[..., RawClient]
CROWD = 500


def fence(server: Server) -> None:
    """Returns when the server has handled what was sent before, on whatever connection."""
    for _ in range(2):
        assert server.call("PING") == b"PONG"


def queue_up(server: Server, herd: Herd, ttl: int = LONG, wait: Callable[[int], int] = lambda _: LONG) -> None:
    """One after the other, so that the order of the line is that of the herd."""
    for index, member in enumerate(herd.members):
        herd._write(member, encode("CACHE.LOCK", "k", f"owner {index}", ttl, "WAIT", wait(index)))
        if index % 10 == 9:
            fence(server)


def next_answer(herd: Herd, known: dict[int, Any]) -> list[int]:
    """Waits for one more answer at least; the places of those that came."""
    answers = {index: answer.reply for index, answer in enumerate(herd.collect(20, 1)) if answer is not None}
    known |= answers
    return list(answers)


def test_five_hundred_are_granted_in_the_order_of_their_arrival(server: Server) -> None:
    server.call("CACHE.LOCK", "k", "first", LONG)
    with server.herd(CROWD) as herd:
        queue_up(server, herd)
        until_in_line(server, CROWD)
        holder, fences = "first", [info(server)[b"last_fence"]]
        for index in range(CROWD):
            assert server.call("CACHE.UNLOCK", "k", holder) == 1
            granted: dict[int, Any] = {}
            assert next_answer(herd, granted) == [index]
            holder = f"owner {index}"
            fences.append(granted[index])
            assert owners(server) == [holder.encode()]
        assert fences == sorted(set(fences))
        assert server.call("CACHE.UNLOCK", "k", holder) == 1
    assert server.call("EXISTS", "k") == 0 and in_line(server) == 0


def test_those_who_leave_cost_the_next_one_nothing(server: Server) -> None:
    """Of 500 a third is killed, closes its connection, or waits too short; the rest keeps its order."""
    rng = random.Random(1)
    fates = [rng.choice(["stay", "stay", "stay", "stay", "kill", "close", "time out"]) for _ in range(CROWD)]
    server.call("CACHE.LOCK", "k", "first", LONG)
    with server.herd(CROWD) as herd:
        queue_up(server, herd, wait=lambda index: 300 if fates[index] == "time out" else LONG)
        for index, fate in enumerate(fates):
            if fate == "kill":
                assert server.call("CLIENT", "KILL", "ID", herd.client_ids[index]) == 1
        herd.close([index for index, fate in enumerate(fates) if fate == "close"])
        staying = [index for index, fate in enumerate(fates) if fate == "stay"]
        until_in_line(server, len(staying))
        gone = herd.collect(20, sum(fate in ("kill", "time out") for fate in fates))
        assert all(gone[index].reply is None for index, fate in enumerate(fates) if fate == "time out")
        herd.close([index for index, fate in enumerate(fates) if fate == "kill"])
        holder = "first"
        for index in staying:
            start = time.monotonic()
            assert server.call("CACHE.UNLOCK", "k", holder) == 1
            assert owners(server) == [f"owner {index}".encode()], "in the same turn"
            assert next_answer(herd, {}) == [index]
            holder = f"owner {index}"
            assert time.monotonic() - start < 20
        assert server.call("CACHE.UNLOCK", "k", holder) == 1
    assert server.call("EXISTS", "k") == 0 and in_line(server) == 0


def test_a_line_of_leaving_holders_moves_up(server: Server, connect: Connect) -> None:
    """Each is granted the lock for a few milliseconds and is never heard of again."""
    server.call("CACHE.LOCK", "k", "first", 20)
    with server.herd(50) as herd:
        queue_up(server, herd, ttl=5)
        answers = [answer.reply for answer in herd.collect(20)]
        assert answers == sorted(answers) and all(answers)
    eventually(lambda: server.call("EXISTS", "k") == 0)


def test_one_that_is_gone_when_its_turn_comes_is_passed_over(server: Server, connect: Connect) -> None:
    """It is granted and killed in one turn of the server: nobody hears of that grant."""
    holder = connect()
    holder.call("CACHE.LOCK", "k", "holder", LONG)
    gone, heir = (stand_in_line(server, connect(), owner) for owner in ("gone", "heir"))
    commands = [("MULTI",), ("CACHE.UNLOCK", "k", "holder"), ("CLIENT", "KILL", "ID", gone.client_id), ("EXEC",)]
    assert holder.pipeline(commands)[-1] == [1, 1]
    assert heir.recv() > 0
    assert owners(server) == [b"heir"]


def test_one_that_is_unblocked_when_its_turn_comes_is_told(server: Server, connect: Connect) -> None:
    holder = connect()
    holder.call("CACHE.LOCK", "k", "holder", LONG)
    waiter, heir = (stand_in_line(server, connect(), owner) for owner in ("waiter", "heir"))
    commands = [("MULTI",), ("CACHE.UNLOCK", "k", "holder"), ("CLIENT", "UNBLOCK", waiter.client_id), ("EXEC",)]
    assert holder.pipeline(commands)[-1][0] == 1
    reply = waiter.recv()
    if reply is None:
        assert heir.recv() > 0
    else:
        assert reply > 0 and owners(server) == [b"waiter"] and not heir.has_reply()


def test_fifty_locks_move_at_once(server: Server, connect: Connect) -> None:
    """Deadlines of many locks that fall into one moment, each with a line of its own."""
    with server.herd(150) as herd:
        for key in range(50):
            server.call("CACHE.LOCK", f"k{key}", "holder", 300)
        herd.send_each([("CACHE.LOCK", f"k{i % 50}", i, 20, "WAIT", LONG) for i in range(150)])
        until_in_line(server, 150)
        fences = [answer.reply for answer in herd.collect(30)]
        assert all(fences) and len(set(fences)) == 150
    eventually(lambda: server.call("DBSIZE") == 0)


# Clients that write down when they held the lock


def hold_in_turn(address: Any, name: str, rounds: int, seed: int, options: list[Any], pipe: Any) -> None:
    """Locks, notes when it held the lock, and unlocks; sometimes it forgets to."""
    rng, intervals = random.Random(seed), []
    with RawClient(address, timeout=60) as client:
        for number in range(rounds):
            owner, forgets = f"{name}.{number}", rng.random() < 0.1
            mode = rng.choice(options)
            asked = time.monotonic()
            fence = client.call("CACHE.LOCK", "k", owner, 15 if forgets else LONG, "WAIT", LONG, *mode)
            start = time.monotonic()
            if rng.random() < 0.2:
                time.sleep(rng.random() / 1000)
            end = asked + 0.013 if forgets else time.monotonic()  # the server counts in whole milliseconds
            if not forgets:
                assert client.call("CACHE.UNLOCK", "k", owner) == 1
            intervals.append((start, max(start, end), fence, list(mode)))
    pipe.send(intervals)


@contextmanager
def processes(server: Server, count: int, rounds: int, options: list[Any]) -> Iterator[list[Any]]:
    pipes, started = [], []
    for index in range(count):
        ours, theirs = multiprocessing.Pipe()
        arguments = (server.socket_path, f"p{index}", rounds, index, options, theirs)
        process = multiprocessing.get_context("fork").Process(target=hold_in_turn, args=arguments, daemon=True)
        process.start()
        pipes.append(ours)
        started.append(process)
    try:
        found = []
        for pipe in pipes:
            assert pipe.poll(50), "a client is stuck"
            found += pipe.recv()
        yield found
    finally:
        for process in started:
            process.kill()
            process.join()


def most_at_once(intervals: list[tuple[float, float]]) -> int:
    lasting = [(start, end) for start, end in intervals if start < end]
    ends = sorted([(start, 1) for start, _ in lasting] + [(end, -1) for _, end in lasting])
    most = now = 0
    for _, change in ends:
        now += change
        most = max(most, now)
    return most


@pytest.mark.parametrize("options, permits", [([[]], 1), ([["PERMITS", 3]], 3)], ids=["exclusive", "permits"])
def test_what_clients_saw_never_overlaps(server: Server, options: list, permits: int) -> None:
    with processes(server, 8, 60, options) as found:
        assert most_at_once([(start, end) for start, end, _, _ in found]) <= permits
        assert len({fence for _, _, fence, _ in found}) == len(found)
        if permits == 1:
            # Who heard of its grant when the time of it was over cannot say when it began.
            fences = [fence for start, end, fence, _ in sorted(found) if start < end]
            assert fences == sorted(fences), "numbers rise in the order of holding"


def test_readers_and_writers_never_meet_and_both_get_on(server: Server) -> None:
    with processes(server, 8, 60, [[], ["SHARED"], ["SHARED"]]) as found:
        writers = [(start, end) for start, end, _, mode in found if not mode]
        readers = [(start, end) for start, end, _, mode in found if mode]
        assert len(writers) > 50 and len(readers) > 50
        assert most_at_once(writers) == 1
        for start, end in writers:
            met = [first < end and start < last for first, last in readers if first < last and start < end]
            assert not any(met)


def test_a_reader_storm_does_not_starve_a_writer(server: Server, connect: Connect) -> None:
    """Readers that overlap without a gap; the writer is let in by those that were before it."""
    first = connect()
    first.call("CACHE.LOCK", "k", "first", LONG, "SHARED")
    writer = stand_in_line(server, connect(), "writer")
    readers = [connect() for _ in range(20)]
    for number, reader in enumerate(readers):
        reader.send("CACHE.LOCK", "k", number, LONG, "SHARED", "WAIT", LONG)
    first.call("CACHE.UNLOCK", "k", "first")
    assert writer.recv() > 0 and not any(reader.has_reply() for reader in readers)
    assert writer.call("CACHE.UNLOCK", "k", "writer") == 1
    assert all(reader.recv() > 0 for reader in readers)


def test_a_waiter_hears_of_a_full_stop(server: Server, connect: Connect) -> None:
    """SHUTDOWN with a line is clean; the harness fails if the server crashed."""
    with Server(name="one that stops") as other:
        other.call("CACHE.LOCK", "k", "holder", LONG)
        waiter = stand_in_line(other, other.raw(), "waiter")
        other.stop()
        assert waiter.is_closed(within_ms=5_000) or is_error(waiter.recv())
