"""The picture of an invalidation: how long a GET takes, over time, while a million entries go.

Usage: python benches/invalidate.py --json FILE && python benches/picture.py FILE docs/img/invalidate
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from demo.picture import COLORS  # noqa: E402
from demo.svg import FAINT, GRID, Picture, Scale  # noqa: E402

BEFORE_S, AFTER_S = 1.0, 5.0  # what is shown, around the invalidation
STRETCH_S = 0.02  # one point for each, the longest GET in it
HUES = {"cache-guard": COLORS["cache-guard"]}
TITLE = "A million cached pages are invalidated at second 0"


def in_words(ms: float) -> str:
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"


def longest(samples: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The longest GET of each stretch; one that takes longer than that stands for the stretch that it took."""
    found: dict[int, tuple[float, float]] = {}
    for at, took in samples:
        if -BEFORE_S <= at <= AFTER_S:
            place = int(at / STRETCH_S)
            found[place] = max(found.get(place, (at, 0.0)), (at, took), key=lambda each: each[1])
    return [(x, took) for at, took in sorted(found.values()) for x in ((at, at + took / 1000) if took > 100 else (at,))]


def caption(each: dict) -> str:
    if each["name"] != "cache-guard":
        return f"{each['name']}: answered after {each['answered']:,.0f} ms, in which no other client is served"
    return (
        f"{each['name']}: answered after {each['answered']:.1f} ms, all memory freed after {each['gone'] / 1000:.1f} s"
    )


def draw(outcomes: list[dict], path: Path) -> Path:
    picture = Picture(960, 400, TITLE)
    picture.text(24, 34, TITLE, size=20, bold=True)
    below = f"How long another client waits for a plain GET meanwhile: the longest of each {STRETCH_S * 1000:g} ms."
    picture.text(24, 56, below, size=13, color=FAINT)
    x, y = Scale(-BEFORE_S, AFTER_S, 80, 930), Scale(0.02, 10_000, 360, 120, log=True)
    for ms in (0.1, 1, 10, 100, 1_000, 10_000):
        picture.line([(x.start, y(ms)), (x.end, y(ms))], color=GRID)
        picture.text(x.start - 8, y(ms) + 4, in_words(ms), size=11, color=FAINT, anchor="end")
    for second in range(int(-BEFORE_S), int(AFTER_S) + 1):
        picture.line([(x(second), y.start), (x(second), y.end)], color=GRID)
        picture.text(x(second), y.start + 18, f"{second} s", size=11, color=FAINT, anchor="middle")
    # The quicker one is drawn last, to be seen.
    for place, each in enumerate(sorted(outcomes, key=lambda each: -each["busy_max"])):
        color = HUES.get(each["name"], COLORS["poll"])
        points = [(min(x(at), x.end), y(max(took, 0.02))) for at, took in longest(each["samples"])]
        picture.line(points, color=color, width=1.2)
        picture.bar(x.start, 76 + 18 * place, 18, 5, color)
        picture.text(x.start + 26, 83 + 18 * place, caption(each), size=12)
    return picture.save(path)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
