"""CACHE.UNLOCK: the holder gives up, the next in line has it in the same turn, and a stranger changes nothing."""

from collections.abc import Callable

import pytest

from harness import RawClient, Server, as_map, is_error
from harness.line import LONG, owners, stand_in_line

Connect = Callable[..., RawClient]


def test_the_holder_gives_the_lock_up_once(raw: RawClient) -> None:
    raw.call("CACHE.LOCK", "k", "me", LONG)
    assert raw.call("cache.unlock", "k", "me") == 1 and raw.wire == b":1\r\n"
    assert raw.call("EXISTS", "k") == 0
    assert raw.call("CACHE.UNLOCK", "k", "me") == 0 and raw.wire == b":0\r\n"


def test_a_stranger_changes_nothing(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "me", LONG)
    waiter = stand_in_line(server, connect(), "waiter")
    before = server.digest()
    for owner in (b"you", b"waiter", b"", b"ME", b"me\0", b"\xff"):
        assert raw.call("CACHE.UNLOCK", "k", owner) == 0
    assert server.digest() == before and not waiter.has_reply()


def test_of_several_holders_one_leaves(raw: RawClient) -> None:
    raw.call("CACHE.LOCK", "k", "long", LONG, "SHARED")
    raw.call("CACHE.LOCK", "k", "short", 60_000, "SHARED")
    assert raw.call("CACHE.UNLOCK", "k", "long") == 1
    assert owners(raw) == [b"short"]
    assert raw.call("PTTL", "k") <= 60_000, "the key goes with the last holder that is left"
    assert raw.call("CACHE.UNLOCK", "k", "short") == 1 and raw.call("EXISTS", "k") == 0


def test_the_next_in_line_has_it_before_the_answer(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "me", LONG)
    waiter = stand_in_line(server, connect(), "waiter")
    replies = raw.pipeline([("CACHE.UNLOCK", "k", "me"), ("CACHE.LOCK", "k", "me", LONG)])
    assert replies == [1, None], "nobody comes in between"
    assert waiter.recv() > 0


def test_the_next_in_line_holds_it_when_the_answer_is_sent(server: Server, raw: RawClient, connect: Connect) -> None:
    for options in ([], ["PERMITS", 2]):
        raw.call("CACHE.LOCK", "k", "me", LONG, *options)
        if options:
            raw.call("CACHE.LOCK", "k", "other", LONG, *options)
        waiter = stand_in_line(server, connect(), "waiter", *options)
        [released, told] = raw.pipeline([("CACHE.UNLOCK", "k", "me"), ("CACHE.LOCKINFO", "k")])
        holders = as_map(told)[b"holders"]
        assert released == 1 and as_map(holders[-1])[b"owner"] == b"waiter"
        assert waiter.recv() > 0
        raw.call("DEL", "k")


def test_a_transaction_hands_over_at_each_unlock(server: Server, raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.LOCK", "k", "me", LONG)
    one, two = (stand_in_line(server, connect(), owner) for owner in ("one", "two"))
    commands = [("MULTI",), ("CACHE.UNLOCK", "k", "me"), ("CACHE.UNLOCK", "k", "one"), ("EXEC",)]
    assert raw.pipeline(commands)[-1] == [1, 1]
    assert 0 < one.recv() < two.recv()
    assert owners(raw) == [b"two"]


@pytest.mark.parametrize("arguments", [[], ["k"], ["k", "me", "you"]])
def test_wrong_arguments(raw: RawClient, arguments: list[str]) -> None:
    assert is_error(raw.call("CACHE.UNLOCK", *arguments), "ERR wrong number of arguments")


def test_other_errors(raw: RawClient) -> None:
    raw.call("SET", "k", "v")
    assert is_error(raw.call("CACHE.UNLOCK", "k", "me"), "WRONGTYPE")
    assert raw.call("GET", "k") == b"v"
    assert is_error(raw.call("CACHE.UNLOCK", "k", "x" * 1025), "ERR owner must not be longer than 1024 bytes")
