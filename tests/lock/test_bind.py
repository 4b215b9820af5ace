"""BIND: the lock ends with the connection that was granted it."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import RawClient, Server, eventually
from harness.line import LONG, in_line, info, owners, stand_in_line

Connect = Callable[..., RawClient]
TESTS = Path(__file__).resolve().parents[1]

HOLDER = """
import sys, time
from harness import RawClient
client = RawClient(sys.argv[1], timeout=60)
print(client.call("CACHE.LOCK", "k", "process", 600000, "WAIT", 600000, "BIND"), flush=True)
time.sleep(600)
"""


def test_a_killed_process_loses_its_lock_at_once(server: Server, connect: Connect) -> None:
    for _ in range(5):
        command = [sys.executable, "-c", HOLDER, server.socket_path]
        with subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, text=True) as process:
            assert int(process.stdout.readline()) > 0
            waiter = stand_in_line(server, connect(), "waiter")
            process.send_signal(signal.SIGKILL)
            assert waiter.recv(20) > 0
            assert owners(server) == [b"waiter"]
            server.call("CACHE.UNLOCK", "k", "waiter")


def test_without_bind_the_lock_outlives_its_connection(server: Server, connect: Connect) -> None:
    holder, bound = connect(), connect()
    holder.call("CACHE.LOCK", "k", "holder", LONG)
    bound.call("CACHE.LOCK", "other", "bound", LONG, "BIND")
    holder.close()
    bound.close()
    eventually(lambda: server.call("EXISTS", "other") == 0)
    assert owners(server) == [b"holder"]


def test_all_locks_of_a_connection_end_with_it(server: Server, connect: Connect) -> None:
    bound, watcher = connect(), connect()
    for key in range(200):
        bound.call("CACHE.LOCK", key, "bound", LONG, "BIND", *(["SHARED"] if key % 2 else []))
        if key % 2:
            watcher.call("CACHE.LOCK", key, "stays", LONG, "SHARED")
    bound.call("SELECT", 2)
    bound.call("CACHE.LOCK", "there", "bound", LONG, "BIND")
    waiter = stand_in_line(server, connect(), "waiter", key="0")
    bound.close()
    assert waiter.recv() > 0
    eventually(lambda: server.call("DBSIZE") == 101)
    assert owners(server, "1") == [b"stays"]
    watcher.call("SELECT", 2)
    eventually(lambda: watcher.call("DBSIZE") == 0)


def test_a_lock_that_was_waited_for_is_bound_too(server: Server, connect: Connect) -> None:
    server.call("CACHE.LOCK", "k", "holder", LONG)
    bound = stand_in_line(server, connect(), "bound", "BIND")
    server.call("CACHE.UNLOCK", "k", "holder")
    assert bound.recv() > 0 and info(server)[b"holders"][0][b"bound"] == 1
    bound.close()
    eventually(lambda: server.call("EXISTS", "k") == 0)


def test_the_last_connection_is_the_one_that_counts(server: Server, connect: Connect) -> None:
    """The owner lost its first connection and locks again on a second one."""
    first, second = connect(), connect()
    fence = first.call("CACHE.LOCK", "k", "me", LONG, "BIND")
    assert second.call("CACHE.LOCK", "k", "me", LONG, "BIND") == fence
    first.close()
    eventually(lambda: server.info("clients")["connected_clients"] <= 2)
    assert owners(server) == [b"me"]
    second.close()
    eventually(lambda: server.call("EXISTS", "k") == 0)


def test_the_last_word_on_binding_counts(server: Server, connect: Connect) -> None:
    client = connect()
    client.call("CACHE.LOCK", "k", "me", LONG, "BIND")
    client.call("CACHE.LOCK", "k", "me", LONG)
    client.close()
    eventually(lambda: server.info("clients")["connected_clients"] <= 1)
    assert owners(server) == [b"me"]


def test_who_holds_by_another_grant_is_left_alone(server: Server, connect: Connect) -> None:
    """The bound holder's lock went, and the same owner holds it again from elsewhere."""
    bound, other = connect(), connect()
    bound.call("CACHE.LOCK", "k", "me", LONG, "BIND")
    server.call("DEL", "k")
    other.call("CACHE.LOCK", "k", "me", LONG)
    bound.close()
    eventually(lambda: server.info("clients")["connected_clients"] <= 2)
    assert owners(server) == [b"me"]


def test_a_bound_waiter_that_dies_is_not_waited_for(server: Server, connect: Connect) -> None:
    server.call("CACHE.LOCK", "k", "holder", LONG)
    waiter = stand_in_line(server, connect(), "waiter", "BIND")
    waiter.close()
    eventually(lambda: in_line(server) == 0)
    server.call("CACHE.UNLOCK", "k", "holder")
    assert server.call("EXISTS", "k") == 0


def test_a_hundred_thousand_bound_locks_leave_nothing_behind(server: Server, connect: Connect) -> None:
    """A connection that lives on and binds lock after lock: given up, deleted or expired."""
    client = connect(timeout=60)
    ends = [["CACHE.UNLOCK", "me"], ["DEL"], ["PEXPIREAT", 1]]

    def round_of(count: int) -> int:
        for start in range(0, count, 1_000):
            commands = []
            for number in range(start, start + 1_000):
                name, *rest = ends[number % 3]
                commands += [("CACHE.LOCK", f"k{number}", "me", LONG, "BIND"), (name, f"k{number}", *rest)]
            client.pipeline(commands, timeout=60)
        assert client.call("DBSIZE") == 0
        return server.info("memory")["used_memory"]

    before = round_of(20_000)
    assert round_of(100_000) - before < 1_000_000


@pytest.mark.parametrize("how", [("RENAME", "k", "k2"), ("MOVE", "k", 2), ("COPY", "k", "k2")], ids=lambda how: how[0])
def test_a_bond_does_not_follow_to_another_key(server: Server, connect: Connect, how: tuple[Any, ...]) -> None:
    bound, other = connect(), connect()
    fence = bound.call("CACHE.LOCK", "k", "me", LONG, "BIND")
    assert other.call(*how) == (b"OK" if how[0] == "RENAME" else 1)
    key = "k" if how[0] == "MOVE" else "k2"
    if how[0] == "MOVE":
        other.call("SELECT", 2)
    (holder,) = info(other, key)[b"holders"]
    assert (holder[b"client"], holder[b"bound"], holder[b"fence"]) == (None, 0, fence)
    assert other.call("CACHE.EXTEND", key, "me", LONG) == 1
    bound.close()
    eventually(lambda: server.info("clients")["connected_clients"] <= 2)
    assert owners(other, key) == [b"me"]


def test_a_bond_is_kept_by_extend_and_swapdb(server: Server, connect: Connect) -> None:
    bound, other = connect(), connect()
    bound.call("CACHE.LOCK", "k", "me", LONG, "BIND")
    server.call("SWAPDB", 0, 2)
    other.call("SELECT", 2)
    assert other.call("CACHE.EXTEND", "k", "me", LONG) == 1
    (holder,) = info(other)[b"holders"]
    assert (holder[b"client"], holder[b"bound"]) == (bound.client_id, 1)
    bound.close()
    eventually(lambda: other.call("EXISTS", "k") == 0)


def test_a_server_that_was_a_replica_has_forgotten_its_bonds(fresh_server: Callable[..., Server]) -> None:
    """The connection may have closed meanwhile, so neither EXTEND nor LOCKINFO brings a bond back."""
    server = fresh_server()
    bound = server.raw()
    bound.call("CACHE.LOCK", "k", "me", LONG, "BIND")
    server.call("REPLICAOF", "127.0.0.1", 1)
    server.call("REPLICAOF", "NO", "ONE")
    assert info(server)[b"holders"][0][b"bound"] == 0
    assert server.call("CACHE.EXTEND", "k", "me", LONG) == 1
    assert info(server)[b"holders"][0][b"bound"] == 0
    bound.close()
    eventually(lambda: server.info("clients")["connected_clients"] <= 1)
    assert owners(server) == [b"me"]
