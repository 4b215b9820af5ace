"""EARLY: who refreshes ahead of time, and how often; COST, which it counts with; JITTER, which spreads expiry.

The draws are the server's own, so these are tests of frequencies. Their bounds are so wide that a right server fails one
in a million runs, and so many keys are asked that a wrong formula fails every run.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually
from test_token import LONG, holder, make_stale, won

Connect = Callable[..., RawClient]
COST = 100_000
KEYS = 3_000
ALWAYS = 1e9


def inspect(client: RawClient, key: str = "k") -> dict[bytes, Any]:
    return as_map(client.call("CACHE.INSPECT", key))


def drawn(client: RawClient, ttl: int, cost: int, *options: Any, keys: int = KEYS) -> tuple[int, float, float]:
    """Stores `keys` entries and asks each once: how many refreshes began, and between which bounds the formula puts the
    expected number, given how much time passed in between."""
    names = [f"{ttl}:{cost}:{options}:{number}" for number in range(keys)]
    before = time.monotonic()
    client.pipeline([("CACHE.SETSM", name, "v", ttl, "COST", cost) for name in names])
    rows = client.pipeline([("CACHE.GETSM", name, *options, "META") for name in names])
    spent_ms = (time.monotonic() - before) * 1000 + 2
    assert {row[0] for row in rows} <= {b"won", b"hit"} and {row[1] for row in rows} == {b"v"}
    beta = options[1] if options else 1
    least, most = (math.exp(-left / (cost * beta)) for left in (ttl, ttl - spent_ms))
    return sum(row[0] == b"won" for row in rows), least * keys, most * keys


def test_how_often_a_refresh_begins_follows_the_formula(server: Server, raw: RawClient) -> None:
    """P(-cost · beta · ln U >= left) = exp(-left / (cost · beta)), over a grid of beta and left."""
    chi_square, cells = 0.0, 0
    for beta in (0.5, 1, 2.5):
        for wanted in (0.9, 0.5, 0.2, 0.05):
            ttl = round(-math.log(wanted) * COST * beta)
            count, least, most = drawn(raw, ttl, COST, "EARLY", beta)
            nearest = min(max(count, least), most)
            chi_square += (count - nearest) ** 2 / (nearest * (1 - nearest / KEYS))
            cells += 1
    assert cells == 12 and chi_square < 60, chi_square  # twelve degrees of freedom: one in 20 million


def test_the_configured_beta_counts_where_early_is_not_given(server: Server, raw: RawClient) -> None:
    ttl = round(-math.log(0.5) * COST)
    assert drawn(raw, ttl, COST)[0] == 0, "off unless asked for"
    raw.call("CONFIG", "SET", "cacheguard.early-beta", "1")
    count, least, most = drawn(raw, ttl, COST, keys=KEYS)
    assert least - 6 * math.sqrt(KEYS) / 2 < count < most + 6 * math.sqrt(KEYS) / 2
    assert drawn(raw, ttl + 1, COST, "EARLY", 0.001)[0] == 0, "what the caller says comes first"
    raw.call("CONFIG", "SET", "cacheguard.early-beta", "0")
    assert drawn(raw, ttl + 2, COST)[0] == 0


@pytest.mark.parametrize("value", ["-1", "x", "nan", "inf", ""])
def test_a_wrong_beta_is_refused(raw: RawClient, value: str) -> None:
    assert raw.call("CONFIG", "SET", "cacheguard.early-beta", value).startswith("ERR")
    assert as_map(raw.call("CONFIG", "GET", "cacheguard.early-beta")) == {b"cacheguard.early-beta": b"0"}


def test_what_costs_nothing_or_never_ends_is_not_refreshed_early(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "free", "v", LONG)
    raw.call("CACHE.SETSM", "endless", "v", "PERSIST", "COST", COST)
    raw.call("SET", "native", "v", "PX", LONG)
    for key in ("free", "endless", "native"):
        rows = raw.pipeline([("CACHE.GETSM", key, "EARLY", ALWAYS, "META")] * 50)
        assert {row[0] for row in rows} == {b"hit"}, key


@pytest.mark.parametrize("command", ["GETSM", "MGETSM"])
def test_two_early_refreshes_are_never_out_for_one_key(server: Server, raw: RawClient, command: str) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG, "COST", COST)
    early, words = server.stats()["early_refreshes"], ("k", "k") if command == "MGETSM" else ("k",)
    count = (len(words),) if command == "MGETSM" else ()
    with server.herd(200) as herd:
        herd.send(f"CACHE.{command}", *count, *words, "EARLY", ALWAYS, "META", "LEASE", LONG)
        replies = [answer.reply for answer in herd.collect()]
    rows = [row for reply in replies for row in (reply if command == "MGETSM" else [reply])]
    assert sorted(row[0] for row in rows).count(b"won") == 1
    assert {(row[0], row[1]) for row in rows} == {(b"won", b"v"), (b"hit", b"v")}
    assert (server.stats()["early_refreshes"], server.stats()["waiters"]) == (early + 1, 0)


def test_the_plain_form_tells_the_chosen_one_nil(raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG, "COST", COST)
    assert raw.call("CACHE.GETSM", "k", "EARLY", ALWAYS) is None
    assert [connect().call("CACHE.GETSM", "k", "EARLY", ALWAYS) for _ in range(3)] == [b"v"] * 3


def test_the_refreshed_value_replaces_the_old_and_the_next_may_be_chosen(raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG, "COST", COST)
    token = won(raw, "k", "EARLY", ALWAYS)
    assert raw.call("CACHE.SETSM", "k", "w", LONG, "TOKEN", token, "COST", COST) == b"OK"
    state, value, other, _ = connect().call("CACHE.GETSM", "k", "EARLY", ALWAYS, "META")
    assert (state, value) == (b"won", b"w") and other != token


@pytest.mark.parametrize("end", ["turns stale", "goes"])
def test_an_early_refresh_still_out_at_the_end_is_the_keys_lease(
    server: Server, raw: RawClient, connect: Connect, end: str
) -> None:
    at = int(time.time() * 1000) + 200
    raw.call("CACHE.SETSM", "k", "v", "PXAT", at, "STALE", LONG if end == "turns stale" else 0, "COST", COST)
    token, reader = won(raw, "k", "EARLY", ALWAYS), connect()
    if end == "turns stale":
        eventually(lambda: reader.call("CACHE.GETSM", "k", "META")[:2] == [b"stale", b"v"])
    else:
        eventually(lambda: reader.call("CACHE.GETSM", "k", "WAIT", 0, "META")[0] == b"leased")
    assert holder(raw) == raw.client_id
    assert raw.call("CACHE.SETSM", "k", "w", LONG, "TOKEN", token) == b"OK"


# The cost


def hold(client: RawClient, key: str, ms: int) -> None:
    """Waits until the lease on `key` has been out for that long."""

    def age() -> int:
        rows = (as_map(row) for row in client.call("CACHE.LEASES", "COUNT", 10_000))
        return next(row[b"age_ms"] for row in rows if row[b"key"] == key.encode())

    eventually(lambda: age() >= ms)


@pytest.mark.parametrize("kind", ["missing", "stale", "early"])
def test_the_cost_is_the_time_from_the_grant_to_the_write(raw: RawClient, kind: str) -> None:
    if kind == "stale":
        make_stale(raw, "k", "old", "COST", 7)
    elif kind == "early":
        raw.call("CACHE.SETSM", "k", "v", LONG, "COST", COST)
    before = time.monotonic()
    token = won(raw, "k", *(("EARLY", ALWAYS) if kind == "early" else ()))
    granted = time.monotonic()
    hold(raw, "k", 60)
    sent = time.monotonic()
    assert raw.call("CACHE.SETSM", "k", "w", LONG, "TOKEN", token) == b"OK"
    done = time.monotonic()
    cost_ms = inspect(raw)[b"cost_ms"]
    assert (sent - granted) * 1000 - 1 <= cost_ms <= (done - before) * 1000 + 1


def test_a_handed_over_lease_costs_from_its_own_grant(server: Server, raw: RawClient, connect: Connect) -> None:
    token, heir = won(raw), connect()
    heir.send("CACHE.GETSM", "k", "WAIT", LONG, "LEASE", LONG, "META")
    hold(raw, "k", 100)
    eventually(lambda: server.stats()["waiters"] == 1)
    handed = time.monotonic()
    assert raw.call("CACHE.RELEASE", "k", token) == 1
    token = heir.recv()[2]
    assert heir.call("CACHE.SETSM", "k", "v", LONG, "TOKEN", token) == b"OK"
    assert inspect(raw)[b"cost_ms"] <= (time.monotonic() - handed) * 1000 + 1


def test_a_write_without_a_lease_keeps_the_cost_that_was_known(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG, "COST", 250)
    raw.call("CACHE.SETSM", "k", "w", LONG)
    assert inspect(raw)[b"cost_ms"] == 250
    raw.call("CACHE.SETSM", "k", "w", LONG, "COST", 0)
    assert inspect(raw)[b"cost_ms"] == 0


# Jitter


def fresh_times(client: RawClient, ttl: int, *options: Any, keys: int = 2_000) -> list[int]:
    """For how long each of many entries is fresh, as the server said right after storing it."""
    names = [f"{ttl}:{options}:{number}" for number in range(keys)]
    replies = client.pipeline(
        [each for name in names for each in (("CACHE.SETSM", name, "v", ttl, *options), ("CACHE.GET", name, "META"))]
    )
    assert set(replies[::2]) == {b"OK"}
    return [row[3] for row in replies[1::2]]


@pytest.mark.parametrize("percent", [1, 10, 50])
def test_jitter_moves_the_ttl_both_ways_evenly_and_never_further(raw: RawClient, percent: int) -> None:
    ttl, slack = 1_000_000, 5_000  # the time between the two commands
    reach = ttl * percent // 100
    times = fresh_times(raw, ttl, "JITTER", percent, "STALE", 5_000)
    assert ttl - reach - slack <= min(times) and max(times) <= ttl + reach
    tenths = [0] * 10
    for ms in times:
        tenths[min(9, max(0, int((ms - (ttl - reach)) * 10 // (2 * reach))))] += 1
    chi_square = sum((count - 200) ** 2 / 200 for count in tenths)
    assert chi_square < 60 or percent == 1 and min(tenths) > 100, tenths


def test_the_configured_jitter_counts_where_none_is_given(raw: RawClient) -> None:
    def spread(*options: Any) -> int:
        times = fresh_times(raw, 1_000_000, *options, keys=300)
        return max(times) - min(times)

    assert spread() < 50_000
    raw.call("CONFIG", "SET", "cacheguard.jitter-percent", 50)
    assert 500_000 < spread() <= 1_050_000
    assert spread("JITTER", 0) < 50_000, "what the caller says comes first"
    assert 100_000 < spread("JITTER", 10) < 250_000
    for wrong in (51, -1, "x"):
        assert raw.call("CONFIG", "SET", "cacheguard.jitter-percent", wrong).startswith("ERR")


# A steady load


def steady_load(server: Server, seconds: float, *options: Any) -> tuple[int, int, int]:
    """Readers of one key that costs 150 ms and lives 1500: how many waited, how many refreshes there were, and reads."""
    over, loads, reads = threading.Event(), [], []

    def read() -> None:
        client = server.raw(timeout=30)
        while not over.wait(0.002):
            row = client.call("CACHE.GETSM", "k", "META", *options)
            reads.append(row[0])
            if row[0] == b"won":
                over.wait(0.15)  # the time the origin takes
                assert client.call("CACHE.SETSM", "k", "v", 1_500, "TOKEN", row[2]) in (b"OK", None)
                loads.append(row[1])

    server.call("CACHE.SETSM", "k", "v", 1_500, "COST", 150)
    waits = server.stats()["waits"]
    threads = [threading.Thread(target=read) for _ in range(4)]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    eventually(lambda: time.monotonic() > deadline, timeout=seconds + 10)
    over.set()
    for thread in threads:
        thread.join(30)
    return server.stats()["waits"] - waits, len(loads), len(reads)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_with_a_steady_load_no_reader_ever_waits(server: Server) -> None:
    """Some thousand reads a second: the chance that none is drawn early enough is below one in a million a life."""
    waits, loads, reads = steady_load(server, 10, "EARLY", 1)
    assert loads >= 5 and reads > 2_000, f"there was a load: {loads=} {reads=}"
    assert waits == 0
    waits, loads, _ = steady_load(server, 5)
    assert waits > 0, "without EARLY the same readers do wait"
