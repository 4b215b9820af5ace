"""The append-only file: what is written to it, what is not, and what a server makes of it later."""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_rdb import HOUR_MS, SAMPLES, fill, lease, read, state, waiters, wall_ms

from harness import RawClient, Server, eventually, is_error
from harness.raw import Incomplete, parse

LOST_NOTHING_AFTER = 4_000
BATCH = 20


def files(server: Server, kind: str) -> list[Path]:
    return sorted((server.dir / "appendonlydir").glob(f"*.{kind}.*"), key=lambda path: int(path.name.split(".")[2]))


def appended(server: Server) -> list[list[bytes]]:
    """The commands in the log since its last rewrite, without SELECT."""
    data, pos, found = b"".join(path.read_bytes() for path in files(server, "incr")), 0, []
    while pos < len(data):
        if data.startswith(b"#", pos):
            pos = data.index(b"\n", pos) + 1
            continue
        try:
            command, pos = parse(data, pos)
        except Incomplete:
            break
        found.append(command)
    return [command for command in found if command[0].upper() != b"SELECT"]


def in_short(command: list[bytes]) -> list[bytes]:
    """Without options that say what holds anyway."""
    head, options = command[:5], command[5:]
    if command[3] == b"PERSIST":
        head, options = command[:4], command[4:]
    return head + [part for pair in zip(options[::2], options[1::2]) if pair[1] != b"0" for part in pair]


def rewrite(server: Server) -> None:
    """BGREWRITEAOF, to its end."""
    done = server.info("persistence").get("aof_rewrites", 0)
    assert b"started" in server.call("BGREWRITEAOF")

    def ended() -> bool:
        info = server.info("persistence")
        return info["aof_rewrite_in_progress"] == info["aof_rewrite_scheduled"] == 0 and info["aof_rewrites"] > done

    eventually(ended, 20)
    assert server.info("persistence")["aof_last_bgrewrite_status"] == "ok"


def wait_until_written(server: Server) -> None:
    """With `everysec` the server holds a write back while the one before is on its way to the disk."""
    eventually(lambda: server.info("persistence")["aof_buffer_length"] == 0)


def change_things(server: Server) -> None:
    """Goes over the samples with commands of the server and of ours."""
    client, key = server.raw(), b"changed "
    for n in range(12):
        client.call("CACHE.SETSM", key + b"%d" % n, b"v%d" % n, HOUR_MS, "STALE", n, "VERSION", n, "COST", n)
    replies = [
        client.call("DEL", key + b"0"),
        client.call("UNLINK", key + b"1"),
        client.call("EXPIRE", key + b"2", 5_000),
        client.call("PERSIST", key + b"3"),
        client.call("RENAME", key + b"4", key + b"5"),
        client.call("COPY", key + b"6", key + b"7", "REPLACE"),
        client.call("MOVE", key + b"8", 1),
        client.call("PEXPIREAT", key + b"9", int(wall_ms()) + 90_000),
        client.call("CACHE.SETSM", key + b"10", "second", "PERSIST", "VERSION", 11),
        client.call("EVAL", "return redis.call('CACHE.SETSM', KEYS[1], 'lua', 60000, 'COST', 5)", 1, key + b"11"),
        client.call("SET", "native", "v", "PX", HOUR_MS),
        client.call("CACHE.SETSM", "native", "ours now", HOUR_MS),
    ]
    assert not [reply for reply in replies if is_error(reply)]
    transaction = [("MULTI",), ("CACHE.SETSM", "in multi", "v", 70_000), ("COPY", "in multi", "copied"), ("EXEC",)]
    assert client.pipeline(transaction)[-1] == [b"OK", 1]


@pytest.mark.parametrize("fsync", ["always", "everysec"])
@pytest.mark.parametrize("kill", [False, True], ids=["stop", "power cut"])
def test_a_restart_from_the_log_gives_the_same(fresh_server: Callable[..., Server], fsync: str, kill: bool) -> None:
    server = fresh_server(appendonly=True, config={"appendfsync": fsync})
    fill(server)
    change_things(server)
    before = state(server)
    wait_until_written(server)
    server.restart(kill=kill)
    assert state(server) == before
    server.restart(kill=kill)
    assert state(server) == before


@pytest.mark.parametrize("preamble", ["yes", "no"])
def test_a_rewritten_log_gives_the_same(fresh_server: Callable[..., Server], preamble: str) -> None:
    server = fresh_server(appendonly=True, config={"aof-use-rdb-preamble": preamble, "appendfsync": "always"})
    for db in range(2):
        fill(server, db=db)
    change_things(server)
    before = state(server)
    rewrite(server)
    assert (b"CACHE.SETSM" in files(server, "base")[-1].read_bytes()) == (preamble == "no"), "rewritten by ourselves"
    assert appended(server) == []
    server.restart(kill=True)
    assert state(server) == before
    rewrite(server)
    server.restart()
    assert state(server) == before
    lease(server, b"stale by now")
    client = server.raw()
    for key, (value, *_) in SAMPLES.items():
        assert read(client, key) == value


@pytest.mark.parametrize("preamble", ["yes", "no"])
def test_what_is_written_during_a_rewrite_is_kept(fresh_server: Callable[..., Server], preamble: str) -> None:
    config = {"aof-use-rdb-preamble": preamble, "appendfsync": "always", "rdb-key-save-delay": 10_000}
    server = fresh_server(appendonly=True, config=config)
    client = server.raw()
    for n in range(30):
        client.call("CACHE.SETSM", f"key {n}", "before", HOUR_MS, "COST", 9)
    holder, parked = lease(server, "missing"), waiters(server, "missing", 2)
    assert b"started" in server.call("BGREWRITEAOF")
    for n in range(0, 30, 2):
        client.call("CACHE.SETSM", f"key {n}", "after", HOUR_MS, "VERSION", n)
    client.call("DEL", "key 1")
    assert holder.call("CACHE.SETSM", "missing", "found", HOUR_MS) == b"OK"
    assert [waiter.recv() for waiter in parked] == [b"found"] * 2
    eventually(lambda: server.info("persistence")["aof_rewrite_in_progress"] == 0, 20)
    assert server.info("persistence")["aof_last_bgrewrite_status"] == "ok"
    before = state(server)
    server.restart(kill=True)
    assert state(server) == before


def test_what_is_appended_is_what_happened(fresh_server: Callable[..., Server]) -> None:
    """Absolute times, no question and nothing random: a replay at any hour gives the same."""
    server = fresh_server(appendonly=True, config={"appendfsync": "always"})
    client = server.raw()
    client.call("CACHE.SETSM", "a", "1", 90_000)
    client.call("cache.setsm", "b", "2", 90_000, "cost", 5, "stale", 1_000, "version", 7)
    client.call("CACHE.SETSM", "c", "3", "PERSIST", "STALE", 4)
    at = int(wall_ms()) + 100_000
    client.call("CACHE.SETSM", "d", "\r\n\0", "PXAT", at, "STALE", 10)
    client.call("CACHE.SETSM", "b", "refused", 90_000, "VERSION", 6)
    client.call("CACHE.SETSM", "e", "refused", 0)
    ends = {key: client.call("PEXPIRETIME", key) for key in "abcd"}
    assert ends["c"] == -1
    assert ends["d"] == at + 10
    assert [in_short(command) for command in appended(server)] == [
        [b"CACHE.SETSM", b"a", b"1", b"PXAT", b"%d" % ends["a"]],
        [b"CACHE.SETSM", b"b", b"2", b"PXAT", b"%d" % (ends["b"] - 1_000)]
        + [b"STALE", b"1000", b"VERSION", b"7", b"COST", b"5"],
        [b"CACHE.SETSM", b"c", b"3", b"PERSIST", b"STALE", b"4"],
        [b"CACHE.SETSM", b"d", b"\r\n\0", b"PXAT", b"%d" % at, b"STALE", b"10"],
    ]


def test_a_measured_cost_is_in_the_log(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(appendonly=True, config={"appendfsync": "always"})
    holder = lease(server, "key")
    holder.call("DEBUG", "SLEEP", "0.05")
    assert holder.call("CACHE.SETSM", "key", "v", HOUR_MS) == b"OK"
    (command,) = appended(server)
    assert command[5] == b"COST"
    assert 49 <= int(command[6]) <= 10_000
    holder.call("CACHE.SETSM", "twin", "v", HOUR_MS, "COST", command[6])
    twin, own = server.digest_value("twin", "key")
    assert twin == own
    before = state(server)
    server.restart(kill=True)
    assert state(server) == before


def test_a_cost_of_nothing_is_in_the_log_too(fresh_server: Callable[..., Server]) -> None:
    """Where the entry before it had a cost, the log must say that this one has none."""
    server = fresh_server(appendonly=True, config={"appendfsync": "always"})
    server.call("CACHE.SETSM", "key", "v", HOUR_MS, "COST", 50)
    server.call("CACHE.SETSM", "key", "v", HOUR_MS, "COST", 0)
    before = state(server)
    server.restart(kill=True)
    assert state(server) == before


def test_reading_leaves_no_trace(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(appendonly=True, config={"appendfsync": "always"})
    client = server.raw()
    client.call("CACHE.SETSM", "fresh", "v", HOUR_MS)
    client.call("CACHE.SETSM", "stale", "v", 1, "STALE", HOUR_MS)
    client.call("SET", "native", "v")
    client.call("RPUSH", "list", "v")
    before = appended(server)
    for key in ("fresh", "stale", "native", "list", "missing") * 3:
        client.call("CACHE.GETSM", key, "WAIT", 0)
    parked = waiters(server, "missing", 2)
    client.close()
    impatient = server.raw().send("CACHE.GETSM", "missing", "WAIT", 1)
    assert is_error(impatient.recv(), "LEASED ")
    short = server.raw()
    assert short.call("CACHE.GETSM", "other", "LEASE", 1) is None
    server.raw().call("EVAL", "return redis.call('CACHE.GETSM', KEYS[1])", 1, "third")
    server.raw().pipeline([("MULTI",), ("CACHE.GETSM", "fourth"), ("EXEC",)])
    for waiter in parked:
        waiter.close()
    eventually(lambda: server.stats()["waiters"] == 0)
    assert server.stats()["leases_granted"] >= 4
    assert appended(server) == before


def test_a_log_replayed_later_re_arms_nothing(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(appendonly=True, config={"appendfsync": "always"})
    client = server.raw()
    client.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    client.call("CACHE.SETSM", "gone by then", "v", 200)
    client.call("CACHE.SETSM", "stale by then", "v", 200, "STALE", HOUR_MS)
    client.call("CACHE.SETSM", "fresh by then", "v", HOUR_MS, "STALE", HOUR_MS)
    client.call("CACHE.SETSM", "cut short", "v", HOUR_MS)
    client.call("PEXPIRE", "cut short", 200)
    client.pipeline([("CACHE.SETSM", "lived on", "v", 100), ("PEXPIRE", "lived on", HOUR_MS)])
    client.pipeline([("CACHE.SETSM", "for ever", "v", 100, "VERSION", 3), ("PERSIST", "for ever")])
    ends = {key: client.call("PEXPIRETIME", key) for key in ("gone by then", "stale by then", "fresh by then")}
    last = client.call("PEXPIRETIME", "cut short")
    server.kill9()
    eventually(lambda: wall_ms() > last + 1)
    server.start()
    client = server.raw()
    assert client.call("EXISTS", "gone by then", "cut short") == 0
    assert read(client, "lived on") == read(client, "for ever") == b"v", "what saved them came later in the log"
    assert client.call("CACHE.SETSM", "for ever", "old", HOUR_MS, "VERSION", 2) is None
    assert client.call("PEXPIRETIME", "stale by then") == ends["stale by then"]
    assert client.call("PEXPIRETIME", "fresh by then") == ends["fresh by then"]
    assert read(client, "fresh by then") == b"v"
    lease(server, "stale by then")
    assert read(client, "stale by then") == b"v"
    assert read(client, "gone by then") is None


def test_an_entry_that_was_over_when_it_came_is_deleted_in_the_log(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(appendonly=True, config={"appendfsync": "always"})
    server.call("CACHE.SETSM", "key", "v", HOUR_MS)
    assert server.call("CACHE.SETSM", "key", "v", "PXAT", 1_000, "STALE", 5) == b"OK"
    assert server.call("EXISTS", "key") == 0
    assert appended(server)[-1] in ([b"UNLINK", b"key"], [b"DEL", b"key"])
    server.restart(kill=True)
    assert server.call("DBSIZE") == 0


def write_until_killed(server: Server, name: str, acknowledged: dict[str, int], cancel: threading.Event) -> None:
    """A stream of SET and SETSM by turns; counts what was acknowledged."""
    client, n = RawClient(server.address()), 0
    try:
        while not cancel.is_set():
            batch: list[tuple[Any, ...]] = []
            for place in range(n, n + BATCH):
                if place % 2:
                    batch.append(("SET", f"{name}:{place}", f"value {place}"))
                else:
                    batch.append(("CACHE.SETSM", f"{name}:{place}", f"value {place}", HOUR_MS, "VERSION", place))
            for command in batch:
                client.send(*command)
            for _ in batch:
                assert client.recv() == b"OK"
                n += 1
                acknowledged[name] = n
    except OSError:
        pass
    finally:
        client.close()


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_a_power_cut_loses_no_more_of_our_writes_than_of_others(
    fresh_server: Callable[..., Server], fsync: str
) -> None:
    """With `always` nothing acknowledged is lost; and what is lost is the end of each stream, of both kinds alike."""
    server = fresh_server(appendonly=True, config={"appendfsync": fsync})
    acknowledged: dict[str, int] = {name: 0 for name in "abc"}
    cancel = threading.Event()
    threads = [threading.Thread(target=write_until_killed, args=(server, name, acknowledged, cancel)) for name in "abc"]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: sum(acknowledged.values()) > LOST_NOTHING_AFTER, 40)
        server.call("BGREWRITEAOF")
        server.kill9()
    finally:
        cancel.set()
        for thread in threads:
            thread.join(20)
    server.start()
    client = server.raw()
    for name, count in acknowledged.items():
        assert count > 0
        kept = client.pipeline([("CACHE.GETSM", f"{name}:{n}", "WAIT", 0) for n in range(count + BATCH + 1)])
        end = kept.index(None)
        if fsync == "always":
            assert end >= count, f"stream {name}: {count} were acknowledged, {end} are there"
        assert kept[:end] == [b"value %d" % n for n in range(end)]
        assert not any(kept[end:]), f"stream {name} has a hole"


@pytest.mark.parametrize("cut", [1, 20, 55])
def test_a_log_cut_within_an_entry_gives_all_before_it(fresh_server: Callable[..., Server], cut: int) -> None:
    server = fresh_server(appendonly=True, config={"appendfsync": "always"})
    fill(server)
    before = state(server)
    server.call("CACHE.SETSM", "last", "v" * 20, HOUR_MS, "STALE", 1, "VERSION", 2, "COST", 3)
    server.kill9()
    log = files(server, "incr")[-1]
    log.write_bytes(log.read_bytes()[:-cut])
    server.start()
    assert server.call("EXISTS", "last") == 0
    assert state(server) == before


def test_a_load_of_the_log_with_waiters_answers_all(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(appendonly=True, config={"appendfsync": "always"})
    fill(server)
    holder, parked = lease(server, "missing"), waiters(server, "missing", 3)
    before = state(server)
    assert server.call("DEBUG", "LOADAOF") == b"OK"
    assert state(server) == before
    assert holder.call("CACHE.SETSM", "missing", "found", HOUR_MS) == b"OK"
    answers = [waiter.recv() for waiter in parked]
    assert answers[0] in (None, b"found")
    assert answers[1:] == [b"found"] * 2
    server.assert_alive()


@pytest.mark.parametrize("preamble", ["yes", "no"])
def test_random_writes_are_the_same_after_a_restart(fresh_server: Callable[..., Server], preamble: str) -> None:
    server = fresh_server(appendonly=True, config={"aof-use-rdb-preamble": preamble})
    rng, client = random.Random(7), server.raw()
    for turn in range(3):
        for _ in range(400):
            key = f"key {rng.randrange(40)}"
            options = [
                part
                for option, most in (("STALE", 10**6), ("VERSION", 2**64 - 1), ("COST", 2**32 - 1))
                if rng.random() < 0.5
                for part in (option, rng.choice([0, 1, rng.randrange(most), most]))
            ]
            if rng.random() < 0.3:
                client.call("CACHE.GETSM", key, "WAIT", 0)
            end = rng.choice([["PERSIST"], [HOUR_MS], [1], ["PXAT", 1], ["PXAT", 10**14]])
            client.call("CACHE.SETSM", key, rng.randbytes(rng.randrange(60)), *end, *options)
            if rng.random() < 0.1:
                client.call(*rng.choice([("DEL", key), ("PERSIST", key), ("EXPIRE", key, 900)]))
        for n in range(40):  # those that are about to go would go between the two looks
            if 0 <= client.call("PTTL", f"key {n}") < HOUR_MS // 8:
                client.call("DEL", f"key {n}")
        if turn == 1:
            rewrite(server)
        before = state(server)
        wait_until_written(server)
        server.restart(kill=True)
        assert state(server) == before
        client = server.raw()
