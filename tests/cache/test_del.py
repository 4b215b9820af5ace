"""CACHE.DEL: deletes what is there, and ends the leases on what is not."""

from collections.abc import Callable

import pytest

from harness import RawClient, Server, eventually, is_error
from test_release import LONG, holder, queue, state, trust_transactions, won

Connect = Callable[..., RawClient]
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


def test_it_counts_the_entries_and_strings_it_deleted(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "entry", "v", LONG)
    raw.call("CACHE.SETSM", "stale", "v", 1, "STALE", LONG)
    raw.call("SET", "string", "v")
    assert raw.call("cache.del", "entry", "missing", "string", "stale", "entry") == 3
    assert raw.wire == b":3\r\n"
    assert raw.call("DBSIZE") == 0
    assert raw.call("CACHE.DEL", "entry") == 0


def test_keys_are_any_bytes_and_many(raw: RawClient) -> None:
    keys = [bytes([number % 256]) * (1 + number // 256) for number in range(2_000)]
    raw.pipeline([("CACHE.SETSM", key, "v", LONG) for key in keys])
    assert raw.call("CACHE.DEL", *keys) == 2_000
    assert raw.call("DBSIZE") == 0


@pytest.mark.parametrize("place", [0, 1, 2])
def test_another_type_among_them_and_nothing_changes(
    server: Server, raw: RawClient, connect: Connect, place: int
) -> None:
    raw.call("SET", "string", "v")
    raw.call("RPUSH", "list", "x")
    won(raw, "leased")
    (waiter,) = queue(server, connect, 1, "leased")
    digest = server.digest()
    keys = ["string", "leased"]
    keys.insert(place, "list")
    assert raw.call("CACHE.DEL", *keys) == WRONGTYPE
    assert (server.digest(), holder(raw, "leased"), waiter.has_reply()) == (digest, raw.client_id, False)


def test_a_lease_on_a_missing_key_is_voided_and_the_oldest_waiter_takes_over(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    token, voided = won(raw), server.stats()["leases_voided"]
    first, second = queue(server, connect, 2)
    assert raw.call("CACHE.DEL", "k") == 0
    assert holder(raw) == first.client_id
    assert raw.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token) is None
    name, _, token, _ = first.recv()
    assert (name, second.has_reply(), raw.call("EXISTS", "k")) == (b"won", False, 0)
    assert server.stats()["leases_voided"] == voided + 1
    assert first.call("CACHE.SETSM", "k", "v", LONG, "TOKEN", token) == b"OK"
    assert second.recv()[:2] == [b"hit", b"v"]


def test_a_lease_on_a_stale_entry_is_voided_with_it(raw: RawClient, connect: Connect) -> None:
    raw.call("CACHE.SETSM", "k", "old", 1, "STALE", LONG)
    eventually(lambda: raw.call("CACHE.GET", "k", "META")[0] == b"stale")
    token = won(raw)
    assert connect().call("CACHE.DEL", "k") == 1
    assert raw.call("CACHE.SETSM", "k", "late", LONG, "TOKEN", token) is None
    assert raw.call("EXISTS", "k") == 0


def test_leases_on_keys_not_named_and_in_other_databases_stay(raw: RawClient, connect: Connect) -> None:
    kept = won(raw, "other")
    elsewhere = connect()
    elsewhere.call("SELECT", 1)
    far = won(elsewhere)
    won(raw)
    assert raw.call("CACHE.DEL", "k") == 0
    assert raw.call("CACHE.RENEW", "other", kept, LONG) == 1
    assert elsewhere.call("CACHE.RENEW", "k", far, LONG) == 1


@pytest.mark.parametrize("where", ["client", "transaction", "script"])
def test_it_works_in_transactions_and_scripts(server: Server, raw: RawClient, connect: Connect, where: str) -> None:
    if where == "transaction":
        trust_transactions(server)
    token = won(raw)
    first, second = queue(server, connect, 2)
    deleter = connect()
    if where == "client":
        assert deleter.call("CACHE.DEL", "k") == 0
    elif where == "transaction":
        assert deleter.pipeline([("MULTI",), ("CACHE.DEL", "k"), ("EXEC",)])[-1] == [0]
    else:
        assert deleter.call("EVAL", "return redis.call('CACHE.DEL', KEYS[1])", 1, "k") == 0
    assert raw.call("CACHE.RENEW", "k", token, LONG) == 0
    assert first.recv()[0] == b"won"
    assert (second.has_reply(), holder(raw)) == (False, first.client_id)


def test_a_value_set_right_after_it_in_one_transaction_answers_all_waiters(
    server: Server, raw: RawClient, connect: Connect
) -> None:
    """Delete and replace, atomically: nobody may be left waiting or be sent to load what is there."""
    won(raw)
    waiters = queue(server, connect, 3)
    replies = connect().pipeline([("MULTI",), ("CACHE.DEL", "k"), ("SET", "k", "new"), ("EXEC",)])
    assert replies[-1] == [0, b"OK"]
    assert [waiter.recv()[:2] for waiter in waiters] == [[b"hit", b"new"]] * 3
    assert state(raw) == b"hit"


def test_replicas_and_the_aof_are_told_of_a_deletion(fresh_server: Callable[..., Server]) -> None:
    primary, replica = fresh_server(appendonly=True), fresh_server()
    replica.replica_of(primary)
    replica.wait_for_sync()
    client = primary.raw()
    client.call("CACHE.SETSM", "entry", "v", LONG)
    client.call("SET", "string", "v")
    replica.wait_for_sync()
    assert replica.call("DBSIZE") == 2
    assert client.call("CACHE.DEL", "entry", "missing", "string") == 2
    replica.wait_for_sync()
    assert replica.call("DBSIZE") == 0
    assert replica.info("commandstats").get("cmdstat_cache.del") is None, "the effect, not the question"
    offset = primary.info("replication")["master_repl_offset"]
    assert client.call("CACHE.DEL", "entry", "missing") == 0
    client.call("SET", "marker", "")
    replica.wait_for_sync()
    grown = primary.info("replication")["master_repl_offset"] - offset
    assert grown < 2 * len("*3\r\n$3\r\nSET\r\n$6\r\nmarker\r\n$0\r\n\r\n"), "no change, no replication"
    primary.restart(kill=True)
    assert primary.call("KEYS", "*") == [b"marker"]


def test_each_key_that_was_there_sends_a_del_event(raw: RawClient, connect: Connect) -> None:
    raw.call("CONFIG", "SET", "notify-keyspace-events", "Eg")
    raw.call("CACHE.SETSM", "a", "v", LONG)
    raw.call("SET", "b", "v")
    hearer = connect()
    receive = hearer.recv_push if hearer.protocol == 3 else hearer.recv
    hearer.send("PSUBSCRIBE", "__keyevent@0__:*")
    receive()
    assert raw.call("CACHE.DEL", "a", "missing", "b") == 2
    raw.call("PUBLISH", "__keyevent@0__:end", "")
    seen = [receive()[-2:] for _ in range(3)]
    assert seen == [[b"__keyevent@0__:del", b"a"], [b"__keyevent@0__:del", b"b"], [b"__keyevent@0__:end", b""]]


def test_a_watch_on_a_key_breaks_only_if_it_was_there(raw: RawClient, connect: Connect) -> None:
    raw.call("SET", "there", "v")
    for key, result in (("missing", [b"PONG"]), ("there", None)):
        watcher = connect()
        assert watcher.call("WATCH", key) == b"OK"
        raw.call("CACHE.DEL", key)
        assert watcher.pipeline([("MULTI",), ("PING",), ("EXEC",)])[-1] == result


def test_too_few_arguments_are_refused(raw: RawClient) -> None:
    assert is_error(raw.call("CACHE.DEL"), "ERR wrong number of arguments")


def test_all_its_arguments_are_keys(raw: RawClient) -> None:
    assert raw.call("COMMAND", "GETKEYS", "CACHE.DEL", "2", "a", "b") == [b"2", b"a", b"b"]


def test_an_entry_that_was_invalidated_and_not_swept_goes_and_does_not_count(raw: RawClient) -> None:
    raw.pipeline([("CACHE.SETSM", f"k{number}", "v", LONG, "TAGS", 1, "t") for number in range(1_001)])
    raw.call("CACHE.SETSM", "live", "v", LONG)
    delete = ("CACHE.DEL", "k1", "live", "k2")
    exists = ("EXISTS", "k1", "k2", "k3")
    replies = raw.pipeline([("MULTI",), ("CACHE.INVALIDATE", "t"), exists, delete, exists, ("EXEC",)])[-1]
    assert replies == [1_001, 3, 1, 1]
    eventually(lambda: raw.call("DBSIZE") == 0)


def test_a_deleted_entry_is_in_no_tag(raw: RawClient) -> None:
    raw.call("CACHE.SETSM", "k", "v", LONG, "TAGS", 2, "t", "u")
    assert raw.call("CACHE.DEL", "k") == 1
    assert ([raw.call("CACHE.TAGCOUNT", tag) for tag in "tu"], raw.call("CACHE.TAGLIST", 0)) == ([0, 0], [b"0", []])
