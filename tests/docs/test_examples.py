"""Every example of the README and of docs/, run on an empty server: it answers what the page shows."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import RespError, Server, eventually
from harness.examples import Example, Run, Step, examples, same_time
from harness.redis_cli import printed, split

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = [example for page in PAGES for example in examples(page, ROOT)]


def serves(server: Server, example: Example) -> bool:
    """Whether the example is for this server. `acl-categories`: modules have categories of their own."""
    return "acl-categories" not in example.needs or server.is_valkey or server.version >= (7, 4)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_answers_what_the_page_shows(server: Server, example: Example) -> None:
    if not serves(server, example):
        pytest.skip(f"needs {example.needs}")
    for user in server.call("ACL", "USERS"):
        if user != b"default":
            server.call("ACL", "DELUSER", user)
    eventually(lambda: server.stats()["leases"] == 0)  # those of the example before
    with Run(server, example) as run:
        run.all_steps()


def test_there_are_examples_for_every_command(shared_server: Server) -> None:
    shown = {split(step.command)[0].decode().upper() for each in EXAMPLES for step in each.steps if step.command}
    assert not set(shared_server.command_names()) - shown
    with_examples = {each.page for each in EXAMPLES}
    pages = {f"docs/commands/{name.lower()}.md" for name in shared_server.command_names()}
    assert not pages - with_examples


def test_no_example_hides_in_another_kind_of_block() -> None:
    """A transcript outside of a `console` block is one that no test runs."""
    hidden = [
        f"{page.relative_to(ROOT)}:{number}: {line}"
        for page in PAGES
        for number, line in enumerate(outside_of_console(page.read_text()), 1)
        if line.lstrip().startswith(("> CACHE.", "> CL.", "127.0.0.1:6379>"))
    ]
    assert not hidden


def outside_of_console(text: str) -> list[str]:
    """The page with an empty line for each line of a `console` block."""
    lines, inside = [], False
    for line in text.splitlines():
        inside = inside and line.strip() != "```" or line.strip().startswith("```console")
        lines.append("" if inside else line)
    return lines


# The harness itself: it sees a page that says something wrong.


@pytest.fixture
def says(server: Server) -> Callable[[str], None]:
    """Runs a block."""

    def run(body: str) -> None:
        page = Path(server.home / "page.md")
        page.write_text(f"```console\n{body}\n```\n")
        [example] = examples(page, server.home)
        with Run(server, example) as each:
            each.all_steps()

    return run


TOKEN = "00112233445566778899aabbccddeeff"
WON = f'db> CACHE.GETSM k META\n1) "won"\n2) (nil)\n3) "{TOKEN}"\n'
LOCK_A, LOCK_B = "db> CACHE.LOCK a me 9000\n(integer) ", "db> CACHE.LOCK b me 9000\n(integer) "
GOOD = {
    "plain": 'db> SET k v\nOK\ndb> GET k\n"v"',
    "a comment": 'db> SET k "a b"      # a comment\nOK\ndb> GET k          # what it holds\n"a b"   # as it was',
    "ms": "db> SET k v PX 60000\nOK\ndb> PTTL k\n(integer) 59950    # ms",
    "a token": f"{WON}4) (integer) 10000  # ms\ndb> CACHE.RENEW k {TOKEN} 5000\n(integer) 1",
    "fences": f"{LOCK_A}1795275721997001\n{LOCK_B}1795275721997002\n{LOCK_A}1795275721997001",
    "a wait": 'db> CACHE.GETSM k\n(nil)\nother> CACHE.GETSM k\n(waiting)\ndb> CACHE.SETSM k v 60000\nOK\nother>\n"v"',
    "time": "db> SET k v PX 1\nOK\n# 5 ms later\ndb> GET k\n(nil)",
    "RESP3": "$ redis-cli -3\ndb> CACHE.TAGINFO t\n"
    '1# "keys" => (integer) 0\n2# "bytes" => (integer) 0\n3# "created_ms" => (nil)\n'
    '4# "invalidations" => (integer) 0\n5# "last_invalidated_ms" => (nil)\n6# "sweeping" => (integer) 0',
    "an error": "db> CACHE.GETSM k\n(nil)\nother> CACHE.GETSM k WAIT 1\n"
    "(error) LEASED another caller loads this key; its lease ends in 9998 ms",
}
BAD = {
    "another value": 'db> SET k v\nOK\ndb> GET k\n"w"',
    "a line too few": 'db> RPUSH l a b\n(integer) 2\ndb> LRANGE l 0 -1\n1) "a"',
    "a number that is no time": "db> RPUSH l a b\n(integer) 3",
    "a time far away": "db> SET k v PX 60000\nOK\ndb> PTTL k\n(integer) 9000    # ms",
    "another default": f"{WON}4) (integer) 5000  # ms",
    "never instead of a time": "db> SET k v PX 60000\nOK\ndb> PTTL k\n(integer) -1    # ms",
    "earlier state": 'db> GET k\n"v"',
    "an invented token": f"db> CACHE.GETSM k\n(nil)\ndb> CACHE.RENEW k {TOKEN} 5000\n(integer) 1",
    "two numbers for one": f"{LOCK_A}1795275721997001\n{LOCK_B}1795275721997001",
    "numbers that fall": f"{LOCK_A}1795275721997002\n{LOCK_B}1795275721997001",
    "a wait left open": "db> CACHE.GETSM k\n(nil)\nother> CACHE.GETSM k\n(waiting)",
    "an unannounced pause": "db> SET k v PX 60000\nOK\n# 60000 ms later\ndb> GET k\n(nil)",
}


@pytest.mark.parametrize("name", GOOD)
def test_a_true_example_passes(says: Callable[[str], None], name: str) -> None:
    says(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_a_false_example_fails(says: Callable[[str], None], name: str) -> None:
    with pytest.raises(AssertionError):
        says(BAD[name])


def test_a_page_is_read_with_its_lines(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```console\n$ make run\nbuilt\n```\n\n```console acl-categories\na> PING\nPONG\n```\n")
    [example] = examples(page, tmp_path)
    assert str(example) == "page.md:8" and example.needs == {"acl-categories"}
    assert example.steps == [Step(9, "a", "PING", ["PONG"])]


def test_lines_are_split_and_replies_printed_as_redis_cli_does() -> None:
    assert split(r"""SET "a \"b\" \x00\n" 'c d' e "" """) == [b"SET", b'a "b" \0\n', b"c d", b"e", b""]
    assert printed(b"OK", b"+OK\r\n") == ["OK"] and printed(b'a"\xc3\n') == ['"a\\"\\xc3\\n"']
    assert printed([b"a", [1, None], []]) == ['1) "a"', "2) 1) (integer) 1", "   2) (nil)", "3) (empty array)"]
    assert printed({b"a": {b"b": 1}, b"c": [b"d"]}) == ['1# "a" => 1# "b" => (integer) 1', '2# "c" => 1) "d"']
    assert printed(RespError("ERR no")) == ["(error) ERR no"]
    assert list(range(1, 11)) and printed(list(range(10)))[0] == " 1) (integer) 0"


def test_times_are_near_or_not() -> None:
    assert same_time(59_000, 60_000, 2_000) and same_time(1_795_276_895_151, 1_800_000_000_000, 0)
    assert not same_time(0, 1, 2_000) and not same_time(-1, 5, 2_000) and not same_time(5, -1, 2_000)
    assert not same_time(60_000, 5, 2_000)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
