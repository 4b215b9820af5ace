"""GETSM with META, and what a stale value means: who refreshes it, who is served it, and for how long.

Times are compared in brackets: what the server says must fit what a clock here showed before and after the call.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually, is_error
from harness.server import ROOT
from test_token import LONG, holder, make_stale, queue, trust_transactions, won

Connect = Callable[..., RawClient]
READERS = 1_000


def unix_ms() -> float:
    return time.time() * 1000


def row(client: RawClient, *options: Any) -> tuple[list[Any], float, float]:
    """A row, and the time before and after the call."""
    before = unix_ms()
    reply = client.call("CACHE.GETSM", "k", *options, "META")
    return reply, before, unix_ms()


def nil(client: RawClient) -> bytes:
    return b"_\r\n" if client.protocol == 3 else b"$-1\r\n"


# The rows, to the millisecond


def test_hit(raw: RawClient) -> None:
    ends = int(unix_ms()) + 100_000
    raw.call("CACHE.SETSM", "k", "v", "PXAT", ends, "STALE", 50_000)
    (state, value, token, ms), before, after = row(raw)
    assert (state, value, token) == (b"hit", b"v", None)
    assert math.floor(ends - after) <= ms <= math.ceil(ends - before)
    assert raw.wire == b"*4\r\n$3\r\nhit\r\n$1\r\nv\r\n" + nil(raw) + b":%d\r\n" % ms


@pytest.mark.parametrize("store", ["SET k v", "CACHE.SETSM k v PERSIST", "CACHE.SETSM k v PERSIST STALE 9"])
def test_hit_without_an_end(raw: RawClient, store: str) -> None:
    raw.call(*store.split())
    assert raw.call("CACHE.GETSM", "k", "META") == [b"hit", b"v", None, -1]


def test_hit_of_a_native_string(raw: RawClient) -> None:
    ends = int(unix_ms()) + 100_000
    raw.call("SET", "k", "v", "PXAT", ends)
    (state, value, token, ms), before, after = row(raw)
    assert (state, value, token) == (b"hit", b"v", None)
    assert math.floor(ends - after) <= ms <= math.ceil(ends - before)


def test_won_on_a_missing_key(raw: RawClient) -> None:
    (state, value, token, ms), before, after = row(raw, "LEASE", 100_000)
    assert (state, value) == (b"won", None)
    assert 100_000 - math.ceil(after - before) - 1 <= ms <= 100_000
    assert raw.wire == b"*4\r\n$3\r\nwon\r\n" + nil(raw) + b"$32\r\n" + token + b"\r\n:%d\r\n" % ms


def test_won_on_a_stale_value_which_comes_with_it(raw: RawClient) -> None:
    make_stale(raw)
    (state, value, token, ms), *_ = row(raw, "LEASE", 100_000)
    assert (state, value, len(token)) == (b"won", b"old", 32)
    assert 90_000 <= ms <= 100_000


def test_stale(raw: RawClient, connect: Connect) -> None:
    at = int(unix_ms()) - 1
    raw.call("CACHE.SETSM", "k", "old", "PXAT", at, "STALE", 100_000)
    won(connect())
    (state, value, token, ms), before, after = row(raw)
    assert (state, value, token) == (b"stale", b"old", None)
    assert math.floor(at + 100_000 - after) <= ms <= math.ceil(at + 100_000 - before)
    assert raw.wire == b"*4\r\n$5\r\nstale\r\n$3\r\nold\r\n" + nil(raw) + b":%d\r\n" % ms


def test_leased(raw: RawClient, connect: Connect) -> None:
    before = unix_ms()
    won(connect(), "k", "LEASE", 100_000)
    granted = unix_ms()
    (state, value, token, ms), asked, after = row(raw, "WAIT", 0)
    assert (state, value, token) == (b"leased", None, None)
    assert before + 100_000 - after - 1 <= ms <= granted + 100_000 - asked + 1
    assert raw.wire == b"*4\r\n$6\r\nleased\r\n" + 2 * nil(raw) + b":%d\r\n" % ms


def test_leased_after_a_wait_that_ended_first(raw: RawClient, connect: Connect) -> None:
    won(connect(), "k", "LEASE", 100_000)
    (state, value, token, ms), before, after = row(raw, "WAIT", 30)
    assert (state, value, token) == (b"leased", None, None)
    assert after - before >= 29 and 90_000 < ms <= 100_000 - 29


def test_failed(raw: RawClient, protocol: int) -> None:
    assert raw.call("CACHE.SETSM", "k", "v", LONG) == b"OK"
    assert raw.call("CACHE.DEL", "k") == 1
    assert raw.call("CACHE.FAIL", "k", won(raw), "RETRY", 100_000, "MESSAGE", "no") == 1
    (state, value, token, ms), before, after = row(raw)
    assert (state, value, token) == (b"failed", None, None)
    assert 90_000 <= ms <= 100_000
    assert raw.wire == b"*4\r\n$6\r\nfailed\r\n" + 2 * nil(raw) + b":%d\r\n" % ms
    assert raw.call("CACHE.GETSM", "k") == "FAILED no"
    assert raw.call("CACHE.SETSM", "k", "v", LONG) == b"OK"


def test_a_waiter_is_told_in_the_form_it_asked_for(server: Server, raw: RawClient, connect: Connect) -> None:
    token = won(raw)
    rows, plain = queue(server, connect, 2), connect()
    plain.send("CACHE.GETSM", "k", "WAIT", LONG)
    eventually(lambda: server.stats()["waiters"] == 3)
    assert raw.call("CACHE.RELEASE", "k", token) == 1
    state, value, token, ms = rows[0].recv()
    assert (state, value, ms) == (b"won", None, pytest.approx(LONG, abs=60_000))
    before = unix_ms()
    assert raw.call("CACHE.SETSM", "k", "v", 100_000, "STALE", 50_000, "TOKEN", token) == b"OK"
    state, value, token, ms = rows[1].recv()
    assert (state, value, token) == (b"hit", b"v", None)
    assert 100_000 - (unix_ms() - before) - 1 <= ms <= 100_000
    assert plain.recv() == b"v"


# Stale


@pytest.mark.parametrize("form", ["plain", "META"])
def test_of_a_thousand_readers_one_refreshes_and_all_others_are_served_at_once(
    server: Server, raw: RawClient, protocol: int, form: str
) -> None:
    make_stale(raw)
    before = server.stats()
    with server.herd(READERS, protocol) as herd:
        herd.send("CACHE.GETSM", "k", "WAIT", LONG, "LEASE", LONG, *(("META",) if form == "META" else ()))
        replies = [answer.reply for answer in herd.collect()]
        if form == "META":
            replies = [(reply[0], reply[1]) for reply in replies]
            assert replies.count((b"won", b"old")) == 1 and replies.count((b"stale", b"old")) == READERS - 1
        else:
            assert replies.count(None) == 1 and replies.count(b"old") == READERS - 1
    after = server.stats()
    assert after["leases_granted"] - before["leases_granted"] == 1
    assert after["stale_hits"] - before["stale_hits"] == READERS - 1
    assert (after["waits"], after["waiters"]) == (before["waits"], 0)


def test_the_stale_value_is_served_until_the_new_one_is_there(raw: RawClient, connect: Connect) -> None:
    make_stale(raw)
    token, reader = won(raw), connect()
    assert [reader.call("CACHE.GETSM", "k") for _ in range(3)] == [b"old"] * 3
    assert raw.call("CACHE.GETSM", "k") == b"old", "the holder is served it, too"
    assert raw.call("CACHE.SETSM", "k", "new", LONG, "TOKEN", token) == b"OK"
    assert reader.call("CACHE.GETSM", "k", "META")[:2] == [b"hit", b"new"]


def test_when_the_lease_ends_without_a_value_the_next_who_asks_refreshes(raw: RawClient, connect: Connect) -> None:
    make_stale(raw)
    won(raw, "k", "LEASE", 1)
    reader = connect()
    rows = []
    eventually(lambda: rows.append(reader.call("CACHE.GETSM", "k", "LEASE", LONG, "META")) or rows[-1][0] == b"won")
    assert all(each[1] == b"old" for each in rows)
    assert connect().call("CACHE.GETSM", "k", "META")[0] == b"stale"


def test_once_it_is_gone_others_wait(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.SETSM", "k", "old", "PXAT", int(unix_ms()) - 1, "STALE", 300)
    token = won(raw)
    eventually(lambda: raw.call("EXISTS", "k") == 0)
    waiting = queue(server, connect, 1)[0]
    assert raw.call("CACHE.SETSM", "k", "new", LONG, "TOKEN", token) == b"OK"
    assert waiting.recv()[:2] == [b"hit", b"new"]


def test_a_fresh_entry_turns_stale_at_its_time(raw: RawClient) -> None:
    """Not a millisecond before: a reply of hit came before that time, one of stale after it."""
    ends = int(unix_ms()) + 100
    raw.call("CACHE.SETSM", "k", "v", "PXAT", ends, "STALE", LONG)
    while True:
        (state, value, _, ms), before, after = row(raw, "LEASE", LONG)
        if state == b"won":
            break
        assert (state, value) == (b"hit", b"v") and before <= ends and ms <= 100
    assert value == b"v" and after >= ends


@pytest.mark.parametrize("max_stale, served", [(15_000, True), (LONG, True), (9_999, False), (1, False)])
def test_maxstale_narrows_what_is_acceptable(
    server: Server, raw: RawClient, connect: Connect, max_stale: int, served: bool
) -> None:
    raw.call("CACHE.SETSM", "k", "old", "PXAT", int(unix_ms()) - 10_000, "STALE", LONG)
    won(connect())
    reply = raw.call("CACHE.GETSM", "k", "MAXSTALE", max_stale, "WAIT", 0)
    if served:
        assert reply == b"old"
    else:
        assert is_error(reply, "LEASED")
        waiter = queue(server, connect, 1, "k", "MAXSTALE", max_stale)[0]
        assert raw.call("CACHE.SETSM", "k", "new", LONG) == b"OK"
        assert waiter.recv()[:2] == [b"hit", b"new"]


def test_maxstale_is_this_callers_alone_and_means_nothing_while_fresh(raw: RawClient, connect: Connect) -> None:
    make_stale(raw)
    reader = connect()
    won(raw, "k", "MAXSTALE", 1)
    assert is_error(reader.call("CACHE.GETSM", "k", "MAXSTALE", 1, "WAIT", 0), "LEASED")
    assert reader.call("CACHE.GETSM", "k") == b"old"
    raw.call("CACHE.SETSM", "k", "v", LONG, "STALE", LONG)
    assert reader.call("CACHE.GETSM", "k", "MAXSTALE", 1) == b"v"


def test_a_stale_entry_that_comes_from_elsewhere_serves_those_who_wait(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    """One of them is to refresh it; the others would be served at once if they asked now."""
    make_stale(raw, "other")
    won(raw)
    waiters = queue(server, connect, 3)
    assert raw.call("RENAME", "other", "k") == b"OK"
    rows = [waiter.recv(timeout=3)[:2] for waiter in waiters]
    assert rows == [[b"won", b"old"], [b"stale", b"old"], [b"stale", b"old"]]


# BIND


def test_a_bound_lease_ends_with_its_connection_and_a_free_one_does_not(raw: RawClient, connect: Connect) -> None:
    for options, lasts in (((), True), (("BIND",), False)):
        client = connect()
        won(client, f"k{lasts}", *options)
        client.close()
    eventually(lambda: holder(raw, "kFalse") is None)
    assert holder(raw, "kTrue") is not None


HOLDER = """
import sys
from harness import RawClient
client = RawClient(sys.argv[1])
print(client.call("CACHE.GETSM", "k", "LEASE", 600000, "BIND"), flush=True)
sys.stdin.read()
"""


def test_when_the_holders_process_is_killed_the_oldest_waiter_has_the_lease_at_once(
    server: Server, raw: RawClient, connect: Connect, record_property: Callable[[str, Any], None]
) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, server.socket_path], stdin=pipe, stdout=pipe, env=environment, text=True
    )
    try:
        assert process.stdout.readline() == "None\n"
        first, second = queue(server, connect, 2)
        disconnected, killed = server.stats()["leases_disconnected"], time.monotonic()
        process.kill()
        state, *_ = first.recv()
        took_ms = (time.monotonic() - killed) * 1000
    finally:
        process.kill()
        process.communicate()
    record_property("handover_ms", took_ms)
    print(f"handed over after {took_ms:.1f} ms")
    assert state == b"won" and took_ms < 250
    assert server.stats()["leases_disconnected"] == disconnected + 1
    assert (second.has_reply(), holder(raw)) == (False, first.client_id)


def test_a_handed_over_lease_is_bound_if_the_waiter_asked_for_that(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    token = won(raw)
    bound = queue(server, connect, 1, "k", "BIND")[0]
    free = queue(server, connect, 1)[0]
    assert raw.call("CACHE.RELEASE", "k", token) == 1
    assert bound.recv()[0] == b"won"
    assert as_map(as_map(raw.call("CACHE.INSPECT", "k"))[b"lease"])[b"bound"] == 1
    bound.close()
    assert free.recv()[0] == b"won"
    free.close()
    eventually(lambda: f"id={free.client_id} " not in server.call("CLIENT", "LIST").decode())
    assert holder(raw) == free.client_id


def test_closing_a_connection_ends_only_what_it_still_holds(server: Server, raw: RawClient, connect: Connect) -> None:
    client = connect()
    tokens = {key: won(client, key, "BIND") for key in ("kept", "set", "released")}
    raw.call("CACHE.SETSM", "set", "v", LONG, "TOKEN", tokens["set"])
    raw.call("CACHE.RELEASE", "released", tokens["released"])
    won(raw, "released")
    client.close()
    eventually(lambda: holder(raw, "kept") is None)
    assert holder(raw, "released") == raw.client_id
    assert raw.call("CACHE.GETSM", "set") == b"v"


@pytest.mark.parametrize(
    "options, error",
    [
        ("META META", "ERR META was given more than once"),
        ("BIND bind", "ERR BIND was given more than once"),
        ("MAXSTALE", "ERR MAXSTALE is missing"),
        ("MAXSTALE 0", "ERR MAXSTALE must be an integer from 1 to 315360000000"),
        ("MAXSTALE 1 MAXSTALE 1", "ERR MAXSTALE was given more than once"),
        ("EARLY", "ERR EARLY is missing"),
        ("EARLY 0", "ERR EARLY must be a number above 0"),
        ("EARLY -1", "ERR EARLY must be a number above 0"),
        ("EARLY nan", "ERR EARLY must be a number above 0"),
        ("EARLY inf", "ERR EARLY must be a number above 0"),
        ("EARLY 1 EARLY 1", "ERR EARLY was given more than once"),
        ("STALE 5", "ERR unknown option 'STALE'"),
    ],
)
def test_wrong_options_are_refused_and_grant_nothing(raw: RawClient, options: str, error: str) -> None:
    assert raw.call("CACHE.GETSM", "k", *options.split()) == error
    assert holder(raw) is None


def test_options_come_in_any_order_and_case(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG, "COST", 1000)
    words = "meta bind early 1e9 maxstale 5 lease 60000 wait 0".split()
    state, value, token, ms = raw.call("CACHE.GETSM", "k", *words)
    assert (state, value) == (b"won", b"v") and 50_000 < ms <= 60_000
    assert as_map(as_map(raw.call("CACHE.INSPECT", "k"))[b"lease"])[b"bound"] == 1


@pytest.mark.parametrize("where", ["transaction", "script"])
def test_in_transactions_and_scripts_it_is_as_with_wait_0(
    server: Server, raw: RawClient, connect: Connect, where: str
) -> None:
    if where == "transaction":
        trust_transactions(server)
    won(connect())
    call = ("CACHE.GETSM", "k", "WAIT", LONG, "META")
    if where == "transaction":
        [reply] = raw.pipeline([("MULTI",), call, ("EXEC",)])[-1]
    else:
        reply = raw.call("EVAL", "return redis.call('CACHE.GETSM', 'k', 'WAIT', 60000, 'META')", 0)
    assert reply[0] == b"leased" and server.stats()["waiters"] == 0
