"""Servers that die while many clients pass a lock on: what was told stays true."""

import threading
import time
from collections.abc import Callable

import pytest

from harness import RawClient, Server, eventually
from harness.line import LONG, info, owners

CLIENTS = 12
Start = Callable[..., Server]


class Contenders:
    """Threads that take a lock and give it up until their connection breaks; the numbers they were told."""

    def __init__(self, server: Server) -> None:
        self.fences: list[int] = []
        self.held: dict[int, str] = {}  # number: by whom, if it was not given up for sure
        self.guard = threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(server.raw(timeout=30), n)) for n in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def run(self, client: RawClient, number: int) -> None:
        owner = f"client {number}"
        try:
            while True:
                fence = client.call("CACHE.LOCK", "k", owner, LONG, "WAIT", LONG)
                with self.guard:
                    self.fences.append(fence)
                    self.held[fence] = owner
                reply = client.call("CACHE.UNLOCK", "k", owner)
                with self.guard:
                    if reply == 1:
                        del self.held[fence]
        except (OSError, TimeoutError):
            pass

    def go_on_until(self, count: int) -> None:
        eventually(lambda: len(self.fences) >= count, 30)

    def join(self) -> list[int]:
        for thread in self.threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self.threads)
        assert all(isinstance(fence, int) for fence in self.fences)
        assert len(set(self.fences)) == len(self.fences), "each number once"
        return self.fences


def test_kill_9_with_an_append_only_file(fresh_server: Start) -> None:
    server = fresh_server(appendonly=True, config={"appendfsync": "always"})
    told: list[int] = []
    for _ in range(3):
        contenders = Contenders(server)
        contenders.go_on_until(200)
        server.restart(kill=True)
        fences = contenders.join()
        assert not told or min(fences) > max(told)
        told += fences
        # Whoever was told last holds the lock still, unless it was about to give it up or to pass on.
        holders = info(server)[b"holders"]
        assert len(holders) <= 1
        if holders and holders[0][b"fence"] in contenders.held:
            assert contenders.held[holders[0][b"fence"]].encode() == holders[0][b"owner"]
        for holder in owners(server):
            assert server.call("CACHE.UNLOCK", "k", holder) == 1
    assert server.call("CACHE.LOCK", "k", "me", LONG) > max(told)


@pytest.mark.parametrize("promoted", ["lagging", "in time"])
def test_a_primary_that_dies_is_succeeded(fresh_server: Start, promoted: str) -> None:
    """The new primary's numbers are above all that the old one told, whether it heard of them or not."""
    primary, replica = fresh_server(), fresh_server()
    replica.replica_of(primary)
    replica.wait_for_sync()
    contenders = Contenders(primary)
    contenders.go_on_until(100)
    if promoted == "lagging":
        replica.raw().send("DEBUG", "SLEEP", 1)  # it hears of nothing from here on
        count = len(contenders.fences)
        contenders.go_on_until(count + 100)
    primary.kill9()
    told = contenders.join()
    replica.replica_of(None)
    new: list[int] = []
    again = Contenders(replica)
    for holder in owners(replica):  # it died with its primary
        replica.call("CACHE.UNLOCK", "k", holder)
    again.go_on_until(100)
    replica.kill9()
    new = again.join()
    assert min(fence for fence in new if fence not in told) > max(told)


def test_a_busy_server_starves_nobody(fresh_server: Start) -> None:
    """Sixty-four clients that never pause: each gets its turn, about as often as any other."""
    server = fresh_server()
    clients = [server.raw(timeout=30) for _ in range(64)]
    turns = [0] * len(clients)
    for number, client in enumerate(clients):
        client.send("CACHE.LOCK", "k", number, LONG, "WAIT", LONG)
    deadline = time.monotonic() + 20
    while min(turns) < 20 and time.monotonic() < deadline:
        for number, client in enumerate(clients):
            if client.has_reply():
                assert client.recv() > 0
                turns[number] += 1
                client.send("CACHE.UNLOCK", "k", number)
                assert client.recv() == 1
                client.send("CACHE.LOCK", "k", number, LONG, "WAIT", LONG)
    assert min(turns) >= 20 and max(turns) - min(turns) <= 1, turns
