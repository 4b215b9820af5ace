"""The harness's own test: its RESP parser and its waiting, without a server."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Push, RespError, RespSet, as_map, eventually, is_error
from harness.raw import Incomplete, encode, parse

REPLIES = [
    (b"+OK\r\n", b"OK"),
    (b"-LEASED by client 7\r\n", RespError("LEASED by client 7")),
    (b"!8\r\nERR a\r\nb\r\n", RespError("ERR a\r\nb")),
    (b":-12\r\n", -12),
    (b"(3492890328409238509324850943850943825024385\r\n", 3492890328409238509324850943850943825024385),
    (b",1.5\r\n", 1.5),
    (b",-inf\r\n", -math.inf),
    (b"#t\r\n", True),
    (b"#f\r\n", False),
    (b"_\r\n", None),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"$0\r\n\r\n", b""),
    (b"$4\r\n\r\n\x00\xff\r\n", b"\r\n\x00\xff"),
    (b"=7\r\ntxt:a\nb\r\n", b"a\nb"),
    (b"*0\r\n", []),
    (b"*3\r\n:1\r\n*1\r\n$-1\r\n+a\r\n", [1, [None], b"a"]),
    (b"%2\r\n+a\r\n:1\r\n*1\r\n:2\r\n_\r\n", {b"a": 1, (2,): None}),
    (b"~2\r\n:1\r\n:1\r\n", RespSet([1, 1])),
    (b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n", Push([b"invalidate", [b"k"]])),
    (b"|1\r\n+ttl\r\n:3\r\n:7\r\n", 7),
]


@pytest.mark.parametrize("wire, value", REPLIES)
def test_a_reply_is_parsed_to_its_end_and_no_further(wire: bytes, value: object) -> None:
    reply, end = parse(b"xx" + wire + b"+next\r\n", 2)
    assert reply == value
    assert type(reply) is type(value)
    assert end == 2 + len(wire)


@pytest.mark.parametrize("wire, value", REPLIES)
def test_a_cut_reply_is_incomplete(wire: bytes, value: object) -> None:
    for length in range(len(wire)):
        with pytest.raises(Incomplete):
            parse(wire[:length])


def test_what_is_not_resp_is_refused() -> None:
    with pytest.raises(ValueError):
        parse(b"HTTP/1.1 400\r\n")


@given(st.lists(st.binary(), min_size=1))
def test_a_command_parses_back_to_its_arguments(args: list[bytes]) -> None:
    assert parse(encode(*args))[0] == args


def test_arguments_may_be_bytes_text_or_numbers() -> None:
    assert parse(encode(b"\xff", "ä", 7, 0.5))[0] == [b"\xff", "ä".encode(), b"7", b"0.5"]


def test_errors_compare_by_text_and_prefix() -> None:
    error = RespError("LEASED 250 ms left")
    assert error == "LEASED 250 ms left" and error != "LEASED"
    assert error.code == "LEASED" and error.startswith("LEASED ") and "250" in error
    assert is_error(error) and is_error(error, "LEASED") and not is_error(error, "ERR")
    assert not is_error(b"LEASED")


def test_a_map_reads_alike_in_both_protocols() -> None:
    assert as_map([b"a", 1, b"b", 2]) == as_map({b"a": 1, b"b": 2})
    with pytest.raises(AssertionError):
        as_map([b"a"])


def test_eventually_returns_the_first_true_result() -> None:
    results = iter([0, None, "yes", "later"])
    assert eventually(lambda: next(results)) == "yes"


def test_eventually_shows_what_it_saw_last() -> None:
    with pytest.raises(AssertionError, match=r"the cow jumps; last result 0"):
        eventually(lambda: 0, timeout=0.01, message="the cow jumps")


def test_eventually_takes_a_failed_assertion_as_not_yet() -> None:
    seen: list[int] = []

    def third_time() -> bool:
        seen.append(1)
        assert len(seen) == 3, f"only {len(seen)}"
        return True

    def never() -> bool:
        raise AssertionError("never")

    assert eventually(third_time)
    with pytest.raises(AssertionError, match="never"):
        eventually(never, timeout=0.01)
