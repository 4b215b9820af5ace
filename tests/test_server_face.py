"""What the module shows of itself: commands, permissions, settings, statistics, and that no input brings it down."""

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, RespError, Server, as_map, eventually, is_error
from harness.raw import encode

Connect = Callable[..., RawClient]
LONG = 600_000  # milliseconds; no test lasts as long
TEN_YEARS = 315_360_000_000
SETTINGS = {"lease-ms": (1, 10_000, TEN_YEARS), "wait-ms": (0, 10_000, TEN_YEARS), "max-waiters": (0, 100_000, 10**7)}
READS, WRITES = "cache.getsm", "cache.setsm"


def set_of(reply: Any) -> set[bytes]:
    return {bytes(each) for each in reply}


# The command table


@pytest.mark.parametrize(
    "name, arity, flags, hidden_flags, key",
    [
        (READS, -2, {b"module", b"fast", b"blocking"}, {b"write", b"denyoom"}, {b"RW", b"access", b"update"}),
        (WRITES, -4, {b"module", b"fast", b"write", b"denyoom"}, {b"readonly", b"blocking"}, {b"OW", b"update"}),
    ],
)
def test_command_info_tells_arity_flags_and_keys(
    raw: RawClient, name: str, arity: int, flags: set, hidden_flags: set, key: set
) -> None:
    (info,) = raw.call("COMMAND", "INFO", name)
    assert info[:2] == [name.encode(), arity]
    assert set_of(info[2]) >= flags and not set_of(info[2]) & hidden_flags
    assert info[3:6] == [1, 1, 1]
    (spec,) = [as_map(spec) for spec in info[8]]
    assert set_of(spec[b"flags"]) == key
    assert as_map(as_map(spec[b"begin_search"])[b"spec"]) == {b"index": 1}
    assert as_map(as_map(spec[b"find_keys"])[b"spec"]) == {b"lastkey": 0, b"keystep": 1, b"limit": 0}


@pytest.mark.parametrize(
    "name, options",
    [
        (READS, {b"WAIT": b"integer", b"LEASE": b"integer"}),
        (WRITES, {b"STALE": b"integer", b"VERSION": b"integer", b"COST": b"integer"}),
    ],
)
def test_command_docs_describe_every_argument(raw: RawClient, name: str, options: dict[bytes, bytes]) -> None:
    docs = as_map(as_map(raw.call("COMMAND", "DOCS", name))[name.encode()])
    assert docs[b"module"] == b"cacheguard"
    assert docs[b"summary"].endswith(b".") and docs[b"complexity"].startswith(b"O(1)") and docs[b"since"]
    arguments = [as_map(argument) for argument in docs[b"arguments"]]
    assert (arguments[0][b"type"], arguments[0][b"key_spec_index"]) == (b"key", 0)
    optional = {each[b"token"]: each[b"type"] for each in arguments if b"optional" in set_of(each.get(b"flags", []))}
    assert options.items() <= optional.items()
    if name == WRITES:
        (end,) = [argument for argument in arguments if argument[b"type"] == b"oneof"]
        assert [as_map(each).get(b"token") for each in end[b"arguments"]] == [None, b"PXAT", b"PERSIST"]


@pytest.mark.parametrize(
    "call, flags", [(f"{READS} k WAIT 5", {b"RW", b"access", b"update"}), (f"{WRITES} k v PERSIST", {b"OW", b"update"})]
)
def test_the_server_finds_the_key_of_a_call(raw: RawClient, call: str, flags: set) -> None:
    assert raw.call("COMMAND", "GETKEYS", *call.split()) == [b"k"]
    ((key, seen),) = raw.call("COMMAND", "GETKEYSANDFLAGS", *call.split())
    assert (key, set_of(seen)) == (b"k", flags)


def test_the_module_lists_its_commands(server: Server) -> None:
    assert {"CACHE.GETSM", "CACHE.SETSM"} <= set(server.command_names())


# Permissions


def allowed(client: RawClient, *command: Any) -> bool:
    reply = client.call(*command)
    assert not is_error(reply) or is_error(reply, "NOPERM"), reply
    return not is_error(reply)


@pytest.mark.parametrize(
    "patterns, reads, writes",
    [
        (("~foo:*",), True, True),
        (("%RW~foo:*",), True, True),
        (("%R~foo:*",), False, False),
        (("%W~foo:*",), False, True),
        (("%R~foo:*", "%W~foo:*"), None, True),
        (("~bar:*",), False, False),
    ],
    ids=["all", "read-write", "read", "write", "read and write apart", "elsewhere"],
)
def test_getsm_needs_to_read_and_write_its_key_and_setsm_to_write(
    fresh_server: Callable[..., Server], protocol: int, patterns: tuple[str, ...], reads: bool | None, writes: bool
) -> None:
    server = fresh_server()
    server.call("ACL", "SETUSER", "user", "on", ">secret", "+@all", *patterns)
    user = server.raw(protocol, auth=("user", "secret"))
    if reads is not None:  # servers differ on permissions that come from two patterns
        assert allowed(user, READS, "foo:1") is reads
    assert allowed(user, WRITES, "foo:1", "v", 1000) is writes
    assert not allowed(user, READS, "elsewhere") and not allowed(user, WRITES, "elsewhere", "v", 1000)
    if not reads and not writes:
        assert server.stats()["leases_granted"] == 0 and server.call("DBSIZE") == 0


def test_the_category_cacheguard_holds_the_module_s_commands_and_no_others(
    fresh_server: Callable[..., Server], protocol: int
) -> None:
    server = fresh_server()
    rules = ("on", ">secret", "allkeys", "-@all", "+@cacheguard", "+hello")
    reply = server.control().call("ACL", "SETUSER", "user", *rules)
    if not server.is_valkey and server.version < (7, 4):
        assert is_error(reply, "ERR")  # modules have no categories there
        return
    assert reply == b"OK"
    user = server.raw(protocol, auth=("user", "secret"))
    assert allowed(user, WRITES, "k", "v", 1000) and allowed(user, READS, "k")
    assert not allowed(user, "GET", "k") and not allowed(user, "PING")
    (reads, writes) = server.call("COMMAND", "INFO", READS, WRITES)
    assert {b"@cacheguard", b"@read", b"@blocking"} <= set_of(reads[6])
    assert {b"@cacheguard", b"@write"} <= set_of(writes[6])


# Settings


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_has_its_default_and_keeps_to_its_range(server: Server, raw: RawClient, name: str) -> None:
    full, (least, default, most) = f"cacheguard.{name}", SETTINGS[name]
    assert as_map(raw.call("CONFIG", "GET", "cacheguard.*"))[full.encode()] == str(default).encode()
    for good in (least, most, default + 1):
        assert raw.call("CONFIG", "SET", full.upper(), good) == b"OK"
        assert as_map(raw.call("CONFIG", "GET", full)) == {full.encode(): str(good).encode()}
    for bad in (least - 1, most + 1, "", "x", "1.5", "0x1", 2**64):
        error = raw.call("CONFIG", "SET", full, bad)
        assert is_error(error, "ERR CONFIG SET failed") and full in error, bad
    error = raw.call("CONFIG", "SET", "cacheguard.wait-ms", 5, "cacheguard.lease-ms", 0)
    assert is_error(error, "ERR")
    assert as_map(raw.call("CONFIG", "GET", full)) == {full.encode(): str(default + 1).encode()}


def test_an_unknown_setting_is_refused(raw: RawClient) -> None:
    assert is_error(raw.call("CONFIG", "SET", "cacheguard.nope", 1), "ERR Unknown option")


def test_config_rewrite_keeps_the_settings(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(config={"cacheguard.wait-ms": 77})
    server.call("CONFIG", "SET", "cacheguard.lease-ms", 1234)
    assert server.call("CONFIG", "REWRITE") == b"OK"
    lines = (server.home / "server.conf").read_text().splitlines()
    assert {"cacheguard.lease-ms 1234", "cacheguard.wait-ms 77"} <= set(lines)
    assert not any(line.startswith("cacheguard.max-waiters") for line in lines), "a default needs no line"


def test_settings_come_from_loadmodule_and_the_configuration_file_overrules_them(
    fresh_server: Callable[..., Server],
) -> None:
    server = fresh_server(module_args=["LEASE-MS", 300_000, "max-waiters", 0], config={"cacheguard.wait-ms": LONG})
    seen = as_map(server.call("CONFIG", "GET", "cacheguard.*"))
    expected = {b"lease-ms": b"300000", b"max-waiters": b"0", b"wait-ms": b"600000"}
    assert {name.removeprefix(b"cacheguard."): value for name, value in seen.items()}.items() >= expected.items()
    assert server.raw().call(READS, "k") is None
    assert "lease ends in" in server.raw().call(READS, "k"), "nobody may wait"
    assert server.restart(config={"cacheguard.lease-ms": 5}).call("CONFIG", "GET", "cacheguard.lease-ms")[1] == b"5"


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["lease-ms"], "argument lease-ms has no value"),
        (["nope", 1], "unknown argument 'nope'"),
        (["lease-ms", 5, "nope"], "unknown argument 'nope'"),
        (["lease-ms", 0], f"argument lease-ms must be an integer from 1 to {TEN_YEARS}"),
        (["wait-ms", TEN_YEARS + 1], f"argument wait-ms must be an integer from 0 to {TEN_YEARS}"),
        (["max-waiters", "01"], "argument max-waiters must be an integer from 0 to 10000000"),
        (["wait-ms", -1], "argument wait-ms must be an integer from 0"),
        (["lease-ms", "x"], "argument lease-ms must be an integer from 1"),
    ],
    ids=lambda each: " ".join(map(str, each)) if isinstance(each, list) else "",
)
def test_a_server_does_not_start_with_bad_arguments_and_its_log_says_why(
    fresh_server: Callable[..., Server], arguments: list, reason: str
) -> None:
    with pytest.raises(RuntimeError) as failure:
        fresh_server(module_args=arguments)
    assert f"cacheguard does not load: {reason}" in str(failure.value)


def test_the_module_cannot_be_unloaded_and_goes_on(raw: RawClient) -> None:
    raw.call(WRITES, "k", "v", LONG)
    raw.call(READS, "leased", "LEASE", LONG)
    assert is_error(raw.call("MODULE", "UNLOAD", "cacheguard"), "ERR")
    assert raw.call(READS, "k") == b"v"
    assert is_error(raw.call(READS, "leased"), "LEASED")


# Statistics

COUNTS = {"hits", "misses", "sets", "leases_granted", "leases_expired", "leases_voided", "leases_disconnected"}
COUNTS |= {"handovers", "waits", "waits_timed_out", "loads_avoided"}
LEASED = f"{READS} k LEASE {LONG}"
COUNTED: dict[str, tuple[list[str], list[str], dict[str, int]]] = {  # what comes before, what is counted, and as what
    "hit": ([f"{WRITES} k v 60000"], [f"{READS} k", f"{READS} k"], {"hits": 2}),
    "hit of a string": (["SET k v"], [f"{READS} k"], {"hits": 1}),
    "miss": ([], [f"{READS} k"], {"misses": 1, "leases_granted": 1}),
    "leased": ([LEASED], [f"{READS} k"], {"misses": 1}),
    "bad option": ([], [f"{READS} k NOPE", f"{WRITES} k v 0"], {}),
    "set": ([LEASED], [f"{WRITES} k v 60000", f"{WRITES} k v PERSIST"], {"sets": 2}),
    "wrong type": (["LPUSH k v"], [f"{WRITES} k v 60000"], {}),
    "expired": ([], [f"{READS} k LEASE 1"], {"misses": 1, "leases_granted": 1, "leases_expired": 1}),
    "voided": ([LEASED], ["DEL k"], {"leases_voided": 1}),
    "set by others": ([LEASED], ["SET k v"], {}),
    "handed over": ([LEASED, "wait"], ["DEL k"], {"leases_voided": 1, "handovers": 1, "leases_granted": 1}),
    "answered": ([LEASED, "wait", "wait"], [f"{WRITES} k v 60000"], {"sets": 1, "loads_avoided": 2}),
    "waited": ([LEASED], ["wait"], {"misses": 1, "waits": 1}),
    "timed out": ([LEASED], ["wait 1"], {"misses": 1, "waits": 1, "waits_timed_out": 1}),
}


@pytest.mark.parametrize("name", COUNTED)
def test_info_counts_each_event_once_and_nothing_else(
    server: Server, connect: Connect, raw: RawClient, name: str
) -> None:
    eventually(lambda: server.stats()["leases"] == 0)  # those of the test before
    before, counted, expected = COUNTED[name]

    def run(commands: list[str]) -> None:
        for command in commands:
            verb, *rest = command.split()
            if verb == "wait":
                waiting = server.stats()["waits"]
                connect().send(READS, "k", "WAIT", *(rest or [LONG]))
                eventually(lambda: server.stats()["waits"] > waiting)
            else:
                raw.call(verb, *rest)

    def counts() -> dict[str, int]:
        stats = server.stats()
        return {count: stats[count] for count in COUNTS}

    run(before)
    start = counts()
    run(counted)
    wanted = start | {count: start[count] + more for count, more in expected.items()}
    eventually(lambda: counts() == wanted, message=lambda: f"{wanted}, not {counts()}")


def test_info_tells_who_waits_now_how_many_ever_did_and_how_long(
    server: Server, connect: Connect, raw: RawClient
) -> None:
    raw.call(READS, "k", "LEASE", LONG)
    waiters = [connect().send(READS, "k", "WAIT", LONG) for _ in range(3)]
    eventually(lambda: server.stats()["waiters"] == 3)
    before, start = server.stats(), time.monotonic()
    assert before["leases"] == 1 and before["waiters_peak"] >= 3
    eventually(lambda: time.monotonic() - start > 0.03)
    raw.call(WRITES, "k", "v", LONG)
    assert [waiter.recv() for waiter in waiters] == [b"v"] * 3
    after = server.stats()
    assert (after["waiters"], after["leases"], after["panics"]) == (0, 0, 0)
    assert after["waiters_peak"] == before["waiters_peak"]
    for total in ("wait_ms_total", "load_ms_avoided"):
        assert 3 * 30 <= after[total] - before[total] <= 3 * 60_000


# Anything at all

WORDS = b"WAIT LEASE STALE VERSION COST PXAT PERSIST META TOKEN EARLY BIND JITTER MAXSTALE NX".split()
BAD_NUMBERS = [b"-1", b"01", b"", b"+1", b"1e3", b"1.5", b"18446744073709551615", b"9" * 30, b"%d" % (TEN_YEARS + 1)]
TTLS = [b"1", b"5", b"100", b"60000", b"%d" % TEN_YEARS]


def anything(chance: random.Random) -> list[bytes]:
    """A call of either command: well-formed, nearly so, or noise. No wait and no lease in it lasts long."""
    key = chance.choice([b"", b"\0", b"k", b"k2", b"k3", b"text", b"list", b"k\xff\r\n", chance.randbytes(40)])
    if chance.random() < 0.3:
        return [READS.encode(), key]
    small = [b"0", b"1", b"2", b"3"]
    options: list[bytes] = []
    for _ in range(chance.choice([0, 0, 1, 1, 2, 4])):
        word = chance.choice(WORDS) if chance.random() < 0.9 else chance.randbytes(chance.randrange(40))
        options.append(word.lower() if chance.random() < 0.3 else word)
        if chance.random() < 0.9:
            options.append(chance.choice(small if chance.random() < 0.8 else BAD_NUMBERS))
    if chance.random() < 0.5:
        return [READS.encode(), key, *options]
    end = [[b"PXAT", b"1"]] * 3 + [[chance.choice(TTLS)], [b"PERSIST"], [b"PXAT", b"99999999999999"]]
    number = chance.choice(end) if chance.random() < 0.8 else [chance.choice(BAD_NUMBERS)]
    value = chance.randbytes(chance.choice([0, 1, 10, 100, 5000]))
    return [WRITES.encode(), key, value, *number, *options][: chance.choice([9, 9, 9, chance.randrange(1, 9)])]


def throw(server: Server, protocol: int, chance: random.Random, calls: int) -> set[str]:
    """Sends so many calls over four connections that wait for each other; the codes of the errors."""
    clients = [server.raw(protocol, timeout=30) for _ in range(4)]
    codes: set[str] = set()
    for _ in range(calls // 1000):
        for key in ("text", "list"):
            clients[0].pipeline([("DEL", key), ("SET", "text", "v"), ("RPUSH", "list", "v")])
        batches = [[anything(chance) for _ in range(250)] for _ in clients]
        for client, batch in zip(clients, batches):
            client.send_bytes(b"".join(encode(*call) for call in batch))
        for client, batch in zip(clients, batches):
            errors = [reply for _ in batch if isinstance(reply := client.recv(), RespError)]
            codes |= {error.text if "failed" in error else error.code for error in errors}
    for client in clients:
        client.close()
    return codes


def used_memory_at_rest(server: Server) -> int:
    """What is used once all data, leases and connections of the test are gone."""
    server.call("FLUSHALL")
    eventually(lambda: server.stats()["leases"] == server.stats()["waiters"] == 0)
    eventually(lambda: server.info("clients")["connected_clients"] == 1)
    return server.info("memory")["used_memory"]


def test_a_hundred_thousand_calls_of_any_kind_do_no_harm(fresh_server: Callable[..., Server], protocol: int) -> None:
    server = fresh_server(config={"cacheguard.wait-ms": 2, "cacheguard.lease-ms": 3})
    chance = random.Random(20_240_817)
    throw(server, protocol, chance, 5_000)
    before = used_memory_at_rest(server)
    assert throw(server, protocol, chance, 100_000) == {"ERR", "LEASED", "WRONGTYPE"}
    stats = server.stats()
    assert stats["panics"] == 0
    assert min(stats[count] for count in ("hits", "sets", "waits", "leases_expired", "loads_avoided")) > 10, stats
    eventually(lambda: used_memory_at_rest(server) - before < 60_000)
    server.assert_alive()
