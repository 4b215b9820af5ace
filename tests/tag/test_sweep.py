"""What happens to entries that were invalidated, until the last of them is deleted."""

from collections.abc import Callable

import pytest

from harness import RawClient, Server, eventually, is_error

LONG = 600_000
MANY = 4_000  # more than are deleted within the command
SLOW, FAST = 1, 100  # percent of a processor


def set_percent(server: Server, percent: int) -> None:
    server.call("CONFIG", "SET", "cacheguard.sweep-cpu-percent", percent)


def entries(server: Server, count: int = MANY, db: int = 0) -> None:
    client = server.raw(timeout=30)
    client.call("SELECT", db)
    client.pipeline([("CACHE.SETSM", f"k{n}", f"v{n}", LONG, "TAGS", 2, "many", f"t{n % 7}") for n in range(count)])
    client.close()


def swept(server: Server, left: int = 0) -> None:
    eventually(lambda: server.call("DBSIZE") == left, timeout=30, message="all are deleted")
    eventually(lambda: server.stats()["sweep_backlog"] == 0)


@pytest.fixture
def half_swept(server: Server) -> Server:
    """A server with entries that were invalidated and wait for the sweep."""
    set_percent(server, SLOW)
    entries(server)
    assert server.call("CACHE.INVALIDATE", "many") == MANY
    assert server.stats()["sweep_backlog"] > 0
    return server


def test_all_are_gone_for_readers_at_once(server: Server, client: RawClient) -> None:
    """The pause comes in the same write as the invalidation, and holds the sweep back."""
    entries(server)
    assert server.raw().pipeline([("CACHE.INVALIDATE", "many"), ("CLIENT", "PAUSE", LONG, "WRITE")]) == [MANY, b"OK"]
    assert server.call("DBSIZE") == MANY
    replies = client.pipeline([("CACHE.GET", f"k{n}", "META") for n in range(MANY)])
    assert replies == [[b"miss", None, None, None]] * MANY
    assert client.call("CACHE.TAGCOUNT", "many") == 0
    assert client.call("CACHE.TAGKEYS", "t3") == []
    assert client.call("CACHE.TAGSCAN", "t3", 0, "COUNT", 10_000) == [b"0", []]
    server.call("CLIENT", "UNPAUSE")
    client.pipeline([("CACHE.GETSM", f"k{n}", "META") for n in range(3)])
    set_percent(server, FAST)
    swept(server)


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(server: Server, request: pytest.FixtureRequest) -> RawClient:
    return server.raw(request.param)


def test_who_misses_meanwhile_loads_it_anew_and_that_stays(half_swept: Server) -> None:
    client = half_swept.raw()
    name = next(name for name in half_swept.call("KEYS", "*"))
    state, _, token, _ = client.call("CACHE.GETSM", name, "META")
    assert state == b"won"
    assert client.call("CACHE.SETSM", name, "new", LONG, "TOKEN", token, "TAGS", 1, "many") in (b"OK", "OK")
    set_percent(half_swept, FAST)
    swept(half_swept, left=1)
    assert client.call("CACHE.GET", name) == b"new"
    assert client.call("CACHE.TAGKEYS", "many") == [name]


@pytest.mark.parametrize("moves", ["RENAME", "COPY", "RESTORE", "MOVE"])
def test_the_dead_stay_dead_wherever_they_go(half_swept: Server, moves: str) -> None:
    client = half_swept.raw()
    for name in half_swept.call("KEYS", "*")[:50]:
        if moves == "RESTORE":
            payload = client.call("DUMP", name)
            reply = client.call("RESTORE", b"to:" + name, 0, payload) if payload else None
        elif moves == "MOVE":
            reply = client.call("MOVE", name, 3)
        else:
            reply = client.call(moves, name, b"to:" + name)
        if reply is not None and not is_error(reply):
            assert client.call("CACHE.GET", b"to:" + name) is None
            assert client.call("CACHE.TAGS", b"to:" + name) == []
    set_percent(half_swept, FAST)
    swept(half_swept)
    client.call("SELECT", 3)
    eventually(lambda: client.call("DBSIZE") == 0)


def test_each_deletion_is_told(half_swept: Server) -> None:
    """To subscribers, to client-side caches, and to whoever watches a key."""
    half_swept.call("CONFIG", "SET", "notify-keyspace-events", "Eg")
    subscriber, watcher = half_swept.raw(), half_swept.raw()
    tracker = half_swept.raw(3)
    tracker.call("CLIENT", "TRACKING", "ON", "BCAST")
    subscriber.call("SUBSCRIBE", "__keyevent@0__:del")
    names = set(half_swept.call("KEYS", "*"))
    watcher.call("WATCH", *names)
    set_percent(half_swept, FAST)
    swept(half_swept)
    told = set()
    eventually(lambda: told.update(m[2] for m in drain(subscriber)) or told >= names, message="each is told")
    pushed: set[bytes] = set()
    while not pushed >= names:  # each within a deadline
        pushed.update(tracker.recv_push(timeout=5)[1])
    watcher.pipeline([("MULTI",), ("PING",)])
    assert watcher.call("EXEC") is None


def drain(subscriber: RawClient) -> list:
    messages = []
    while subscriber.has_reply(within_ms=20):
        messages.append(subscriber.recv())
    return messages


def test_deletions_are_replicated_in_batches(fresh_server: Callable[..., Server]) -> None:
    primary, replica = fresh_server(), fresh_server()
    replica.replica_of(primary)
    replica.wait_for_sync()
    entries(primary)
    replica.wait_for_sync()
    before = calls(replica)
    primary.call("CACHE.INVALIDATE", "many")
    swept(primary)
    replica.wait_for_sync()
    assert (replica.call("DBSIZE"), replica.stats()["sweep_backlog"]) == (0, 0)
    after = calls(replica)
    assert after["cache.invalidate"] - before["cache.invalidate"] == 1
    assert 1 <= after["unlink"] - before["unlink"] <= MANY / 4, "many keys in each"
    assert replica.digest() == primary.digest()


def calls(server: Server) -> dict[str, int]:
    stats = server.info("commandstats")
    count = lambda name: int(str(stats.get(f"cmdstat_{name}", "calls=0")).split(",")[0].split("=")[1])  # noqa: E731
    return {name: count(name) for name in ("unlink", "cache.invalidate")}


def test_a_few_go_within_the_command(server: Server) -> None:
    entries(server, 1_000)
    pipeline = [("MULTI",), ("CACHE.INVALIDATE", "many"), ("DBSIZE",), ("EXEC",)]
    assert server.raw().pipeline(pipeline)[-1] == [1_000, 0]


@pytest.mark.parametrize("command", [("FLUSHALL",), ("FLUSHALL", "ASYNC"), ("FLUSHDB",), ("SWAPDB", 0, 3)])
def test_it_stops_with_the_data(half_swept: Server, command: tuple) -> None:
    half_swept.call(*command)
    if command[0] == "SWAPDB":
        set_percent(half_swept, FAST)
        client = half_swept.raw()
        client.call("SELECT", 3)
        eventually(lambda: client.call("DBSIZE") == 0, timeout=30, message="it follows them")
    eventually(lambda: half_swept.stats()["sweep_backlog"] == 0)
    assert half_swept.stats()["tagged_keys"] == 0
    entries(half_swept, 10)
    assert half_swept.call("CACHE.TAGCOUNT", "many") == 10


def test_it_goes_on_in_all_databases(server: Server) -> None:
    set_percent(server, SLOW)
    for db in (0, 5):
        entries(server, db=db)
        client = server.raw()
        client.call("SELECT", db)
        assert client.call("CACHE.INVALIDATE", "many") == MANY
    set_percent(server, FAST)
    swept(server)
    assert client.call("DBSIZE") == 0


def test_while_writes_are_held_back_nothing_is_deleted(half_swept: Server) -> None:
    half_swept.call("CLIENT", "PAUSE", 60_000, "WRITE")
    left = half_swept.call("DBSIZE")
    set_percent(half_swept, FAST)
    client = half_swept.raw()
    for _ in range(200):  # turns of the event loop
        client.call("PING")
    assert half_swept.call("DBSIZE") == left
    assert client.call("CACHE.GET", "k1") is None
    half_swept.call("CLIENT", "UNPAUSE")
    swept(half_swept)


def test_a_primary_that_becomes_a_replica_stops(fresh_server: Callable[..., Server]) -> None:
    server, other = fresh_server(module_args=("sweep-cpu-percent", 1)), fresh_server()
    entries(server)
    server.call("CACHE.INVALIDATE", "many")
    other.call("SET", "key", "value")
    server.replica_of(other)
    server.wait_for_sync()
    assert (server.call("DBSIZE"), server.stats()["sweep_backlog"]) == (1, 0)
    assert server.stats()["tagged_keys"] == 0


def test_a_shutdown_in_the_middle_is_clean(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(module_args=("sweep-cpu-percent", 1))
    entries(server)
    server.call("CACHE.INVALIDATE", "many")
    server.stop(save=True)
    server.start()
    assert server.call("CACHE.GET", "k1") is None
    set_percent(server, FAST)
    swept(server)


@pytest.mark.parametrize("bad", ["0", "101", "-1", "x", ""])
def test_the_share_has_a_range(server: Server, bad: str) -> None:
    assert is_error(server.raw().call("CONFIG", "SET", "cacheguard.sweep-cpu-percent", bad))
    assert server.call("CONFIG", "GET", "cacheguard.sweep-cpu-percent")[1] == b"10"
