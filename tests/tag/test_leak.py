"""After millions of random operations and a flush, the memory is back where it was."""

import os
from collections.abc import Callable

import pytest

from harness import Server, eventually

OPERATIONS = int(os.environ.get("CACHE_GUARD_LEAK_OPERATIONS", "10_000_000"))
A_CALL = 50_000
SLACK = 200_000  # bytes: tables of the server that keep a size, buffers of connections

# One call is a script of random operations over as many keys and tags as collide often.
SCRIPT = """
math.randomseed(tonumber(ARGV[1]))
local random, call = math.random, redis.call
local function key() return 'k' .. random(3000) end
local function tag() return 't' .. random(400) end
for i = 1, tonumber(ARGV[2]) do
  local what = random(100)
  if what <= 55 then call('CACHE.SETSM', key(), 'value', 100000, 'TAGS', 3, tag(), tag(), tag())
  elseif what <= 60 then call('CACHE.SETSM', key(), 'value', random(3))
  elseif what <= 66 then call('DEL', key())
  elseif what <= 70 then call('SET', key(), 'plain', 'PX', random(100000))
  elseif what <= 74 then redis.pcall('CACHE.TAG', key(), tag(), tag())
  elseif what <= 78 then redis.pcall('CACHE.UNTAG', key(), tag())
  elseif what <= 82 then redis.pcall('RENAME', key(), key())
  elseif what <= 85 then redis.pcall('COPY', key(), key(), 'REPLACE')
  elseif what <= 88 then call('CACHE.INVALIDATE', tag())
  elseif what <= 90 then call('CACHE.MARKSTALE', tag())
  elseif what <= 91 then call('CACHE.TAGDEL', tag())
  elseif what <= 95 then call('PEXPIRE', key(), random(20))
  elseif what <= 97 then call('CACHE.INVALIDATE', 'nobody' .. random(1000000))
  else call('CACHE.TOUCH', key(), 100000) end
end
"""


def used_memory(server: Server) -> int:
    return int(server.info("memory")["used_memory"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_leaks(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(config={"maxmemory": "0"})
    client = server.raw(timeout=120)

    def settle() -> None:
        client.call("FLUSHALL")
        eventually(lambda: (server.stats()["tags"], server.stats()["sweep_backlog"]) == (0, 0), timeout=30)

    def run(calls: int, seed: int) -> None:
        for n in range(calls):
            client.call("EVAL", SCRIPT, 0, seed + n, A_CALL)

    run(2, 1)  # what is made once is there
    settle()
    before = used_memory(server)
    run(OPERATIONS // A_CALL, 100)
    assert server.stats()["panics"] == 0
    settle()
    eventually(
        lambda: used_memory(server) - before < SLACK,
        timeout=60,
        message=lambda: f"{used_memory(server) - before:+,} bytes after {OPERATIONS:,} operations",
    )
