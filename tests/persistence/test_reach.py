"""Whatever a server takes (RESTORE, STATE, AT), and whatever is done to it then, can be saved, copied and replicated.

For all three types: payloads forged at the edges of what is taken, commands with hostile times, and after each step what
every key must pass: DUMP and RESTORE under another name, and the same digest on a replica; now and then a reload.
"""

import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from harness import RawClient, Server, eventually, is_error
from harness.payload import body_of, signed

LONG = 600_000  # milliseconds; no test lasts as long
TEN_YEARS = 315_360_000_000
LATEST = 2**62 - 1
KEYS = ["limit", "entry", "lock"]
# Mostly of the type that a command is for.
limit_keys, entry_keys, lock_keys = (st.sampled_from([key] * 8 + KEYS) for key in KEYS)
algorithms = st.sampled_from(["SLIDING", "FIXED", "GCRA"])
instants = st.one_of(
    st.sampled_from([1, 2, LATEST]),
    st.sampled_from([1000, LATEST - 1, TEN_YEARS]),
    st.integers(-LONG, LONG).map(lambda by: int(time.time() * 1000) + by),
    st.integers(1, LATEST),
)
numbers = st.one_of(
    st.integers(0, 4),
    instants,
    st.sampled_from([10**6, 10**9, TEN_YEARS - 1, TEN_YEARS, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]),
)
units = st.one_of(st.integers(1, 5), st.sampled_from([10**6, 10**9]))
few_bytes = st.binary(max_size=2)


def varint(n: int) -> bytes:
    parts = []
    while n >= 0x80:
        parts.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*parts, n])


def log_of(runs: list[tuple[int, int]]) -> bytes:
    """The bytes of a log: gaps and units."""
    parts = []
    for gap, count in runs:
        parts.append(varint(min(gap, 2**63 - 1) * 2))
        if count > 1:
            parts.append(varint((min(count, 2**62) - 2) * 2 + 1))
    return b"".join(parts)


gaps = st.one_of(st.integers(0, 50), numbers)
logs = st.lists(st.tuples(gaps, st.one_of(st.integers(1, 3), numbers)), min_size=1, max_size=4).map(log_of)
sliding = st.tuples(st.just(0), st.just(1), st.integers(1, 9), st.sampled_from([50, LONG, TEN_YEARS]), numbers, logs).map(list)


@st.composite
def fixed(draw: st.DrawFn) -> list[int | bytes]:
    """The window of each count is mostly that of the last taking."""
    last, windows = draw(numbers), draw(st.lists(st.sampled_from([1, 50, LONG, TEN_YEARS]), min_size=1, max_size=2))
    counts = [[draw(st.integers(1, 9)), each, last // each + draw(st.sampled_from([0] * 9 + [1])), draw(numbers)] for each in windows]
    return [1, len(counts), *(n for count in counts for n in count), last]


buckets = st.tuples(
    st.just(2), st.just(1), numbers, st.one_of(units, numbers), st.one_of(units, numbers), st.just(0), numbers
).map(list)
limits = st.one_of(sliding, fixed(), buckets)
entries = st.tuples(
    st.one_of(st.just(0), numbers), numbers, st.one_of(st.just(0), numbers), st.one_of(st.just(0), numbers), st.lists(few_bytes, max_size=3), few_bytes
).map(lambda each: [*each[:4], len(each[4]), *each[4], each[5]])
holders = st.lists(st.tuples(few_bytes, st.integers(1, 3), instants), min_size=1, max_size=3)


@st.composite
def locks(draw: st.DrawFn) -> list[int | bytes]:
    held, fence, fields = draw(holders), 0, list[int | bytes]()
    for owner, gap, deadline in held:
        fence += gap
        fields += [owner, fence, deadline]
    mode = draw(st.sampled_from([0, 1, 2]))
    return [mode, draw(st.integers(1, 4)) if mode == 2 else 0, len(held), *fields]


class ReachMachine(RuleBasedStateMachine):
    """`server`, `client`, `replica` and `samples` are set by the test."""

    server: ClassVar[Server]
    client: ClassVar[RawClient]
    replica: ClassVar[Server]
    samples: ClassVar[dict[str, bytes]]

    def __init__(self) -> None:
        super().__init__()
        self.client.call("FLUSHALL")

    def restore(self, key: str, kind: str, fields: list[int | bytes]) -> None:
        sample = self.samples[kind]
        if all(isinstance(field, bytes) or field < 2**64 for field in fields):
            self.client.call("RESTORE", key, 0, signed(sample, body_of(sample, fields)), "REPLACE")

    @rule(key=limit_keys, fields=limits)
    def restore_limits(self, key: str, fields: list[int | bytes]) -> None:
        self.restore(key, "limits", fields)

    @rule(key=entry_keys, fields=entries)
    def restore_entry(self, key: str, fields: list[int | bytes]) -> None:
        self.restore(key, "entry", fields)

    @rule(key=lock_keys, fields=locks())
    def restore_lock(self, key: str, fields: list[int | bytes]) -> None:
        self.restore(key, "lock", fields)

    @rule(key=limit_keys, fields=limits)
    def state(self, key: str, fields: list[int | bytes]) -> None:
        packed = b"".join(varint(each) if isinstance(each, int) else varint(len(each)) + each for each in fields)
        self.client.call("CACHE.RATELIMIT", key, "STATE", b"\x01" + packed)

    @rule(key=limit_keys, algorithm=algorithms, count=units, window=st.sampled_from([LONG, TEN_YEARS]), at=st.none() | st.none() | instants)
    def take(self, key: str, algorithm: str, count: int, window: int, at: int | None) -> None:
        words: list[Any] = ["COST", count, "ALGORITHM", algorithm, *(["AT", at] if at else ["PARTIAL"])]
        self.client.call("CACHE.RATELIMIT", key, 5, window, *words)

    @rule(key=limit_keys, count=units, at=st.none() | instants, taken=st.none() | instants)
    def refund(self, key: str, count: int, at: int | None, taken: int | None) -> None:
        words: list[Any] = [*(["AT", at] if at else []), *(["TAKEN", taken] if taken else [])]
        self.client.call("CACHE.REFUND", key, count, *words)

    @rule(key=limit_keys, burst=st.integers(0, 9), count=st.integers(1, 9), quantity=st.integers(0, 9))
    def throttle(self, key: str, burst: int, count: int, quantity: int) -> None:
        self.client.call("CL.THROTTLE", key, burst, count, 86_400, quantity)

    @rule(key=entry_keys, stale=st.sampled_from([1, TEN_YEARS]), version=numbers, since=st.none() | instants, tag=few_bytes)
    def write(self, key: str, stale: int, version: int, since: int | None, tag: bytes) -> None:
        words: list[Any] = ["STALE", stale, "VERSION", version, "TAGS", 1, tag, *(["STALEAT", since] if since else [])]
        self.client.call("CACHE.SETSM", key, "v", TEN_YEARS, *words)
        self.client.call("CACHE.TOUCH", key, TEN_YEARS, "STALE", stale)

    @rule(key=entry_keys, tag=few_bytes, other=few_bytes)
    def tag(self, key: str, tag: bytes, other: bytes) -> None:
        self.client.call("CACHE.TAG", key, tag)
        self.client.call("CACHE.UNTAG", key, other)
        self.client.call("CACHE.MARKSTALE", other)

    @rule(key=lock_keys, owner=few_bytes, ttl=st.sampled_from([LONG, TEN_YEARS]), mode=st.sampled_from([[], ["SHARED"], ["PERMITS", 3]]))
    def lock(self, key: str, owner: bytes, ttl: int, mode: list[Any]) -> None:
        self.client.call("CACHE.LOCK", key, owner, ttl, *mode)

    @rule(key=lock_keys, owner=few_bytes)
    def unlock(self, key: str, owner: bytes) -> None:
        self.client.call("CACHE.EXTEND", key, owner, TEN_YEARS)
        self.client.call("CACHE.UNLOCK", key, owner)

    @rule(key=limit_keys)
    def persist(self, key: str) -> None:
        self.client.call("PERSIST", key)

    @rule()
    def reload(self) -> None:
        self.client.call("EXISTS", *KEYS)
        before = self.digests(self.server)
        assert self.client.call("DEBUG", "RELOAD") == b"OK"
        for held, loaded in zip(before, self.digests(self.server)):
            passed = 0 < held[1] <= int(time.time() * 1000)
            assert loaded == held or passed, "the same, unless its time has passed"
        eventually(lambda: self.replica.info("replication").get("master_link_status") == "up", 30)

    @staticmethod
    def digests(server: Server) -> list[tuple[Any, Any]]:
        return [(server.digest_value(key), server.call("PEXPIRETIME", key)) for key in KEYS]

    @invariant()
    def every_key_can_be_read_again(self) -> None:
        for key in KEYS:
            dump = self.client.call("DUMP", key)
            if dump is not None:
                # Whether there is a TTL is part of a digest.
                ttl = 0 if self.client.call("PEXPIRETIME", key) == -1 else LONG
                reply = self.client.call("RESTORE", "copy", ttl, dump, "REPLACE")
                assert reply == b"OK", (key, self.client.call("TYPE", key), reply)
                copied, held = self.server.digest_value("copy", key)
                assert copied == held or held == b"0" * 40, "the same, unless its time passed just then"
        self.client.call("DEL", "copy")

    @invariant()
    def the_replica_holds_the_same(self) -> None:
        def same() -> bool:
            self.client.call("EXISTS", *KEYS)
            self.client.call("WAIT", 1, 10_000)
            return self.digests(self.server) == self.digests(self.replica)

        eventually(same, 10, lambda: f"{self.digests(self.server)} {self.digests(self.replica)}")


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Server, Server]]:
    config = {"repl-ping-replica-period": 100_000, "repl-timeout": 1_000_000}
    with Server(config=config, name="primary") as primary, Server(config=config, name="replica") as replica:
        replica.replica_of(primary)
        replica.wait_for_sync()
        primary.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
        yield primary, replica
        assert primary.stats()["panics"] == replica.stats()["panics"] == 0


def run(pair: tuple[Server, Server], examples: int) -> None:
    primary, replica = pair
    client = primary.raw()
    made = [("limits", "CACHE.RATELIMIT", 5, LONG), ("entry", "CACHE.SETSM", "v", LONG), ("lock", "CACHE.LOCK", "me", LONG)]
    samples = {}
    for kind, command, *words in made:
        assert not is_error(client.call(command, "sample", *words))
        samples[kind] = client.call("DUMP", "sample")
        client.call("DEL", "sample")
    fields = {"server": primary, "client": client, "replica": replica, "samples": samples}
    run_state_machine_as_test(
        type("Reach", (ReachMachine,), fields),
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            database=None,
        ),
    )
    primary.assert_alive()
    replica.assert_alive()


def test_what_is_taken_and_reached_can_be_read_again(pair: tuple[Server, Server]) -> None:
    run(pair, 100)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_what_is_taken_and_reached_can_be_read_again_for_long(pair: tuple[Server, Server]) -> None:
    run(pair, 5_000)
