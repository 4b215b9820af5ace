"""CACHE.RENEW: a holder that needs more time, and one that comes too late."""

import time
from collections.abc import Callable

import pytest

from harness import RawClient, Server, as_map, eventually, is_error
from test_release import LONG, NO_TOKENS, holder, queue, state, won

Connect = Callable[..., RawClient]
RANGE = "ERR ms must be an integer from 1 to 315360000000"


def left_ms(client: RawClient) -> int:
    return client.call("CACHE.GETSM", "k", "WAIT", 0, "META")[3]


def test_the_lease_lasts_as_long_as_was_said_from_now_on(raw: RawClient, connect: Connect) -> None:
    token, reader = won(raw, "k", "LEASE", 60_000), connect()
    for ms in (LONG, 1_000, 315_360_000_000):
        before = time.monotonic()
        assert raw.call("cache.renew", "k", token, ms) == 1
        assert raw.wire == b":1\r\n"
        left, spent_ms = left_ms(reader), (time.monotonic() - before) * 1000
        assert ms - spent_ms - 1 <= left <= ms


def test_a_renewed_lease_outlives_its_first_deadline(server: Server, raw: RawClient, connect: Connect) -> None:
    expired = server.stats()["leases_expired"]
    token = won(raw, "k", "LEASE", 50)
    assert raw.call("CACHE.RENEW", "k", token, LONG) == 1
    won(connect(), "later", "LEASE", 60)  # granted later, for longer: when it ends, the first deadline is long past
    eventually(lambda: server.stats()["leases_expired"] == expired + 1)
    assert holder(raw) == raw.client_id
    assert raw.call("CACHE.SETSM", "k", "v", LONG, "TOKEN", token) == b"OK"


def test_a_shortened_lease_ends_early_and_the_oldest_waiter_has_it(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    token = won(raw)
    first, second = queue(server, connect, 2)
    assert raw.call("CACHE.RENEW", "k", token, 1) == 1
    assert first.recv()[0] == b"won"
    assert (server.stats()["waiters"], second.has_reply()) == (1, False)
    assert raw.call("CACHE.RENEW", "k", token, LONG) == 0


def test_an_expired_token_is_dead(raw: RawClient, connect: Connect) -> None:
    token = won(raw, "k", "LEASE", 1)
    eventually(lambda: holder(raw) is None)
    assert raw.call("CACHE.RENEW", "k", token, LONG) == 0
    assert raw.wire == b":0\r\n"
    assert raw.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token) is None
    other = won(connect())
    assert raw.call("CACHE.RENEW", "k", token, LONG) == 0
    assert raw.call("CACHE.RENEW", "k", other, LONG) == 1


def test_any_connection_may_renew_with_the_token_and_none_without_it(raw: RawClient, connect: Connect) -> None:
    token, stranger = won(raw, "k", "LEASE", 60_000), connect()
    for wrong in [*NO_TOKENS, token[:-1], token + b"0"]:
        assert stranger.call("CACHE.RENEW", "k", wrong, LONG) == 0
    assert stranger.call("CACHE.RENEW", "other", token, LONG) == 0
    stranger.call("SELECT", 1)
    assert stranger.call("CACHE.RENEW", "k", token, LONG) == 0
    assert left_ms(connect()) <= 60_000
    stranger.call("SELECT", 0)
    assert stranger.call("CACHE.RENEW", "k", token, LONG) == 1


def test_a_renewed_lease_keeps_its_holder_its_bond_and_its_age(raw: RawClient, connect: Connect) -> None:
    bound = connect()
    token = won(bound, "k", "BIND")
    [before] = map(as_map, raw.call("CACHE.LEASES"))
    assert raw.call("CACHE.RENEW", "k", token, LONG) == 1
    [after] = map(as_map, raw.call("CACHE.LEASES"))
    assert (after[b"client"], after[b"waiters"]) == (bound.client_id, 0)
    assert after[b"age_ms"] >= before[b"age_ms"]
    assert as_map(as_map(raw.call("CACHE.INSPECT", "k"))[b"lease"])[b"bound"] == 1
    bound.close()
    eventually(lambda: state(raw) == b"won", message="the bond was kept")


def test_the_cost_counts_from_the_grant(raw: RawClient) -> None:
    token = won(raw)
    eventually(lambda: as_map(raw.call("CACHE.LEASES")[0])[b"age_ms"] >= 20)
    assert raw.call("CACHE.RENEW", "k", token, LONG) == 1
    assert raw.call("CACHE.SETSM", "k", "v", LONG, "TOKEN", token) == b"OK"
    assert as_map(raw.call("CACHE.INSPECT", "k"))[b"cost_ms"] >= 20


@pytest.mark.parametrize("ms", ["0", "-1", "1.5", "", "x", "01", "315360000001", "18446744073709551616"])
def test_a_duration_out_of_range_is_refused_and_changes_nothing(raw: RawClient, ms: str) -> None:
    token = won(raw, "k", "LEASE", 60_000)
    assert raw.call("CACHE.RENEW", "k", token, ms) == RANGE
    assert 0 < left_ms(raw) <= 60_000


@pytest.mark.parametrize("arguments", [(), ("k",), ("k", "t"), ("k", "t", 1, "x")], ids=len)
def test_wrong_arguments_are_refused(raw: RawClient, arguments: tuple[str, ...]) -> None:
    assert is_error(raw.call("CACHE.RENEW", *arguments), "ERR wrong number of arguments")
