"""DUMP and RESTORE, COPY, RENAME, MOVE and SWAPDB; and payloads that somebody else wrote."""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_aof import rewrite
from test_rdb import ENCODING_VERSION_BITS, HOUR_MS, LARGE, SAMPLES, TYPE_ID, fill, lease, read, state, waiters, wall_ms

from harness import RawClient, RespError, Server, is_error
from harness.payload import END, FOOTER_BYTES, STRING, UNSIGNED, crc64, length

DURATION_MS_MAX = 315_360_000_000
MODULE_2 = b"\x07"


# The server's format, written independently of it.


def test_the_checksum_is_that_of_redis() -> None:
    assert crc64(b"123456789") == 0xE9C6D914C4B8D9CA


def signed(body: bytes, version: bytes) -> bytes:
    """A payload with a footer that fits: the RDB version (two bytes) and the checksum."""
    return body + version + crc64(body + version).to_bytes(8, "little")


def unsigned(n: int) -> bytes:
    return bytes([UNSIGNED]) + length(n)


def string(value: bytes) -> bytes:
    return bytes([STRING]) + length(len(value)) + value


def body_of(*fields: bytes, type_id: int = TYPE_ID) -> bytes:
    return MODULE_2 + b"\x81" + type_id.to_bytes(8, "big") + b"".join(fields) + END


def entry(value: bytes = b"value", stale_ms: int = 0, version: int = 0, cost_ms: int = 0, tags: int = 0) -> bytes:
    return body_of(unsigned(stale_ms), unsigned(version), unsigned(cost_ms), unsigned(0), unsigned(tags), string(value))


def of_encoding(version: int) -> int:
    return TYPE_ID >> ENCODING_VERSION_BITS << ENCODING_VERSION_BITS | version


@pytest.fixture
def client(server: Server) -> RawClient:
    return server.raw()


@pytest.fixture
def rdb_version(client: RawClient) -> bytes:
    """What this server writes in a footer."""
    client.call("SET", "probe", "v")
    version = client.call("DUMP", "probe")[-FOOTER_BYTES:-8]
    client.call("DEL", "probe")
    return version


# What is dumped comes back


def test_a_dump_is_what_we_think_it_is(client: RawClient, rdb_version: bytes) -> None:
    client.call("CACHE.SETSM", "key", "value", HOUR_MS, "STALE", 70, "VERSION", 2**63, "COST", 20_000)
    assert client.call("DUMP", "key") == signed(entry(b"value", 70, 2**63, 20_000), rdb_version)


def test_a_restored_entry_is_the_same(server: Server, client: RawClient) -> None:
    fill(server)
    before = state(server)
    for key in SAMPLES:
        ends, payload = client.call("PEXPIRETIME", key), client.call("DUMP", key)
        client.call("DEL", key)
        assert client.call("RESTORE", key, max(ends, 0), payload, "ABSTTL") == b"OK"
    assert state(server) == before
    lease(server, b"stale by now")
    assert {key: read(client, key) for key in SAMPLES} == {key: args[0] for key, args in SAMPLES.items()}


def test_restore_takes_its_options(client: RawClient) -> None:
    client.call("CACHE.SETSM", "key", "value", "PERSIST", "STALE", 60_000, "VERSION", 3)
    payload, at = client.call("DUMP", "key"), int(wall_ms()) + 500_000
    assert client.call("RESTORE", "forever", 0, payload) == b"OK"
    assert client.call("PTTL", "forever") == -1
    assert client.call("RESTORE", "relative", 90_000, payload) == b"OK"
    assert 60_000 < client.call("PTTL", "relative") <= 90_000
    assert client.call("RESTORE", "absolute", at, payload, "ABSTTL", "IDLETIME", 1_000) == b"OK"
    assert client.call("OBJECT", "IDLETIME", "absolute") >= 1_000
    assert client.call("PEXPIRETIME", "absolute") == at
    assert client.call("RESTORE", "over", 1_000, payload, "ABSTTL") == b"OK"
    assert client.call("EXISTS", "over") == 0
    assert client.call("RESTORE", "frequent", 0, payload, "FREQ", 9) == b"OK"
    # A life no longer than the stale period is a stale one.
    assert client.call("RESTORE", "late", 50_000, payload) == b"OK"
    assert client.call("CACHE.GETSM", "late", "LEASE", HOUR_MS) is None
    assert [read(client, key) for key in ("forever", "relative", "absolute", "frequent", "late")] == [b"value"] * 5


def test_restore_replaces_only_if_told_to(server: Server, client: RawClient) -> None:
    client.call("CACHE.SETSM", "key", "new", HOUR_MS, "COST", 5)
    client.call("CACHE.SETSM", "other", "old", HOUR_MS)
    payload, before = client.call("DUMP", "key"), state(server)
    assert is_error(client.call("RESTORE", "other", 0, payload), "BUSYKEY")
    assert state(server) == before
    assert client.call("RESTORE", "other", 0, payload, "REPLACE") == b"OK"
    assert server.digest_value("other")[0] != before[0, b"other"][0]
    assert client.call("DUMP", "other") == payload
    assert client.call("PTTL", "other") == -1
    client.call("RPUSH", "list", "v")
    assert client.call("RESTORE", "list", 0, payload, "REPLACE") == b"OK"
    assert read(client, "list") == b"new"


def test_copies_have_all_and_share_nothing(server: Server, client: RawClient) -> None:
    fill(server)
    before = state(server)
    for key in SAMPLES:
        assert client.call("COPY", key, b"copy of " + key) == 1
        assert client.call("COPY", key, key, "DB", 1) == 1
        assert client.call("COPY", key, key, "DB", 1) == 0
        assert client.call("COPY", key, b"same target", "REPLACE") == 1
    after = state(server)
    for key in SAMPLES:
        assert after[0, key] == after[0, b"copy of " + key] == after[1, key] == before[0, key]
    for key in SAMPLES:
        client.call("CACHE.SETSM", key, "changed", 50_000)
    after = state(server)
    assert all(after[0, b"copy of " + key] == after[1, key] == before[0, key] for key in SAMPLES)
    client.call("DEL", *SAMPLES)
    assert read(client, b"copy of large") == LARGE


def test_renamed_and_moved_entries_are_the_same(server: Server, client: RawClient) -> None:
    fill(server)
    before = state(server)
    for key in SAMPLES:
        client.call("CACHE.SETSM", b"new " + key, "overwritten", HOUR_MS)
        assert client.call("RENAME", key, b"new " + key) == b"OK"
        assert client.call("RENAMENX", b"new " + key, b"newer " + key) == 1
        assert client.call("MOVE", b"newer " + key, 1) == 1
        assert client.call("MOVE", b"newer " + key, 1) == 0
    assert client.call("SWAPDB", 1, 2) == b"OK"
    after = state(server)
    assert {key: after[2, b"newer " + key] for key in SAMPLES} == {key: before[0, key] for key in SAMPLES}
    assert len(after) == len(SAMPLES) + 1
    client.call("SELECT", 2)
    assert read(client, b"newer compressible") == SAMPLES[b"compressible"][0]


# Who waits hears of it


@pytest.mark.parametrize(
    "arrive",
    [
        pytest.param([("RESTORE", "wanted", 0, "PAYLOAD")], id="restore"),
        pytest.param([("RESTORE", "wanted", 0, "PAYLOAD", "REPLACE")], id="restore-replace"),
        pytest.param([("COPY", "source", "wanted")], id="copy"),
        pytest.param([("RENAME", "source", "wanted")], id="rename"),
        pytest.param([("COPY", "source", "wanted", "DB", 1), ("DEL", "source"), ("SWAPDB", 0, 1)], id="swapdb"),
        pytest.param(
            [("COPY", "source", "wanted", "DB", 1), ("SELECT", 1), ("MOVE", "wanted", 0)],
            id="move",
        ),
        pytest.param([("MULTI",), ("RESTORE", "wanted", 0, "PAYLOAD"), ("EXEC",)], id="multi"),
        pytest.param([("EVAL", "return redis.call('RESTORE', 'wanted', 0, ARGV[1])", 0, "PAYLOAD")], id="lua"),
    ],
)
def test_an_entry_that_arrives_answers_who_waits(
    server: Server, client: RawClient, arrive: list[tuple[Any, ...]]
) -> None:
    client.call("CACHE.SETSM", "source", "found", HOUR_MS, "STALE", 5, "VERSION", 1)
    payload = client.call("DUMP", "source")
    lease(server, "wanted")
    parked = waiters(server, "wanted", 3)
    commands = [[payload if part == "PAYLOAD" else part for part in command] for command in arrive]
    assert not [reply for reply in client.pipeline(commands) if is_error(reply)]
    assert [waiter.recv() for waiter in parked] == [b"found"] * 3
    assert server.stats()["leases"] == server.stats()["waiters"] == 0


def test_a_refused_payload_answers_nobody_with_a_value(server: Server, client: RawClient, rdb_version: bytes) -> None:
    holder = lease(server, "wanted")
    parked = waiters(server, "wanted", 3)
    for body in (entry()[:-3], entry(tags=1), body_of(), b""):
        assert is_error(client.call("RESTORE", "wanted", 0, signed(body, rdb_version)))
    assert client.call("EXISTS", "wanted") == 0
    assert holder.call("CACHE.SETSM", "wanted", "found", HOUR_MS) == b"OK"
    answers = [waiter.recv() for waiter in parked]
    assert set(answers) <= {b"found", None}, "a value, or the turn to regenerate it"
    assert answers[-1] == b"found" or answers.count(None) == 3


# Payloads that are cut, corrupt or from the future


def assert_refused(server: Server, client: RawClient, payloads: dict[Any, bytes]) -> None:
    """Each is an error, on a free key and on a taken one, and changes nothing.

    But for those that begin with a whole entry: the server does not mind what follows, and reads on into the footer
    where that completes an entry by chance.
    """
    client.call("CACHE.SETSM", "taken", "as it was", HOUR_MS, "STALE", 9, "VERSION", 8, "COST", 7)
    before, accepted, whole = state(server), [], 0
    for name, payload in payloads.items():
        commands = [("RESTORE", "free", 0, payload), ("DUMP", "free"), ("DEL", "free")]
        reply, dump, deleted = client.pipeline(commands)
        if reply == b"OK" and payload.startswith(dump[: -FOOTER_BYTES - len(END)]):
            whole += 1
            continue
        replies = reply, client.call("RESTORE", "taken", 0, payload, "REPLACE")
        if deleted or not all(is_error(reply, "ERR") for reply in replies):
            accepted.append((name, replies))
    assert not accepted
    assert whole <= len(payloads) // 100 + 1
    server.assert_alive()
    assert state(server) == before


def small_bodies(client: RawClient) -> Iterator[tuple[bytes, bytes]]:
    """The parts of a dump before its footer, of all samples but the large."""
    for key, (value, *_) in SAMPLES.items():
        if len(value) < 40_000:
            yield key, client.call("DUMP", key)[:-FOOTER_BYTES]


def test_every_truncation_is_refused(server: Server, client: RawClient, rdb_version: bytes) -> None:
    fill(server)
    cut = {}
    for key, body in small_bodies(client):
        for size in range(len(body)):
            cut[key, size, "plain"] = signed(body, rdb_version)[: size + FOOTER_BYTES]
            cut[key, size, "signed"] = signed(body[:size], rdb_version)
    assert len(cut) > 1_000
    assert_refused(server, client, cut)


def test_a_wrong_footer_is_refused(server: Server, client: RawClient, rdb_version: bytes) -> None:
    body = entry()
    good = signed(body, rdb_version)
    wrong = {bit: flipped(good, bit) for bit in range(len(good) * 8)}
    wrong["rdb version"] = signed(body, b"\xff\x7f")
    wrong["empty"] = b""
    assert_refused(server, client, wrong)


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_every_flipped_bit_is_an_error_or_an_entry(server: Server, client: RawClient, rdb_version: bytes) -> None:
    """With a checksum that fits. The first byte, the type, is left alone: other types are the server's own."""
    fill(server)
    before = state(server)
    for key, body in small_bodies(client):
        bits = range(8, len(body) * 8)
        for start in range(0, len(bits), 500):
            commands: list[tuple[Any, ...]] = []
            for bit in bits[start : start + 500]:
                commands.append(("RESTORE", "target", 0, signed(flipped(body, bit), rdb_version)))
                commands += [("CACHE.GETSM", "target", "WAIT", 0, "LEASE", 1), ("DUMP", "target"), ("DEL", "target")]
            replies = client.pipeline(commands)
            for bit, restored, value, dump, deleted in zip(bits[start:], *(replies[n::4] for n in range(4))):
                if is_error(restored, "ERR"):
                    assert (dump, deleted) == (None, 0), f"{key!r}, bit {bit}"
                else:
                    assert restored == b"OK"
                    assert isinstance(dump, bytes)
                    assert deleted == 1
                    assert value is None or isinstance(value, bytes)
    server.assert_alive()
    assert state(server) == before


SANE = [unsigned(1), unsigned(2), unsigned(3), unsigned(0), unsigned(0), string(b"value")]
FIELDS = len(SANE)
HUGE = [b"\x81" + n.to_bytes(8, "big") for n in (2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)] + [b"\x80\xff" * 3]

BODIES: dict[str, bytes] = {
    "of the next encoding version": body_of(*SANE, type_id=of_encoding(2)),
    "of the last encoding version": body_of(*SANE, type_id=of_encoding(1023)),
    "of encoding version 0": body_of(*SANE, type_id=of_encoding(0)),
    "of an unknown type": body_of(*SANE, type_id=TYPE_ID ^ 1 << 40),
    "with tags": entry(tags=1),
    "with countless tags": entry(tags=2**64 - 1),
    "with a tag twice": body_of(*SANE[:4], unsigned(2), string(b"t"), string(b"t"), string(b"value")),
    "with too long a tag": body_of(*SANE[:4], unsigned(1), string(b"t" * 1025), string(b"value")),
    "with too many tags": body_of(*SANE[:4], unsigned(129), *(string(b"%d" % n) for n in range(129)), string(b"value")),
    "stale since the end of time": body_of(*SANE[:3], unsigned(2**64 - 2), unsigned(0), string(b"value")),
    "too long stale": entry(stale_ms=DURATION_MS_MAX + 1),
    "much too long stale": entry(stale_ms=2**64 - 2),
    "too costly": entry(cost_ms=2**32),
    "much too costly": entry(cost_ms=2**64 - 1),
    "without an end": body_of(*SANE)[:-1],
    "with another end": body_of(*SANE)[:-1] + b"\x01",
    "only a type": MODULE_2,
    "only a value": body_of(string(b"value")),
    "nothing": body_of(),
    "a string for a number": body_of(string(b"1"), *SANE[1:]),
    "a number for the value": body_of(*SANE[: FIELDS - 1], unsigned(5)),
    "a signed number": body_of(b"\x01\x01", *SANE[1:]),
    "a float": body_of(b"\x03\0\0\0\0", *SANE[1:]),
    "a double": body_of(b"\x04" + bytes(8), *SANE[1:]),
    "an unknown opcode": body_of(b"\x09\x01", *SANE[1:]),
    "an encoded length for a number": body_of(b"\x02\xc0\x01", *SANE[1:]),
    "a compressed string that ends early": body_of(*SANE[: FIELDS - 1], b"\x05\xc3\x09\x32\x01vv"),
    "a compressed string that grows too much": body_of(*SANE[: FIELDS - 1], b"\x05\xc3\x04\x81" + b"\x7f" * 8 + b"\x01vv\xe0"),
}
BODIES |= {f"{count} fields": body_of(*SANE[:count]) for count in range(FIELDS)}
BODIES |= {f"{count} fields too many": body_of(*SANE, *SANE[:count]) for count in range(1, FIELDS + 1)}
BODIES |= {f"without field {n}": body_of(*SANE[:n], *SANE[n + 1 :]) for n in range(FIELDS)}
BODIES |= {f"a value of {size.hex()}": body_of(*SANE[: FIELDS - 1], b"\x05" + size + b"value") for size in HUGE}


def test_impossible_payloads_are_refused(server: Server, client: RawClient, rdb_version: bytes) -> None:
    assert_refused(server, client, {name: signed(body, rdb_version) for name, body in BODIES.items()})
    assert server.info("memory")["used_memory"] < 100 << 20


def test_payloads_of_our_own_making_are_accepted(client: RawClient, rdb_version: bytes) -> None:
    """So that those above are refused for what is wrong with them, and for nothing else."""
    for stale_ms, version, cost_ms in itertools.product((0, DURATION_MS_MAX), (0, 2**64 - 1), (0, 2**32 - 1)):
        for value in (b"", b"value", b"v" * 20_000):
            payload = signed(entry(value, stale_ms, version, cost_ms), rdb_version)
            assert client.call("RESTORE", "key", 0, payload, "REPLACE") == b"OK"
            assert read(client, "key") == value
    assert client.call("RESTORE", "sane", 0, signed(body_of(*SANE), rdb_version)) == b"OK"


def test_random_bytes_are_refused(server: Server, client: RawClient, rdb_version: bytes) -> None:
    rng, head = random.Random(3), MODULE_2 + b"\x81" + TYPE_ID.to_bytes(8, "big")
    assert_refused(server, client, {n: signed(head + rng.randbytes(rng.randrange(4)), rdb_version) for n in range(999)})
    noise = [signed(head + rng.randbytes(rng.randrange(80)), rdb_version) for _ in range(3_000)]
    for reply in client.pipeline([("RESTORE", "noise", 0, payload, "REPLACE") for payload in noise]):
        assert reply == b"OK" or is_error(reply, "ERR")
    server.assert_alive()


def test_refusing_leaks_nothing(server: Server, client: RawClient, rdb_version: bytes) -> None:
    """The value comes last: a payload without its end has been read in full when it turns out to be bad."""
    payload = signed(body_of(*SANE[: FIELDS - 1], string(b"v" * 100_000))[:-1] + b"\x01", rdb_version)
    commands = [("RESTORE", "key", 0, payload)] * 100

    def used() -> int:
        assert all(isinstance(reply, RespError) for reply in client.pipeline(commands))
        return server.info("memory")["used_memory"]

    used()
    first = used()
    assert min(used() for _ in range(3)) < first + 2_000_000, "300 refused payloads hold 30 MB"


@pytest.mark.parametrize("stale_ms", [DURATION_MS_MAX, 2**64 - 1])
def test_what_is_accepted_survives_a_rewrite(
    fresh_server: Callable[..., Server], rdb_version: bytes, stale_ms: int
) -> None:
    """RESTORE takes whatever the module reads; then the log must be able to say it too."""
    config = {"aof-use-rdb-preamble": "no", "appendfsync": "always"}
    server = fresh_server(appendonly=True, config=config)
    payload = signed(entry(b"value", stale_ms, 2**64 - 1, 2**32 - 1), rdb_version)
    reply = server.raw().call("RESTORE", "key", 0, payload)
    assert reply == b"OK" or is_error(reply, "ERR")
    before = state(server)
    rewrite(server)
    server.restart(kill=True)
    assert state(server) == before
