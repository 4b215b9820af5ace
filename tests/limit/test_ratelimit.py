"""CACHE.RATELIMIT: who may go ahead, by each of three algorithms, and what a refusal says and leaves alone.

What holds for every instant and any input is shown by the property tests of the engine; here are the promises as a
client sees them. Windows are of minutes or years, so that no test waits for one to end by accident.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, as_map, eventually, is_error

Connect = Callable[..., RawClient]
LONG = 600_000  # milliseconds; no test lasts as long
TEN_YEARS = 315_360_000_000
ALGORITHMS = ["SLIDING", "FIXED", "GCRA"]
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


def now_ms() -> int:
    return int(time.time() * 1000)


def window_of(algorithm: str) -> int:
    """Fixed windows begin when the clock says; one of ten years does not end during a test."""
    return TEN_YEARS if algorithm == "FIXED" else LONG


def drain(client: RawClient, key: bytes | str = "k", limit: int = 3, algorithm: str = "SLIDING") -> None:
    """Takes all that a fresh key has."""
    taken = client.call("CACHE.RATELIMIT", key, limit, window_of(algorithm), "COST", limit, "ALGORITHM", algorithm)
    assert taken[:4] == [limit, limit, 0, 0], taken


def about(ms: int) -> Any:
    return pytest.approx(ms - 15_000, abs=15_000)


# Deciding


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_allows_as_many_as_the_limit_and_refuses_the_next(raw: RawClient, algorithm: str) -> None:
    call = ("cache.ratelimit", "k", 3, window_of(algorithm), "ALGORITHM", algorithm)
    for left in (2, 1, 0):
        allowed, limit, remaining, retry, reset = raw.call(*call)
        assert (allowed, limit, remaining, retry) == (1, 3, left, 0)
        assert 0 < reset <= window_of(algorithm)
    assert raw.wire.startswith(b"*5\r\n:1\r\n:3\r\n:0\r\n:0\r\n:")
    allowed, limit, remaining, retry, reset = raw.call(*call)
    assert (allowed, limit, remaining) == (0, 3, 0)
    assert 0 < retry <= reset <= window_of(algorithm)
    assert raw.call("PTTL", "k") == pytest.approx(reset, abs=5_000)
    assert raw.call("TYPE", "k") == b"cg-limits"


def test_sliding_is_the_default(raw: RawClient) -> None:
    drain(raw)
    digest = raw.call("DEBUG", "DIGEST-VALUE", "k")
    assert raw.call("CACHE.RATELIMIT", "k", 3, LONG, "ALGORITHM", "sliding")[0] == 0
    assert raw.call("DEBUG", "DIGEST-VALUE", "k") == digest


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_who_comes_back_when_told_is_let_through_and_nobody_sooner(raw: RawClient, algorithm: str) -> None:
    call = ("CACHE.RATELIMIT", "k", 1, 200, "ALGORITHM", algorithm)
    assert raw.call(*call)[0] == 1
    for _ in range(3):
        before = now_ms()
        verdict = raw.call(*call)
        while verdict[0] == 1:  # a window ended just then
            before, verdict = now_ms(), raw.call(*call)
        asked_at, retry = before, verdict[3]
        verdict = eventually(lambda: (again := raw.call(*call))[0] == 1 and again, interval=0.001)
        assert now_ms() >= asked_at + retry, (asked_at, retry, verdict)


def test_a_sliding_window_forgets_to_the_millisecond(raw: RawClient) -> None:
    at = now_ms()
    for ago in (LONG + 5_000, 400_000, 200_000):
        assert raw.call("CACHE.RATELIMIT", "k", 3, LONG, "AT", at - ago) == b"OK"
    allowed, limit, remaining, retry, reset = raw.call("CACHE.RATELIMIT", "k", 3, LONG)
    assert (allowed, limit, remaining, retry, reset) == (1, 3, 0, 0, LONG)
    assert raw.call("CACHE.RATELIMIT", "k", 3, LONG)[3] == about(LONG - 400_000)


def test_a_fixed_window_ends_for_all_at_once(raw: RawClient) -> None:
    window = 86_400_000
    left = window - now_ms() % window
    verdict = raw.call("CACHE.RATELIMIT", "k", 1, window, "ALGORITHM", "FIXED")
    assert verdict[4] in (pytest.approx(left, abs=5_000), pytest.approx(window, abs=5_000))


def test_gcra_gives_back_evenly(raw: RawClient) -> None:
    drain(raw, limit=3, algorithm="GCRA")
    verdict = raw.call("CACHE.RATELIMIT", "k", 3, LONG, "ALGORITHM", "GCRA")
    assert verdict == [0, 3, 0, about(LONG // 3), about(LONG)]
    assert raw.call("CACHE.RATELIMIT", "k", 3, LONG, "COST", 2, "ALGORITHM", "GCRA")[3] == about(LONG // 3 * 2)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_cost_takes_so_many_at_once_or_none(raw: RawClient, algorithm: str) -> None:
    call = ("CACHE.RATELIMIT", "k", 10, window_of(algorithm), "ALGORITHM", algorithm, "COST")
    assert raw.call(*call, 7)[:4] == [7, 10, 3, 0]
    refused = raw.call(*call, 4)
    assert refused[:3] == [0, 10, 3] and refused[3] > 0
    assert raw.call(*call, 3)[:4] == [3, 10, 0, 0]
    assert raw.call(*call, 11)[:4] == [0, 10, 0, -1], "more than there ever is"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_partial_takes_what_there_is(raw: RawClient, algorithm: str) -> None:
    call = ("CACHE.RATELIMIT", "k", 10, window_of(algorithm), "ALGORITHM", algorithm, "PARTIAL", "COST")
    assert raw.call(*call, 7)[:4] == [7, 10, 3, 0]
    assert raw.call(*call, 1_000)[:4] == [3, 10, 0, 0]
    refused = raw.call(*call, 1_000)
    assert refused[:3] == [0, 10, 0] and 0 < refused[3] <= window_of(algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_peek_says_what_the_call_gets_and_consumes_nothing(server: Server, raw: RawClient, algorithm: str) -> None:
    call = ("CACHE.RATELIMIT", "k", 2, window_of(algorithm), "ALGORITHM", algorithm)
    for _ in range(3):
        seen, digest = raw.call(*call, "PEEK"), server.digest()
        assert raw.call(*call, "PEEK")[:3] == seen[:3] and server.digest() == digest
        got = raw.call(*call)
        assert got[:3] == seen[:3] and got[3:] == pytest.approx(seen[3:], abs=30_000)
    assert raw.call("CACHE.RATELIMIT", "nothing", 5, LONG, "PEEK")[:4] == [1, 5, 4, 0]
    assert raw.call("EXISTS", "nothing") == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_several_rules_take_from_all_or_from_none(raw: RawClient, algorithm: str) -> None:
    window = window_of(algorithm)
    call = ("CACHE.RATELIMIT", "k", 5, window // 2, 8, window, "ALGORITHM", algorithm, "COST")
    assert raw.call(*call, 5)[:4] == [5, 5, 0, 0]
    for _ in range(3):
        refused = raw.call(*call, 1)
        assert refused[:3] == [0, 5, 0] and refused[3] > 0
    wide = ("CACHE.RATELIMIT", "k", 8, window, "ALGORITHM", algorithm, "COST")
    assert raw.call(*wide, 4)[0] == 0
    assert raw.call(*wide, 3)[:4] == [3, 8, 0, 0], "the refused took nothing from the wider rule"


def test_the_reply_speaks_of_the_tightest_rule(raw: RawClient) -> None:
    call = ("CACHE.RATELIMIT", "k", 10, 1_000_000, 2, 2_000_000, 2, 3_000_000)
    assert raw.call(*call)[:4] == [1, 2, 1, 0]
    assert raw.call(*call)[4] == 3_000_000, "as little is left of two: the one that takes longer to be whole"
    assert raw.call(*call)[3] == about(3_000_000), "the one that refuses longest"
    assert raw.call(*call, "COST", 3)[1:4] == [2, 0, -1]


def test_as_many_rules_as_there_may_be(raw: RawClient) -> None:
    rules = [number for n in range(16) for number in (n + 1, LONG + n)]
    assert raw.call("CACHE.RATELIMIT", "k", *rules)[:3] == [1, 1, 0]
    error = raw.call("CACHE.RATELIMIT", "k", *rules, 1, 1)
    assert error == "ERR no more than 16 rules can be given"


def test_options_come_in_any_order_and_case(raw: RawClient) -> None:
    assert raw.call("Cache.RateLimit", "k", 9, LONG, "partial", "Cost", 4, "algorithm", "gcra", "wait", 0)[0] == 4
    assert raw.call("CACHE.RATELIMIT", "k", 9, LONG, "ALGORITHM", "GCRA", "peek", "COST", 5)[0] == 5


def test_a_hundred_thousand_in_a_window(raw: RawClient) -> None:
    calls = [("CACHE.RATELIMIT", "k", 100_000, LONG)] * 100_001
    verdicts = raw.pipeline(calls)
    assert [verdict[0] for verdict in verdicts] == [1] * 100_000 + [0]
    assert raw.call("MEMORY", "USAGE", "k") < 300_000


# Other rules, and what is under the key


@pytest.mark.parametrize("new", ALGORITHMS)
@pytest.mark.parametrize("old", ALGORITHMS)
def test_other_rules_forget_nothing_that_still_counts(raw: RawClient, old: str, new: str) -> None:
    assert raw.call("CACHE.RATELIMIT", "k", 10, TEN_YEARS, "COST", 6, "ALGORITHM", old)[0] == 6
    other = ("CACHE.RATELIMIT", "k", 8, TEN_YEARS, "ALGORITHM", new, "COST")
    assert raw.call(*other, 3)[0] == 0
    assert raw.call(*other, 2)[:3] == [2, 8, 0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rules_that_refuse_are_not_adopted(server: Server, raw: RawClient, algorithm: str) -> None:
    drain(raw, limit=10)
    digest = server.digest()
    assert raw.call("CACHE.RATELIMIT", "k", 5, TEN_YEARS, "ALGORITHM", algorithm)[0] == 0
    assert server.digest() == digest


@pytest.mark.parametrize(
    "make",
    [
        ("SET", "k", "v"),
        ("RPUSH", "k", "v"),
        ("HSET", "k", "f", "v"),
        ("XADD", "k", "*", "f", "v"),
        ("CACHE.SETSM", "k", "v", LONG),
    ],
    ids=lambda make: make[0],
)
def test_other_types_are_refused_and_left_alone(server: Server, raw: RawClient, make: tuple[Any, ...]) -> None:
    raw.call(*make)
    digest = server.digest()
    for options in [(), ("PEEK",), ("WAIT", LONG), ("AT", now_ms()), ("ALGORITHM", "GCRA")]:
        assert raw.call("CACHE.RATELIMIT", "k", 3, LONG, *options) == WRONGTYPE
    drain(raw, "other")
    payload = state_of(raw, "other")
    assert raw.call("CACHE.RATELIMIT", "k", "STATE", payload) == WRONGTYPE
    raw.call("DEL", "other")
    assert server.digest() == digest


def test_commands_of_other_types_refuse_a_limit(server: Server, raw: RawClient) -> None:
    drain(raw)
    digest = server.digest()
    for command in [("GET", "k"), ("LPUSH", "k", "v"), ("CACHE.GETSM", "k"), ("CACHE.SETSM", "k", "v", 5)]:
        assert raw.call(*command) == WRONGTYPE
    assert server.digest() == digest


def test_any_bytes_are_a_key_and_databases_are_apart(raw: RawClient) -> None:
    for key in [b"", b"\0", b"\xff\r\n$5", b"a" * 10_000]:
        drain(raw, key)
        assert raw.call("CACHE.RATELIMIT", key, 3, LONG)[0] == 0
    assert raw.call("SELECT", 1) == b"OK"
    drain(raw, b"\0")


def test_what_deletes_the_key_deletes_the_count(raw: RawClient) -> None:
    for delete in [("DEL", "k"), ("UNLINK", "k"), ("PEXPIRE", "k", 0), ("RENAME", "k", "other"), ("FLUSHDB",)]:
        drain(raw)
        assert not is_error(raw.call(*delete))
        assert raw.call("EXISTS", "k") == 0


# Replies that nobody else sees


def push(client: RawClient) -> list[Any]:
    return (client.recv_push if client.protocol == 3 else client.recv)()


def test_it_tells_subscribers_watchers_and_nobody_when_nothing_changed(raw: RawClient, connect: Connect) -> None:
    raw.call("CONFIG", "SET", "notify-keyspace-events", "EAd")
    hearer, watcher = connect(), connect()
    hearer.send("PSUBSCRIBE", "__keyevent@0__:cache*")
    push(hearer)
    for options, aborts in [((), True), ((), False), (("PEEK",), False), (("COST", 9), False)]:
        assert watcher.call("WATCH", "k") == b"OK"
        raw.call("CACHE.RATELIMIT", "k", 1, LONG, *options)
        done = watcher.pipeline([("MULTI",), ("PING",), ("EXEC",)])[-1]
        assert done == (None if aborts else [b"PONG"])
    assert raw.call("CACHE.REFUND", "k", 1) == 1
    events = [push(hearer)[-2:] for _ in range(2)]
    assert events == [[b"__keyevent@0__:cache.ratelimit", b"k"], [b"__keyevent@0__:cache.refund", b"k"]]


def test_client_side_caches_are_told(server: Server, raw: RawClient) -> None:
    if raw.protocol != 3:
        pytest.skip("pushes come in RESP3")
    reader = server.raw(3)
    reader.call("CLIENT", "TRACKING", "ON", "BCAST")
    raw.call("CACHE.RATELIMIT", "k", 1, LONG)
    assert reader.recv_push() == [b"invalidate", [b"k"]]


def test_info_counts_who_was_let_through_and_who_was_not(server: Server, raw: RawClient) -> None:
    before = server.stats()
    drain(raw)
    for options in [(), ("PEEK",), ("COST", 2), ("NOPE",), ("AT", now_ms())]:
        raw.call("CACHE.RATELIMIT", "k", 3, LONG, *options)
    after = server.stats()
    assert [after[name] - before[name] for name in ("limits_allowed", "limits_refused")] == [1, 2]


# Where nobody can wait


@pytest.mark.parametrize("how", ["MULTI", "EVAL"])
def test_in_transactions_and_scripts_it_answers_at_once(raw: RawClient, how: str) -> None:
    drain(raw)
    call = ("CACHE.RATELIMIT", "k", 3, LONG, "WAIT", LONG)
    if how == "MULTI":
        (verdict,) = raw.pipeline([("MULTI",), call, ("EXEC",)])[-1]
    else:
        verdict = raw.call("EVAL", "return redis.call(unpack(ARGV))", 1, "k", *call)
    assert verdict[0] == 0 and verdict[3] > 0


def test_full_memory_refuses_it(server: Server, raw: RawClient) -> None:
    drain(raw)
    raw.call("CONFIG", "SET", "maxmemory", 1)
    assert is_error(raw.call("CACHE.RATELIMIT", "k", 3, LONG), "OOM")
    assert raw.call("CACHE.REFUND", "k", 1) == 1, "giving back needs no memory"


# The forms that replicas and the AOF see


def state_of(client: RawClient, key: str) -> bytes:
    """The payload by which an AOF rewrite makes `key` anew: what follows STATE."""
    kinds = {b"cg-limits"}
    assert client.call("TYPE", key) in kinds
    dump = client.call("DUMP", key)
    return payload_of(dump)


def payload_of(dump: bytes) -> bytes:
    """A DUMP's numbers and bytes, packed as STATE takes them."""
    fields, at = [], 10  # behind the type byte and the module id
    while True:
        opcode, at = number(dump, at)
        if opcode == 0:
            return packed(1) + b"".join(fields)
        if opcode == 2:
            value, at = number(dump, at)
            fields.append(packed(value))
        else:
            assert opcode == 5, opcode
            length, at = number(dump, at)
            fields.append(packed(length) + dump[at : at + length])
            at += length


def number(data: bytes, at: int) -> tuple[int, int]:
    """A length as RDB files write it."""
    first = data[at]
    if first >> 6 == 0:
        return first & 0x3F, at + 1
    if first >> 6 == 1:
        return (first & 0x3F) << 8 | data[at + 1], at + 2
    size = {0x80: 4, 0x81: 8}[first]
    return int.from_bytes(data[at + 1 : at + 1 + size], "big"), at + 1 + size


def packed(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_at_takes_at_that_time_and_asks_nobody(raw: RawClient, algorithm: str) -> None:
    window, at = window_of(algorithm), now_ms() - 1_000
    call = ("CACHE.RATELIMIT", "k", 3, window, "ALGORITHM", algorithm, "COST", 2, "AT", at)
    assert [raw.call(*call), raw.wire] == [b"OK", b"+OK\r\n"]
    assert raw.call("CACHE.RATELIMIT", "k", 3, window, "ALGORITHM", algorithm, "COST", 2)[0] == 0
    assert raw.call(*call) == b"OK"
    verdict = raw.call("CACHE.RATELIMIT", "k", 3, window, "ALGORITHM", algorithm)
    assert verdict[:3] == [0, 3, 0] and verdict[3] > 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_state_makes_the_same_key_again(server: Server, raw: RawClient, algorithm: str) -> None:
    window = window_of(algorithm)
    for units in (1, 2, 300):
        raw.call("CACHE.RATELIMIT", "k", 1_000, window, 900, window * 2 // 3, "COST", units, "ALGORITHM", algorithm)
    assert raw.call("CACHE.RATELIMIT", "copy", "STATE", state_of(raw, "k")) == b"OK"
    (first, second) = raw.call("DEBUG", "DIGEST-VALUE", "k", "copy")
    assert first == second and raw.call("PEXPIRETIME", "k") == raw.call("PEXPIRETIME", "copy")
    assert raw.call("CACHE.RATELIMIT", "copy", "state", state_of(raw, "k")) == b"OK"


def test_a_payload_that_nobody_wrote_is_refused(server: Server, raw: RawClient) -> None:
    drain(raw)
    good, digest = state_of(raw, "k"), server.digest()
    bad = [b"", b"\0", b"\xff" * 40, b"x", *(good[:cut] for cut in range(len(good))), good + b"\0", b"\2" + good[1:]]
    for payload in bad:
        error = raw.call("CACHE.RATELIMIT", "k", "STATE", payload)
        assert error == "ERR the payload of STATE is cut, corrupt or from a later release", payload
    for at in range(len(good)):
        for bit in range(8):
            flipped = bytearray(good)
            flipped[at] ^= 1 << bit
            reply = raw.call("CACHE.RATELIMIT", "other", "STATE", bytes(flipped))
            assert reply == b"OK" or is_error(reply, "ERR the payload")
            raw.call("CACHE.RATELIMIT", "other", 3, LONG)
            raw.call("DEL", "other")
    assert server.digest() == digest
    assert raw.call("CACHE.RATELIMIT", "k", "STATE", good, "PEEK") == "ERR unknown option 'PEEK'"


# Bad input

UNITS = "integer from 1 to 1000000000"
LIMIT_RANGE = f"ERR limit must be an {UNITS}"
LOGGED_RANGE = "ERR limit must be an integer from 1 to 1000000"
WINDOW_RANGE = f"ERR window must be an integer from 1 to {TEN_YEARS}"
COST_RANGE = f"ERR COST must be an {UNITS}"
WAIT_RANGE = f"ERR WAIT must be an integer from 0 to {TEN_YEARS}"


@pytest.mark.parametrize(
    "arguments, error",
    [
        ("0 5", LIMIT_RANGE),
        ("-1 5", LIMIT_RANGE),
        ("1.5 5", LIMIT_RANGE),
        ("01 5", LIMIT_RANGE),
        ("x 5", LIMIT_RANGE),
        ("1000000001 5", LIMIT_RANGE),
        ("1000001 5", LOGGED_RANGE),
        ("5 5 1000001 5 ALGORITHM SLIDING", LOGGED_RANGE),
        ("1000000001 5 ALGORITHM GCRA", LIMIT_RANGE),
        ("5 0", WINDOW_RANGE),
        ("5 315360000001", WINDOW_RANGE),
        ("5 PEEK", WINDOW_RANGE),
        ("5 5 5", "ERR window is missing"),
        ("5 5 5 PEEK", WINDOW_RANGE),
        ("5 5 -5 5", LIMIT_RANGE),
        ("5 5 COST", "ERR COST is missing"),
        ("5 5 COST 0", COST_RANGE),
        ("5 5 COST 1000000001", COST_RANGE),
        ("5 5 COST 1 cost 1", "ERR COST was given more than once"),
        ("5 5 ALGORITHM", "ERR ALGORITHM is missing"),
        ("5 5 ALGORITHM LEAKY", "ERR ALGORITHM must be SLIDING, FIXED or GCRA"),
        ("5 5 ALGORITHM FIXED ALGORITHM FIXED", "ERR ALGORITHM was given more than once"),
        ("5 5 PEEK PEEK", "ERR PEEK was given more than once"),
        ("5 5 PARTIAL PARTIAL", "ERR PARTIAL was given more than once"),
        ("5 5 WAIT", "ERR WAIT is missing"),
        ("5 5 WAIT -1", WAIT_RANGE),
        ("5 5 WAIT 315360000001", WAIT_RANGE),
        ("5 5 WAIT 5 WAIT 5", "ERR WAIT was given more than once"),
        ("5 5 PEEK WAIT 5", "ERR PEEK cannot be given with WAIT"),
        ("5 5 AT 5 WAIT 5", "ERR AT cannot be given with WAIT"),
        ("5 5 AT 5 PEEK", "ERR AT cannot be given with PEEK"),
        ("5 5 PARTIAL AT 5", "ERR AT cannot be given with PARTIAL"),
        ("5 5 AT 0", f"ERR AT must be an integer from 1 to {(2**63 - 1) // 2}"),
        ("5 5 BURST 5", "ERR unknown option 'BURST'"),
        ("5 5 COST 1 6", "ERR unknown option '6'"),
        ("STATE", "ERR wrong number of arguments for 'cache.ratelimit' command"),
        ("STATE x y", "ERR the payload of STATE is cut, corrupt or from a later release"),
    ],
)
def test_a_refused_call_changes_nothing(server: Server, raw: RawClient, arguments: str, error: str) -> None:
    drain(raw, limit=2)
    digest, stats = server.digest(), server.stats()
    reply = raw.call("CACHE.RATELIMIT", "k", *arguments.split())
    assert reply == error or (arguments == "STATE x y" and reply == "ERR unknown option 'y'")
    assert server.digest() == digest
    assert server.stats() == stats
    assert raw.call("CACHE.RATELIMIT", "new", *arguments.split()) == reply
    assert raw.call("EXISTS", "new") == 0


@pytest.mark.parametrize("arguments", [(), ("k",), ("k", 5)], ids=len)
def test_too_few_arguments_are_refused(raw: RawClient, arguments: tuple[Any, ...]) -> None:
    assert is_error(raw.call("CACHE.RATELIMIT", *arguments), "ERR wrong number of arguments")


@pytest.mark.parametrize("pattern, may", [("%RW~k", True), ("~k", True), ("%R~k", False), ("%W~k", False)])
def test_a_user_needs_to_read_and_write_the_key(
    fresh_server: Callable[..., Server], protocol: int, pattern: str, may: bool
) -> None:
    server = fresh_server()
    server.call("ACL", "SETUSER", "user", "on", ">secret", "+@all", pattern)
    user = server.raw(protocol, auth=("user", "secret"))
    for call in [("CACHE.RATELIMIT", "k", 1, LONG), ("CACHE.REFUND", "k", 1), ("CL.THROTTLE", "k", 1, 1, 1)]:
        assert is_error(user.call(*call), "NOPERM") is not may
        assert is_error(user.call(call[0], "elsewhere", *call[2:]), "NOPERM")


def test_the_server_knows_its_key_and_flags(raw: RawClient) -> None:
    (info,) = raw.call("COMMAND", "INFO", "cache.ratelimit")
    assert {bytes(flag) for flag in info[2]} >= {b"write", b"denyoom", b"fast", b"blocking"}
    assert raw.call("COMMAND", "GETKEYS", "CACHE.RATELIMIT", "k", 1, 2) == [b"k"]
    docs = as_map(as_map(raw.call("COMMAND", "DOCS", "cache.ratelimit"))[b"cache.ratelimit"])
    rule = as_map(docs[b"arguments"][1])
    assert (rule[b"type"], {bytes(flag) for flag in rule[b"flags"]}) == (b"block", {b"multiple"})


# What a key costs


def test_a_full_key_is_a_fraction_of_a_sorted_set(raw: RawClient) -> None:
    """Requests as they come in real life: a member each, milliseconds apart."""
    for limit, times in ((100, 3), (1_000, 12)):
        start = now_ms() - limit * 250
        for n in range(limit):
            at = start + n * 250
            raw.call("CACHE.RATELIMIT", f"log:{limit}", limit, LONG, "AT", at)
            raw.call("ZADD", f"set:{limit}", at, f"{at}-{n:08x}")
        ours, theirs = (raw.call("MEMORY", "USAGE", f"{kind}:{limit}", "SAMPLES", 0) for kind in ("log", "set"))
        assert ours * times <= theirs, (limit, ours, theirs)
