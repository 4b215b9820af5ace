"""What was taken survives: replicas, the AOF, RDB files, DUMP and COPY all hold the same counts, by digest.

Limits are written under random rules, costs and algorithms, with refusals, refunds and peeks in between, by clients,
transactions, scripts and waiters; what is compared is each key's digest and the instant at which it goes.
"""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error

ALGORITHMS = ["SLIDING", "FIXED", "GCRA"]
LONG = 600_000  # milliseconds; no test lasts as long
TEN_YEARS = 315_360_000_000
KEYS = 12
QUIET = {"repl-ping-replica-period": 100_000, "repl-diskless-sync": "yes", "repl-backlog-size": "8mb"}


def random_call(rng: random.Random) -> tuple[Any, ...]:
    key = f"k{rng.randrange(KEYS)}"
    if rng.random() < 0.15:
        return ("CACHE.REFUND", key, rng.randrange(1, 9))
    if rng.random() < 0.15:
        return ("CL.THROTTLE", key, rng.randrange(9), rng.randrange(1, 9), 86_400 * 30, rng.randrange(9))
    rules = [n for _ in range(rng.choice([1, 1, 2, 3])) for n in (rng.randrange(1, 30), rng.choice([LONG, TEN_YEARS]))]
    options: list[Any] = ["COST", rng.randrange(1, 9)] if rng.random() < 0.5 else []
    options += ["PARTIAL"] if rng.random() < 0.2 else []
    options += ["PEEK"] if rng.random() < 0.1 else []
    options += ["ALGORITHM", rng.choice(ALGORITHMS)] if rng.random() < 0.6 else []
    return ("CACHE.RATELIMIT", key, *rules, *options)


def use(server: Server, seed: int, calls: int = 1_500) -> None:
    """Random calls, directly, in transactions and in scripts. Fixed windows of ten years never end in a test; of ten
    minutes they may, which is no harm: a key that goes, goes everywhere."""
    rng, client = random.Random(seed), server.raw()
    for _ in range(calls // 10):
        batch = [random_call(rng) for _ in range(10)]
        how = rng.randrange(4)
        if how == 0:
            client.pipeline([("MULTI",), *batch, ("EXEC",)])
        elif how == 1:
            for call in batch:
                assert not is_error(client.call("EVAL", "return redis.call(unpack(ARGV))", 1, call[1], *call))
        else:
            assert not [reply for reply in client.pipeline(batch) if is_error(reply)]
    assert client.call("DBSIZE") > KEYS // 2
    client.close()


def state(server: Server) -> dict[bytes, Any]:
    client = server.control()
    keys = sorted(client.call("KEYS", "*"))
    return {key: (client.call("DEBUG", "DIGEST-VALUE", key)[0], client.call("PEXPIRETIME", key)) for key in keys}


@pytest.fixture
def pair(fresh_server: Callable[..., Server]) -> tuple[Server, Server]:
    primary, replica = fresh_server(config=QUIET), fresh_server(config=QUIET)
    replica.replica_of(primary)
    replica.wait_for_sync()
    return primary, replica


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_digest_tells_all_that_counts(server: Server, algorithm: str) -> None:
    """What the other tests compare by: when, how much, and under which rules."""
    at, seen = int(time.time() * 1000), []
    for instant, units, limit, window in [
        (at, 1, 5, LONG),
        (at + 1, 1, 5, LONG),
        (at, 2, 5, LONG),
        (at, 1, 6, LONG),
        (at, 1, 5, LONG * 2),
    ]:
        server.call("DEL", "k")
        call = ("CACHE.RATELIMIT", "k", limit, window, "COST", units, "ALGORITHM", algorithm, "AT", instant)
        assert server.call(*call) == b"OK"
        seen += server.digest_value("k")
    assert len(set(seen)) == 5


@pytest.mark.parametrize("seed", range(3))
def test_a_replica_holds_the_same(pair: tuple[Server, Server], seed: int) -> None:
    primary, replica = pair
    use(primary, seed)
    replica.wait_for_sync()
    assert state(replica) == state(primary)
    assert replica.digest() == primary.digest()


def test_questions_are_not_replicated(pair: tuple[Server, Server]) -> None:
    primary, replica = pair
    client = primary.raw()
    client.call("CACHE.RATELIMIT", "k", 2, LONG, "COST", 2)
    replica.wait_for_sync()
    before = primary.info("replication")["master_repl_offset"]
    for options in [(), ("PEEK",), ("COST", 5), ("ALGORITHM", "GCRA", "COST", 2), ("COST", 9, "PARTIAL")]:
        assert client.call("CACHE.RATELIMIT", "k", 2, LONG, *options)[0] == 0
    assert client.call("CACHE.REFUND", "missing", 1) == 0
    assert client.call("CL.THROTTLE", "k", 0, 1, 1_000, 0)[0] in (0, 1)
    assert primary.info("replication")["master_repl_offset"] == before


def test_units_of_waiters_are_replicated(pair: tuple[Server, Server]) -> None:
    primary, replica = pair
    for db, algorithm in enumerate(ALGORITHMS):
        client, waiter = primary.raw(), primary.raw()
        call = ("CACHE.RATELIMIT", "k", 1, TEN_YEARS, 3, TEN_YEARS, "ALGORITHM", algorithm)
        for each in (client, waiter):
            assert each.call("SELECT", db) == b"OK"
        assert client.call(*call)[0] == 1
        waiter.send(*call, "WAIT", LONG)
        eventually(lambda: primary.stats()["limits_waiting"] == 1)
        assert client.call("DEL", "k") == 1
        assert waiter.recv()[0] == 1
        replica.wait_for_sync()
        reader = replica.raw()
        reader.call("SELECT", db)
        digests = [each.call("DEBUG", "DIGEST-VALUE", "k") for each in (client, reader)]
        assert digests[0] == digests[1] != [b"0" * 40]
    assert primary.digest() == replica.digest()


def test_a_promoted_replica_goes_on_counting(pair: tuple[Server, Server]) -> None:
    primary, replica = pair
    for algorithm in ALGORITHMS:
        call = ("CACHE.RATELIMIT", algorithm, 5, TEN_YEARS, "ALGORITHM", algorithm, "COST")
        assert primary.raw().call(*call, 4)[0] == 4
        replica.wait_for_sync()
    replica.replica_of(None)
    for algorithm in ALGORITHMS:
        call = ("CACHE.RATELIMIT", algorithm, 5, TEN_YEARS, "ALGORITHM", algorithm, "COST")
        assert replica.raw().call(*call, 2)[0] == 0
        assert replica.raw().call(*call, 1)[:3] == [1, 5, 0]


@pytest.mark.parametrize("preamble", ["yes", "no"])
@pytest.mark.parametrize("rewrites", [False, True], ids=["as written", "rewritten"])
def test_an_aof_gives_the_same(fresh_server: Callable[..., Server], preamble: str, rewrites: bool) -> None:
    server = fresh_server(appendonly=True, config={"aof-use-rdb-preamble": preamble})
    use(server, 7)
    if rewrites:
        server.call("BGREWRITEAOF")
        eventually(lambda: server.info("persistence")["aof_rewrite_in_progress"] == 0 and rewritten(server), timeout=20)
        use(server, 8, calls=300)
    before = state(server)
    server.restart()
    assert state(server) == before
    server.call("DEBUG", "LOADAOF")
    assert state(server) == before


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_limit_without_a_ttl_has_none_after_a_rewrite(fresh_server: Callable[..., Server], algorithm: str) -> None:
    """The commands of a rewritten file are also what a slot travels as from one node to another."""
    server = fresh_server(appendonly=True, config={"aof-use-rdb-preamble": "no"})
    client = server.raw()
    for key, ttl in [("k", None), ("sooner", LONG * 2)]:
        assert client.call("CACHE.RATELIMIT", key, 5, TEN_YEARS, "ALGORITHM", algorithm)[0] == 1
        assert client.call(*(("PERSIST", key) if ttl is None else ("PEXPIRE", key, ttl))) == 1
    # One that counts nothing any more, and stays because it was told to.
    client.pipeline([("MULTI",), ("CACHE.RATELIMIT", "over", 5, 1, "ALGORITHM", algorithm), ("PERSIST", "over"), ("EXEC",)])
    before = state(server)
    assert before[b"k"][1] == before[b"over"][1] == -1 and before[b"sooner"][1] > 0
    server.call("BGREWRITEAOF")
    eventually(lambda: server.info("persistence")["aof_rewrite_in_progress"] == 0 and rewritten(server), timeout=20)
    server.call("DEBUG", "LOADAOF")
    assert state(server) == before
    assert state(server.restart()) == before


def rewritten(server: Server) -> bool:
    return "Background AOF rewrite finished successfully" in server.log()


def test_an_aof_replayed_at_another_hour_counts_from_then(fresh_server: Callable[..., Server]) -> None:
    """The commands in the file say when, so a replay asks no clock: nothing is dated to the replay."""
    server = fresh_server(appendonly=True)
    client = server.raw()
    for algorithm in ALGORITHMS:
        assert client.call("CACHE.RATELIMIT", algorithm, 3, TEN_YEARS, "COST", 2, "ALGORITHM", algorithm)[0] == 2
    before, start = state(server), time.monotonic()
    eventually(lambda: time.monotonic() - start > 0.2)
    assert state(server.restart()) == before
    eventually(lambda: time.monotonic() - start > 0.4)
    server.call("DEBUG", "LOADAOF")
    assert state(server) == before


def test_a_step_of_the_clock_is_replicated(pair: tuple[Server, Server]) -> None:
    """State from the future, as after a step back: the refusal that finds it dates it to now, on the replica too."""
    primary, replica = pair
    client = primary.raw()
    for algorithm in ALGORITHMS:
        ahead = int(time.time() * 1000) + TEN_YEARS
        call = ("CACHE.RATELIMIT", algorithm, 3, LONG, "ALGORITHM", algorithm, "COST", 3)
        assert client.call(*call, "AT", ahead) == b"OK"
        refused = client.call(*call)
        assert refused[0] == 0 and 0 < refused[3] <= LONG, "nobody is locked out longer than one window"
        replica.wait_for_sync()
        assert state(replica) == state(primary)
        assert 0 < client.call("PTTL", algorithm) <= LONG


def test_a_restart_and_a_reload_keep_all(fresh_server: Callable[..., Server], tmp_path: Path) -> None:
    server = fresh_server(dir=tmp_path)
    use(server, 9)
    before = state(server)
    assert server.call("DEBUG", "RELOAD") == b"OK"
    assert state(server) == before
    assert server.call("SAVE") == b"OK"
    other = fresh_server(dir=shutil.copytree(tmp_path, tmp_path / "copy"))
    assert state(other) == before


def test_dump_restore_copy_and_move_keep_all(server: Server, raw: RawClient) -> None:
    use(server, 11)
    for key, (digest, expires) in state(server).items():
        dump = raw.call("DUMP", key)
        assert raw.call("RESTORE", b"restored", expires, dump, "ABSTTL", "REPLACE") == b"OK"
        assert raw.call("COPY", key, "copied", "REPLACE") == 1
        assert raw.call("DEBUG", "DIGEST-VALUE", "restored", "copied") == [digest, digest]
        assert raw.call("PEXPIRETIME", "copied") == expires
    key = next(iter(state(server)))
    raw.call("COPY", key, "mine")
    digest = raw.call("DEBUG", "DIGEST-VALUE", "mine")
    raw.call("DEL", key)
    raw.call("CACHE.REFUND", "copied", 3)
    assert raw.call("DEBUG", "DIGEST-VALUE", "mine") == digest, "copies share nothing"


def test_hostile_payloads_are_refused_and_harm_nothing(server: Server, raw: RawClient) -> None:
    """Each bit of a payload flipped, each cut of it: an error, or limits that can be used. The server checks the
    sum of a DUMP first, unless told not to."""
    if is_error(raw.call("DEBUG", "SET-SKIP-CHECKSUM-VALIDATION", 1)):
        pytest.skip("the server has no such switch")
    try:
        for algorithm in ALGORITHMS:
            raw.call("CACHE.RATELIMIT", "k", 9, TEN_YEARS, 7, LONG, "COST", 3, "ALGORITHM", algorithm)
            dump = raw.call("DUMP", "k")
            bad = [dump[:cut] + dump[-10:] for cut in range(10, len(dump) - 10)]
            for bit in range(80, (len(dump) - 10) * 8):
                flipped = bytearray(dump)
                flipped[bit // 8] ^= 1 << bit % 8
                bad.append(bytes(flipped))
            for payload in bad:
                if raw.call("RESTORE", "hostile", 0, payload, "REPLACE") == b"OK":
                    for option in (*ALGORITHMS, "PEEK"):
                        words = ("ALGORITHM", option) if option != "PEEK" else (option,)
                        reply = raw.call("CACHE.RATELIMIT", "hostile", 5, LONG, *words)
                        assert isinstance(reply, list) or is_error(reply, "WRONGTYPE")
                    raw.call("CACHE.REFUND", "hostile", 2)
                    raw.call("CL.THROTTLE", "hostile", 2, 2, 2)
            raw.call("DEL", "k")
        server.assert_alive()
        assert server.stats()["panics"] == 0
    finally:
        raw.call("DEBUG", "SET-SKIP-CHECKSUM-VALIDATION", 0)
