"""Payloads of `cg-locked` that somebody else wrote: a lock or an error, never a crash."""

import random

import pytest

from harness import RawClient, Server, is_error
from harness.line import LONG, info
from harness.payload import body_of, signed

FENCE = 1_700_000_000_000_000
END = 9_000_000_000_000


def restore(client: RawClient, payload: bytes) -> object:
    return client.call("RESTORE", "k", 0, payload, "REPLACE")


@pytest.fixture
def sample(raw: RawClient) -> bytes:
    for owner in ("a", "b"):
        raw.call("CACHE.LOCK", "sample", owner, LONG, "PERMITS", 5)
    return raw.call("DUMP", "sample")


def test_the_format_is_understood(raw: RawClient, sample: bytes) -> None:
    payload = signed(sample, body_of(sample, [2, 5, 1, b"a", FENCE, END]))
    assert restore(raw, payload) == b"OK"
    told = info(raw)
    assert (told[b"mode"], told[b"permits"]) == (b"permits", 5)
    assert [holder[b"fence"] for holder in told[b"holders"]] == [FENCE]


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [0],
        [0, 0, 1],
        [0, 0, 1, b"a", FENCE],
        [3, 0, 1, b"a", FENCE, END],
        [0, 1, 1, b"a", FENCE, END],
        [2, 0, 1, b"a", FENCE, END],
        [2, 10_001, 1, b"a", FENCE, END],
        [2, 2**32 + 5, 1, b"a", FENCE, END],
        [0, 0, 0],
        [0, 0, 2**62, b"a", FENCE, END],
        [0, 0, 2, b"a", FENCE, END, b"b", FENCE + 1, END],
        [2, 1, 2, b"a", FENCE, END, b"b", FENCE + 1, END],
        [1, 0, 2, b"a", FENCE, END, b"a", FENCE + 1, END],
        [1, 0, 2, b"a", FENCE + 1, END, b"b", FENCE, END],
        [0, 0, 1, b"a", 0, END],
        [0, 0, 1, b"a", 2**53, END],
        [0, 0, 1, b"a", 2**53 - 1, END],
        [0, 0, 1, b"a", FENCE, 2**63],
        [0, 0, 1, b"x" * 1025, FENCE, END],
        [b"0", 0, 1, b"a", FENCE, END],
        [0, 0, 1, 7, FENCE, END],
        [0, 0, 1, b"a", b"FENCE", END],
        [0, 0, 1, b"a", FENCE, END, 5],
    ],
    ids=str,
)
def test_the_impossible_is_refused(server: Server, raw: RawClient, sample: bytes, fields: list) -> None:
    fence = raw.call("CACHE.LOCK", "before", "me", LONG)
    assert is_error(restore(raw, signed(sample, body_of(sample, fields))), "ERR Bad data format")
    assert raw.call("EXISTS", "k") == 0
    assert fence < raw.call("CACHE.LOCK", "after", "me", LONG) < fence + 10**9, "it uses up no numbers"


def test_every_cut_is_refused(raw: RawClient, sample: bytes) -> None:
    """But for those that a few bytes of the footer happen to complete."""
    body = body_of(sample, [2, 5, 1, b"a", FENCE, END])
    refused = [is_error(restore(raw, signed(sample, body[:end])), "ERR Bad data format") for end in range(1, len(body))]
    assert refused.count(False) <= 2
    assert raw.call("EXISTS", "k") == 0 or info(raw)[b"mode"] in (b"free", b"permits")


def test_any_byte_may_be_another(server: Server, raw: RawClient, sample: bytes) -> None:
    rng, body = random.Random(5), sample[:-10]
    for _ in range(3_000):
        changed = bytearray(body)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(1, len(changed))] = rng.randrange(256)
        if restore(raw, signed(sample, bytes(changed))) == b"OK" and raw.call("TYPE", "k") == b"cg-locked":
            info(raw)
            raw.call("CACHE.LOCK", "k", "me", LONG)
            raw.call("CACHE.UNLOCK", "k", "a")
    server.assert_alive()


def test_a_later_encoding_is_refused(raw: RawClient, sample: bytes) -> None:
    body = body_of(sample, [0, 0, 1, b"a", FENCE, END], encoding=2)
    assert is_error(restore(raw, signed(sample, body)), "ERR Bad data format")
