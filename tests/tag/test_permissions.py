"""Users who may change some keys only: what INVALIDATE, MARKSTALE and TAGDEL do for them, and what they cannot do to others."""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, eventually, is_error
from harness.tags import LONG, MANY, Pair, Start, put, tags_of

COMMANDS = ["CACHE.INVALIDATE", "CACHE.MARKSTALE", "CACHE.TAGDEL"]
User = Callable[..., RawClient]


@pytest.fixture
def user(server: Server) -> User:
    """A user with these rules and no others."""

    def made(*rules: str) -> RawClient:
        server.call("ACL", "SETUSER", "user", "reset", "on", ">secret", *rules)
        return server.raw(auth=("user", "secret"))

    return made


def untouched(client: RawClient, key: str) -> bool:
    return client.call("CACHE.GET", key, "META")[0] == b"hit" and tags_of(client, key) == [b"t"]


def lease(client: RawClient, key: str) -> bytes:
    return client.call("CACHE.GETSM", key, "META", "LEASE", LONG)[2]


def stored(client: RawClient, key: str, token: bytes, *tags: str) -> Any:
    """What becomes of a write under a lease: its state, or nil if it is refused."""
    if client.call("CACHE.SETSM", key, "v", LONG, "TOKEN", token, "TAGS", len(tags), *tags) is None:
        return None
    return client.call("CACHE.GET", key, "META")[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_one_selector_must_allow_the_command_and_the_key(server: Server, user: User, command: str) -> None:
    client = server.raw()
    put(client, "secret:1", "t")
    put(client, "app:1", "t")
    rest = f"+{command.lower()}"
    for rules in [
        ("+cache.get", "~*", f"({rest} ~app:*)"),
        (rest, "~app:*", "(+cache.get ~*)", "(+@all ~a)"),
        ("~*", f"(~app:* {rest})", "(+@read ~*)"),
        (rest, "%R~*", "(~* -@all)", f"(%W~app:* {rest})", f"(%R~* {rest})"),
    ]:
        assert user(*rules).call(command, "t") == 1, rules
        assert untouched(client, "secret:1") and not untouched_if_any(client, "app:1")
        put(client, "app:1", "t")
    assert user("+cache.get", "~*", f"({rest})").call(command, "t") == 0
    assert user("-@all", "~app:*", "(+@all ~*)", f"({rest} ~app:*)").call(command, "t") == 2, "the first of these"


def untouched_if_any(client: RawClient, key: str) -> bool:
    return client.call("EXISTS", key) == 1 and untouched(client, key)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_change_of_rules_counts_at_once(server: Server, user: User, command: str) -> None:
    client, caller = server.raw(), user(f"+{command}", "~a*")
    for rule, key in [("~a*", "a"), ("~b*", "b"), ("~a*", "a")]:
        server.call("ACL", "SETUSER", "user", "resetkeys", rule)
        put(client, "a", "t")
        put(client, "b", "t")
        assert caller.call(command, "t") == 1
        assert not untouched_if_any(client, key) and untouched(client, "b" if key == "a" else "a")
        client.call("DEL", "a", "b")


def test_patterns_of_any_form_are_kept_as_they_are(server: Server, user: User) -> None:
    client = server.raw()
    keys = ["a(b", "q\"uote'", "back\\slash", "ünï", "x)"]
    for key in keys:
        put(client, key, "t")
    put(client, "other", "t")
    rules = ["~a(*", "~q\"*", "~back\\\\*", "~ünï", "(~x) +cache.invalidate)"]
    assert user("+cache.invalidate", *rules).call("CACHE.INVALIDATE", "t") == len(keys)
    assert untouched(client, "other")


def test_databases_are_part_of_a_selector(server: Server, user: User) -> None:
    """Valkey 9.1 allows databases by `db=`."""
    if is_error(server.control().call("ACL", "SETUSER", "user", "db=1"), "ERR"):
        pytest.skip("this server has no rules about databases")
    client = server.raw()
    rules = ("+cache.invalidate", "+select", "~*", "db=1", "(+cache.invalidate ~app:* db=0,2)")
    for db, counts in ((0, 1), (1, 2), (2, 1)):
        client.call("SELECT", db)
        for key in ("app:1", "other"):
            put(client, key, "t")
        caller = user(*rules, "(+select alldbs)")
        caller.call("SELECT", db)
        assert caller.call("CACHE.INVALIDATE", "t") == counts
        client.call("FLUSHDB")


# Late writes


@pytest.mark.parametrize("rules", [("resetkeys",), ("%R~*",), ("~other:*",), ("(~page:* +get)",)])
def test_who_may_not_change_a_key_refuses_no_load_of_it(server: Server, user: User, rules: tuple[str, ...]) -> None:
    client = server.raw()
    eve = user("+cache.invalidate", "+cache.markstale", *rules)
    for command in ("CACHE.INVALIDATE", "CACHE.MARKSTALE"):
        token = lease(client, "page:1")
        assert eve.call(command, "t") == 0
        assert stored(client, "page:1", token, "t") == b"hit"
        assert client.call("DEL", "page:1") == 1


def test_a_load_of_a_key_that_the_user_may_change_comes_too_late(server: Server, user: User) -> None:
    client, tenant = server.raw(), user("+cache.invalidate", "+cache.markstale", "~app:*", "(+cache.markstale ~b:*)")
    early = {key: lease(client, key) for key in ("app:1", "app:2", "app:3", "other:1", "b:1")}
    assert tenant.call("CACHE.INVALIDATE", "t") == 0
    assert tenant.call("CACHE.MARKSTALE", "u") == 0
    late = lease(client, "app:4")
    server.call("ACL", "DELUSER", "user")
    assert stored(client, "app:1", early["app:1"], "v", "t") is None
    assert stored(client, "app:2", early["app:2"], "v") == b"hit"
    assert stored(client, "app:3", early["app:3"], "u", "v") == b"stale"
    assert stored(client, "other:1", early["other:1"], "t", "u") == b"hit"
    assert stored(client, "b:1", early["b:1"], "t", "u") == b"stale"
    assert stored(client, "app:4", late, "t", "u") == b"hit"
    assert client.call("EXISTS", "app:1") == 0


def test_what_is_found_unmodified_is_stale_if_it_was_marked_meanwhile(server: Server, user: User) -> None:
    client, tenant = server.raw(), user("+cache.markstale", "~app:*")
    for key in ("app:1", "other:1"):
        assert client.call("CACHE.SETSM", key, "v", LONG, "TAGS", 1, "t") == b"OK"
    assert client.call("CACHE.MARKSTALE", "t") == 2
    tokens = [lease(client, key) for key in ("app:1", "other:1")]
    assert tenant.call("CACHE.MARKSTALE", "t") == 1
    for key, token, state in (("app:1", tokens[0], b"stale"), ("other:1", tokens[1], b"hit")):
        assert client.call("CACHE.TOUCH", key, LONG, "TOKEN", token) == 1
        assert client.call("CACHE.GET", key, "META")[0] == state


def test_a_user_that_invalidates_without_end_refuses_its_own_loads_alone(server: Server, user: User) -> None:
    client, tenant = server.raw(), user("+cache.invalidate", "~app:*")
    theirs, other = lease(client, "app:1"), lease(client, "other:1")
    tags = [f"nobody:{n}" for n in range(20_001)]
    for start in range(0, len(tags), 5_000):
        assert tenant.call("CACHE.INVALIDATE", *tags[start : start + 5_000]) == 0
    assert stored(client, "other:1", other, "t", "nobody:0", "nobody:20000") == b"hit"
    assert stored(client, "app:1", theirs, "never") is None, "without need, since no more is remembered"
    assert stored(client, "app:1", lease(client, "app:1"), "never") == b"hit"


def test_leases_end_where_entries_went(server: Server, user: User) -> None:
    client, tenant = server.raw(), user("+cache.invalidate", "~app:*")
    tokens = {}
    for key in ("app:1", "other:1"):
        assert client.call("CACHE.SETSM", key, "v", 1, "STALE", LONG, "TAGS", 1, "t") == b"OK"
        eventually(lambda key=key: client.call("CACHE.GET", key, "META")[0] == b"stale")
        tokens[key] = lease(client, key)
    assert tenant.call("CACHE.INVALIDATE", "t") == 1
    assert client.call("CACHE.SETSM", "app:1", "v", LONG, "TOKEN", tokens["app:1"]) is None
    assert client.call("CACHE.SETSM", "other:1", "v", LONG, "TOKEN", tokens["other:1"]) == b"OK"


# Many entries, replicas and files


def fill(client: RawClient, count: int, *options: Any) -> list[str]:
    keys = [f"{who}:{n}" for n in range(count) for who in ("app", "other")]
    calls = [("CACHE.SETSM", key, "v", LONG, *options, "TAGS", 2, "t", "u") for key in keys]
    assert set(client.pipeline(calls)) == {b"OK"}
    return keys


def tenant_of(server: Server) -> RawClient:
    rules = ("+@all", "-cache.getsm", "~app:*")
    server.call("ACL", "SETUSER", "user", "reset", "on", ">secret", *rules)
    return server.raw(auth=("user", "secret"))


def test_many_are_gone_at_once_for_readers(server: Server) -> None:
    client, tenant = server.raw(), tenant_of(server)
    fill(client, MANY)
    calls = [("CACHE.INVALIDATE", "t", "u"), ("CACHE.GET", "app:7"), ("CACHE.TAGS", "app:7"), ("CACHE.TAGCOUNT", "u")]
    replies = tenant.pipeline([("MULTI",), *calls, ("EXEC",)])[-1]
    assert replies == [MANY, None, [], MANY]
    eventually(lambda: client.call("DBSIZE") == MANY)
    assert {key.split(b":")[0] for key in client.call("CACHE.TAGKEYS", "t")} == {b"other"}
    eventually(lambda: (server.stats()["tagged_keys"], server.stats()["sweep_backlog"]) == (MANY, 0))


@pytest.mark.parametrize("count", [3, MANY])
@pytest.mark.parametrize("command", COMMANDS)
def test_replicas_and_the_file_follow(fresh_server: Start, command: str, count: int) -> None:
    primary, replica = fresh_server(appendonly=True, config={"aof-use-rdb-preamble": "no"}), fresh_server()
    replica.replica_of(primary)
    replica.wait_for_sync()
    client = primary.raw()
    keys = fill(client, count, "STALE", 1_000, "COST", 5, "VERSION", 7)
    client.call("PERSIST", "app:1")
    assert tenant_of(primary).call(command, "t") == count
    eventually(lambda: primary.stats()["sweep_backlog"] == 0)
    replica.wait_for_sync()
    assert replica.digest() == primary.digest()
    rest = [key for key in keys if client.call("EXISTS", key)]
    assert len(rest) == (count if command == "CACHE.INVALIDATE" else 2 * count)
    for key in rest[:10]:
        assert replica.call("DUMP", key) == client.call("DUMP", key)
        assert replica.call("PEXPIRETIME", key) == client.call("PEXPIRETIME", key)
    for tag in ("t", "u"):
        assert sorted(replica.call("CACHE.TAGKEYS", tag)) == sorted(client.call("CACHE.TAGKEYS", tag))
    digest = primary.digest()
    primary.restart()
    assert primary.digest() == digest


def test_a_replica_does_not_serve_what_is_not_deleted_yet(fresh_server: Start) -> None:
    pair = Pair(fresh_server)
    client, reader = pair.primary.raw(), pair.replica.raw()
    fill(client, MANY)
    pair.replica.wait_for_sync()
    rules = ("+cache.invalidate", "+client", "~app:*")
    pair.primary.call("ACL", "SETUSER", "user", "on", ">secret", *rules)
    tenant = pair.primary.raw(auth=("user", "secret"))
    assert tenant.pipeline([("CACHE.INVALIDATE", "t"), ("CLIENT", "PAUSE", 60_000, "WRITE")]) == [MANY, b"OK"]
    eventually(lambda: reader.call("CACHE.GET", "app:1000") is None)
    assert (reader.call("CACHE.TAGCOUNT", "t"), reader.call("CACHE.GET", "other:1000")) == (MANY, b"v")
    client.call("CLIENT", "UNPAUSE")


EVERYTHING_BUT_ADM = ["~[^a]*", "~a", "~a[^d]*", "~ad", "~ad[^m]*"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("rules, spared", [(EVERYTHING_BUT_ADM, ["adm:1", ""]), (["~?*"], [""])], ids=["adm", "the empty name"])
def test_patterns_that_nearly_cover_all_keys_do_not(
    server: Server, user: User, command: str, rules: list[str], spared: list[str]
) -> None:
    client, keys = server.raw(), ["adm:1", "adx", "x:1", ""]
    for key in keys:
        put(client, key, "t")
    assert user("+@all", *rules).call(command, "t") == len(keys) - len(spared)
    assert all(untouched(client, key) for key in spared)
