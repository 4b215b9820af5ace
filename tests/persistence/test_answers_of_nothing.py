"""An answer that says that nothing happened is true: of the data, of the replica, of the log, and of those who watch."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server

LONG = 600_000  # milliseconds; no test lasts as long
TEN_YEARS = 315_360_000_000
AHEAD = 4_611_686_018_427_387_903  # the latest instant that AT takes
ALGORITHMS = ["SLIDING", "FIXED", "GCRA"]


@pytest.fixture(scope="module")
def pair() -> Any:
    config = {"repl-ping-replica-period": 100_000}
    with Server(config=config, name="primary") as primary, Server(config=config, name="replica") as replica:
        replica.replica_of(primary)
        replica.wait_for_sync()
        yield primary, replica


def digests(server: Server) -> list[tuple[bytes, bytes, int]]:
    client = server.control()
    keys = sorted(client.call("KEYS", "*"))
    return [(key, client.call("DEBUG", "DIGEST-VALUE", key)[0], client.call("PEXPIRETIME", key)) for key in keys]


def fill(client: RawClient) -> None:
    client.call("FLUSHALL")
    for algorithm in ALGORITHMS:
        client.call("CACHE.RATELIMIT", algorithm, 5, TEN_YEARS, 9, TEN_YEARS, "COST", 3, "ALGORITHM", algorithm)
        client.pipeline(
            [
                ("MULTI",),
                ("CACHE.RATELIMIT", f"kept{algorithm}", 5, 1, "ALGORITHM", algorithm),
                ("PERSIST", f"kept{algorithm}"),
                ("EXEC",),
            ]
        )
    client.call("CL.THROTTLE", "cell", 4, 5, 86_400, 5)
    client.call("CACHE.SETSM", "entry", "v", LONG, "TAGS", 2, "a", "b", "VERSION", 7)
    client.call("CACHE.LOCK", "lock", "me", LONG)
    client.call("CACHE.LOCK", "shared", "me", LONG, "SHARED")
    client.call("SET", "string", "v")


QUESTIONS: list[tuple[tuple[Any, ...], Any]] = [
    (("CACHE.SETSM", "entry", "w", LONG, "VERSION", 6), None),
    (("CACHE.SETSM", "entry", "w", LONG, "TOKEN", "none"), None),
    (("CACHE.TOUCH", "entry", LONG, "TOKEN", "none"), 0),
    (("CACHE.TOUCH", "missing", LONG), 0),
    (("CACHE.TAG", "entry", "a"), 0),
    (("CACHE.UNTAG", "entry", "c"), 0),
    (("CACHE.TAG", "missing", "a"), 0),
    (("CACHE.DEL", "missing"), 0),
    (("CACHE.RENEW", "entry", "none", 5), 0),
    (("CACHE.RELEASE", "entry", "none"), 0),
    (("CACHE.FAIL", "entry", "none"), 0),
    (("CACHE.TAGDEL", "c"), 0),
    (("CACHE.LOCK", "lock", "you", LONG), None),
    (("CACHE.LOCK", "lock", "you", LONG, "SHARED"), None),
    (("CACHE.LOCK", "shared", "you", LONG), None),
    (("CACHE.UNLOCK", "lock", "you"), 0),
    (("CACHE.EXTEND", "lock", "you", LONG), 0),
    (("CACHE.UNLOCK", "missing", "me"), 0),
    (("CACHE.REFUND", "missing", 1), 0),
    (("CACHE.REFUND", "cell", 1, "AT", AHEAD), 0),
    (("CACHE.REFUND", "cell", 1, "TAKEN", 1), 0),
]
for _algorithm in ALGORITHMS:
    _rule = (_algorithm, 5, TEN_YEARS, "ALGORITHM", _algorithm)
    QUESTIONS += [
        (("CACHE.REFUND", _algorithm, 1, "AT", AHEAD), 0),
        (("CACHE.REFUND", _algorithm, 1, "TAKEN", 1), 0),
        (("CACHE.REFUND", f"kept{_algorithm}", 1), 0),
        (("CACHE.REFUND", f"kept{_algorithm}", 1, "TAKEN", 1), 0),
        (("CACHE.RATELIMIT", *_rule, "COST", 3), [0]),
        (("CACHE.RATELIMIT", *_rule, "PEEK"), [1]),
        (("CACHE.RATELIMIT", f"kept{_algorithm}", 5, 1, "ALGORITHM", _algorithm, "PEEK"), [1]),
        (("CACHE.RATELIMIT", _algorithm, 2, LONG, "ALGORITHM", "GCRA", "COST", 3), [0]),
        (("CACHE.RATELIMIT", _algorithm, 2, LONG, 1, TEN_YEARS, "COST", 2), [0]),
        (("CACHE.RATELIMIT_RO", *_rule), [1]),
        (("CL.THROTTLE", _algorithm, 0, 1, 86_400, 2), [1]),
        (("CL.THROTTLE", _algorithm, 4, 5, 86_400, 0), None),
    ]


@pytest.mark.parametrize("question, answer", QUESTIONS, ids=lambda each: " ".join(map(str, each)) if each else "")
def test_nothing_has_changed(pair: tuple[Server, Server], protocol: int, question: tuple[Any, ...], answer: Any) -> None:
    primary, replica = pair
    client, watcher = primary.raw(protocol), primary.raw(protocol)
    fill(client)
    before, offset = digests(primary), primary.info("replication")["master_repl_offset"]
    assert watcher.call("WATCH", question[1]) == b"OK"
    reply = client.call(*question)
    if question[0] != "CL.THROTTLE" or answer:
        assert (reply[:1] if isinstance(answer, list) else reply) == answer
    assert digests(primary) == before
    assert primary.info("replication")["master_repl_offset"] == offset, "nothing was told to replicas"
    assert watcher.pipeline([("MULTI",), ("PING",), ("EXEC",)])[-1] == [b"PONG"]
    replica.wait_for_sync()
    assert digests(replica) == before
    primary.close_clients()


def test_a_look_changes_nothing_after_a_step_of_the_clock(pair: tuple[Server, Server], protocol: int) -> None:
    """What lies ahead is dated anew by a decision, and seen as if it had been by a look."""
    primary, replica = pair
    client = primary.raw(protocol)
    client.call("FLUSHALL")
    for algorithm in ALGORITHMS:
        rule = (algorithm, 5, LONG, "ALGORITHM", algorithm)
        client.call("CACHE.RATELIMIT", *rule, "COST", 5, "AT", int(time.time() * 1000) + TEN_YEARS)
        before, offset = digests(primary), primary.info("replication")["master_repl_offset"]
        seen = client.call("CACHE.RATELIMIT_RO", *rule)
        peeked = client.call("CACHE.RATELIMIT", *rule, "PEEK")
        client.call("CACHE.LIMITINFO", algorithm)
        client.call("CL.THROTTLE", algorithm, 4, 5, 600, 0)
        assert seen[:3] == peeked[:3] == [0, 5, 0] and 0 < peeked[3] <= seen[3] <= LONG
        assert digests(primary) == before and primary.info("replication")["master_repl_offset"] == offset
        replica.wait_for_sync()
        assert digests(replica) == before
    primary.close_clients()
