"""Permissions that are withdrawn while a caller waits count when it is answered, in every family.

What it would have got goes to the next in line.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error
from harness.line import LONG

NOPERM = "NOPERM this user no longer has permission to run this command or to access one of its keys"
WITHDRAWN = {"command": ("-@all",), "key": ("resetkeys", "~other"), "all": ("reset", "on", ">p", "+ping")}
GIVEN = ("reset", "on", ">p", "+@all", "~k*", "~other")

HOLD: dict[str, tuple[Any, ...]] = {
    "getsm": ("CACHE.GETSM", "k", "LEASE", LONG, "META"),
    "mgetsm": ("CACHE.MGETSM", 2, "k", "k2", "LEASE", LONG),
    "lock": ("CACHE.LOCK", "k", "holder", LONG),
    "ratelimit": ("CACHE.RATELIMIT", "k", 1, LONG),
}
WAIT: dict[str, tuple[Any, ...]] = {
    "getsm": ("CACHE.GETSM", "k", "WAIT", LONG, "META"),
    "mgetsm": ("CACHE.MGETSM", 2, "k", "k2", "WAIT", LONG),
    "lock": ("CACHE.LOCK", "k", "waiter", LONG, "WAIT", LONG),
    "ratelimit": ("CACHE.RATELIMIT", "k", 1, LONG, "WAIT", LONG),
}
FREE: dict[str, tuple[Any, ...]] = {
    "getsm": ("CACHE.DEL", "k"),
    "mgetsm": ("CACHE.DEL", "k"),
    "lock": ("CACHE.UNLOCK", "k", "holder"),
    "ratelimit": ("CACHE.REFUND", "k", 1),
}
COUNTS = {"getsm": "waiters", "mgetsm": "waiters", "lock": "lock_waiters", "ratelimit": "limits_waiting"}


def has_got_it(kind: str, reply: Any) -> bool:
    match kind:
        case "getsm":
            return reply[0] == b"won"
        case "mgetsm":
            return reply[0][0] == b"won"
        case "lock":
            return isinstance(reply, int)
        case _:
            return reply[0] == 1


@pytest.fixture
def served(fresh_server: Callable[..., Server]) -> Iterator[Server]:
    server = fresh_server()
    server.call("ACL", "SETUSER", "ann", *GIVEN)
    yield server


def park(server: Server, client: RawClient, kind: str) -> RawClient:
    before = server.stats()[COUNTS[kind]]
    client.send(*WAIT[kind])
    eventually(lambda: server.stats()[COUNTS[kind]] == before + 1, 10)
    return client


@pytest.mark.parametrize("what", WITHDRAWN)
@pytest.mark.parametrize("kind", WAIT)
def test_a_right_passes_on(served: Server, protocol: int, kind: str, what: str) -> None:
    holder, other = served.raw(), served.raw(protocol)
    assert not is_error(holder.call(*HOLD[kind]))
    ann = park(served, served.raw(protocol, auth=("ann", "p")), kind)
    park(served, other, kind)
    served.call("ACL", "SETUSER", "ann", *WITHDRAWN[what])
    assert not is_error(holder.call(*FREE[kind]))
    refused = ann.recv()
    assert is_error(refused) and refused.text == NOPERM
    assert has_got_it(kind, other.recv())
    served.call("ACL", "SETUSER", "ann", "+ping")
    assert ann.call("PING") in (b"PONG", "PONG"), "the connection goes on"


@pytest.mark.parametrize("kind", WAIT)
def test_an_operator_who_unblocks_tells_nothing_either(served: Server, protocol: int, kind: str) -> None:
    holder = served.raw()
    assert not is_error(holder.call(*HOLD[kind]))
    ann = park(served, served.raw(protocol, auth=("ann", "p")), kind)
    served.call("ACL", "SETUSER", "ann", *WITHDRAWN["key"])
    assert served.call("CLIENT", "UNBLOCK", ann.client_id) == 1
    refused = ann.recv()
    assert is_error(refused) and refused.text == NOPERM


def test_a_value_is_not_told(served: Server, protocol: int) -> None:
    holder = served.raw()
    assert holder.call(*HOLD["getsm"])[0] == b"won"
    ann = park(served, served.raw(protocol, auth=("ann", "p")), "getsm")
    other = park(served, served.raw(protocol), "getsm")
    served.call("ACL", "SETUSER", "ann", *WITHDRAWN["key"])
    assert holder.call("CACHE.SETSM", "k", "secret", LONG) == b"OK"
    refused = ann.recv()
    assert is_error(refused) and refused.text == NOPERM
    assert other.recv()[1] == b"secret"


def test_who_keeps_them_is_answered(served: Server, protocol: int) -> None:
    holder = served.raw()
    assert holder.call(*HOLD["getsm"])[0] == b"won"
    ann = park(served, served.raw(protocol, auth=("ann", "p")), "getsm")
    served.call("ACL", "SETUSER", "ann", *GIVEN, "-flushall")
    assert holder.call("CACHE.SETSM", "k", "v", LONG) == b"OK"
    assert ann.recv()[1] == b"v"


@pytest.mark.parametrize("kind", WAIT)
def test_a_user_of_one_database_can_wait_in_it(served: Server, kind: str) -> None:
    if not served.is_valkey or served.version < (9, 1):
        pytest.skip("only Valkey 9.1 has rules for databases")
    served.call("ACL", "SETUSER", "ann", *GIVEN, "resetdbs", "db=0")
    holder, waiter = served.raw(), served.raw(auth=("ann", "p"))
    holder.call(*HOLD[kind])
    park(served, waiter, kind)
    holder.call(*FREE[kind])
    assert has_got_it(kind, waiter.recv())
    holder = served.raw()
    holder.call("FLUSHALL")
    holder.call(*HOLD[kind])
    park(served, waiter, kind)
    served.call("ACL", "SETUSER", "ann", "resetdbs", "db=1")
    holder.call(*FREE[kind])
    assert is_error(waiter.recv(), NOPERM)
