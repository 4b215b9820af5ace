"""The way back: what scripts/without_module.py leaves loads on a server without the module."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import Server, eventually

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/without_module.py"
LONG = 600_000


def run(server: Server, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), f"unix://{server.socket_path}", *options], capture_output=True, text=True
    )


def fill(server: Server) -> None:
    """Each kind of key in two databases, and others that must stay as they are."""
    for database in (0, 3):
        client = server.raw()
        client.call("SELECT", database)
        for command in (
            f"CACHE.SETSM fresh value{database} {LONG}",
            f"CACHE.SETSM tagged v {LONG} STALE {LONG} TAGS 2 a b VERSION 7 COST 5",
            "CACHE.SETSM forever v PERSIST",
            f"CACHE.SETSM stale v 1 STALE {LONG}",
            f"CACHE.SETSM marked v {LONG} TAGS 1 old",
            "CACHE.MARKSTALE old",
            f"CACHE.LOCK lock me {LONG}",
            f"CACHE.LOCK shared me {LONG} SHARED",
            f"CACHE.RATELIMIT limit 5 {LONG}",
            f"CACHE.RATELIMIT gcra 5 {LONG} ALGORITHM GCRA",
            "SET string v",
            "RPUSH list a b",
            f"CACHE.GETSM missing LEASE {LONG}",
        ):
            client.call(*command.split())
        eventually(lambda client=client: client.call("CACHE.GET", "stale", "META")[0] == b"stale")


def look(server: Server) -> dict[int, dict[bytes, Any]]:
    """What a plain server has: the value and TTL of each string, the type of all else."""
    found: dict[int, dict[bytes, Any]] = {}
    for database in (0, 3):
        client = server.raw()
        client.call("SELECT", database)
        found[database] = {}
        for key in client.call("KEYS", "*"):
            kind = client.call("TYPE", key)
            found[database][key] = (client.call("GET", key), client.call("PTTL", key)) if kind == b"string" else kind
    return found


@pytest.mark.parametrize("kind", ["rdb", "aof", "aof without an rdb preamble"])
def test_the_files_load_without_the_module(fresh_server: Callable[..., Server], kind: str) -> None:
    preamble = {"aof-use-rdb-preamble": "no"} if "without" in kind else {}
    server = fresh_server(appendonly=kind != "rdb", config=preamble)
    fill(server)
    done = run(server)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "database 3: 3 entries are strings now, 6 keys deleted" in done.stdout
    server.restart(kill=True, module=None)
    assert b"cacheguard" not in str(server.call("MODULE", "LIST")).encode()
    for database, keys in look(server).items():
        assert set(keys) == {b"fresh", b"tagged", b"forever", b"string", b"list"}
        assert keys[b"forever"] == (b"v", -1) and keys[b"string"] == (b"v", -1) and keys[b"list"] == b"list"
        for name, value in ((b"fresh", b"value%d" % database), (b"tagged", b"v")):
            assert keys[name][0] == value and 0 < keys[name][1] <= LONG, "the stale period is no part of its life"


def test_without_the_script_the_server_does_not_start(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(appendonly=True)
    fill(server)
    with pytest.raises(RuntimeError, match="CACHE.|cg-"):
        server.restart(module=None)


def test_drop_deletes_the_entries_too(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server()
    fill(server)
    assert run(server, "--drop", "--no-save").returncode == 0
    assert [set(keys) for keys in look(server).values()] == [{b"string", b"list"}] * 2


def test_a_replica_follows_and_its_files_load_too(fresh_server: Callable[..., Server]) -> None:
    primary, replica = fresh_server(), fresh_server()
    replica.replica_of(primary)
    fill(primary)
    assert run(primary).returncode == 0
    replica.wait_for_sync()
    assert run(replica).returncode == 0, "there is nothing left to convert, its files are written"
    expected = {database: set(keys) for database, keys in look(primary).items()}
    replica.restart(kill=True, module=None)
    assert {database: set(keys) for database, keys in look(replica).items()} == expected


def test_waiters_get_the_string(server: Server) -> None:
    """A reader that waits while its stale entry is refreshed is not lost when the entry goes."""
    server.call("CACHE.SETSM", "k", "v", LONG)
    reader = server.raw()
    assert reader.call("CACHE.GETSM", "missing", "LEASE", LONG) is None
    waiter = server.raw().send("CACHE.GETSM", "missing", "WAIT", LONG)
    eventually(lambda: server.stats()["waiters"] == 1)
    assert run(server, "--no-save").returncode == 0
    assert server.call("GET", "k") == b"v" and server.stats()["waiters"] == 1
    server.call("SET", "missing", "plain")
    assert waiter.recv() == b"plain"
