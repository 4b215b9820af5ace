"""Power cuts under a load of all families, with an append-only file that is written before every answer.

Nothing acknowledged is lost, nothing invalidated is served, the numbers of locks rise, limits are kept, and the index of
tags says what the entries say.
"""

import random
import time
from collections.abc import Callable

import pytest

from harness import Server
from harness.load import Load

ALWAYS = {"appendfsync": "always", "aof-use-rdb-preamble": "no", "auto-aof-rewrite-percentage": 0}


def rounds(server: Server, seed: int, goes_on: Callable[[int], bool]) -> int:
    """Kills the server and looks at what is left, as long as `goes_on` says so; how many commands were answered."""
    chance, load, done = random.Random(seed), Load(seed), 0
    fences: set[int] = set()
    while goes_on(done):
        load.start(server, protocol=chance.choice([2, 3]))
        load.go_on(chance.randint(100, 1_500))
        if chance.random() < 0.3:
            server.control().send("BGREWRITEAOF")
            load.go_on(chance.randint(1, 300))
        server.kill9()
        load.join()
        server.config["aof-use-rdb-preamble"] = chance.choice(["yes", "no"])
        server.start()
        load.check(server)
        told = load.fences()
        assert len(set(told)) == len(told), "each number once"
        new = set(told) - fences
        assert not new or not fences or min(new) > max(fences), "numbers rise, also across a kill"
        fences |= new
        done += 1
        print(f"round {done} of seed {seed}: {load.steps} commands answered")
    return load.steps


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_what_was_acknowledged_outlives_kill_9(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server(appendonly=True, config=ALWAYS)
    rounds(server, 1, lambda done: done < 5)


@pytest.mark.soak
def test_kill_9_again_and_again(fresh_server: Callable[..., Server], soak_seconds: float) -> None:
    """A hundred rounds at least."""
    server, end = fresh_server(appendonly=True, config=ALWAYS), time.monotonic() + soak_seconds
    seed = int(time.time())
    rounds(server, seed, lambda done: done < 100 or time.monotonic() < end)
