"""A primary and its replica: equal data, who may do what, and what a change of roles does to leases and waiters."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_rdb import HOUR_MS, SAMPLES, fill, lease, read, state, waiters, wall_ms

from harness import RawClient, Server, eventually, is_error

# The server sends a PING to its replicas at this interval; here never.
QUIET = {"repl-ping-replica-period": 100_000, "repl-diskless-sync": "yes", "repl-backlog-size": "8mb"}


class Pair:
    """A primary with one replica that has everything."""

    def __init__(self, start: Callable[..., Server], **options: Any) -> None:
        options["config"] = QUIET | options.get("config", {})
        self.primary, self.replica = start(**options), start(**options)
        self.follow()

    def follow(self) -> None:
        self.replica.replica_of(self.primary)
        self.replica.wait_for_sync()

    def assert_equal(self) -> dict[Any, Any]:
        """Also waits for keys that are about to expire to do so on both."""
        self.replica.wait_for_sync()

        def equal() -> dict[Any, Any]:
            ours = state(self.primary)
            assert ours == state(self.replica)
            return ours

        return eventually(equal)


@pytest.fixture
def pair(fresh_server: Callable[..., Server]) -> Pair:
    return Pair(fresh_server)


# Equal data


def random_options(rng: random.Random) -> Iterator[str | int]:
    for option, most in (("STALE", 10**7), ("VERSION", 2**64 - 1), ("COST", 2**32 + 5)):
        if rng.random() < 0.4:
            yield option
            yield rng.choice([0, 1, rng.randrange(most), most])


def random_command(rng: random.Random) -> tuple[Any, ...]:
    """Any of what changes entries; some are refused."""
    key, other = (b"key \xff%d" % rng.randrange(25) for _ in range(2))
    end = rng.choice([["PERSIST"], [HOUR_MS], [rng.randrange(1, 30)], ["PXAT", 10**13], ["PXAT", 1]])
    setsm = ("CACHE.SETSM", key, rng.randbytes(rng.randrange(90)), *end, *random_options(rng))
    script = "redis.call('CACHE.GETSM', KEYS[1]); return redis.call('CACHE.SETSM', KEYS[1], unpack(ARGV))"
    native = [
        ("DEL", key, other),
        ("UNLINK", key),
        ("PEXPIRE", key, rng.choice([1, HOUR_MS, -5])),
        ("EXPIREAT", key, 10**10),
        ("PERSIST", key),
        ("RENAME", key, other),
        ("COPY", key, other, "REPLACE"),
        ("COPY", key, other, "DB", 1, "REPLACE"),
        ("MOVE", key, 1),
        ("SWAPDB", 0, 1),
        ("SET", key, "native", "PX", rng.choice([20, HOUR_MS])),
        ("SETEX", key, 0, "refused"),
        ("CACHE.GETSM", key, "WAIT", 0, "LEASE", rng.choice([1, 1_000])),
        ("EVAL", script, 1, *setsm[1:]),
        ("EVAL", "for _, key in ipairs(KEYS) do redis.call('DEL', key) end", 2, key, other),
    ]
    return rng.choice(native) if rng.random() < 0.5 else setsm


def work(server: Server, seed: int, count: int) -> None:
    """Random commands, some in transactions, over two connections in two databases."""
    rng = random.Random(seed)
    clients = [server.raw(), server.raw()]
    clients[1].call("SELECT", 1)
    for _ in range(count):
        client = rng.choice(clients)
        if rng.random() < 0.15:
            batch = [random_command(rng) for _ in range(rng.randrange(1, 6))]
            client.pipeline([("MULTI",), *batch, (rng.choice(["EXEC", "EXEC", "DISCARD"]),)])
        else:
            client.call(*random_command(rng))


@pytest.mark.parametrize("seed", range(4))
def test_random_work_gives_the_same_on_both(pair: Pair, seed: int) -> None:
    work(pair.primary, seed, 1_500)
    assert len(pair.assert_equal()) > 10
    assert pair.primary.stats()["sets"] > 500


def test_every_sample_arrives_with_its_time(pair: Pair) -> None:
    fill(pair.primary)
    pair.primary.call("CACHE.SETSM", "at", "v", "PXAT", 10**13, "STALE", 1)
    pair.primary.call("PEXPIRE", "plain", 500_000)
    pair.primary.call("PERSIST", "version")
    both = pair.assert_equal()
    assert both[0, b"at"][1] == 10**13 + 1
    assert both[0, b"version"][1] == -1
    assert len(both) == len(SAMPLES) + 2
    for key in SAMPLES:
        assert pair.primary.call("DUMP", key) == pair.replica.call("DUMP", key)


def test_a_measured_cost_arrives(pair: Pair) -> None:
    holder = lease(pair.primary, "key")
    holder.call("DEBUG", "SLEEP", "0.03")
    holder.call("CACHE.SETSM", "key", "v", HOUR_MS)
    holder.call("CACHE.SETSM", "without", "v", HOUR_MS)
    both = pair.assert_equal()
    assert both[0, b"key"][0] != both[0, b"without"][0]


def test_a_cost_of_nothing_arrives(pair: Pair) -> None:
    pair.primary.call("CACHE.SETSM", "key", "v", HOUR_MS, "COST", 50)
    pair.primary.call("CACHE.SETSM", "key", "v", HOUR_MS, "COST", 0)
    pair.assert_equal()


def test_a_regeneration_within_a_millisecond_arrives(pair: Pair) -> None:
    """The measured cost is 0 then; the entry before had another one."""
    client = pair.primary.raw()
    for _ in range(50):
        client.call("CACHE.SETSM", "key", "v", 1, "STALE", HOUR_MS, "COST", 50)
        eventually(lambda: client.call("CACHE.GETSM", "key") is None)
        client.call("CACHE.SETSM", "key", "v", HOUR_MS)
    pair.assert_equal()


@pytest.mark.parametrize(
    "config",
    [
        {"repl-diskless-sync": "yes"},
        {"repl-diskless-sync": "no"},
        {"repl-diskless-sync": "yes", "repl-diskless-load": "swapdb"},
    ],
    ids=["diskless", "by file", "swapdb"],
)
def test_a_full_sync_brings_everything(fresh_server: Callable[..., Server], config: dict[str, str]) -> None:
    options = {"config": QUIET | config}
    primary, replica = fresh_server(**options), fresh_server(**options)
    for db in range(2):
        fill(primary, db=db)
    work(primary, 5, 300)
    fill(replica, {b"of its own": (b"v", HOUR_MS), b"plain": (b"another", "PERSIST")})
    lease(replica, "missing")
    lease(primary, "missing")
    replica.replica_of(primary)
    replica.wait_for_sync()
    eventually(lambda: state(primary) == state(replica))
    assert replica.call("EXISTS", "of its own") == 0
    assert replica.stats()["leases"] == 0, "forgotten with the role; those of the primary are not sent"
    primary.call("CACHE.SETSM", "after", "v", HOUR_MS, "VERSION", 5)
    replica.wait_for_sync()
    eventually(lambda: state(primary) == state(replica))


def test_a_partial_sync_brings_what_was_missed(pair: Pair) -> None:
    fill(pair.primary)
    pair.replica.wait_for_sync()
    client = pair.primary.raw()
    commands = [("CLIENT", "KILL", "TYPE", "replica")]
    commands += [("CACHE.SETSM", key, "missed", HOUR_MS, "STALE", 5, "COST", 6) for key in SAMPLES]
    commands += [("DEL", "plain"), ("RENAME", "empty", "renamed")]
    assert not [reply for reply in client.pipeline(commands) if is_error(reply)]
    pair.assert_equal()
    stats = pair.primary.info("stats")
    assert (stats["sync_full"], stats["sync_partial_ok"]) == (1, 1)


def test_refused_writes_are_not_replicated(pair: Pair) -> None:
    client = pair.primary.raw()
    client.call("CACHE.SETSM", "key", "v", HOUR_MS, "VERSION", 5)
    client.call("RPUSH", "list", "v")
    before = offset(pair.primary)
    assert client.call("CACHE.SETSM", "key", "old", HOUR_MS, "VERSION", 4) is None
    assert is_error(client.call("CACHE.SETSM", "list", "v", HOUR_MS), "WRONGTYPE")
    assert is_error(client.call("CACHE.SETSM", "key", "v", 0), "ERR")
    assert is_error(client.call("CACHE.SETSM", "key", "v", HOUR_MS, "STALE"), "ERR")
    assert offset(pair.primary) == before


def test_a_write_is_confirmed_by_wait(pair: Pair) -> None:
    client = pair.primary.raw()
    assert client.call("CACHE.SETSM", "key", "v", HOUR_MS) == b"OK"
    assert client.call("WAIT", 1, 10_000) == 1
    assert read(pair.replica.raw(), "key") == b"v"


# Expiry


@pytest.mark.parametrize("active", [1, 0], ids=["in the background", "by a reader"])
def test_expiry_on_the_primary_reaches_the_replica(pair: Pair, active: int) -> None:
    pair.primary.call("DEBUG", "SET-ACTIVE-EXPIRE", active)
    pair.primary.call("CACHE.SETSM", "key", "v", 20, "STALE", 10)
    pair.replica.wait_for_sync()
    reader = pair.primary.raw()
    if not active:
        ends = pair.primary.call("PEXPIRETIME", "key")
        eventually(lambda: wall_ms() > ends + 1)
        assert reader.call("CACHE.GETSM", "key", "WAIT", 0) is None
    eventually(lambda: pair.replica.call("DBSIZE") == pair.primary.call("DBSIZE") == 0)
    pair.assert_equal()


def test_a_replica_serves_nothing_that_expired(pair: Pair) -> None:
    """Though it keeps the key until its primary says that it is gone."""
    pair.primary.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    pair.primary.call("CACHE.SETSM", "key", "v", 50)
    pair.replica.wait_for_sync()
    ends = pair.replica.call("PEXPIRETIME", "key")
    reader = pair.replica.raw()
    eventually(lambda: wall_ms() > ends + 1)
    assert is_error(reader.call("CACHE.GETSM", "key"), "READONLY ")
    assert pair.replica.call("DBSIZE") == 1


def test_an_entry_that_was_over_when_it_came_goes_on_both(pair: Pair) -> None:
    pair.primary.call("CACHE.SETSM", "key", "v", HOUR_MS)
    pair.primary.call("CACHE.SETSM", "key", "v", "PXAT", 1)
    pair.assert_equal()
    assert pair.replica.call("DBSIZE") == 0


# Reading


def test_a_replica_serves_hits_and_grants_nothing(pair: Pair) -> None:
    fill(pair.primary)
    pair.primary.call("SET", "native", "v")
    pair.primary.call("RPUSH", "list", "v")
    pair.replica.wait_for_sync()
    reader = pair.replica.raw()
    got = {key: reader.call("CACHE.GETSM", key) for key in [*SAMPLES, b"native"]}
    assert got == {key: args[0] for key, args in SAMPLES.items()} | {b"native": b"v"}
    assert [reader.call("CACHE.GETSM", b"stale by now") for _ in range(3)] == [b"value"] * 3
    for options in ((), ("WAIT", 0), ("WAIT", HOUR_MS), ("LEASE", 5)):
        assert is_error(reader.call("CACHE.GETSM", "missing", *options), "READONLY ")
    assert is_error(reader.call("CACHE.GETSM", "list"), "WRONGTYPE ")
    assert is_error(reader.call("CACHE.SETSM", "key", "v", HOUR_MS), "READONLY ")
    stats = pair.replica.stats()
    assert stats["leases_granted"] == stats["waits"] == 0
    pair.assert_equal()


def offset(server: Server) -> int:
    return server.info("replication")["master_repl_offset"]


def test_reading_sends_nothing_to_replicas(pair: Pair) -> None:
    fill(pair.primary)
    pair.primary.call("SET", "native", "v")
    pair.primary.call("RPUSH", "list", "v")
    pair.replica.wait_for_sync()
    before = offset(pair.primary)
    client = pair.primary.raw()
    for key in [*SAMPLES, b"native", b"list", b"missing"] * 3:
        client.call("CACHE.GETSM", key, "WAIT", 0)
    parked = waiters(pair.primary, "missing", 3, wait_ms=1)
    assert all(is_error(waiter.recv(), "LEASED ") for waiter in parked)
    parked = waiters(pair.primary, "missing", 2)
    for waiter in parked:
        waiter.close()
    eventually(lambda: pair.primary.stats()["waiters"] == 0)
    assert pair.primary.raw().call("EVAL", "return redis.call('CACHE.GETSM', KEYS[1])", 1, "plain") == b"value"
    short = pair.primary.raw()
    assert short.call("CACHE.GETSM", "short", "LEASE", 1) is None
    eventually(lambda: pair.primary.stats()["leases_expired"] >= 1)
    assert offset(pair.primary) == before
    pair.primary.call("CACHE.SETSM", "probe", "v", HOUR_MS)
    assert offset(pair.primary) > before


# Changes of role


def test_a_promoted_replica_works(pair: Pair) -> None:
    fill(pair.primary)
    lease(pair.primary, "missing")
    parked = waiters(pair.primary, "missing", 2)
    before = pair.assert_equal()
    pair.primary.kill9()
    for waiter in parked:
        with pytest.raises(ConnectionError):
            waiter.recv()
    pair.replica.replica_of(None)
    assert state(pair.replica) == before
    holder = lease(pair.replica, "missing")
    parked = waiters(pair.replica, "missing", 3)
    assert holder.call("CACHE.SETSM", "missing", "found", HOUR_MS) == b"OK"
    assert [waiter.recv() for waiter in parked] == [b"found"] * 3
    lease(pair.replica, b"stale by now")


def assert_unblocked(parked: list[RawClient]) -> None:
    """The server answers in our place and may close the connection then."""
    for waiter in parked:
        assert is_error(waiter.recv(), "UNBLOCKED ")


def test_a_demoted_primary_lets_all_go(fresh_server: Callable[..., Server]) -> None:
    one, two = fresh_server(config=QUIET), fresh_server(config=QUIET)
    fill(one, {b"stale": (b"old", 1, "STALE", HOUR_MS)})
    lease(one, "missing")
    lease(one, "other")
    eventually(lambda: one.raw().call("CACHE.GETSM", "stale", "LEASE", HOUR_MS) is None)
    parked = waiters(one, "missing", 5) + waiters(one, "other", 2)
    assert one.stats()["leases"] == 3
    one.replica_of(two)
    assert_unblocked(parked)
    eventually(lambda: one.stats()["waiters"] == one.stats()["leases"] == 0)
    one.wait_for_sync()
    one.assert_alive()
    assert is_error(one.raw().call("CACHE.GETSM", "missing"), "READONLY ")
    one.replica_of(None)
    holder = lease(one, "missing")
    parked = waiters(one, "missing", 2)
    assert holder.call("CACHE.SETSM", "missing", "found", HOUR_MS) == b"OK"
    assert [waiter.recv() for waiter in parked] == [b"found"] * 2


def test_a_demotion_meets_answers_under_way(fresh_server: Callable[..., Server]) -> None:
    """Values and demotion in one transaction: each waiter hears exactly one answer."""
    one, two = fresh_server(config=QUIET), fresh_server(config=QUIET)
    holder = lease(one, "missing")
    parked = waiters(one, "missing", 150)
    commands = [("CACHE.SETSM", "missing", "found", HOUR_MS), ("REPLICAOF", "127.0.0.1", two.port)]
    replies = holder.pipeline([("MULTI",), *commands, ("EXEC",)])
    assert replies[-1] == [b"OK", b"OK"], replies
    for waiter in parked:
        answer = waiter.recv()
        assert answer == b"found" or is_error(answer, "UNBLOCKED ")
        with pytest.raises((ConnectionError, TimeoutError)):
            waiter.recv(timeout=0)
    eventually(lambda: one.stats()["waiters"] == one.stats()["leases"] == 0)
    one.assert_alive()


def test_a_failover_resets_leases(pair: Pair) -> None:
    """FAILOVER swaps the roles without losing a write; nobody holds a lease on either side then."""
    fill(pair.primary)
    lease(pair.primary, "missing")
    parked = waiters(pair.primary, "missing", 3)
    before = pair.assert_equal()
    pair.primary.call("FAILOVER")
    for waiter in parked:
        assert waiter.recv().code in ("UNBLOCKED", "READONLY")
    eventually(lambda: pair.replica.info("replication")["role"] == "master", 20)
    eventually(lambda: pair.primary.info("replication").get("master_link_status") == "up", 20)
    assert pair.primary.stats()["leases"] == pair.replica.stats()["leases"] == 0
    assert state(pair.replica) == state(pair.primary) == before
    new_primary, new_replica = pair.replica, pair.primary
    holder = lease(new_primary, "missing")
    parked = waiters(new_primary, "missing", 2)
    assert is_error(new_replica.raw().call("CACHE.GETSM", "missing"), "READONLY ")
    assert holder.call("CACHE.SETSM", "missing", "found", HOUR_MS) == b"OK"
    assert [waiter.recv() for waiter in parked] == [b"found"] * 2
    new_replica.primary = new_primary
    new_replica.wait_for_sync()
    assert state(new_primary) == state(new_replica)


@pytest.mark.parametrize("how", [("SHUTDOWN", "NOSAVE"), ("SHUTDOWN", "SAVE"), "SIGTERM"], ids=str)
def test_a_shutdown_with_waiters_is_clean(fresh_server: Callable[..., Server], how: Any) -> None:
    server = fresh_server()
    lease(server, "missing")
    parked = waiters(server, "missing", 5)
    if how == "SIGTERM":
        server.stop()
    else:
        server.raw().send(*how)
        eventually(lambda: not server.is_running, 20)
        server.check_log()
    for waiter in parked:
        with pytest.raises(ConnectionError):
            waiter.recv()
    assert "bye" in server.log_tail()
    server.start()
    assert server.stats()["waiters"] == server.stats()["leases"] == 0


# Where writes are stopped


def assert_serves_hits(server: Server, refusal: str) -> None:
    client = server.raw()
    assert is_error(client.call("CACHE.SETSM", "key", "new", HOUR_MS), refusal)
    for key in SAMPLES:
        if key != b"stale by now":
            assert client.call("CACHE.GETSM", key) == SAMPLES[key][0]
    assert server.raw().call("CACHE.GETSM", b"stale by now") in (None, b"value")
    assert server.raw().call("CACHE.GETSM", b"stale by now") == b"value"
    assert client.call("CACHE.GETSM", "native") == b"v"
    transaction = client.pipeline([("MULTI",), ("CACHE.GETSM", "plain"), ("EXEC",)])
    assert transaction[-1] == [b"value"]


def test_hits_are_served_without_enough_replicas(server: Server) -> None:
    fill(server)
    server.call("SET", "native", "v")
    server.call("CONFIG", "SET", "min-replicas-to-write", 1)
    assert_serves_hits(server, "NOREPLICAS ")
    server.call("CONFIG", "SET", "min-replicas-to-write", 0)
    assert server.raw().call("CACHE.SETSM", "key", "new", HOUR_MS) == b"OK"


def test_hits_are_served_while_the_disk_fails(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(config={"save": "3600 100000"})
    fill(server)
    server.call("SET", "native", "v")
    blocked = server.dir / "dump.rdb"
    blocked.mkdir()
    server.raw().call("BGSAVE")
    eventually(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err", 20)
    assert_serves_hits(server, "MISCONF ")
    blocked.rmdir()
    server.raw().call("BGSAVE")
    eventually(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "ok", 20)
    assert server.raw().call("CACHE.SETSM", "key", "new", HOUR_MS) == b"OK"
