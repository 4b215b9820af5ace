"""A command that the server refuses its sender ends no lease, whatever it names."""

from collections.abc import Callable
from typing import Any

import pytest

from harness import RawClient, Server, is_error

LONG = 600_000
MANY = 60_000


@pytest.fixture
def bob(fresh_server: Callable[..., Server]) -> tuple[Server, RawClient]:
    server = fresh_server()
    if not server.is_valkey and server.version < (7, 2):
        pytest.skip("Redis 7.0 hides who sends a command: see docs/decisions/0004")
    server.call("ACL", "SETUSER", "bob", "on", ">p", "-@all", "+ping", "+get", "+del", "+multi", "+exec", "~b*")
    return server, server.raw(auth=("bob", "p"))


def keeps_the_lease(server: Server, send: Callable[[], Any]) -> bool:
    client = server.raw()
    token = client.call("CACHE.GETSM", "k", "META", "LEASE", LONG)[2]
    send()
    return client.call("CACHE.SETSM", "k", "v", LONG, "TOKEN", token) == b"OK"


@pytest.mark.parametrize(
    "commands",
    [
        [("DEL", "k")],
        [("SET", "k", "v")],
        [("UNLINK", "k")],
        [("FLUSHALL",)],
        [("CACHE.DEL", "k")],
        [("MULTI",), ("DEL", "k"), ("EXEC",)],
        [("MULTI",), *[("DEL", *(f"z{i}" for i in range(MANY)))] * 2, ("EXEC",)],
        [("EXEC",)],
    ],
    ids=lambda commands: " ".join(words[0] for words in commands),
)
def test_it_ends_no_lease(bob: tuple[Server, RawClient], commands: list[tuple]) -> None:
    server, client = bob

    def send() -> None:
        assert any(is_error(reply) for reply in client.pipeline(commands))

    assert keeps_the_lease(server, send)


def test_what_it_may_do_ends_one(bob: tuple[Server, RawClient]) -> None:
    server, client = bob
    holder = server.raw()
    token = holder.call("CACHE.GETSM", "b", "META", "LEASE", LONG)[2]
    assert client.call("DEL", "b") == 0
    assert holder.call("CACHE.SETSM", "b", "v", LONG, "TOKEN", token) is None
