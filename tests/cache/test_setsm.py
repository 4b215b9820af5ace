"""CACHE.SETSM: what it stores, what it refuses, and that a refused call changes nothing.

Here too: plain commands that put a value under a leased key answer its waiters as SETSM does.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error

Connect = Callable[..., RawClient]
LONG = 600_000  # milliseconds; no test lasts as long
TEN_YEARS = 315_360_000_000
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
TTL_RANGE = f"ERR ttl must be an integer from 1 to {TEN_YEARS}"


def parked(server: Server, count: int) -> None:
    eventually(lambda: server.stats()["waiters"] == count, message=lambda: f"{count} wait: {server.stats()}")


def line(server: Server, connect: Connect, count: int, key: str = "k") -> tuple[RawClient, list[RawClient]]:
    """The holder of the lease on `key`, and `count` who wait behind it, oldest first."""
    holder, waiters = connect(), []
    assert holder.call("CACHE.GETSM", key, "LEASE", LONG) is None
    for number in range(1, count + 1):
        waiters.append(connect().send("CACHE.GETSM", key, "WAIT", LONG, "LEASE", LONG))
        parked(server, number)
    return holder, waiters


def unix_ms(later: int = 0) -> int:
    return int(time.time() * 1000) + later


def about(expected: int) -> Any:
    """A duration measured a little later, however slow the machine."""
    return pytest.approx(expected - 30_000, abs=30_000)


def digest(client: RawClient, key: str = "k") -> bytes:
    return client.call("DEBUG", "DIGEST-VALUE", key)[0]


def everything(server: Server) -> dict[str, Any]:
    """The data set and what INFO says of leases, waiters and stores."""
    fields = ("leases", "leases_granted", "leases_voided", "handovers", "waiters", "sets")
    stats = server.stats()
    return {field: stats[field] for field in fields} | {"digest": server.digest()}


# What is stored


def test_it_answers_ok_and_the_value_can_be_read(raw: RawClient) -> None:
    assert raw.call("cache.setsm", "k", "v", 1000) == b"OK"
    assert raw.wire == b"+OK\r\n"
    assert raw.call("CACHE.GETSM", "k") == b"v"
    assert raw.call("TYPE", "k") == b"cg-cached"


@pytest.mark.parametrize(
    "ttl, pttl",
    [
        ("500000", 500_000),
        ("500000 STALE 200000", 700_000),
        ("500000 stale 0", 500_000),
        (f"{TEN_YEARS} STALE {TEN_YEARS}", 2 * TEN_YEARS),
        ("PERSIST", None),
        ("persist STALE 5", None),
    ],
)
def test_the_key_lives_for_its_ttl_and_its_stale_period(raw: RawClient, ttl: str, pttl: int | None) -> None:
    assert raw.call("CACHE.SETSM", "k", "v", *ttl.split()) == b"OK"
    assert raw.call("PTTL", "k") == (-1 if pttl is None else about(pttl))


def test_an_absolute_time_is_kept_to_the_millisecond(raw: RawClient) -> None:
    at = unix_ms(LONG)
    assert raw.call("CACHE.SETSM", "k", "v", "pxat", at, "STALE", 7) == b"OK"
    assert raw.call("PEXPIRETIME", "k") == at + 7


def test_the_value_goes_when_its_time_has_passed(raw: RawClient) -> None:
    assert raw.call("CACHE.SETSM", "k", "v", 20) == b"OK"
    eventually(lambda: raw.call("EXISTS", "k") == 0)
    assert raw.call("CACHE.GETSM", "k", "WAIT", 0) is None


def test_a_value_turns_stale_when_its_ttl_has_passed(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", 20, "STALE", LONG)
    eventually(lambda: raw.call("CACHE.GETSM", "k", "LEASE", LONG) is None)
    assert raw.call("CACHE.GETSM", "k") == b"v"


def test_without_an_end_a_value_stays_fresh(raw: RawClient) -> None:
    assert raw.call("CACHE.SETSM", "k", "v", "PERSIST", "STALE", TEN_YEARS) == b"OK"
    assert raw.call("CACHE.GETSM", "k") == b"v"


@pytest.mark.parametrize("before", ["CACHE.SETSM k old 1000 STALE 5 VERSION 3 COST 9", "SET k old EX 1", "SET k 12345"])
def test_it_replaces_what_was_there_with_its_ttl_and_all(raw: RawClient, before: str) -> None:
    raw.call("CACHE.SETSM", "expected", "new", "PERSIST", "VERSION", 4, "COST", 1)
    raw.call(*before.split())
    assert raw.call("CACHE.SETSM", "k", "new", LONG, "VERSION", 4, "COST", 1) == b"OK"
    assert raw.call("PTTL", "k") == about(LONG)
    assert raw.call("CACHE.SETSM", "k", "new", "PERSIST", "VERSION", 4, "COST", 1) == b"OK"
    assert (raw.call("PTTL", "k"), digest(raw)) == (-1, digest(raw, "expected"))


def test_another_type_is_refused_and_left_alone(server: Server, raw: RawClient) -> None:
    raw.call("RPUSH", "k", "a")
    before = everything(server)
    assert raw.call("CACHE.SETSM", "k", "v", 1000) == WRONGTYPE
    assert raw.call("CACHE.SETSM", "k", "v", "PXAT", 1) == WRONGTYPE
    assert everything(server) == before


def test_a_time_in_the_past_deletes_the_key_and_ends_the_lease(
    server: Server, connect: Connect, raw: RawClient
) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG)
    assert raw.call("CACHE.SETSM", "k", "v", "PXAT", 1) == b"OK"
    assert raw.call("EXISTS", "k") == 0
    line(server, connect, 0)
    assert raw.call("CACHE.SETSM", "k", "v", "PXAT", unix_ms(-1000), "STALE", 500) == b"OK"
    assert (raw.call("EXISTS", "k"), server.stats()["leases"]) == (0, 0)


def test_a_time_in_the_past_with_a_stale_period_that_still_runs_is_stale(raw: RawClient) -> None:
    assert raw.call("CACHE.SETSM", "k", "v", "PXAT", unix_ms(-1000), "STALE", LONG) == b"OK"
    assert [raw.call("CACHE.GETSM", "k") for _ in range(2)] == [None, b"v"]


def test_cost_is_stored_and_otherwise_measured_from_the_grant_of_the_lease(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "free", "v", "PERSIST", "COST", 0)
    raw.call("CACHE.SETSM", "k", "v", "PERSIST")
    assert digest(raw) == digest(raw, "free")
    raw.call("CACHE.SETSM", "k", "v", "PERSIST", "COST", 5)
    assert digest(raw) != digest(raw, "free")
    start = time.monotonic()
    assert raw.call("CACHE.GETSM", "measured") is None
    eventually(lambda: time.monotonic() - start > 0.02)
    raw.call("CACHE.SETSM", "measured", "v", "PERSIST")
    raw.call("CACHE.SETSM", "free", "v", "PERSIST")
    assert digest(raw, "measured") != digest(raw, "free")


# Versions


def test_a_lower_version_is_refused_with_nil_and_changes_nothing(
    server: Server, connect: Connect, protocol: int
) -> None:
    writer, reader = connect(), connect()
    writer.call("CACHE.SETSM", "k", "five", "PXAT", unix_ms(-1), "STALE", LONG, "VERSION", 5)
    assert reader.call("CACHE.GETSM", "k", "LEASE", LONG) is None
    before = everything(server)
    assert writer.call("CACHE.SETSM", "k", "four", LONG, "VERSION", 4) is None
    assert writer.wire == (b"_\r\n" if protocol == 3 else b"$-1\r\n")
    assert writer.call("CACHE.SETSM", "k", "four", "PXAT", 1, "VERSION", 0) is None
    assert everything(server) == before
    assert writer.call("CACHE.GETSM", "k") == b"five"


@pytest.mark.parametrize(
    "held, given, stored",
    [
        ("VERSION 5", "VERSION 5", True),
        ("VERSION 5", "VERSION 6", True),
        ("VERSION 5", "", True),
        ("", "VERSION 0", True),
        ("VERSION 18446744073709551614", "VERSION 18446744073709551615", True),
        ("VERSION 18446744073709551615", "version 18446744073709551614", False),
        ("VERSION 9223372036854775808", "VERSION 9223372036854775807", False),
        ("VERSION 10", "VERSION 9", False),
    ],
)
def test_versions_compare_as_unsigned_numbers(raw: RawClient, held: str, given: str, stored: bool) -> None:
    raw.call("CACHE.SETSM", "k", "old", LONG, *held.split())
    reply = raw.call("CACHE.SETSM", "k", "new", LONG, *given.split())
    assert (reply, raw.call("CACHE.GETSM", "k")) == ((b"OK", b"new") if stored else (None, b"old"))


def test_a_string_and_a_missing_key_have_no_version(raw: RawClient) -> None:
    raw.call("SET", "k", "old")
    assert raw.call("CACHE.SETSM", "k", "v", LONG, "VERSION", 1) == b"OK"
    raw.call("DEL", "k")
    assert raw.call("CACHE.SETSM", "k", "v", LONG, "VERSION", 0) == b"OK"


# Calls that are refused


def wrong_numbers() -> list[tuple[str, str]]:
    bad = ["01", "+1", "-1", "1.0", "1e3", " 1", "1 ", "0x1", "", "one", "1\0", "18446744073709551616", "9" * 40]
    cases = [(number, TTL_RANGE) for number in [*bad, "0", str(TEN_YEARS + 1), "PXATS", "PERSISTENT"]]
    pxat = f"ERR PXAT must be an integer from 1 to {(2**63 - 1) // 2}"
    cases += [(f"PXAT|{number}", pxat) for number in [*bad, "0", str(2**63)]]
    for option, most in (("STALE", TEN_YEARS), ("COST", TEN_YEARS), ("VERSION", 2**64 - 1)):
        error = f"ERR {option} must be an integer from 0 to {most}"
        cases += [(f"1|{option}|{number}", error) for number in [*bad, str(most + 1)]]
    return cases


@pytest.mark.parametrize("rest, error", [
    *wrong_numbers(),
    ("PXAT", "ERR PXAT is missing"),
    ("1|STALE", "ERR STALE is missing"),
    ("1|STALE|5|VERSION", "ERR VERSION is missing"),
    ("1|COST", "ERR COST is missing"),
    ("1|STALE|5|stale|5", "ERR STALE was given more than once"),
    ("1|VERSION|5|STALE|5|VERSION|6", "ERR VERSION was given more than once"),
    ("1|COST|5|COST|5", "ERR COST was given more than once"),
    ("1|2", "ERR unknown option '2'"),
    ("1|PXAT|5", "ERR unknown option 'PXAT'"),
    ("PERSIST|1000", "ERR unknown option '1000'"),
    ("1000|PERSIST", "ERR unknown option 'PERSIST'"),
    ("1|NX", "ERR unknown option 'NX'"),
    ("1|STALE|5|NX|5", "ERR unknown option 'NX'"),
    ("1|WAIT|5", "ERR unknown option 'WAIT'"),
    ("1|a\r\nb\0", "ERR unknown option 'a  b '"),
    ("1|" + "x" * 500, "ERR unknown option '" + "x" * 64 + "'"),
], ids=lambda text: repr(text)[:40])  # fmt: skip
def test_a_call_that_cannot_be_understood_is_refused_and_changes_nothing(
    server: Server, raw: RawClient, rest: str, error: str
) -> None:
    raw.call("CACHE.SETSM", "k", "old", "PXAT", unix_ms(-1), "STALE", LONG)
    assert raw.call("CACHE.GETSM", "k", "LEASE", LONG) is None
    before = everything(server)
    assert raw.call("CACHE.SETSM", "k", "new", *rest.split("|")) == error
    assert everything(server) == before


def test_a_refused_call_leaves_the_waiters_where_they_are(server: Server, connect: Connect, raw: RawClient) -> None:
    _, (waiter,) = line(server, connect, 1)
    before = everything(server)
    for rest in (["0"], ["1000", "STALE"], ["PXAT", "x"], ["1000", "VERSION", "1", "VERSION", "1"]):
        assert is_error(raw.call("CACHE.SETSM", "k", "v", *rest), "ERR")
    assert everything(server) == before
    assert not waiter.has_reply()


@pytest.mark.parametrize("name, count", [("SETSM", 0), ("SETSM", 1), ("SETSM", 2), ("GETSM", 0)])
def test_a_call_with_too_few_arguments_is_refused(raw: RawClient, name: str, count: int) -> None:
    error = raw.call(f"CACHE.{name}", *["k", "v"][:count])
    assert is_error(error, "ERR wrong number of arguments")


def test_a_full_server_refuses_to_store_and_still_serves(server: Server, connect: Connect, raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG)
    raw.call("SET", "s", "string")
    server.call("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", 1)
    assert is_error(raw.call("CACHE.SETSM", "k", "new", LONG), "OOM")
    assert [raw.call("CACHE.GETSM", key) for key in ("k", "s", "missing")] == [b"v", b"string", None]
    assert is_error(connect().call("CACHE.GETSM", "missing", "WAIT", 0), "LEASED")


# Others who look at the key


def transaction_runs(watcher: RawClient) -> bool:
    return watcher.pipeline([("MULTI",), ("PING",), ("EXEC",)])[-1] == [b"PONG"]


@pytest.mark.parametrize("call", ["v 1000", "v PERSIST", "v PXAT 1", "old PERSIST"])
def test_a_transaction_that_watches_the_key_does_not_run_after_a_store(connect: Connect, call: str) -> None:
    watcher, writer = connect(), connect()
    writer.call("CACHE.SETSM", "k", "old", "PERSIST")
    watcher.call("WATCH", "k")
    assert writer.call("CACHE.SETSM", "k", *call.split()) == b"OK"
    assert not transaction_runs(watcher)


@pytest.mark.parametrize(
    "call",
    [
        "CACHE.GETSM hit",
        "CACHE.GETSM string",
        "CACHE.GETSM stale",
        "CACHE.GETSM missing",
        "CACHE.GETSM list",
        "CACHE.SETSM hit v 0",
        "CACHE.SETSM missing v 1000 NX",
        "CACHE.SETSM list v 1000",
        "CACHE.SETSM hit v 1000 VERSION 4",
    ],
)
def test_a_read_and_a_refused_store_do_not_disturb_who_watches_or_tracks_the_key(
    connect: Connect, protocol: int, call: str
) -> None:
    watcher, other = connect(), connect()
    other.call("CACHE.SETSM", "hit", "v", LONG, "VERSION", 5)
    other.call("CACHE.SETSM", "stale", "v", "PXAT", unix_ms(-1), "STALE", LONG)
    other.call("SET", "string", "v")
    other.call("RPUSH", "list", "v")
    keys = ("hit", "string", "stale", "missing", "list")
    if protocol == 3:
        watcher.call("CLIENT", "TRACKING", "ON")
        watcher.call("EXISTS", *keys)
    watcher.call("WATCH", *keys)
    other.call(*call.split())
    assert transaction_runs(watcher)
    assert not watcher.pushes


@pytest.mark.parametrize("before", ["SET k old", "DEL k"])
def test_a_client_that_cached_the_key_is_told_of_a_store(connect: Connect, protocol: int, before: str) -> None:
    reader, writer = connect(), connect()
    writer.call(*before.split())
    if protocol == 2:
        pytest.skip("RESP2 has no push messages")
    reader.call("CLIENT", "TRACKING", "ON")
    reader.call("GET", "k")
    assert writer.call("CACHE.SETSM", "k", "v", LONG) == b"OK"
    assert reader.recv_push() == [b"invalidate", [b"k"]]


def test_getsm_itself_is_not_tracked(connect: Connect, protocol: int) -> None:
    if protocol == 2:
        pytest.skip("RESP2 has no push messages")
    reader, writer = connect(), connect()
    writer.call("CACHE.SETSM", "k", "v", LONG)
    reader.call("CLIENT", "TRACKING", "ON")
    reader.call("CACHE.GETSM", "k")
    writer.call("CACHE.SETSM", "k", "new", LONG)
    assert reader.call("PING") == b"PONG"
    assert not reader.pushes


@pytest.mark.parametrize("call, event", [("k v 1000", b"cache.setsm"), ("k v PXAT 1", b"del")])
def test_a_store_is_a_keyspace_event(server: Server, connect: Connect, protocol: int, call: str, event: bytes) -> None:
    listener, writer = connect(), connect()
    writer.call("CACHE.SETSM", "k", "old", LONG)
    server.call("CONFIG", "SET", "notify-keyspace-events", "Egd")
    heard = listener.recv_push if protocol == 3 else listener.recv
    listener.send("PSUBSCRIBE", "__keyevent@*__:*")
    heard()
    for refused in ("k v 0", "k v 1000 NX"):
        writer.call("CACHE.SETSM", *refused.split())
    writer.call("CACHE.GETSM", "k")
    assert writer.call("CACHE.SETSM", *call.split()) == b"OK"
    assert list(heard()) == [b"pmessage", b"__keyevent@*__:*", b"__keyevent@0__:" + event, b"k"]


# Plain commands that put a value under a leased key

SETM = "CACHE.SETSM other v 600000"
PUTS = {  # what comes before the lease, what puts the value there
    "set": ("", "SET k v"),
    "set with ttl": ("", "SET k v PX 600000"),
    "setex": ("", "SETEX k 600 v"),
    "psetex": ("", "PSETEX k 600000 v"),
    "setnx": ("", "SETNX k v"),
    "getset": ("", "GETSET k v"),
    "mset": ("", "MSET other 1 k v"),
    "msetnx": ("", "MSETNX other 1 k v"),
    "append": ("", "APPEND k v"),
    "setrange": ("", "SETRANGE k 0 v"),
    "setbit": ("", "SETBIT k 1 1"),
    "incr": ("", "INCR k"),
    "decrby": ("", "DECRBY k 5"),
    "incrbyfloat": ("", "INCRBYFLOAT k 1.5"),
    "rename": ("SET other v", "RENAME other k"),
    "rename entry": (SETM, "RENAME other k"),
    "renamenx": (SETM, "RENAMENX other k"),
    "copy": ("SET other v", "COPY other k"),
    "copy entry": (SETM, "COPY other k"),
    "restore": ("SET other v", "RESTORE k 0 DUMPED"),
    "restore entry": (SETM, "RESTORE k 600000 DUMPED"),
    "bitop": ("SET other v", "BITOP OR k other other"),
    "move": ("SELECT 1|SET k v", "MOVE k 0"),
    "move entry": ("SELECT 1|CACHE.SETSM k v PERSIST", "MOVE k 0"),
    "swapdb": ("SELECT 1|SET k v", "SWAPDB 0 1"),
    "swapdb entry": ("SELECT 1|CACHE.SETSM k v PERSIST", "SWAPDB 1 0"),
    "stale again fresh": (f"CACHE.SETSM other v PERSIST STALE {TEN_YEARS}", "RENAME other k"),
    "script": ("", "EVAL redis.call('set',KEYS[1],'v') 1 k"),
    "transaction": ("", "MULTI|SET k v|EXEC"),
}
VALUES = {"setbit": b"@", "incr": b"1", "decrby": b"-5", "incrbyfloat": b"1.5"}


@pytest.mark.parametrize("name", PUTS)
def test_a_value_that_a_plain_command_puts_there_answers_all_waiters(
    server: Server, connect: Connect, raw: RawClient, name: str
) -> None:
    before, after = PUTS[name]
    for command in before.split("|"):
        raw.call(*command.split() or ["PING"])
    dumped = raw.call("DUMP", "other")
    _, waiters = line(server, connect, 2)
    voided = server.stats()["leases_voided"]
    commands = [[dumped if word == "DUMPED" else word for word in each.split()] for each in after.split("|")]
    assert not any(is_error(reply) for reply in raw.pipeline(commands))
    assert [waiter.recv() for waiter in waiters] == [VALUES.get(name, b"v")] * 2
    stats = server.stats()
    assert (stats["leases"], stats["waiters"], stats["leases_voided"]) == (0, 0, voided)


@pytest.mark.parametrize("command", ["LPUSH k v", "HSET k f v", "SADD k v", "ZADD k 1 v", "XADD k * f v"])
def test_another_type_that_appears_ends_the_wait_of_all_with_wrongtype(
    server: Server, connect: Connect, raw: RawClient, command: str
) -> None:
    _, waiters = line(server, connect, 2)
    assert not is_error(raw.call(*command.split()))
    assert [waiter.recv() for waiter in waiters] == [WRONGTYPE] * 2
    assert server.stats()["leases"] == 0


def test_a_write_held_back_by_client_pause_answers_the_waiters_when_it_runs(
    server: Server, connect: Connect, raw: RawClient
) -> None:
    _, waiters = line(server, connect, 2, "held back")  # a name of its own: it is doubted for a while
    server.call("CLIENT", "PAUSE", 60_000, "WRITE")
    raw.send("SET", "held back", "v")
    eventually(lambda: b"cmd=set" in server.call("CLIENT", "LIST", "ID", raw.client_id))
    assert server.call("EXISTS", "held back") == 0
    server.call("CLIENT", "UNPAUSE")
    assert raw.recv() == b"OK"
    assert waiters[0].recv(3) in (b"v", None)  # the command may already end the lease when it is held back
    assert waiters[1].recv(3) == b"v"


HARMLESS = ["EXPIRE k 9", "PERSIST k", "TTL k", "GET k", "GETEX k EX 9", "EXISTS k", "TYPE k", "TOUCH k", "DUMP k"]
ELSEWHERE = ["DEL other", "SET other v", "RENAME there other", "SELECT 1|FLUSHDB", "SELECT 1|FLUSHDB ASYNC"]


@pytest.mark.parametrize("commands", HARMLESS + ELSEWHERE)
def test_a_command_that_neither_fills_nor_removes_the_key_changes_nothing(
    server: Server, connect: Connect, raw: RawClient, commands: str
) -> None:
    raw.call("SET", "there", "v")
    line(server, connect, 2)
    before = everything(server) | {"digest": None}
    for command in commands.split("|"):
        raw.call(*command.split())
    assert is_error(connect().call("CACHE.GETSM", "k", "WAIT", 0), "LEASED")
    assert everything(server) | {"digest": None} == before


MENTIONS = ["SELECT 1|DEL k", "SELECT 1|SET k no", "SET other k", "COPY k other", "SET k no XX"]


@pytest.mark.parametrize("commands", MENTIONS)
def test_a_command_that_only_mentions_the_key_costs_one_more_load_at_most(
    server: Server, connect: Connect, raw: RawClient, commands: str
) -> None:
    """Commands are recognised by the names in them: a key of that name in another database looks the same."""
    _, (first, second) = line(server, connect, 2)
    for command in commands.split("|"):
        raw.call(*command.split())
    assert is_error(connect().call("CACHE.GETSM", "k", "WAIT", 0), "LEASED")
    assert connect().call("CACHE.SETSM", "k", "yes", LONG) == b"OK"
    assert first.recv() in (b"yes", None)
    assert second.recv() == b"yes"


# Tags

TAGS_RANGE = "ERR TAGS must be an integer from 1 to 128"
STALEAT_RANGE = f"ERR STALEAT must be an integer from 0 to {(2**63 - 1) // 2}"
TAG_TOO_LONG = "ERR tag must not be longer than 1024 bytes"


@pytest.mark.parametrize("tags", [["a", "b"], ["b"], [b"", b"\0\xff", b"t" * 1024], list(range(128)), []], ids=len)
def test_the_tags_are_replaced(raw: RawClient, tags: list[Any]) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG, "TAGS", 2, "a", "old")
    words = ("tags", len(tags), *tags) if tags else ()
    assert raw.call("CACHE.SETSM", "k", "v", LONG, *words, "STALE", 5) == b"OK"
    assert raw.call("CACHE.TAGS", "k") == [tag if isinstance(tag, bytes) else str(tag).encode() for tag in tags]
    assert raw.call("CACHE.TAGCOUNT", "old") == 0


def test_staleat_stores_a_stale_value_and_maxstale_counts_from_then(connect: Connect, raw: RawClient) -> None:
    assert raw.call("CACHE.SETSM", "k", "v", LONG, "TAGS", 1, "t", "staleat", unix_ms(-60_000)) == b"OK"
    assert [raw.call("CACHE.GETSM", "k", "LEASE", LONG) for _ in range(2)] == [None, b"v"]
    assert raw.call("CACHE.GETSM", "k", "MAXSTALE", LONG) == b"v"
    assert is_error(connect().call("CACHE.GETSM", "k", "WAIT", 0, "MAXSTALE", 50_000), "LEASED")


@pytest.mark.parametrize("rest, error", [
    *[(f"TAGS|{number}|a", TAGS_RANGE) for number in ("0", "129", "-1", "01", "", "a", "18446744073709551616")],
    ("TAGS", "ERR TAGS is missing"),
    ("TAGS|1", "ERR tag is missing"),
    ("TAGS|3|a|b", "ERR tag is missing"),
    ("TAGS|1|a|b", "ERR unknown option 'b'"),
    ("TAGS|1|a|STALE|5|tags|1|a", "ERR TAGS was given more than once"),
    ("TAGS|2|a|" + "t" * 1025, TAG_TOO_LONG),
    *[(f"STALEAT|{number}", STALEAT_RANGE) for number in ("-1", "x", str(2**62))],
    ("STALEAT", "ERR STALEAT is missing"),
    ("STALEAT|5|STALEAT|5", "ERR STALEAT was given more than once"),
], ids=lambda text: repr(text)[:40])  # fmt: skip
def test_wrong_tags_are_refused_and_nothing_changes(server: Server, raw: RawClient, rest: str, error: str) -> None:
    raw.call("CACHE.SETSM", "k", "old", LONG, "TAGS", 1, "t")
    before = everything(server)
    assert raw.call("CACHE.SETSM", "k", "new", LONG, *rest.split("|")) == error
    assert (everything(server), raw.call("CACHE.TAGS", "k")) == (before, [b"t"])
