"""CACHE.LOCK: granted with a rising number, refused with nil, or waited for."""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, RespError, Server, eventually, is_error
from harness.line import LONG, in_line, info, owners, stand_in_line, until_in_line

Connect = Callable[..., RawClient]
DURATION = "must be an integer from 1 to 315360000000"


def test_a_free_lock_is_granted_with_a_number_and_a_ttl(server: Server, raw: RawClient) -> None:
    fence = raw.call("CACHE.LOCK", "k", "me", 60_000)
    assert isinstance(fence, int) and 0 < fence < 2**53
    assert raw.wire == b":%d\r\n" % fence
    assert 0 < raw.call("PTTL", "k") <= 60_000
    assert raw.call("TYPE", "k") == b"cg-locked" and raw.call("EXISTS", "k") == 1
    assert owners(raw) == [b"me"]
    stats = server.stats()
    assert stats["panics"] == 0


def test_a_held_lock_is_refused_with_nil(raw: RawClient, protocol: int) -> None:
    raw.call("CACHE.LOCK", "k", "me", LONG)
    for options in ([], ["WAIT", 0], ["SHARED"], ["shared", "wait", 0]):
        assert raw.call("cache.lock", "k", "you", LONG, *options) is None
        assert raw.wire == (b"$-1\r\n" if protocol == 2 else b"_\r\n")
    assert owners(raw) == [b"me"]


def test_the_same_owner_has_the_same_number_and_the_later_deadline(raw: RawClient, connect: Connect) -> None:
    fence = raw.call("CACHE.LOCK", "k", "me", 60_000)
    assert connect().call("CACHE.LOCK", "k", "me", LONG) == fence, "from any connection"
    assert raw.call("PTTL", "k") > 60_000
    assert raw.call("CACHE.LOCK", "k", "me", 1) == fence
    assert raw.call("PTTL", "k") > 60_000, "and never less time than it has"
    assert raw.call("CACHE.LOCK", "k", "me", LONG, "WAIT", LONG) == fence


def test_numbers_rise_over_all_keys(raw: RawClient) -> None:
    fences = [raw.call("CACHE.LOCK", f"k{number}", "me", LONG) for number in range(100)]
    for number in range(100):
        raw.call("CACHE.UNLOCK", f"k{number}", "me")
    fences += [raw.call("CACHE.LOCK", f"k{number}", "me", LONG) for number in range(100)]
    assert fences == sorted(set(fences))


def test_the_oldest_waiter_is_next(server: Server, raw: RawClient, connect: Connect) -> None:
    fence = raw.call("CACHE.LOCK", "k", "holder", LONG)
    waiters = [stand_in_line(server, connect(), f"waiter {number}") for number in range(5)]
    assert not any(waiter.has_reply() for waiter in waiters)
    last = "holder"
    for number, waiter in enumerate(waiters):
        assert raw.call("CACHE.UNLOCK", "k", last) == 1
        grant = waiter.recv()
        assert grant > fence
        fence, last = grant, f"waiter {number}"
        assert owners(raw) == [last.encode()]
    assert raw.call("CACHE.UNLOCK", "k", last) == 1 and raw.call("EXISTS", "k") == 0


def test_a_newcomer_does_not_overtake_the_line(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "reader", LONG, "SHARED")
    writer = stand_in_line(server, connect(), "writer")
    assert raw.call("CACHE.LOCK", "k", "late", LONG, "SHARED") is None, "though it could share the lock"
    late = stand_in_line(server, connect(), "late", "SHARED")
    raw.call("CACHE.UNLOCK", "k", "reader")
    assert writer.recv() > 0 and not late.has_reply()
    raw.call("CACHE.UNLOCK", "k", "writer")
    assert late.recv() > 0


def test_readers_in_a_row_enter_together(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "writer", LONG)
    readers = [stand_in_line(server, connect(), f"r{number}", "SHARED") for number in range(3)]
    second = stand_in_line(server, connect(), "second writer")
    behind = stand_in_line(server, connect(), "r3", "SHARED")
    raw.call("CACHE.UNLOCK", "k", "writer")
    fences = [reader.recv() for reader in readers]
    assert fences == sorted(set(fences)) and owners(raw) == [b"r0", b"r1", b"r2"]
    assert not second.has_reply() and not behind.has_reply()
    for number in range(3):
        raw.call("CACHE.UNLOCK", "k", f"r{number}")
    assert second.recv() > 0 and owners(raw) == [b"second writer"]
    second.close()
    raw.call("DEL", "k")
    assert behind.recv() > 0


def test_a_writer_that_gives_up_lets_the_readers_behind_it_in(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "reader", LONG, "SHARED")
    writer = stand_in_line(server, connect(), "writer")
    behind = stand_in_line(server, connect(), "behind", "SHARED")
    writer.close()
    assert behind.recv() > 0
    assert owners(raw) == [b"reader", b"behind"]


def test_a_semaphore_of_n(server: Server, raw: RawClient, connect: Connect) -> None:
    for owner in "abc":
        assert raw.call("CACHE.LOCK", "k", owner, LONG, "PERMITS", 3) > 0
    assert raw.call("CACHE.LOCK", "k", "d", LONG, "PERMITS", 3) is None
    waiters = [stand_in_line(server, connect(), owner, "PERMITS", 3) for owner in "de"]
    assert raw.call("CACHE.LOCK", "k", "b", LONG, "PERMITS", 3) > 0, "who is in is in"
    raw.call("CACHE.UNLOCK", "k", "b")
    assert waiters[0].recv() > 0 and not waiters[1].has_reply()
    assert owners(raw) == [b"a", b"c", b"d"]


@pytest.mark.parametrize(
    "held, asked",
    [
        (["PERMITS", 3], ["PERMITS", 4]),
        (["PERMITS", 3], []),
        (["PERMITS", 1], ["SHARED"]),
        ([], ["PERMITS", 1]),
        (["SHARED"], ["PERMITS", 2]),
    ],
)
@pytest.mark.parametrize("owner", ["me", "you"])
def test_what_is_held_as_something_else_is_an_error(raw: RawClient, held: list, asked: list, owner: str) -> None:
    raw.call("CACHE.LOCK", "k", "me", LONG, *held)
    before = raw.call("DUMP", "k")
    for wait in ([], ["WAIT", LONG]):
        assert is_error(raw.call("CACHE.LOCK", "k", owner, LONG, *asked, *wait), "ERR the key is held or waited for ")
    assert raw.call("DUMP", "k") == before
    raw.call("CACHE.UNLOCK", "k", "me")
    assert raw.call("CACHE.LOCK", "k", owner, LONG, *asked) > 0, "once it is free it may be anything"


@pytest.mark.parametrize("held, asked", [([], ["SHARED"]), (["SHARED"], [])])
def test_a_holder_does_not_change_the_mode(raw: RawClient, held: list, asked: list) -> None:
    raw.call("CACHE.LOCK", "k", "me", LONG, *held)
    assert is_error(raw.call("CACHE.LOCK", "k", "me", LONG, *asked), "ERR the owner holds the lock already, ")


def test_an_owner_that_waits_on_two_connections_is_told_on_both(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    """The first connection lost its reply, or seems to have."""
    raw.call("CACHE.LOCK", "k", "holder", LONG)
    first, other = stand_in_line(server, connect(), "me"), stand_in_line(server, connect(), "other")
    second = stand_in_line(server, connect(), "me")
    raw.call("CACHE.UNLOCK", "k", "holder")
    assert first.recv() == second.recv() > 0
    assert not other.has_reply() and owners(raw) == [b"me"]


def test_a_wait_that_ends_is_nil_and_leaves_no_trace(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "holder", LONG)
    behind = connect()
    short = stand_in_line(server, connect(), "short", "WAIT", 50)
    stand_in_line(server, behind, "behind")
    assert short.recv() is None
    raw.call("CACHE.UNLOCK", "k", "holder")
    assert behind.recv() > 0 and in_line(server) == 0


def test_a_lock_whose_deadline_passes_goes_to_the_next(server: Server, raw: RawClient, connect: Connect) -> None:
    fence = raw.call("CACHE.LOCK", "k", "holder", 60)
    waiter = stand_in_line(server, connect(), "waiter")
    assert waiter.recv() > fence
    assert owners(raw) == [b"waiter"]


def test_of_several_holders_the_one_whose_deadline_passes_makes_room(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    raw.call("CACHE.LOCK", "k", "short", 60, "PERMITS", 2)
    raw.call("CACHE.LOCK", "k", "long", LONG, "PERMITS", 2)
    waiter = stand_in_line(server, connect(), "waiter", "PERMITS", 2)
    assert waiter.recv() > 0
    assert owners(raw) == [b"long", b"waiter"]
    assert raw.call("PTTL", "k") > 60


def test_in_transactions_and_scripts_nobody_waits(raw: RawClient) -> None:
    raw.call("CACHE.LOCK", "k", "holder", LONG)
    assert raw.pipeline([("MULTI",), ("CACHE.LOCK", "k", "me", LONG, "WAIT", LONG), ("EXEC",)])[-1] == [None]
    script = "return redis.call('CACHE.LOCK', KEYS[1], unpack(ARGV))"
    assert raw.call("EVAL", script, 1, "k", "me", LONG, "WAIT", LONG) is None
    assert raw.call("EVAL", script, 1, "other", "me", LONG) > 0
    assert "BIND cannot be given in a script" in raw.call("EVAL", script, 1, "free", "me", LONG, "BIND")
    assert raw.call("EXISTS", "free") == 0


def test_an_operator_may_unblock_a_waiter(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "holder", LONG)
    one, two = (stand_in_line(server, connect(), owner) for owner in ("one", "two"))
    assert raw.call("CLIENT", "UNBLOCK", one.client_id) == 1
    assert one.recv() is None
    assert raw.call("CLIENT", "UNBLOCK", two.client_id, "ERROR") == 1
    assert is_error(two.recv(), "UNBLOCKED")
    assert one.call("PING") == b"PONG" and in_line(server) == 0
    raw.call("CACHE.UNLOCK", "k", "holder")
    assert raw.call("EXISTS", "k") == 0, "none of them is granted it"


def test_no_more_wait_than_the_configuration_allows(server: Server, raw: RawClient, connect: Connect) -> None:
    server.call("CONFIG", "SET", "cacheguard.max-waiters", 2)
    raw.call("CACHE.LOCK", "k", "holder", LONG)
    for number in range(2):
        stand_in_line(server, connect(), number)
    assert raw.call("CACHE.LOCK", "k", "third", LONG, "WAIT", LONG) is None
    refused = server.stats()["locks_refused"]
    assert raw.call("CACHE.LOCK", "k", "third", LONG, "WAIT", LONG) is None
    assert server.stats()["locks_refused"] == refused + 1


def test_what_is_counted(server: Server, raw: RawClient, connect: Connect) -> None:
    def counted(name: str, since: dict[str, Any]) -> int:
        return server.stats()[name] - since[name]

    since = server.stats()
    raw.call("CACHE.LOCK", "k", "me", LONG)
    raw.call("CACHE.LOCK", "k", "me", LONG)
    raw.call("CACHE.LOCK", "k", "you", LONG)
    waiter = stand_in_line(server, connect(), "you")
    raw.call("CACHE.UNLOCK", "k", "me")
    assert waiter.recv() > 0
    names = ("locks_granted", "locks_refused", "locks_waited", "lock_waiters")
    assert [counted(name, since) for name in names] == [2, 1, 1, 0]


@pytest.mark.parametrize("owner", [b"", b"\0\r\n\xff", b"x" * 1024], ids=["empty", "binary", "long"])
def test_owners_and_keys_are_any_bytes(raw: RawClient, owner: bytes) -> None:
    key = b"\0key\xff"
    assert raw.call("CACHE.LOCK", key, owner, LONG) > 0
    assert owners(raw, key) == [owner]
    assert raw.call("CACHE.LOCK", key, owner + b"!" if len(owner) < 1024 else b"!", LONG) is None
    assert raw.call("CACHE.UNLOCK", key, owner) == 1


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["k", "me"], "ERR wrong number of arguments"),
        (["k", "me", "0"], f"ERR ttl {DURATION}"),
        (["k", "me", "-1"], f"ERR ttl {DURATION}"),
        (["k", "me", "1.5"], f"ERR ttl {DURATION}"),
        (["k", "me", "315360000001"], f"ERR ttl {DURATION}"),
        (["k", "me", "\xff"], f"ERR ttl {DURATION}"),
        (["k", "me", "10", "WAIT"], "ERR WAIT is missing"),
        (["k", "me", "10", "WAIT", "-1"], "ERR WAIT must be an integer from 0"),
        (["k", "me", "10", "WAIT", "1", "WAIT", "1"], "ERR WAIT was given more than once"),
        (["k", "me", "10", "SHARED", "SHARED"], "ERR SHARED was given more than once"),
        (["k", "me", "10", "BIND", "bind"], "ERR BIND was given more than once"),
        (["k", "me", "10", "PERMITS", "0"], "ERR PERMITS must be an integer from 1 to 10000"),
        (["k", "me", "10", "PERMITS", "10001"], "ERR PERMITS must be an integer from 1 to 10000"),
        (["k", "me", "10", "PERMITS"], "ERR PERMITS is missing"),
        (["k", "me", "10", "PERMITS", "2", "SHARED"], "ERR SHARED cannot be given with PERMITS"),
        (["k", "me", "10", "NX"], "ERR unknown option 'NX'"),
        (["k", "me", "10", ""], "ERR unknown option ''"),
        (["k", "x" * 1025, "10"], "ERR owner must not be longer than 1024 bytes"),
        (["k", "me", "PXAT"], "ERR PXAT is missing"),
        (["k", "me", "PXAT", "1"], "ERR PXAT is in the past"),
        (["k", "me", "PXAT", "9999999999999", "WAIT", "5"], "ERR WAIT cannot be given with PXAT"),
        (["k", "me", "10", "FENCE", "0"], "ERR FENCE must be an integer from 1 to 9007199254740991"),
        (["k", "me", "10", "FENCE", "9007199254740992"], "ERR FENCE must be an integer from 1 to 9007199254740991"),
        (["k", "me", "10", "FENCE", "9007199254740991"], "ERR FENCE is more than a minute ahead"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(raw: RawClient, arguments: list[str], error: str) -> None:
    assert is_error(raw.call("CACHE.LOCK", *arguments), error)
    assert raw.call("DBSIZE") == 0
    raw.call("CACHE.LOCK", "k", "holder", LONG)
    before = raw.call("DUMP", "k")
    assert is_error(raw.call("CACHE.LOCK", *arguments), error)
    assert raw.call("DUMP", "k") == before


def test_another_type_is_left_alone(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("RPUSH", "k", "a")
    for wait in ([], ["WAIT", LONG]):
        assert is_error(raw.call("CACHE.LOCK", "k", "me", LONG, *wait), "WRONGTYPE")
    raw.call("CACHE.SETSM", "entry", "v", LONG)
    assert is_error(raw.call("CACHE.LOCK", "entry", "me", LONG), "WRONGTYPE")
    raw.call("CACHE.LOCK", "lock", "me", LONG)
    for command in (["GET", "lock"], ["CACHE.GETSM", "lock"], ["CACHE.SETSM", "lock", "v", LONG], ["INCR", "lock"]):
        assert is_error(raw.call(*command), "WRONGTYPE")


def test_the_absolute_form_never_breaks_a_lock(raw: RawClient) -> None:
    """What replicas and the AOF are sent may be sent by anybody; then it is a request like any other."""
    at = int(raw.call("TIME")[0]) * 1000 + LONG
    fence = raw.call("CACHE.LOCK", "k", "me", "PXAT", at)
    assert raw.call("PEXPIRETIME", "k") == at
    assert raw.call("CACHE.LOCK", "k", "you", "PXAT", at, "FENCE", fence) is None
    assert raw.call("CACHE.LOCK", "k", "me", "PXAT", at, "FENCE", 1) == fence
    assert raw.call("CACHE.LOCK", "other", "me", "PXAT", at, "FENCE", 1) > fence, "at least that, and never less"
    next_one = info(raw)[b"last_fence"] + 1
    assert raw.call("CACHE.LOCK", "third", "me", "PXAT", at, "FENCE", next_one) >= next_one
    assert raw.call("CACHE.LOCK", "fourth", "me", "PXAT", at, "FENCE", next_one) > next_one


def test_locks_need_memory_and_their_ends_do_not(server: Server, raw: RawClient) -> None:
    raw.call("CACHE.LOCK", "k", "me", LONG)
    server.call("CONFIG", "SET", "maxmemory", 1)
    assert is_error(raw.call("CACHE.LOCK", "other", "me", LONG), "OOM")
    assert raw.call("CACHE.EXTEND", "k", "me", LONG) == 1
    assert raw.call("CACHE.UNLOCK", "k", "me") == 1


def test_access_to_the_key_is_checked(server: Server, raw: RawClient) -> None:
    rules = ["on", "nopass", "+@all", "%R~read*", "~mine*"]
    server.call("ACL", "SETUSER", "limited", *rules)
    try:
        limited = server.raw(auth=("limited", "any"))
        assert limited.call("CACHE.LOCK", "mine", "me", LONG) > 0
        assert limited.call("CACHE.LOCKINFO", "read this") is not None
        for command in (["CACHE.LOCK", "read this", "me", LONG], ["CACHE.UNLOCK", "read this", "me"]):
            assert is_error(limited.call(*command), "NOPERM")
        for command in ("CACHE.EXTEND", "CACHE.LOCK"):
            assert is_error(limited.call(command, "theirs", "me", LONG), "NOPERM")
        assert is_error(limited.call("CACHE.LOCKINFO", "theirs"), "NOPERM")
    finally:
        server.call("ACL", "DELUSER", "limited")


def test_pipelined_commands_behind_a_wait_keep_their_order(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "holder", LONG)
    waiter = stand_in_line(server, connect(), "me")
    waiter.send("PING").send("CACHE.UNLOCK", "k", "me")
    raw.call("CACHE.UNLOCK", "k", "holder")
    replies = [waiter.recv() for _ in range(3)]
    assert replies[0] > 0 and replies[1:] == [b"PONG", 1]


def test_watch_and_keyspace_events(server: Server, raw: RawClient, connect: Connect) -> None:
    server.call("CONFIG", "SET", "notify-keyspace-events", "KEA")
    watcher, listener = connect(), server.raw()
    listener.call("SUBSCRIBE", "__keyspace@0__:k")
    raw.call("CACHE.LOCK", "k", "me", LONG)
    watcher.call("WATCH", "k")
    assert raw.call("CACHE.LOCK", "k", "you", LONG) is None
    assert raw.call("CACHE.UNLOCK", "k", "you") == 0
    assert watcher.pipeline([("MULTI",), ("PING",), ("EXEC",)])[-1] == [b"PONG"], "nothing was changed"
    watcher.call("WATCH", "k")
    raw.call("CACHE.UNLOCK", "k", "me")
    assert watcher.pipeline([("MULTI",), ("PING",), ("EXEC",)])[-1] is None
    assert [listener.recv()[-1] for _ in range(3)] == [b"cache.lock", b"cache.unlock", b"del"]


def test_the_line_of_another_key_or_database_is_another(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "holder", LONG)
    waiter = stand_in_line(server, connect(), "waiter")
    other = connect()
    other.call("SELECT", 1)
    assert other.call("CACHE.LOCK", "k", "other", LONG) > 0
    assert other.call("CACHE.UNLOCK", "k", "other") == 1
    assert not waiter.has_reply(within_ms=20)
    assert info(raw)[b"waiters"][b"count"] == 1 and info(other)[b"waiters"][b"count"] == 0
    until_in_line(server, 1)
    eventually(lambda: not isinstance(raw.call("CACHE.UNLOCK", "k", "holder"), RespError))
    assert waiter.recv() > 0
