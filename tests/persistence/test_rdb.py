"""RDB files: what a save and a load keep, what a restart forgets, and what a server does with a bad file.

The entries that the persistence tests store, and how they compare two servers, are here too.
"""

import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error

HOUR_MS = 3_600_000
LARGE = random.Random(1).randbytes(300_000)
# The type's name, nine characters of six bits, and the encoding version, ten bits.
TYPE_ID = (0x720F9C69C85E74 << 8) | 0x01
ENCODING_VERSION_BITS = 10

SAMPLES: dict[bytes, tuple[Any, ...]] = {
    b"plain": (b"value", HOUR_MS),
    b"empty": (b"", HOUR_MS),
    b"forever": (b"value", "PERSIST"),
    b"number": (b"12345", HOUR_MS),
    b"stale later": (b"value", HOUR_MS, "STALE", HOUR_MS),
    b"stale by now": (b"value", 1, "STALE", HOUR_MS),
    b"stale period, no ttl": (b"value", "PERSIST", "STALE", 7),
    b"version": (b"value", HOUR_MS, "VERSION", 7),
    b"version max": (b"value", HOUR_MS, "VERSION", 2**64 - 1),
    b"cost": (b"value", HOUR_MS, "COST", 250),
    b"cost max": (b"value", HOUR_MS, "COST", 2**32 - 1),
    b"all": (b"value", HOUR_MS, "STALE", 1_000, "VERSION", 2**63, "COST", 1),
    b"all, no ttl": (b"value", "PERSIST", "STALE", 1_000, "VERSION", 3, "COST", 90),
    bytes(range(256)): (bytes(range(256)) * 3, HOUR_MS, "STALE", 5, "VERSION", 6, "COST", 7),
    b"": (b"value of the empty key", HOUR_MS),
    b"compressible": (b"abc" * 10_000, HOUR_MS, "COST", 3),
    b"large": (LARGE, HOUR_MS, "VERSION", 1),
}


def fill(server: Server, samples: dict[bytes, tuple[Any, ...]] = SAMPLES, db: int = 0) -> None:
    """Stores the entries in a database."""
    client = server.raw()
    commands = [("SELECT", db), *(("CACHE.SETSM", key, *args) for key, args in samples.items())]
    assert client.pipeline(commands) == [b"OK"] * len(commands)
    client.close()


def state(server: Server, databases: int = 3) -> dict[Any, Any]:
    """Everything that must survive: of each key the digest of its value and when it goes; the digest of it all."""
    found: dict[Any, Any] = {"digest": server.digest()}
    client = server.raw()
    for db in range(databases):
        assert client.call("SELECT", db) == b"OK"
        for key in client.call("KEYS", "*"):
            found[db, key] = (client.call("DEBUG", "DIGEST-VALUE", key)[0], client.call("PEXPIRETIME", key))
    client.close()
    return found


def read(client: RawClient, key: bytes | str) -> Any:
    """What a reader gets who takes no lease for long and never waits."""
    return client.call("CACHE.GETSM", key, "WAIT", 0, "LEASE", 1)


def lease(server: Server, key: bytes | str, lease_ms: int = HOUR_MS) -> RawClient:
    """A client that holds the key's lease."""
    holder = server.raw()
    assert holder.call("CACHE.GETSM", key, "LEASE", lease_ms) is None
    return holder


def waiters(server: Server, key: bytes | str, count: int, wait_ms: int = HOUR_MS) -> list[RawClient]:
    """Clients that wait for the key, the oldest first."""
    parked = []
    for _ in range(count):
        before = server.stats()["waits"]
        parked.append(server.raw().send("CACHE.GETSM", key, "WAIT", wait_ms, "LEASE", HOUR_MS))
        eventually(lambda before=before: server.stats()["waits"] == before + 1)
    return parked


def wall_ms() -> float:
    return time.time() * 1000


def rdb_file(server: Server) -> Path:
    return server.dir / "dump.rdb"


def bgsave(server: Server) -> None:
    """Saves in the background and waits for the end of it."""
    assert b"Background saving started" in server.call("BGSAVE")
    eventually(lambda: server.info("persistence")["rdb_bgsave_in_progress"] == 0, 20)
    assert server.info("persistence")["rdb_last_bgsave_status"] == "ok"


def by_save(server: Server) -> None:
    server.restart(save=True)


def by_background_save_and_power_cut(server: Server) -> None:
    bgsave(server)
    server.restart(kill=True)


def by_reload(server: Server) -> None:
    assert server.call("DEBUG", "RELOAD") == b"OK"


def by_shutdown(server: Server) -> None:
    server.raw().send("SHUTDOWN", "SAVE")
    eventually(lambda: not server.is_running, 20)
    server.check_log()
    server.start()


@pytest.mark.parametrize("reborn", [by_save, by_background_save_and_power_cut, by_reload, by_shutdown])
def test_a_load_gives_back_what_was_saved(fresh_server: Callable[..., Server], reborn: Callable) -> None:
    server = fresh_server()
    for db in range(3):
        fill(server, db=db)
    before = state(server)
    assert len(before) == 3 * len(SAMPLES) + 1
    reborn(server)
    assert state(server) == before
    lease(server, b"stale by now")
    client = server.raw()
    assert {key: read(client, key) for key in SAMPLES} == {key: args[0] for key, args in SAMPLES.items()}
    assert server.call("MEMORY", "USAGE", b"large") > len(LARGE)


def test_a_loaded_entry_still_refuses_an_older_version(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server()
    server.call("CACHE.SETSM", "key", "new", HOUR_MS, "VERSION", 2**64 - 1)
    server.restart(save=True)
    assert server.call("CACHE.SETSM", "key", "old", HOUR_MS, "VERSION", 2**64 - 2) is None
    assert read(server.raw(), "key") == b"new"


def test_two_saves_of_the_same_data_are_one(fresh_server: Callable[..., Server]) -> None:
    """A load and a second save lose nothing bit by bit."""
    server = fresh_server(config={"rdbcompression": "no"})
    fill(server)
    dumps = {key: server.call("DUMP", key) for key in SAMPLES}
    server.restart(save=True)
    server.restart(save=True)
    assert {key: server.call("DUMP", key) for key in SAMPLES} == dumps


def test_an_entry_that_expired_meanwhile_is_not_loaded(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server()
    server.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    server.call("CACHE.SETSM", "short", "v", 200, "STALE", 100)
    server.call("CACHE.SETSM", "long", "v", HOUR_MS)
    ends, stays = server.call("PEXPIRETIME", "short"), server.call("PEXPIRETIME", "long")
    server.call("SAVE")
    assert b"short" in rdb_file(server).read_bytes()
    server.kill9()
    eventually(lambda: wall_ms() > ends + 1)
    server.start()
    assert server.call("DBSIZE") == 1
    assert server.call("PEXPIRETIME", "long") == stays


def test_leases_and_waiters_are_not_saved(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server()
    fill(server, {b"present": (b"value", HOUR_MS)})
    server.call("SAVE")
    size = rdb_file(server).stat().st_size
    lease(server, b"the missing key")
    parked = waiters(server, b"the missing key", 5)
    assert server.call("DBSIZE") == 1
    bgsave(server)
    saved = rdb_file(server).read_bytes()
    assert b"the missing key" not in saved
    assert abs(len(saved) - size) < 32, "only times and memory sizes in the header may differ in length"
    server.restart(kill=True)
    for waiter in parked:
        with pytest.raises(ConnectionError):
            waiter.recv()
    stats = server.stats()
    assert {name: stats[name] for name in stats if stats[name]} == {}, "statistics begin anew"
    assert server.call("KEYS", "*") == [b"present"]
    assert server.raw().call("CACHE.GETSM", b"the missing key", "WAIT", 0) is None, "nobody holds the lease now"
    assert is_error(server.raw().call("CACHE.GETSM", b"the missing key", "WAIT", 0), "LEASED ")


@pytest.mark.parametrize("how", ["stop", "power cut"])
def test_a_restart_forgets_the_lease_on_a_stale_entry(fresh_server: Callable[..., Server], how: str) -> None:
    server = fresh_server()
    server.call("CACHE.SETSM", "key", "old", 1, "STALE", HOUR_MS)
    first = server.raw()
    eventually(lambda: first.call("CACHE.GETSM", "key", "LEASE", HOUR_MS) is None)
    assert server.raw().call("CACHE.GETSM", "key") == b"old"
    server.call("SAVE")
    server.restart(kill=how == "power cut")
    assert server.raw().call("CACHE.GETSM", "key", "LEASE", HOUR_MS) is None
    assert server.raw().call("CACHE.GETSM", "key") == b"old"


def test_life_goes_on_during_a_background_save(fresh_server: Callable[..., Server]) -> None:
    """Leases are granted, waited for and ended while a child saves; the file has the state of its beginning."""
    server = fresh_server(config={"rdb-key-save-delay": 20_000})
    fill(server, {b"key %d" % n: (b"before", HOUR_MS) for n in range(40)})
    parked = (lease(server, b"before the save"), waiters(server, b"before the save", 3))[1]
    server.call("BGSAVE")
    assert server.info("persistence")["rdb_bgsave_in_progress"] == 1
    holder = lease(server, b"during the save")
    parked += waiters(server, b"during the save", 3)
    writer = server.raw()
    assert writer.call("CACHE.SETSM", b"before the save", b"after", HOUR_MS) == b"OK"
    assert holder.call("CACHE.SETSM", b"during the save", b"after", HOUR_MS) == b"OK"
    assert [waiter.recv() for waiter in parked] == [b"after"] * 6
    for n in range(40):
        assert writer.call("CACHE.SETSM", b"key %d" % n, b"after", HOUR_MS) == b"OK"
    assert server.info("persistence")["rdb_bgsave_in_progress"] == 1, "the save was to last longer than this"
    eventually(lambda: server.info("persistence")["rdb_bgsave_in_progress"] == 0, 20)
    assert server.info("persistence")["rdb_last_bgsave_status"] == "ok"
    server.restart(kill=True)
    client = server.raw()
    assert [read(client, b"key %d" % n) for n in range(40)] == [b"before"] * 40
    assert read(client, b"before the save") is None
    assert read(client, b"during the save") is None


def test_a_reload_with_leases_and_waiters_answers_all(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server()
    fill(server)
    holder = lease(server, "missing")
    parked = waiters(server, "missing", 4)
    before = state(server)
    assert server.call("DEBUG", "RELOAD") == b"OK"
    assert state(server) == before
    assert holder.call("CACHE.SETSM", "missing", "found", HOUR_MS) == b"OK"
    # A reload empties the data set first; the oldest may have been told to take over then.
    answers = [waiter.recv() for waiter in parked]
    assert answers[0] in (b"found", None)
    assert answers[1:] == [b"found"] * 3
    assert server.stats()["waiters"] == server.stats()["leases"] == 0
    server.assert_alive()


def test_a_file_without_entries_needs_no_module(fresh_server: Callable[..., Server]) -> None:
    """So that the module can be taken away again: nothing of it is in a file without its keys."""
    server = fresh_server()
    server.call("SET", "native", "v")
    fill(server)
    lease(server, "missing")
    server.call("DEL", *SAMPLES)
    server.restart(save=True, module=None)
    assert server.call("GET", "native") == b"v"


def damaged(server: Server, find: bytes, replace: bytes) -> None:
    """Changes one place of the saved file, and lets the server believe it."""
    data = rdb_file(server).read_bytes()
    assert data.count(find) == 1, f"{data.count(find)} times {find!r}"
    rdb_file(server).write_bytes(data.replace(find, replace))


def of_version(version: int) -> bytes:
    return (TYPE_ID >> ENCODING_VERSION_BITS << ENCODING_VERSION_BITS | version).to_bytes(8, "big")


def test_this_is_how_an_entry_lies_in_a_file(fresh_server: Callable[..., Server]) -> None:
    """The bytes the damage below is done to: they are written for ever, so they are also a test."""
    server = fresh_server(config={"rdbchecksum": "no"})
    server.call("CACHE.SETSM", "key", "value", "PERSIST", "STALE", 9, "VERSION", 10, "COST", 11)
    server.call("SAVE")
    entry = b"\x07\x03key\x81" + of_version(1) + b"\x02\x09\x02\x0a\x02\x0b\x02\x00\x02\x00\x05\x05value\x00"
    assert entry in rdb_file(server).read_bytes()


@pytest.mark.parametrize(
    "find, replace",
    [
        pytest.param(of_version(1), of_version(2), id="of a later release"),
        pytest.param(of_version(1), of_version(0), id="of version 0"),
        pytest.param(b"\x02\x0b\x02\x00\x02\x00", b"\x02\x0b\x02\x00\x02\x01", id="with a tag that is not there"),
        pytest.param(b"\x02\x00\x05\x05value\x00", b"\x05\x05value\x00\x00\x00", id="one field less"),
        pytest.param(b"\x05\x05value\x00", b"\x05\x3fvalue\x00", id="a value longer than said"),
        pytest.param(b"\x05\x05value\x00", b"\x05\x03value\x00", id="a value shorter than said"),
    ],
)
def test_a_damaged_file_ends_the_start_in_good_order(
    fresh_server: Callable[..., Server], find: bytes, replace: bytes
) -> None:
    server = fresh_server(config={"rdbchecksum": "no"})
    server.call("CACHE.SETSM", "key", "value", "PERSIST", "STALE", 9, "VERSION", 10, "COST", 11)
    server.call("SAVE")
    server.stop()
    damaged(server, find, replace)
    with pytest.raises(RuntimeError, match="ended while starting"):
        server.start()
    server.check_log()
    assert re.search("cg-cached|RDB", server.log_tail())
