"""Just enough of Rust's grammar to measure functions and find words in code but not in comments or strings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SKIPPED = re.compile(
    r"""//[^\n]*                                # line comment
      | /\*(?:[^*]|\*(?!/))*\*/                 # block comment (not nested)
      | \b(?:b|c|br|cr|r)?(?P<hash>\#+)"(?s:.*?)"(?P=hash)   # raw string with hashes
      | \b(?:br|cr|r)"[^"]*"                    # raw string
      | "(?:[^"\\]|\\(?s:.))*"                  # string
      | b?'(?:[^'\\\n]|\\(?:x..|u\{[^}]*\}|.))' # character, not a lifetime
    """,
    re.VERBOSE,
)
_FUNCTION = re.compile(r"\bfn\s+(?P<name>\w+)")
_TEST_ATTRIBUTE = re.compile(
    r"#\[cfg\((?:test|all\(test\b[^\]]*)\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?mod\s+(?P<name>\w+)\s*(?P<open>[{;])"
)


@dataclass(frozen=True)
class Function:
    """A function with a body: its first line (from 1) and how many lines it has, the closing brace included."""

    name: str
    line: int
    length: int


def code_only(text: str) -> str:
    """The source with comments, strings and characters replaced by spaces; lines and columns stay."""
    return _SKIPPED.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def functions(code: str) -> Iterator[Function]:
    """The functions in `code_only` text outside its test modules."""
    tests = list(_test_ranges(code))
    for match in _FUNCTION.finditer(code):
        if any(start <= match.start() < end for start, end in tests):
            continue
        body = _body_start(code, match.end())
        if body is not None:
            first = line_of(code, match.start())
            yield Function(match["name"], first, line_of(code, _closing(code, body)) - first + 1)


def modules_for_tests(code: str) -> set[str]:
    """The names of modules in files of their own that are compiled for tests only."""
    return {match["name"] for match in _TEST_ATTRIBUTE.finditer(code) if match["open"] == ";"}


def line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _test_ranges(code: str) -> Iterator[tuple[int, int]]:
    for match in _TEST_ATTRIBUTE.finditer(code):
        if match["open"] == "{":
            yield match.start(), _closing(code, match.end() - 1)


def _body_start(code: str, position: int) -> int | None:
    """Where the function's body opens; None for a declaration that ends with a semicolon."""
    depth = 0
    for index in range(position, len(code)):
        char = code[index]
        if char in "([":
            depth += 1
        elif char in ")]":
            depth -= 1
        elif depth == 0 and char == "{":
            return index
        elif depth == 0 and char == ";":
            return None
    return None


def _closing(code: str, opening: int) -> int:
    depth = 0
    for match in re.compile(r"[{}]").finditer(code, opening):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"line {line_of(code, opening)}: the brace is not closed")
