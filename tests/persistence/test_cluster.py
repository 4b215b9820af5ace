"""Nodes of a cluster: redirections, moving entries and slots, and what becomes of those who wait."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from test_rdb import HOUR_MS, SAMPLES, fill, lease, read, waiters

from harness import RawClient, Server, eventually, is_error
from harness.cluster import CONFIG, SLOTS, Cluster, slot_of
from harness.line import stand_in_line

@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One cluster for all tests of this file: each uses keys, and so slots, of its own."""
    nodes = [Server(name=f"node {n}", config=CONFIG) for n in range(3)]
    try:
        for node in nodes:
            node.start()
        yield Cluster(nodes)
        for node in nodes:
            node.assert_alive()
            assert node.stats()["panics"] == 0
    finally:
        for node in nodes:
            node.close()


@pytest.fixture(autouse=True)
def nobody_is_left(cluster: Cluster) -> Iterator[None]:
    yield
    for node in cluster.nodes:
        node.close_clients()
        node.assert_alive()


def migrate(source: Server, target: Server, key: bytes, *options: str) -> Any:
    return source.raw().call("MIGRATE", "127.0.0.1", target.port, key, 0, 10_000, *options)


def asking(node: Server, *command: Any) -> Any:
    """The reply to a command sent as a client does that was redirected with ASK."""
    return node.raw().pipeline([("ASKING",), command])[1]


def test_slots_are_computed_as_by_the_server(cluster: Cluster) -> None:
    for key in (b"", b"123456789", b"{tag}key", b"{}key", b"\xff\0"):
        assert cluster.first.call("CLUSTER", "KEYSLOT", key) == slot_of(key)


def test_foreign_keys_are_redirected(cluster: Cluster) -> None:
    key = cluster.key_of(cluster.second)
    moved = f"MOVED {slot_of(key)} 127.0.0.1:{cluster.second.port}"
    client = cluster.first.raw()
    assert client.call("CACHE.GETSM", key) == moved
    assert client.call("CACHE.SETSM", key, "v", HOUR_MS) == moved
    replies = client.pipeline([("MULTI",), ("CACHE.GETSM", key), ("EXEC",)])
    assert replies[1] == moved
    assert is_error(replies[2], "EXECABORT")
    script = client.call("EVAL", "return redis.pcall('CACHE.GETSM', ARGV[1])", 0, key)
    assert is_error(script, "ERR")
    assert cluster.first.stats()["leases"] == 0
    assert cluster.second.raw().call("CACHE.SETSM", key, "v", HOUR_MS) == b"OK"
    assert read(cluster.second.raw(), key) == b"v"


def test_two_slots_in_one_transaction_are_refused(cluster: Cluster) -> None:
    client, keys = cluster.first.raw(), [cluster.key_of(cluster.first) for _ in range(2)]
    commands = [("MULTI",), *(("CACHE.SETSM", key, "v", HOUR_MS) for key in keys), ("EXEC",)]
    assert is_error(client.pipeline(commands)[-1], "CROSSSLOT")
    tagged = [("MULTI",), *(("CACHE.SETSM", b"{%s}%d" % (keys[0], n), "v", HOUR_MS) for n in range(2)), ("EXEC",)]
    assert client.pipeline(tagged)[-1] == [b"OK", b"OK"]


def test_leases_and_waiting_work_on_a_node(cluster: Cluster) -> None:
    for node in (cluster.first, cluster.second):
        key = cluster.key_of(node)
        holder, parked = lease(node, key), waiters(node, key, 3)
        assert holder.call("CACHE.SETSM", key, "found", HOUR_MS) == b"OK"
        assert [waiter.recv() for waiter in parked] == [b"found"] * 3


def test_a_replica_serves_readers_that_ask_for_it(cluster: Cluster) -> None:
    hit, stale, missing = (cluster.key_of(cluster.second) for _ in range(3))
    fill(cluster.second, {hit: (b"v", HOUR_MS, "COST", 5), stale: (b"old", 1, "STALE", HOUR_MS)})
    cluster.replica.wait_for_sync()
    assert cluster.replica.digest() == cluster.second.digest()
    reader = cluster.replica.raw()
    assert is_error(reader.call("CACHE.GETSM", hit), "MOVED ")
    assert reader.call("READONLY") == b"OK"
    assert reader.call("CACHE.GETSM", hit) == b"v"
    assert reader.call("CACHE.GETSM", stale) == b"old"
    assert is_error(reader.call("CACHE.GETSM", missing), "READONLY ")
    assert is_error(reader.call("CACHE.SETSM", hit, "v", HOUR_MS), "MOVED ")


def test_migrate_moves_an_entry_with_all_it_has(cluster: Cluster) -> None:
    one, two = cluster.first, cluster.second
    tag = cluster.key_of(one)
    samples = {b"{%s}%d" % (tag, n): args for n, args in enumerate(SAMPLES.values())}
    fill(one, samples)
    before = {key: (one.digest_value(key), one.call("PEXPIRETIME", key)) for key in samples}
    cluster.begin_to_move(tag, one, two)
    for key in samples:
        assert migrate(one, two, key) == b"OK"
        assert migrate(one, two, key) == b"NOKEY"
        assert is_error(one.raw().call("CACHE.GETSM", key), "ASK ")
    assert asking(two, "CACHE.GETSM", b"{%s}0" % tag) == b"value"
    cluster.end_move(tag, two)
    assert is_error(one.raw().call("CACHE.GETSM", tag), "MOVED ")
    for key, (digest, ends) in before.items():
        assert two.digest_value(key) == digest
        # MIGRATE sends what is left of the TTL, so the time may differ by what it took.
        assert (ends < 0 and two.call("PEXPIRETIME", key) < 0) or 0 <= two.call("PEXPIRETIME", key) - ends < 5_000
    cluster.replica.wait_for_sync()
    assert cluster.replica.digest() == two.digest()


@pytest.mark.parametrize("present", ["free", "taken"])
def test_migrate_keeps_and_replaces_as_told(cluster: Cluster, present: str) -> None:
    one, two, key = cluster.first, cluster.second, cluster.key_of(cluster.first)
    fill(one, {key: (b"v", HOUR_MS, "VERSION", 4)})
    digest = one.digest_value(key)
    cluster.begin_to_move(key, one, two)
    if present == "taken":
        assert asking(two, "CACHE.SETSM", key, "older", HOUR_MS) == b"OK"
        assert is_error(migrate(one, two, key), "ERR")
        assert one.digest_value(key) == digest
    assert migrate(one, two, key, "COPY", "REPLACE") == b"OK"
    assert one.digest_value(key) == digest
    assert one.call("DEL", key) == 1
    cluster.end_move(key, two)
    assert two.digest_value(key) == digest


def test_an_entry_that_is_migrated_answers_who_waits_there(cluster: Cluster) -> None:
    """A reader redirected with ASK may wait on the target before the entry has come."""
    one, two, key = cluster.first, cluster.second, cluster.key_of(cluster.first)
    fill(one, {key: (b"v", HOUR_MS)})
    cluster.begin_to_move(key, one, two)
    assert asking(two, "CACHE.GETSM", key, "LEASE", HOUR_MS) is None
    before = two.stats()["waits"]
    waiter = two.raw()
    assert waiter.call("ASKING") == b"OK"
    waiter.send("CACHE.GETSM", key, "WAIT", HOUR_MS)
    eventually(lambda: two.stats()["waits"] == before + 1)
    assert migrate(one, two, key) == b"OK"
    assert waiter.recv() == b"v"
    cluster.end_move(key, two)


def test_while_a_slot_moves_a_wait_ends_at_its_deadline_at_last(cluster: Cluster) -> None:
    """The key is missing, so the source sends the holder's write on to the target and never sees it."""
    one, two, key = cluster.first, cluster.second, cluster.key_of(cluster.first)
    holder = lease(one, key)
    parked = waiters(one, key, 2, wait_ms=100)
    cluster.begin_to_move(key, one, two)
    assert is_error(holder.call("CACHE.SETSM", key, "v", HOUR_MS), "ASK ")
    assert asking(two, "CACHE.SETSM", key, "v", HOUR_MS) == b"OK"
    for waiter in parked:
        answer = waiter.recv()
        assert is_error(answer, "LEASED ") or is_error(answer, "TRYAGAIN ")
    cluster.end_move(key, two)
    eventually(lambda: one.stats()["waiters"] == 0)
    assert read(two.raw(), key) == b"v"


@pytest.mark.parametrize(
    "lease_ms",
    [
        pytest.param(HOUR_MS, id="while it is leased"),
        pytest.param(
            300,
            id="when its lease ends",
        ),
    ],
)
def test_a_waiter_is_sent_on_when_its_slot_has_moved(cluster: Cluster, lease_ms: int) -> None:
    one, two, key = cluster.first, cluster.second, cluster.key_of(cluster.first)
    lease(one, key, lease_ms)
    parked = waiters(one, key, 3)
    cluster.begin_to_move(key, one, two)
    cluster.end_move(key, two)
    for waiter in parked:
        assert is_error(waiter.recv(timeout=4), "TRYAGAIN ")
        assert is_error(waiter.call("CACHE.GETSM", key), "MOVED "), "and told where, when it tries again"
    assert one.stats()["waiters"] == 0
    assert two.raw().call("CACHE.GETSM", key) is None, "the lease did not move"


def test_a_wait_for_a_key_that_moved_ends_at_its_own_deadline_at_last(cluster: Cluster) -> None:
    one, two, key = cluster.first, cluster.second, cluster.key_of(cluster.first)
    lease(one, key)
    parked = waiters(one, key, 2, wait_ms=700)
    cluster.begin_to_move(key, one, two)
    cluster.end_move(key, two)
    for waiter in parked:
        answer = waiter.recv()
        assert is_error(answer, "LEASED ") or is_error(answer, "TRYAGAIN ")
    eventually(lambda: one.stats()["waiters"] == 0)


def take(node: Server, key: bytes, algorithm: str = "SLIDING") -> None:
    call = ("CACHE.RATELIMIT", key, 9, 315_360_000_000, "COST", 4, "ALGORITHM", algorithm)
    assert node.raw().call(*call)[:2] == [4, 9]


def test_a_caller_in_line_is_sent_on_when_its_key_moves(cluster: Cluster) -> None:
    one, two, key = cluster.first, cluster.second, cluster.key_of(cluster.first)
    take(one, key)
    parked = [one.raw().send("CACHE.RATELIMIT", key, 4, HOUR_MS, "WAIT", HOUR_MS) for _ in range(3)]
    eventually(lambda: one.stats()["limits_waiting"] == 3)
    cluster.begin_to_move(key, one, two)
    assert migrate(one, two, key) == b"OK"
    for waiter in parked:
        assert is_error(waiter.recv(timeout=4), "TRYAGAIN ")
    assert one.stats()["limits_waiting"] == 0 and one.call("CLUSTER", "COUNTKEYSINSLOT", slot_of(key)) == 0
    cluster.end_move(key, two)
    assert two.raw().call("CACHE.RATELIMIT", key, 4, HOUR_MS)[0] == 0


def test_limits_move_with_all_that_counts(cluster: Cluster) -> None:
    one, two, key = cluster.first, cluster.second, cluster.key_of(cluster.first)
    keys = {algorithm: b"{%s}%s" % (key, algorithm.encode()) for algorithm in ("SLIDING", "FIXED", "GCRA")}
    for algorithm, each in keys.items():
        take(one, each, algorithm)
    before = [(one.digest_value(each), one.call("PEXPIRETIME", each)) for each in keys.values()]
    began = time.monotonic()
    if one.is_valkey and one.version >= (9,):
        slot = slot_of(key)
        one.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", cluster.ids[two])
        eventually(lambda: is_error(one.raw().call("CACHE.GETSM", key, "WAIT", 0), "MOVED "), 20)
    else:
        cluster.begin_to_move(key, one, two)
        assert [migrate(one, two, each) for each in keys.values()] == [b"OK"] * 3
        cluster.end_move(key, two)
    # MIGRATE tells how long a key still lives, so that it lives longer by as long as it was on its way.
    took_ms = (time.monotonic() - began) * 1000 + 1
    for each, (digest, expires) in zip(keys.values(), before):
        assert two.digest_value(each) == digest
        assert abs(two.call("PEXPIRETIME", each) - expires) <= took_ms


def test_waiters_of_slots_that_stay_are_left_in_peace(cluster: Cluster) -> None:
    one, two = cluster.first, cluster.second
    stays, moves = cluster.key_of(one), cluster.key_of(one)
    assert slot_of(stays) != slot_of(moves)
    holder, parked = lease(one, stays), waiters(one, stays, 2)
    lease(one, moves)
    (gone,) = waiters(one, moves, 1)
    cluster.begin_to_move(moves, one, two)
    cluster.end_move(moves, two)
    assert is_error(gone.recv(), "TRYAGAIN ")
    assert not any(waiter.has_reply() for waiter in parked)
    assert holder.call("CACHE.SETSM", stays, "v", HOUR_MS) == b"OK"
    assert [waiter.recv() for waiter in parked] == [b"v"] * 2


def test_a_slot_moves_at_one_stroke(cluster: Cluster) -> None:
    """CLUSTER MIGRATESLOTS of Valkey 9: the entries travel as the commands of a rewritten log."""
    one, two = cluster.first, cluster.second
    if not one.is_valkey or one.version < (9,):
        pytest.skip("Valkey 9 and later")
    tag = cluster.key_of(one)
    slot, samples = slot_of(tag), {b"{%s}%d" % (tag, n): args for n, args in enumerate(SAMPLES.values())}
    fill(one, samples)
    before = {key: (one.digest_value(key), one.call("PEXPIRETIME", key)) for key in samples}
    one.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", cluster.ids[two])
    eventually(lambda: is_error(one.raw().call("CACHE.GETSM", tag, "WAIT", 0), "MOVED "), 20)
    assert {key: (two.digest_value(key), two.call("PEXPIRETIME", key)) for key in samples} == before
    eventually(lambda: one.call("CLUSTER", "COUNTKEYSINSLOT", slot) == 0)


@pytest.mark.parametrize("entries", [900, 30_000], ids=["few", "many"])
def test_what_is_invalidated_while_its_slot_moves_stays_gone(cluster: Cluster, entries: int) -> None:
    """Of many at once the server gives the move up, as it does for FLUSHALL, and it has to be begun again."""
    one, two = cluster.first, cluster.second
    if not one.is_valkey or one.version < (9,):
        pytest.skip("Valkey 9 and later")
    tag = cluster.key_of(one)
    slot, client = slot_of(tag), one.raw(timeout=60)
    keys = [b"{%s}%d" % (tag, n) for n in range(entries)]
    client.pipeline([("CACHE.SETSM", key, b"v" * 200, HOUR_MS, "TAGS", 2, tag, "some") for key in keys])
    moving = ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", cluster.ids[two])
    assert client.pipeline([moving, ("CACHE.INVALIDATE", tag)])[1] == entries

    def moved() -> bool:
        if is_error(client.call("CACHE.GET", tag), "MOVED "):
            return True
        client.call(*moving)  # an error while it is under way
        return False

    eventually(moved, 30, interval=0.05)
    replies = two.raw(timeout=60).pipeline([("CACHE.GET", key) for key in keys])
    assert [reply for reply in replies if reply is not None] == []
    for node in (one, two):
        eventually(lambda node=node: (node.stats()["sweep_backlog"], node.stats()["tagged_keys"]) == (0, 0), 30)
        assert node.call("CLUSTER", "COUNTKEYSINSLOT", slot) == 0


def test_among_many_keys_waited_for_those_that_moved_are_found(cluster: Cluster) -> None:
    """However many others are looked at first, time and again."""
    one, two = cluster.first, cluster.second
    stays, moves = cluster.key_of(one), cluster.key_of(one)
    assert slot_of(stays) != slot_of(moves)
    stay = [(b"{%s}%d" % (stays, n),) for n in range(3_000)]
    gone = [(b"{%s}%d" % (moves, n),) for n in range(8)]
    with one.herd(len(stay)) as others, one.herd(len(gone)) as parked:
        holder, before = one.raw(), one.stats()["waits"]
        for key in stay + gone:
            holder.send("CACHE.GETSM", *key, "LEASE", HOUR_MS)
        assert {holder.recv() for _ in stay + gone} == {None}
        for herd, keys in ((others, stay), (parked, gone)):
            herd.send_each([("CACHE.GETSM", *key, "WAIT", HOUR_MS) for key in keys])
        eventually(lambda: one.stats()["waits"] == before + len(stay) + len(gone))
        cluster.begin_to_move(moves, one, two)
        cluster.end_move(moves, two)
        answers = parked.collect(timeout=10, count=len(gone))
        assert [answer is not None and is_error(answer.reply, "TRYAGAIN ") for answer in answers] == [True] * 8
        assert others.silent()


def test_a_lock_that_moves_is_not_free_where_it_was(cluster: Cluster) -> None:
    """MIGRATE deletes the key on the source: who waits there is told to ask again, and is not granted it."""
    one, two, key = cluster.first, cluster.second, cluster.key_of(cluster.first)
    fence = one.raw().call("CACHE.LOCK", key, "holder", HOUR_MS)
    parked = [stand_in_line(one, one.raw(), f"w{number}", key=key) for number in range(2)]
    before = one.digest_value(key)
    cluster.begin_to_move(key, one, two)
    assert migrate(one, two, key) == b"OK"
    assert all(is_error(waiter.recv(), "TRYAGAIN ") for waiter in parked)
    assert is_error(parked[0].call("CACHE.LOCK", key, "w0", HOUR_MS), "ASK ")
    assert asking(two, "CACHE.LOCK", key, "w0", HOUR_MS) is None, "it is held there"
    cluster.end_move(key, two)
    assert two.digest_value(key) == before
    assert two.call("CACHE.UNLOCK", key, "holder") == 1
    assert two.call("CACHE.LOCK", key, "w0", HOUR_MS) > fence


def test_while_a_slot_moves_a_lock_is_passed_on_where_it_is(cluster: Cluster) -> None:
    """Given up on the source it is held there by the next; gone by other hands, who waits is sent on."""
    one, two, key = cluster.first, cluster.second, cluster.key_of(cluster.first)
    holder = one.raw()
    holder.call("CACHE.LOCK", key, "holder", HOUR_MS)
    first, second = (stand_in_line(one, one.raw(), owner, key=key) for owner in ("first", "second"))
    cluster.begin_to_move(key, one, two)
    assert holder.call("CACHE.UNLOCK", key, "holder") == 1
    assert first.recv() > 0
    assert holder.call("DEL", key) == 1
    assert is_error(second.recv(), "TRYAGAIN ")
    assert is_error(second.call("CACHE.LOCK", key, "second", HOUR_MS), "ASK ")
    assert asking(two, "CACHE.LOCK", key, "second", HOUR_MS) > 0
    cluster.end_move(key, two)
    assert two.call("CACHE.UNLOCK", key, "second") == 1


def test_locks_move_with_their_slot_at_one_stroke(cluster: Cluster) -> None:
    """CLUSTER MIGRATESLOTS of Valkey 9, as for entries."""
    one, two = cluster.first, cluster.second
    if not one.is_valkey or one.version < (9,):
        pytest.skip("Valkey 9 and later")
    tag = cluster.key_of(one)
    slot, client = slot_of(tag), one.raw()
    keys = [b"{%s}%d" % (tag, number) for number in range(3)]
    for number in range(20):
        client.call("CACHE.LOCK", keys[0], number, HOUR_MS + number, "SHARED")
        client.call("CACHE.LOCK", keys[1], number, HOUR_MS - number, "PERMITS", 30)
    fence = client.call("CACHE.LOCK", keys[2], "holder", HOUR_MS)
    waiter = stand_in_line(one, one.raw(), "waiter", key=keys[2])
    before = {key: (one.digest_value(key), one.call("PEXPIRETIME", key)) for key in keys}
    one.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", cluster.ids[two])
    reply = waiter.recv(timeout=20)
    assert is_error(reply, "TRYAGAIN ") or is_error(reply, "MOVED ")
    assert {key: (two.digest_value(key), two.call("PEXPIRETIME", key)) for key in keys} == before
    assert two.call("CACHE.UNLOCK", keys[2], "holder") == 1
    assert two.call("CACHE.LOCK", keys[2], "waiter", HOUR_MS) > fence


def test_a_failover_of_a_shard_lets_waiters_go(cluster: Cluster) -> None:
    """Last in this file: the two have swapped their roles then."""
    old, new = cluster.second, cluster.replica
    key, hit = (cluster.key_of(old) for _ in range(2))
    fill(old, {hit: (b"v", HOUR_MS)})
    locked = cluster.key_of(old)
    fence = old.call("CACHE.LOCK", locked, "holder", HOUR_MS)
    new.wait_for_sync()
    before = old.digest()
    lease(old, key)
    in_line = stand_in_line(old, old.raw(), "waiter", key=locked)
    parked: list[RawClient] = waiters(old, key, 3)
    assert new.call("CLUSTER", "FAILOVER") == b"OK"
    for waiter in parked:
        assert waiter.recv(timeout=20).code in ("UNBLOCKED", "MOVED", "READONLY")
    assert in_line.recv(timeout=20).code in ("UNBLOCKED", "MOVED", "READONLY")
    eventually(lambda: new.info("replication")["role"] == "master", 20)
    eventually(lambda: old.info("replication").get("master_link_status") == "up", 20)
    assert old.stats()["leases"] == old.stats()["waiters"] == 0
    assert new.digest() == old.digest() == before
    holder, parked = lease(new, key), waiters(new, key, 2)
    assert holder.call("CACHE.SETSM", key, "v", HOUR_MS) == b"OK"
    assert [waiter.recv() for waiter in parked] == [b"v"] * 2
    assert is_error(old.raw().call("CACHE.GETSM", key), "MOVED ")
    assert new.call("CACHE.LOCK", locked, "holder", HOUR_MS) == fence
    new.call("CACHE.UNLOCK", locked, "holder")
    assert new.call("CACHE.LOCK", locked, "waiter", HOUR_MS) > fence
