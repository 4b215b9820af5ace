"""Random calls drawn from what the server says of its commands: well-formed, nearly so, or hostile.

The grammar is that of COMMAND DOCS, so a new command or option is drawn without a change here. Among the calls are some
stock commands on the same keys, since most surprises come from those. Nothing depends on the order in which a server
lists its commands: the same seed draws the same calls on every server.
"""

import random
import re
from typing import Any

from .raw import RawClient, as_map

Call = list[bytes]

KEYS = [b"k", b"k2", b"l", b"r", b"", b"\xff\r\n\0", b"text", b"list", b"{k}1"]
WORDS = [b"one", b"one", b"one", b"two", b"two", b"", b"\0\r\n\xff", b"v" * 40]
# A family's calls mostly meet on the same few keys, or each would find the others' types there.
HOMES = {b"lock": [b"l", b"l2"], b"extend": [b"l", b"l2"], b"limit": [b"r", b"r2"], b"refund": [b"r", b"r2"], b"throttle": [b"r"]}
TIMES = [b"60000", b"60000", b"600000", b"1000", b"1"]
INTEGERS = [b"1", b"1", b"2", b"2", b"3", b"10", b"1000", b"600000"]
WRITERS = re.compile(rb"setsm|getsm|lock|limit|refund|tag$|touch|throttle")  # drawn more often: the others need what they leave
EDGES = [b"0", b"50", b"128", b"10000", b"1000000", b"4294967296", b"315360000000", b"9223372036854775807"]
HOSTILE = [
    *(b"-1", b"01", b"+1", b" 1", b"1.5", b"1e3", b"nan", b"inf", b"-0", b"0x10", b"18446744073709551615"),
    *(b"18446744073709551616", b"9" * 400, b"\xff\0", b"\r\n", b"*" * 30, b"[a-", b"x" * 70_000, b"%s%n"),
]
WAITS = [b"0", b"0", b"1", b"2", b"600000"]
STOCK = [
    "DEL k", "UNLINK r", "SET k text", "SET text v", "RPUSH list a", "EXPIRE k 600", "PEXPIRE l 3", "PERSIST k", "PERSIST r",
    "PEXPIRE r 600000", "RENAME k k2", "RENAME l k", "COPY k k2", "COPY r r2 REPLACE", "COPY l l2 REPLACE", "MOVE k 1", "MOVE r 1",
    "GET k", "TTL k", "TYPE k", "OBJECT ENCODING k", "MEMORY USAGE k", "GETDEL k", "APPEND k x", "DUMP r", "DUMP k", "DUMP l",
]  # fmt: skip


class Grammar:
    """The module's commands and their arguments."""

    def __init__(self, client: RawClient) -> None:
        names = sorted(client.call("COMMAND", "LIST", "FILTERBY", "MODULE", "cacheguard"))
        docs = as_map(client.call("COMMAND", "DOCS", *names))
        self.commands = {name: [as_map(each) for each in as_map(docs[name]).get(b"arguments", [])] for name in names}
        self.options = sorted({token for arguments in self.commands.values() for token in tokens(arguments)})
        self.names = [name for name in names for _ in range(4 if WRITERS.search(name) else 1)]
        self.keys = KEYS
        self.secrets: list[bytes] = []  # tokens of leases and payloads, as replies told them

    def learn(self, reply: Any) -> None:
        """Remembers what looks like a token or a payload."""
        if isinstance(reply, bytes) and (len(reply) == 32 or len(reply) > 32 and not reply.isascii()):
            self.secrets = [*self.secrets[-9:], reply]
        elif isinstance(reply, list):
            for each in reply:
                self.learn(each)

    def draw(self, chance: random.Random) -> Call:
        draw = chance.random()
        if draw < 0.15:
            return chance.choice(STOCK).encode().split()
        if draw < 0.152:
            return chance.choice([[b"FLUSHDB"], [b"SWAPDB", b"0", b"1"]])
        if draw < 0.18 and self.secrets:
            return [b"RESTORE", chance.choice(KEYS), b"600000", spoilt(chance, chance.choice(self.secrets)), b"REPLACE"]
        name = chance.choice(self.names)
        self.keys = KEYS
        if chance.random() < 0.8:
            self.keys = next((keys for part, keys in HOMES.items() if part in name), [b"k", b"k2"])
        call = [name, *self.arguments(chance, self.commands[name])]
        while chance.random() < 0.15:
            call = self.mutated(chance, call)
        return call

    def arguments(self, chance: random.Random, arguments: list[dict[bytes, Any]]) -> Call:
        """Those in the order of the syntax; options among each other in any order."""
        first = [each for each in arguments if b"optional" not in each.get(b"flags", [])]
        rest = [each for each in arguments if each not in first]
        rest = chance.sample(rest, min(len(rest), chance.choice([0, 0, 1, 1, 2, 3, 9])))
        return [word for each in [*first, *rest] for word in self.argument(chance, each)]

    def argument(self, chance: random.Random, argument: dict[bytes, Any]) -> Call:
        flags = argument.get(b"flags", [])
        token = argument.get(b"token")
        head = [] if token is None else [token.lower() if chance.random() < 0.1 else token]
        if argument[b"type"] == b"pure-token":
            return head
        inner = [as_map(each) for each in argument.get(b"arguments", [])]
        words: Call = []
        times = chance.choice([1, 1, 2, 3, 0]) if b"multiple" in flags else 1
        for _ in range(times):
            if inner and argument[b"type"] == b"oneof":
                words += self.argument(chance, chance.choice(inner))
            elif inner:
                words += self.arguments(chance, inner)
            else:
                words.append(self.word(chance, argument[b"type"], argument[b"name"].lower(), token))
        return head + words

    def word(self, chance: random.Random, kind: bytes, name: bytes, token: bytes | None) -> bytes:
        if token == b"WAIT":
            return chance.choice(WAITS)
        if kind == b"key":
            return chance.choice(self.keys)
        if kind in (b"integer", b"unix-time"):
            if name.startswith(b"num"):
                return chance.choice([b"1", b"1", b"2", b"3"])
            usual = TIMES if name.endswith(b"-ms") or name in (b"ttl", b"window") else INTEGERS
            return chance.choice(usual if chance.random() < 0.8 else EDGES)
        if kind == b"double":
            return chance.choice([b"1", b"0.5", b"1e-3", b"100"])
        if self.secrets and chance.random() < (0.8 if b"token" in name or b"state" in name else 0.05):
            return spoilt(chance, chance.choice(self.secrets))
        return chance.choice(WORDS)

    def mutated(self, chance: random.Random, call: Call) -> Call:
        at = chance.randrange(1, len(call) + 1)
        hostile = chance.choice([*HOSTILE, *EDGES, *self.options, chance.randbytes(chance.randrange(40))])
        return chance.choice(
            [
                call[:at],
                call[:at] + [hostile] + call[at:],
                call[:at] + [hostile] + call[at + 1 :],
                call + call[at : at + 2],
                call[:at] + call[at + 1 :],
                call + [hostile] * chance.choice([1, 2, 200]),
            ]
        )


def tokens(arguments: list[dict[bytes, Any]]) -> list[bytes]:
    found = []
    for argument in arguments:
        found += [argument[b"token"]] if b"token" in argument else []
        found += tokens([as_map(each) for each in argument.get(b"arguments", [])])
    return found


def spoilt(chance: random.Random, secret: bytes) -> bytes:
    """It, or something near it."""
    draw, at = chance.random(), chance.randrange(len(secret))
    if draw < 0.6:
        return secret
    return secret[:at] if draw < 0.8 else secret[:at] + chance.randbytes(1) + secret[at + 1 :]
