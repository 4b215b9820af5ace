"""Standing in line for a lock: what the tests of locks have in common."""

from typing import Any

from .eventually import eventually
from .raw import RawClient, as_map
from .server import Server

LONG = 600_000  # milliseconds; no test lasts as long


def info(client: RawClient | Server, key: bytes | str = "k") -> dict[bytes, Any]:
    """LOCKINFO with its maps as dicts, in either protocol."""
    told = as_map(client.call("CACHE.LOCKINFO", key))
    told[b"holders"] = [as_map(holder) for holder in told[b"holders"]]
    told[b"waiters"] = as_map(told[b"waiters"])
    return told


def owners(client: RawClient | Server, key: bytes | str = "k") -> list[bytes]:
    """Who holds the lock, in the order of their numbers."""
    return [holder[b"owner"] for holder in info(client, key)[b"holders"]]


def in_line(server: Server) -> int:
    return server.stats()["lock_waiters"]


def until_in_line(server: Server, count: int) -> None:
    eventually(lambda: in_line(server) == count, 20, lambda: f"{count} wait in line, not {in_line(server)}")


def stand_in_line(
    server: Server, waiter: RawClient, owner: bytes | str, *options: Any, key: bytes | str = "k", ttl: int = LONG
) -> RawClient:
    """Asks for the lock, and returns when the server has the waiter in its line."""
    before = in_line(server)
    waiter.send("CACHE.LOCK", key, owner, ttl, *(() if "WAIT" in options else ("WAIT", LONG)), *options)
    eventually(lambda: in_line(server) == before + 1, 20, lambda: f"{owner!r} waits: {info(server, key)}")
    return waiter
