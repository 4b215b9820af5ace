"""RESP3 as far as this demonstration needs it: commands out, replies in.

Hand-made because a client library costs more than the round trip it makes, and with a thousand readers in one
process the measuring would then be measured. Replies come as plain Python values: strings as bytes, nil as None,
errors as RespError, arrays as list, maps as dict, push messages as Push.
"""

from typing import Any

CRLF = b"\r\n"


class Incomplete(Exception):
    """The bytes end inside a reply."""


class RespError(Exception):
    """An error reply: a value until somebody raises it."""


class Push(list):
    """A RESP3 push message, for example what a subscriber receives."""


def encode(*args: bytes | str | int) -> bytes:
    """One command as an array of bulk strings."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        data = arg if isinstance(arg, bytes) else str(arg).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


def parse(data: bytes, start: int) -> tuple[Any, int]:
    """The reply that begins at `start` and the position behind it; Incomplete if its end has not arrived."""
    end = data.find(CRLF, start)
    if end < 0:
        raise Incomplete
    kind, line, pos = data[start], data[start + 1 : end], end + 2
    if kind == 0x24:  # $ bulk string
        size = int(line)
        if size < 0:
            return None, pos
        stop = pos + size
        if len(data) < stop + 2:
            raise Incomplete
        return data[pos:stop], stop + 2
    if kind == 0x5F:  # _ nil
        return None, pos
    if kind == 0x2B:  # + simple string
        return line, pos
    if kind == 0x3A:  # : integer
        return int(line), pos
    if kind == 0x2D:  # - error
        return RespError(line.decode(errors="replace")), pos
    if kind == 0x25:  # % map
        flat, pos = parse_items(data, pos, 2 * int(line))
        return dict(zip(flat[::2], flat[1::2], strict=True)), pos
    if kind in (0x2A, 0x3E):  # * array, > push
        items, pos = parse_items(data, pos, int(line))
        return (Push(items) if kind == 0x3E else items), pos
    raise ValueError(f"not expected from the server: {data[start : start + 40]!r}")


def parse_items(data: bytes, pos: int, count: int) -> tuple[list[Any], int]:
    """`count` replies in a row, and the position behind them."""
    items = []
    for _ in range(count):
        item, pos = parse(data, pos)
        items.append(item)
    return items, pos
