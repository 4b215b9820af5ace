"""Any calls at all, from several connections: errors are errors, and nothing else suffers."""

import random

import pytest

from harness import RawClient, RespError, Server, eventually
from harness.raw import encode

WORDS = b"COST ALGORITHM SLIDING FIXED GCRA PEEK PARTIAL WAIT AT STATE limit window BIND".split()
GOOD = [b"1", b"2", b"3", b"10", b"1000", b"60000"]
NUMBERS = [b"0", b"1", b"2", b"3", b"10", b"1000", b"1000000", b"1000001", b"1000000000", b"315360000000"]
BAD = [b"-1", b"01", b"", b"1.5", b"1e3", b"18446744073709551616", b"9" * 40, b"\xff\0"]
NAMES = [b"CACHE.RATELIMIT", b"CACHE.RATELIMIT", b"CACHE.RATELIMIT", b"CACHE.REFUND", b"CL.THROTTLE"]


def anything(chance: random.Random) -> list[bytes]:
    """A call of the family: well-formed, nearly so, or noise. No wait in it lasts long."""
    name = chance.choice(NAMES)
    key = chance.choice([b"", b"k", b"k2", b"k3", b"text", b"\xff\r\n", chance.randbytes(20)])
    draw = chance.random()
    numbers = GOOD if draw < 0.7 else NUMBERS if draw < 0.95 else NUMBERS + BAD

    def number() -> bytes:
        return chance.choice(numbers)

    if name == b"CACHE.REFUND":
        return [name, key, number(), *([b"AT", number()] if chance.random() < 0.2 else [])]
    if name == b"CL.THROTTLE":
        return [name, key, *(number() for _ in range(chance.choice([3, 3, 4, 5])))]
    if chance.random() < 0.03:
        return [name, key, b"STATE", chance.randbytes(chance.randrange(40))]
    call = [name, key, *(number() for _ in range(chance.choice([2] * 12 + [4, 4, 6, 3, 40])))]
    for _ in range(chance.choice([0, 0, 1, 1, 2, 3])):
        word = chance.choice(WORDS) if chance.random() < 0.95 else chance.randbytes(chance.randrange(30))
        call.append(word.lower() if chance.random() < 0.2 else word)
        if word == b"WAIT":
            call.append(chance.choice([b"0", b"1", b"2"]))
        elif word == b"ALGORITHM":
            call.append(chance.choice([b"SLIDING", b"FIXED", b"GCRA", b"gcra", b"other"]))
        elif word in (b"COST", b"AT"):
            call.append(number())
    return call


def throw(server: Server, protocol: int, chance: random.Random, calls: int) -> set[str]:
    clients: list[RawClient] = [server.raw(protocol, timeout=30) for _ in range(4)]
    codes: set[str] = set()
    for _ in range(calls // 1_000):
        clients[0].pipeline([("DEL", "k2", "text"), ("SET", "text", "v")])
        batches = [[anything(chance) for _ in range(250)] for _ in clients]
        for client, batch in zip(clients, batches):
            client.send_bytes(b"".join(encode(*call) for call in batch))
        for client, batch in zip(clients, batches):
            codes |= {reply.code for _ in batch if isinstance(reply := client.recv(), RespError)}
    for client in clients:
        client.close()
    return codes


@pytest.mark.parametrize("seed", [1, 2])
def test_forty_thousand_calls_of_any_kind_do_no_harm(server: Server, protocol: int, seed: int) -> None:
    before = server.stats()
    assert throw(server, protocol, random.Random(seed), 40_000) == {"ERR", "WRONGTYPE"}
    eventually(lambda: server.stats()["limits_waiting"] == 0)
    after = server.stats()
    assert after["panics"] == 0
    assert all(after[name] - before[name] > 1_000 for name in ("limits_allowed", "limits_refused"))
    server.assert_alive()
