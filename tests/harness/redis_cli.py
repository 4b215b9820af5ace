"""How redis-cli prints a reply and splits a command line, so that pages can be compared with what a server answers."""

import re
from typing import Any

from .raw import RespError, RespSet

WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|\'((?:[^\'\\]|\\.)*)\'|(\S+)')
ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
SIMPLE_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}


def split(line: str) -> list[bytes]:
    """The words of a command line: plain, "double quoted" with escapes, or 'single quoted'."""
    words = []
    for double, single, plain in WORD.findall(line):
        if plain or single:
            words.append((plain or single).encode())
        else:
            words.append(ESCAPE.sub(_unescape, double.encode()))
    return words


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if code[:1] == b"x" and len(code) == 3:
        return bytes([int(code[1:], 16)])
    return SIMPLE_ESCAPES.get(code, code)


def quoted(data: bytes) -> str:
    """A bulk string as redis-cli prints it."""
    names = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x07: "\\a", 0x08: "\\b"}
    return '"' + "".join(names.get(b) or (chr(b) if 0x20 <= b < 0x7F else f"\\x{b:02x}") for b in data) + '"'


def printed(reply: Any, wire: bytes = b"") -> list[str]:
    """The lines that redis-cli prints for a reply; `wire` tells a simple string (`OK`) from a bulk string (`"OK"`)."""
    if isinstance(reply, bytes) and wire.startswith(b"+"):
        return reply.decode().splitlines()
    return _lines(reply)


def _lines(reply: Any) -> list[str]:
    if isinstance(reply, RespError):
        return [f"(error) {reply.text}"]
    if reply is None:
        return ["(nil)"]
    if isinstance(reply, bool):
        return ["(true)" if reply else "(false)"]
    if isinstance(reply, int):
        return [f"(integer) {reply}"]
    if isinstance(reply, float):
        return [f"(double) {reply:g}"]
    if isinstance(reply, bytes):
        return [quoted(reply)]
    if isinstance(reply, dict):
        return _items([(f"{_lines(key)[0]} => ", value) for key, value in reply.items()], "#", "(empty hash)")
    mark = "~" if isinstance(reply, RespSet) else ")"
    return _items([("", item) for item in reply], mark, "(empty array)")


def _items(items: list[tuple[str, Any]], mark: str, empty: str) -> list[str]:
    """Numbered lines; what belongs to one item and does not fit on its line is indented below it."""
    if not items:
        return [empty]
    width = len(str(len(items)))
    lines = []
    for number, (name, value) in enumerate(items, 1):
        begin = f"{number:>{width}}{mark} "
        inner = _lines(value)
        if name and len(inner) > 1:
            lines.append(f"{begin}{name.rstrip()}")
            lines += [" " * len(begin) + line for line in inner]
        else:
            lines.append(f"{begin}{name}{inner[0]}")
            lines += [" " * len(begin) + line for line in inner[1:]]
    return lines
