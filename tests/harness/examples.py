"""The examples of the pages: read from Markdown, run on a server, and compared with what the page shows.

An example is a fenced block of the language `console`. It is what somebody sees who types the commands into redis-cli,
on an empty server:

    127.0.0.1:6379> CACHE.GETSM page:1        a command, on the connection of this name
    (nil)                                     its reply
    other> CACHE.GETSM page:1 WAIT 5000       the same on another connection; any word may be its name
    (waiting)                                 no reply yet
    127.0.0.1:6379> CACHE.SETSM page:1 a 60000
    OK
    other>                                    the reply to the command that waited
    "a"
    # 20 ms later                             time passes
    $ redis-cli -3                            RESP3 from here on; other shell commands are not run

A `#` after two spaces begins a comment. What cannot be the same on two servers is compared by what it is:

- A number of milliseconds (before " ms", in a line whose comment says ms, or in a field whose name ends in `_ms`) may
  differ by TOLERANCE_MS and by how long the example has run so far, but not in being positive, zero or negative. A
  time since 1970 may be any.
- A token (32 hexadecimal digits) or a fencing number (16 digits) stands for another one, always the same, and the
  page's later commands are sent with that one. Fencing numbers keep their order. The id of a client may be any.
"""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from .eventually import eventually
from .raw import RawClient
from .redis_cli import printed, split
from .server import Server

TOLERANCE_MS = 2_000
SINCE_1970_MS = 10**12
PAUSE_MS_MAX = 2_000
WAITING = "(waiting)"

BLOCK = re.compile(r"^(?P<indent> *)```console(?P<words>[^\n]*)\n(?P<body>.*?)^ *```$", re.DOTALL | re.MULTILINE)
PROMPT = re.compile(r"^(?P<name>[\w.:-]+)> ?(?P<command>.*)$")
PAUSE = re.compile(r"^# (?P<ms>\d+) ms later\b")
COMMENT = re.compile(r"\s{2,}#\s(?P<text>.*)$")
STANDS_FOR = re.compile(r"\b(?:[0-9a-f]{32}|1[0-9]{15})\b")
NUMBER = re.compile(r"-?\d+")


@dataclass
class Step:
    """One line of an example that does something, and the reply lines below it."""

    line: int
    client: str = ""
    command: str = ""
    expected: list[str] = field(default_factory=list)
    pause_ms: int = 0
    protocol: int = 0


@dataclass
class Example:
    """A block of a page. `needs` are the words behind `console` that say which servers it is for."""

    page: str
    line: int
    needs: set[str]
    steps: list[Step]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def examples(path: Path, root: Path) -> Iterator[Example]:
    """The examples of a page that have a command for a server in them."""
    text = path.read_text()
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        steps = list(_steps(block["body"].splitlines(), line + 1))
        if any(step.command for step in steps):
            yield Example(str(path.relative_to(root)), line, set(block["words"].split()), steps)


def _steps(lines: list[str], first: int) -> Iterator[Step]:
    step: Step | None = None
    for number, text in enumerate(lines, first):
        if prompt := PROMPT.match(text):
            step = Step(number, prompt["name"], COMMENT.sub("", prompt["command"]).strip())
            yield step
        elif pause := PAUSE.match(text):
            yield Step(number, pause_ms=int(pause["ms"]))
        elif text.startswith("$ redis-cli"):
            yield Step(number, protocol=3 if " -3" in text else 2)
        elif text.startswith("$ "):
            step = None
        elif step and text.strip():
            step.expected.append(text.rstrip())


class Run:
    """One example on one server, which must be empty."""

    def __init__(self, server: Server, example: Example) -> None:
        self.server, self.example = server, example
        self.protocol = 2
        self.clients: dict[str, RawClient] = {}
        self.asked: dict[str, bytes] = {}  # the commands that wait, by the connection
        self.actual: dict[str, str] = {}  # what a token or fencing number of the page is on this server
        self.stack = ExitStack()
        self.began = time.monotonic()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def all_steps(self) -> None:
        """AssertionError where the server answers something else than the page shows."""
        for step in self.example.steps:
            if step.pause_ms:
                assert step.pause_ms <= PAUSE_MS_MAX, f"{self.place(step)}: nobody waits for that long"
                time.sleep(step.pause_ms / 1000)
            elif step.protocol:
                self.protocol = step.protocol
            else:
                self.command(step)
        assert not self.asked, f"{self.example}: still waiting for {self.asked}"

    def place(self, step: Step) -> str:
        return f"{self.example.page}:{step.line}"

    def client(self, name: str) -> RawClient:
        if name not in self.clients:
            self.clients[name] = self.stack.enter_context(self.server.raw(self.protocol))
        return self.clients[name]

    def command(self, step: Step) -> None:
        client = self.client(step.client)
        if not step.command:
            assert step.client in self.asked, f"{self.place(step)}: {step.client} does not wait"
            del self.asked[step.client]
        else:
            assert step.client not in self.asked, f"{self.place(step)}: {step.client} still waits"
            words = split(STANDS_FOR.sub(lambda match: self.actual.get(match[0], match[0]), step.command))
            waiting = self.waiting()
            client.send(*words)
            if step.expected == [WAITING]:
                self.asked[step.client] = words[0]
                eventually(lambda: self.waiting() > waiting, message=f"{self.place(step)}: it does not wait")
                return
        self.compare(step, printed(client.recv(), client.wire))

    def waiting(self) -> int:
        """How many wait in the server, for whatever."""
        stats = self.server.stats()
        return sum(int(stats[name]) for name in ("waiters", "lock_waiters", "limits_waiting"))

    def compare(self, step: Step, answered: list[str]) -> None:
        shown = [COMMENT.sub("", line) for line in step.expected]
        message = "\n".join([f"{self.place(step)}: {step.command}", "shown:", *step.expected, "answered:", *answered])
        assert len(shown) == len(answered), message
        for line, whole, answer in zip(shown, step.expected, answered, strict=True):
            comment = COMMENT.search(whole)
            assert self.same(line, answer, bool(comment and re.search(r"\bms\b", comment["text"]))), message

    def same(self, shown: str, answered: str, in_ms: bool) -> bool:
        """Whether a line of a page and one of a server say the same."""
        if shown == answered:
            return self.stand_for(shown, answered)
        if STANDS_FOR.sub("*", shown) == STANDS_FOR.sub("*", answered):
            return self.stand_for(shown, answered)
        if NUMBER.sub("0", shown) != NUMBER.sub("0", answered):
            return False
        field_name = re.search(r'"(\w+)" => ', shown)
        if field_name and field_name[1] == "client":
            return True
        if field_name and field_name[1].endswith("_ms"):
            in_ms = True
        tolerance_ms = TOLERANCE_MS + 1000 * (time.monotonic() - self.began)
        for there, here in zip(NUMBER.finditer(shown), NUMBER.finditer(answered), strict=True):
            named = in_ms and there.end() == len(shown.rstrip()) or shown.startswith(" ms", there.end())
            if there[0] != here[0] and not (named and same_time(int(there[0]), int(here[0]), tolerance_ms)):
                return False
        return True

    def stand_for(self, shown: str, answered: str) -> bool:
        """Notes what tokens and fencing numbers are on this server; False if they were something else before."""
        for there, here in zip(STANDS_FOR.findall(shown), STANDS_FOR.findall(answered), strict=True):
            if self.actual.setdefault(there, here) != here:
                return False
        fences = sorted((int(there), int(here)) for there, here in self.actual.items() if len(there) == 16)
        return all(one[1] < two[1] for one, two in pairwise(fences))


def same_time(shown: int, answered: int, tolerance_ms: float) -> bool:
    """Whether a page's number of milliseconds says the same as a server's."""
    if min(shown, answered) >= SINCE_1970_MS:
        return True
    return shown > 0 and answered >= 0 and abs(shown - answered) <= tolerance_ms
