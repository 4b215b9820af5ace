"""CACHE.MGETSM: many keys in one call, and no two callers that wait for each other."""

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error
from test_release import LONG, NO_TOKENS, holder, queue, state, trust_transactions, won

Connect = Callable[..., RawClient]
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
WAIT_RANGE = "ERR WAIT must be an integer from 0 to 315360000000"
NUMKEYS_RANGE = "ERR numkeys must be an integer from 1 to 10000"
LEASE_LEFT = pytest.approx(LONG - 15_000, abs=15_000)


def many(client: RawClient, *keys: bytes | str, options: tuple[Any, ...] = ("WAIT", 0)) -> list[list[Any]]:
    return client.call("CACHE.MGETSM", len(keys), *keys, "LEASE", LONG, *options)


def group(server: Server, client: RawClient, *keys: str, options: tuple[Any, ...] = ("WAIT", LONG)) -> RawClient:
    """Sends an MGETSM that has to wait."""
    before = server.stats()["waiters"]
    client.send("CACHE.MGETSM", len(keys), *keys, "LEASE", LONG, *options)
    eventually(lambda: server.stats()["waiters"] == before + 1, message="the group waits")
    return client


def test_one_row_a_key_in_the_order_asked(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.SETSM", "fresh", "v", "PERSIST")
    raw.call("CACHE.SETSM", "stale", "old", "PXAT", int(time.time() * 1000) - 1, "STALE", LONG)
    raw.call("SET", "native", b"\0\xff")
    won(connect(), "leased")
    won(connect(), "stale")
    assert raw.call("CACHE.FAIL", "failed:m", won(raw, "failed:m"), "RETRY", LONG) == 1
    fresh, missing, stale, leased, native, failed = many(
        raw, "fresh", "missing", "stale", "leased", "native", "failed:m"
    )
    assert fresh == [b"hit", b"v", None, -1]
    assert missing == [b"won", None, missing[2], LEASE_LEFT]
    assert stale == [b"stale", b"old", None, LEASE_LEFT]
    assert leased == [b"leased", None, None, LEASE_LEFT]
    assert native == [b"hit", b"\0\xff", None, -1]
    assert failed == [b"failed", None, None, LEASE_LEFT]
    assert raw.call("CACHE.SETSM", "missing", "loaded", LONG, "TOKEN", missing[2]) == b"OK"
    raw.call("CACHE.SETSM", "failed:m", "v", LONG)


def test_everything_that_is_missing_is_won_at_once_with_tokens_of_their_own(raw: RawClient, connect: Connect) -> None:
    keys = [f"k{number}" for number in range(100)]
    rows = many(raw, *keys)
    tokens = {row[2] for row in rows}
    assert {row[0] for row in rows} == {b"won"} and len(tokens) == 100 and not tokens & {None, *NO_TOKENS}
    assert {row[0] for row in many(connect(), *keys)} == {b"leased"}
    for key, row in zip(keys, rows):
        assert raw.call("CACHE.SETSM", key, "v", LONG, "TOKEN", row[2]) == b"OK"


def test_a_key_given_twice_is_won_once(server: Server, raw: RawClient, connect: Connect) -> None:
    granted = server.stats()["leases_granted"]
    rows = many(raw, "k", "k", "other", "k", options=("WAIT", LONG))
    assert [row[0] for row in rows] == [b"won", b"leased", b"won", b"leased"]
    assert server.stats()["leases_granted"] == granted + 2
    waiting = group(server, connect(), "k", "k", "other", "k")
    assert raw.call("CACHE.SETSM", "other", "o", LONG) == b"OK"
    assert raw.call("CACHE.RELEASE", "k", rows[0][2]) == 1
    assert [row[:2] for row in waiting.recv()] == [[b"won", None], [b"leased", None], [b"hit", b"o"], [b"leased", None]]


def test_a_caller_that_won_anything_does_not_wait(raw: RawClient, connect: Connect) -> None:
    won(raw, "taken")
    rows = many(connect(), "taken", "free", options=("WAIT", LONG))
    assert [row[0] for row in rows] == [b"leased", b"won"]


def test_it_waits_until_no_row_is_leased(server: Server, raw: RawClient, connect: Connect) -> None:
    won(raw, "a")
    won(connect(), "b")
    raw.call("CACHE.SETSM", "hit", "h", LONG)
    waiting = group(server, connect(), "a", "hit", "b")
    assert raw.call("CACHE.SETSM", "b", "2", LONG) == b"OK"
    assert state(raw, "b") == b"hit"
    assert (waiting.has_reply(), server.stats()["waiters"]) == (False, 1)
    assert raw.call("SET", "a", "1") == b"OK"
    assert [row[:2] for row in waiting.recv()] == [[b"hit", b"1"], [b"hit", b"h"], [b"hit", b"2"]]
    assert server.stats()["waiters"] == 0


def test_a_row_that_is_leased_again_meanwhile_is_waited_for_again(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    won(raw, "a")
    won(raw, "b")
    waiting = group(server, connect(), "a", "b")
    assert raw.call("CACHE.SETSM", "a", "1", LONG) == b"OK"
    assert raw.call("DEL", "a") == 1
    won(connect(), "a")
    assert raw.call("CACHE.SETSM", "b", "2", LONG) == b"OK"
    assert state(raw, "b") == b"hit"
    assert (waiting.has_reply(50), server.stats()["waiters"]) == (False, 1)
    assert raw.call("CACHE.SETSM", "a", "3", LONG) == b"OK"
    assert [row[:2] for row in waiting.recv()] == [[b"hit", b"3"], [b"hit", b"2"]]


@pytest.mark.parametrize("how", ["release", "delete", "expiry", "close"])
def test_one_that_is_handed_a_lease_has_work_to_do_and_is_answered_at_once(
    server: Server, raw: RawClient, connect: Connect, how: str
) -> None:
    bound = connect()
    token = won(bound, "a", "BIND")
    other = won(raw, "b")
    waiting = group(server, connect(), "b", "a")
    single = queue(server, connect, 1, "a")[0]
    if how == "release":
        assert raw.call("CACHE.RELEASE", "a", token) == 1
    elif how == "delete":
        assert raw.call("DEL", "a") == 0
    elif how == "expiry":
        assert raw.call("CACHE.RENEW", "a", token, 1) == 1
    else:
        bound.close()
    b, a = waiting.recv()
    assert (b[0], a[:2]) == (b"leased", [b"won", None])
    assert (holder(raw, "a"), single.has_reply(), server.stats()["waiters"]) == (waiting.client_id, False, 1)
    assert waiting.call("CACHE.SETSM", "a", "v", LONG, "TOKEN", a[2]) == b"OK"
    assert single.recv()[:2] == [b"hit", b"v"]
    assert raw.call("CACHE.SETSM", "b", "v", LONG, "TOKEN", other) == b"OK"


def test_single_and_group_waiters_stand_in_one_queue(server: Server, raw: RawClient, connect: Connect) -> None:
    token = won(raw, "a")
    first = queue(server, connect, 1, "a")[0]
    second = group(server, connect(), "a")
    third = queue(server, connect, 1, "a")[0]
    for waiter in (first, second, third):
        assert raw.call("CACHE.RELEASE", "a", token) == 1
        reply = waiter.recv()
        token = (reply[0] if waiter is second else reply)[2]
        assert holder(raw, "a") == waiter.client_id


def test_when_the_wait_ends_it_is_told_how_things_stand(server: Server, raw: RawClient, connect: Connect) -> None:
    won(raw, "a")
    timed_out = server.stats()["waits_timed_out"]
    before = time.monotonic()
    rows = many(connect(), "a", "a", options=("WAIT", 50))
    assert (time.monotonic() - before) * 1000 >= 49
    assert rows == [[b"leased", None, None, LEASE_LEFT]] * 2
    stats = server.stats()
    assert (stats["waits_timed_out"], stats["waiters"]) == (timed_out + 1, 0)
    raw.call("CONFIG", "SET", "cacheguard.wait-ms", 20)
    assert connect().call("CACHE.MGETSM", 1, "a")[0][0] == b"leased"


def test_client_unblock_ends_the_wait(server: Server, raw: RawClient, connect: Connect) -> None:
    won(raw, "a")
    raw.call("CACHE.SETSM", "hit", "h", LONG)
    polite, rude = (group(server, connect(), "a", "hit") for _ in range(2))
    assert raw.call("CLIENT", "UNBLOCK", polite.client_id, "TIMEOUT") == 1
    assert [row[0] for row in polite.recv()] == [b"leased", b"hit"]
    assert raw.call("CLIENT", "UNBLOCK", rude.client_id, "ERROR") == 1
    assert is_error(rude.recv(), "UNBLOCKED")
    eventually(lambda: server.stats()["waiters"] == 0)
    assert polite.call("PING") == rude.call("PING") == b"PONG"


def test_a_waiter_that_goes_away_leaves_every_queue(server: Server, raw: RawClient, connect: Connect) -> None:
    a, b = won(raw, "a"), won(raw, "b")
    gone = group(server, connect(), "a", "b")
    staying = queue(server, connect, 1, "b")[0]
    gone.close()
    eventually(lambda: server.stats()["waiters"] == 1)
    assert raw.call("CACHE.RELEASE", "a", a) == raw.call("CACHE.RELEASE", "b", b) == 1
    assert staying.recv()[0] == b"won"
    assert holder(raw, "a") is None


def test_its_own_leases_are_not_waited_for(raw: RawClient) -> None:
    won(raw, "a")
    assert [row[0] for row in many(raw, "a", options=("WAIT", LONG))] == [b"leased"]


@pytest.mark.parametrize("where", ["transaction", "script"])
def test_in_transactions_and_scripts_it_never_waits(
    server: Server, raw: RawClient, connect: Connect, where: str
) -> None:
    if where == "transaction":
        trust_transactions(server)
    won(raw, "a")
    client, call = connect(), ("CACHE.MGETSM", 1, "a", "WAIT", LONG)
    if where == "transaction":
        [rows] = client.pipeline([("MULTI",), call, ("EXEC",)])[-1]
    else:
        rows = client.call("EVAL", "return redis.call('CACHE.MGETSM', 1, 'a', 'WAIT', 60000)", 0)
    assert rows[0][0] == b"leased"


def test_another_type_is_refused_before_any_lease_is_taken(server: Server, raw: RawClient) -> None:
    raw.call("LPUSH", "list", "x")
    granted = server.stats()["leases_granted"]
    assert many(raw, "a", "list") == WRONGTYPE
    assert (server.stats()["leases_granted"], holder(raw, "a")) == (granted, None)


def test_another_type_that_comes_to_be_there_ends_the_wait(server: Server, raw: RawClient, connect: Connect) -> None:
    won(raw, "a")
    won(raw, "b")
    waiting = group(server, connect(), "a", "b")
    assert raw.call("LPUSH", "b", "x") == 1
    assert waiting.recv() == WRONGTYPE
    assert raw.call("CACHE.SETSM", "a", "v", LONG) == b"OK"


def test_a_lease_whose_grant_could_not_be_told_is_not_kept(server: Server, raw: RawClient, connect: Connect) -> None:
    """Handed over and turned into an error in one turn: nobody would ever hear the token."""
    a = won(raw, "a")
    won(raw, "b")
    waiting = group(server, connect(), "a", "b")
    assert raw.pipeline([("CACHE.RELEASE", "a", a), ("LPUSH", "b", "x")]) == [1, 1]
    reply = waiting.recv()
    if reply == WRONGTYPE:
        eventually(lambda: holder(raw, "a") is None, message="the lease is free again")
    else:
        assert reply[0][0] == b"won"


def test_options_are_those_of_getsm(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.SETSM", "early", "v", LONG, "COST", 1000)
    raw.call("CACHE.SETSM", "stale", "old", "PXAT", int(time.time() * 1000) - 1000, "STALE", LONG)
    won(raw, "stale")
    bound = connect()
    rows = bound.call("CACHE.MGETSM", 2, "early", "new", "early", "1e9", "lease", 60_000, "BIND", "META", "wait", 0)
    assert [row[:2] for row in rows] == [[b"won", b"v"], [b"won", None]]
    assert all(59_000 <= row[3] <= 60_000 for row in rows)
    assert many(raw, "stale", options=("WAIT", 0, "MAXSTALE", 10))[0][0] == b"leased"
    bound.close()
    eventually(lambda: holder(raw, "new") is None)


@pytest.mark.parametrize(
    "arguments, error",
    [
        ("0 k", NUMKEYS_RANGE),
        ("-1 k", NUMKEYS_RANGE),
        ("x k", NUMKEYS_RANGE),
        ("10001 k", NUMKEYS_RANGE),
        ("2 k", "ERR key is missing"),
        ("1 k l", "ERR unknown option 'l'"),
        ("1 k WAIT", "ERR WAIT is missing"),
        ("1 k WAIT -1", WAIT_RANGE),
        ("1 k WAIT 1 wait 1", "ERR WAIT was given more than once"),
        ("1 k META META", "ERR META was given more than once"),
        ("1 k BIND BIND", "ERR BIND was given more than once"),
        ("1 k EARLY 0", "ERR EARLY must be a number above 0"),
    ],
)
def test_a_refused_call_takes_no_lease(server: Server, raw: RawClient, arguments: str, error: str) -> None:
    granted = server.stats()["leases_granted"]
    assert raw.call("CACHE.MGETSM", *arguments.split()) == error
    assert server.stats()["leases_granted"] == granted


@pytest.mark.parametrize("arguments", [(), (1,)], ids=len)
def test_too_few_arguments_are_refused(raw: RawClient, arguments: tuple[int, ...]) -> None:
    assert is_error(raw.call("CACHE.MGETSM", *arguments), "ERR wrong number of arguments")


def test_the_server_knows_its_keys(raw: RawClient) -> None:
    assert raw.call("COMMAND", "GETKEYS", "CACHE.MGETSM", 2, "a", "b", "WAIT", 5) == [b"a", b"b"]


def test_ten_thousand_keys(raw: RawClient) -> None:
    keys = [f"k{number}" for number in range(10_000)]
    rows = many(raw, *keys)
    assert len({row[2] for row in rows}) == 10_000
    raw.pipeline([("CACHE.SETSM", key, key, LONG, "TOKEN", row[2]) for key, row in zip(keys, rows)])
    assert [row[1].decode() for row in many(raw, *keys)] == keys


def next_ready(clients: dict[int, RawClient]) -> int:
    """The place of a client that has a reply; AssertionError if none gets one: they wait for each other."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for place, client in clients.items():
            if client.has_reply(0 if len(clients) > 1 else 1):
                return place
    raise AssertionError(f"{clients} wait for each other")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_callers_with_the_same_keys_in_opposite_order_never_deadlock(server: Server) -> None:
    """10 000 rounds of new keys. Two callers, and a third with some of their keys, ask in one breath; each loads what it
    won, and then asks again for what others were loading."""
    rng, clients = random.Random(1), [server.raw() for _ in range(3)]
    before, loads = server.stats(), 0
    for number in range(10_000):
        keys = [f"{number}:{letter}" for letter in "abcd"[: rng.randint(1, 4)]]
        lists = [keys, keys[::-1], rng.sample(keys, rng.randint(1, len(keys)))]
        asking = dict(enumerate(clients))
        for place in rng.sample(range(3), 3):
            clients[place].send("CACHE.MGETSM", len(lists[place]), *lists[place], "WAIT", LONG, "LEASE", LONG)
        while asking:
            place = next_ready(asking)
            client, rows = clients[place], dict(zip(lists[place], clients[place].recv()))
            owed = {key: row[2] for key, row in rows.items() if row[0] == b"won"}
            assert {row[0] for row in rows.values()} <= {b"won", b"hit", b"leased"}
            loads += len(owed)
            written = client.pipeline([("CACHE.SETSM", key, key, LONG, "TOKEN", owed[key]) for key in owed])
            assert written == [b"OK"] * len(owed)
            lists[place] = [key for key, row in rows.items() if row[0] == b"leased"]
            if lists[place]:
                assert owed, "told to do nothing and to come again"
                client.send("CACHE.MGETSM", len(lists[place]), *lists[place], "WAIT", LONG, "LEASE", LONG)
            else:
                del asking[place]
    after = server.stats()
    assert loads == after["leases_granted"] - before["leases_granted"] == server.call("DBSIZE")
    assert (after["waits_timed_out"], after["waiters"]) == (before["waits_timed_out"], 0)
    assert after["waits"] - before["waits"] > 5_000, "they did meet"
