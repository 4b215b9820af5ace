"""Keys that leave a node of a cluster by the slot: the index is as exact as after any other removal."""

from collections.abc import Iterator

import pytest

from harness import RawClient, Server, eventually, is_error
from harness.cluster import CONFIG, SLOTS, Cluster, slot_of

LONG = 600_000
TOLD_FROM = (8, 4)  # Redis empties slots in the background from here on


@pytest.fixture
def cluster() -> Iterator[Cluster]:
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


def fill(node: Server, first: int, last: int, count: int = 3_000) -> list[bytes]:
    """Entries of two tags in the slots from `first` to `last`; their keys."""
    keys = [key for key in (b"k%d" % n for n in range(count)) if first <= slot_of(key) <= last]
    calls = [("CACHE.SETSM", key, "v", LONG, "TAGS", 2, "t", b"u%d" % (slot_of(key) % 2)) for key in keys]
    assert set(node.raw(timeout=60).pipeline(calls)) == {b"OK"}
    return keys


def keys_of(node: Server) -> set[bytes]:
    """A full scan."""
    cursor, found = b"0", set()
    while True:
        cursor, some = node.call("SCAN", cursor, "COUNT", 1_000)
        found.update(some)
        if cursor == b"0":
            return found


def is_exact(node: Server) -> bool:
    """The index says of each tag what a full scan does."""
    keys = keys_of(node)
    by_tag = {b"t": keys, b"u0": {k for k in keys if slot_of(k) % 2 == 0}, b"u1": {k for k in keys if slot_of(k) % 2}}
    return node.stats()["tagged_keys"] == len(keys) and all(
        (node.call("CACHE.TAGCOUNT", tag), set(node.call("CACHE.TAGKEYS", tag))) == (len(of), of)
        for tag, of in by_tag.items()
    )


def needs(node: Server, *command: str) -> None:
    if is_error(node.control().call(*command), "ERR unknown"):
        pytest.skip(f"this server has no {' '.join(command)}")


def is_atomic(node: Server) -> bool:
    return not node.is_valkey and node.version >= TOLD_FROM


def move(cluster: Cluster, first: int, last: int) -> None:
    """Moves slots of the first node to the second at one stroke, and waits until the second has them."""
    one, two = cluster.first, cluster.second
    if is_atomic(one):
        two.call("CLUSTER", "MIGRATION", "IMPORT", first, last)
    elif one.is_valkey and one.version >= (9,):
        one.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", cluster.ids[two])
    else:
        pytest.skip("this server moves slots key by key")
    key = next(key for key in (b"key %d" % n for n in range(1_000_000)) if first <= slot_of(key) <= last)
    eventually(lambda: is_error(one.raw().call("CACHE.GET", key), "MOVED "), 30)


def test_slots_that_move_at_one_stroke(cluster: Cluster) -> None:
    keys = fill(cluster.first, 0, SLOTS // 2 - 1)
    move(cluster, 0, 3_000)
    stay = {key for key in keys if slot_of(key) > 3_000}
    eventually(lambda: keys_of(cluster.first) == stay and is_exact(cluster.first), 30)
    assert is_exact(cluster.second) and cluster.second.call("CACHE.TAGCOUNT", "t") == len(keys) - len(stay)
    cluster.replica.wait_for_sync()
    assert is_exact(cluster.replica)
    assert cluster.first.call("CACHE.INVALIDATE", "t") == len(stay)


def test_a_replica_follows_when_slots_leave_its_primary(cluster: Cluster) -> None:
    """Here the slots of the second node go to the first."""
    cluster.first, cluster.second = cluster.second, cluster.first
    keys = fill(cluster.first, SLOTS // 2, SLOTS - 1)
    move(cluster, SLOTS // 2, SLOTS // 2 + 3_000)
    stay = {key for key in keys if slot_of(key) > SLOTS // 2 + 3_000}
    eventually(lambda: keys_of(cluster.first) == stay, 30)
    cluster.replica.wait_for_sync()
    for node in (cluster.first, cluster.replica):
        eventually(lambda node=node: keys_of(node) == stay and is_exact(node), 30)


def test_an_invalidation_while_the_keys_are_out_of_reach(cluster: Cluster) -> None:
    """What the server hides until it has deleted it was given up by then, and its place taken by others."""
    one = cluster.first
    if not is_atomic(one):
        pytest.skip("Redis 8.4 and later")
    keys = fill(one, 0, SLOTS // 2 - 1)
    one.call("DEBUG", "ASM-TRIM-METHOD", "active", 2_000)  # microseconds a key
    move(cluster, 0, 3_000)
    one.call("CACHE.INVALIDATE", "t")
    eventually(lambda: one.stats()["sweep_backlog"] == 0, 30)
    fill(one, 3_001, SLOTS // 2 - 1)
    stay = {key for key in keys if slot_of(key) > 3_000}
    eventually(lambda: b"Active trim completed" in one.log().encode(), 60)
    assert keys_of(one) == stay and is_exact(one)
    assert set(one.raw(timeout=60).pipeline([("CACHE.GET", key) for key in stay])) == {b"v"}


def test_slots_that_are_dropped_whole_all_the_same(cluster: Cluster) -> None:
    one = cluster.first
    if not is_atomic(one):
        pytest.skip("Redis 8.4 and later")
    keys = fill(one, 0, SLOTS // 2 - 1)
    one.call("DEBUG", "ASM-TRIM-METHOD", "bg")
    move(cluster, 0, 3_000)
    eventually(lambda: "Background trim started" in one.log(), 30)
    assert keys_of(one) == {key for key in keys if slot_of(key) > 3_000} and is_exact(one)


@pytest.mark.parametrize("how", [(), ("SYNC",), ("ASYNC",)])
def test_slots_that_are_flushed(cluster: Cluster, how: tuple[str, ...]) -> None:
    one = cluster.first
    needs(one, "CLUSTER", "FLUSHSLOT")
    keys = fill(one, 0, SLOTS // 2 - 1)
    for key in keys[:50]:
        assert one.call("CLUSTER", "FLUSHSLOT", slot_of(key), *how) == b"OK"
        assert key not in keys_of(one)
    assert is_exact(one) and 0 < one.call("CACHE.TAGCOUNT", "t") <= len(keys) - 50


@pytest.mark.parametrize("how", [(), ("SYNC",), ("ASYNC",)])
def test_slots_that_are_flushed_by_the_node(cluster: Cluster, how: tuple[str, ...]) -> None:
    needs(cluster.first, "SFLUSH")
    fill(cluster.first, 0, SLOTS // 2 - 1)
    cluster.first.call("SFLUSH", 0, SLOTS // 2 - 1, *how)
    eventually(lambda: not keys_of(cluster.first) and is_exact(cluster.first), 30)


def test_slots_that_are_given_up_keep_their_keys_until_another_has_them(cluster: Cluster) -> None:
    one, two = cluster.first, cluster.second
    keys = fill(one, 0, SLOTS // 2 - 1)
    slots = sorted({slot_of(key) for key in keys})[:20]
    assert one.call("CLUSTER", "DELSLOTS", *slots[:10]) == b"OK"
    # A scan of Redis 8.4 leaves them out, though they are there.
    assert one.call("DBSIZE") == one.call("CACHE.TAGCOUNT", "t") == one.stats()["tagged_keys"] == len(keys)
    for slot in slots[10:]:
        assert two.call("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.ids[one]) == b"OK"
        assert two.call("CLUSTER", "SETSLOT", slot, "NODE", cluster.ids[two]) == b"OK"
    # The old owner hears that it lost them, and deletes what it had there.
    eventually(lambda: not any(one.call("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in slots[10:]), 30)
    stay = sum(slot_of(key) not in slots[10:] for key in keys)
    assert one.call("DBSIZE") == one.call("CACHE.TAGCOUNT", "t") == one.stats()["tagged_keys"] == stay


def test_a_node_that_leaves_the_cluster(cluster: Cluster) -> None:
    fill(cluster.second, SLOTS // 2, SLOTS - 1)
    cluster.replica.wait_for_sync()
    assert is_exact(cluster.replica) and keys_of(cluster.replica)
    assert cluster.replica.call("CLUSTER", "RESET") == b"OK"
    assert not keys_of(cluster.replica) and is_exact(cluster.replica)


def test_leases_and_waiters_go_with_their_slots(cluster: Cluster) -> None:
    """Also of keys that do not exist: a lease must not be good again when its slot comes back."""
    one = cluster.first
    if not is_atomic(one):
        pytest.skip("Redis 8.4 and later")
    moves, stays = (next(k for k in (b"x%d" % n for n in range(10_000)) if slot_of(k) // 4_000 == at) for at in (0, 1))
    alone = b"{%s}alone" % moves  # nobody waits for it
    tokens = {key: one.raw().call("CACHE.GETSM", key, "META", "LEASE", LONG)[2] for key in (moves, stays, alone)}
    parked = {key: one.raw() for key in (moves, stays)}
    for key, waiter in parked.items():
        waiter.send("CACHE.GETSM", key, "WAIT", LONG)
    eventually(lambda: one.stats()["waiters"] == 2)
    move(cluster, 0, 3_999)
    waiting: RawClient = parked[moves]
    assert is_error(waiting.recv(timeout=20), "TRYAGAIN ")
    eventually(lambda: (one.stats()["leases"], one.stats()["waiters"]) == (1, 1), 20)
    assert one.raw().call("CACHE.SETSM", stays, "v", LONG, "TOKEN", tokens[stays]) == b"OK"
    assert parked[stays].recv() == b"v"
    one.call("CLUSTER", "MIGRATION", "IMPORT", 0, 3_999)
    eventually(lambda: one.raw().call("CACHE.GET", alone) is None, 30)
    assert one.raw().call("CACHE.SETSM", alone, "old", LONG, "TOKEN", tokens[alone]) is None


def test_locks_and_limits_go_with_their_slots(cluster: Cluster) -> None:
    one = cluster.first
    moves = next(k for k in (b"x%d" % n for n in range(10_000)) if slot_of(k) < 4_000)
    lock, limit = b"{%s}lock" % moves, b"{%s}limit" % moves
    holder = one.raw()
    assert holder.call("CACHE.LOCK", lock, "holder", LONG, "BIND") > 0
    assert holder.call("CACHE.RATELIMIT", limit, 1, LONG)[0] == 1
    waiters = [one.raw() for _ in range(2)]
    waiters[0].send("CACHE.LOCK", lock, "waiter", LONG, "WAIT", LONG)
    waiters[1].send("CACHE.RATELIMIT", limit, 1, LONG, "WAIT", LONG)
    eventually(lambda: one.stats()["limits_waiting"] == 1)
    move(cluster, 0, 3_999)
    for waiter in waiters:
        reply = waiter.recv(timeout=20)
        assert is_error(reply, "TRYAGAIN ") or is_error(reply, "MOVED "), reply
    assert cluster.second.call("CACHE.UNLOCK", lock, "holder") == 1
    eventually(lambda: not keys_of(one))
    holder.close()
    assert cluster.second.call("CACHE.LOCK", lock, "another", LONG) > 0
