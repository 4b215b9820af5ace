"""Under every policy by which the server makes room, the index knows who was evicted."""

import re
from collections.abc import Callable

import pytest

from harness import Server, is_error

POLICIES = [
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
]
ENTRIES = 6_000
VALUE = b"v" * 500
LONG = 600_000


@pytest.mark.parametrize("policy", POLICIES)
def test_who_is_evicted_leaves_the_index(fresh_server: Callable[..., Server], policy: str) -> None:
    server = fresh_server()
    client = server.raw(timeout=30)
    used = int(server.info("memory")["used_memory"])
    server.call("CONFIG", "SET", "maxmemory-policy", policy)
    server.call("CONFIG", "SET", "maxmemory", used + 2_000_000)
    replies = client.pipeline(
        [("CACHE.SETSM", f"k{n}", VALUE, LONG + n, "TAGS", 2, "all", f"t{n % 10}") for n in range(ENTRIES)]
    )
    assert not [reply for reply in replies if is_error(reply) and not is_error(reply, "OOM")]
    evicted = int(server.info("stats")["evicted_keys"])
    assert evicted > 100, "nothing was evicted"
    server.call("CONFIG", "SET", "maxmemory", 0)  # or the next command evicts more
    names = set(server.call("KEYS", "*"))
    assert set(client.call("CACHE.TAGKEYS", "all")) == names
    assert client.call("CACHE.TAGCOUNT", "all") == len(names) == server.stats()["tagged_keys"]
    for n in range(10):
        mine = {name for name in names if int(re.findall(rb"\d+", name)[0]) % 10 == n}
        assert set(client.call("CACHE.TAGKEYS", f"t{n}")) == mine
    assert client.call("CACHE.INVALIDATE", "all") == len(names)


def test_the_index_counts_as_memory(fresh_server: Callable[..., Server]) -> None:
    """So that the server makes room for it: with many long tags most of the memory is the index's."""
    server = fresh_server()
    used = int(server.info("memory")["used_memory"])
    server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    server.call("CONFIG", "SET", "maxmemory", used + 2_000_000)
    client = server.raw(timeout=30)
    client.pipeline(
        [("CACHE.SETSM", f"k{n}", "", LONG, "TAGS", 2, f"{n}".rjust(500), f"{n}".ljust(500)) for n in range(ENTRIES)]
    )
    server.call("CONFIG", "SET", "maxmemory", 0)
    assert int(server.info("stats")["evicted_keys"]) > 0
    assert server.stats()["tags"] == 2 * server.call("DBSIZE")
