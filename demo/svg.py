"""Pictures as small SVG files: shapes, and text that stays text.

A few functions instead of a plotting library, whose files have a path for each letter and thousands of lines. Widths of
text are left to the reader's browser: what must line up is anchored at its start, middle or end.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

INK, FAINT, GRID = "#1f2933", "#69737f", "#e4e8ec"
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


def number(value: float) -> str:
    """A coordinate with one decimal place at most."""
    return f"{value:.1f}".removesuffix(".0")


class Picture:
    """A white canvas; the methods draw on it, `save` writes it."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.shapes: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: int = 12,
        color: str = INK,
        bold: bool = False,
        anchor: str = "start",
        turned: bool = False,
    ) -> None:
        """`anchor` is start, middle or end; `turned` reads from below."""
        weight = ' font-weight="bold"' if bold else ""
        side = "" if anchor == "start" else f' text-anchor="{anchor}"'
        turn = f' transform="rotate(-90 {number(x)} {number(y)})"' if turned else ""
        place = f'x="{number(x)}" y="{number(y)}" font-size="{size}" fill="{color}"'
        self.shapes.append(f"<text {place}{weight}{side}{turn}>{escape(words)}</text>")

    def line(
        self, points: Iterable[tuple[float, float]], *, color: str = INK, width: float = 1, dashes: str = ""
    ) -> None:
        """One stroke through all the points."""
        through = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.shapes.append(
            f'<polyline points="{through}" fill="none" stroke="{color}" stroke-width="{width}"{dashed} '
            'stroke-linejoin="round"/>'
        )

    def bar(self, x: float, y: float, width: float, height: float, color: str) -> None:
        place = f'x="{number(x)}" y="{number(y)}" width="{number(max(0.0, width))}" height="{number(height)}"'
        self.shapes.append(f'<rect {place} rx="2" fill="{color}"/>')

    def save(self, path: Path) -> Path:
        """Writes `path` with .svg and returns that."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" font-family="{FONT}">'
        )
        white = f'<rect width="{self.width}" height="{self.height}" fill="#ffffff"/>'
        written = path.with_suffix(".svg")
        body = [head, f"<title>{escape(self.title)}</title>", white, *self.shapes, "</svg>", ""]
        written.write_text("\n".join(body))
        return written


class Scale:
    """Values of an axis to places on the canvas, in proportion or by their logarithm."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False) -> None:
        self.log, self.start, self.end = log, start, end
        self.low, self.high = self._of(low), self._of(high)

    def _of(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def __call__(self, value: float) -> float:
        share = (self._of(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of a line that stays at each value until the next one comes."""
    found = list(points[:1])
    for (_, before), (x, y) in pairwise(points):
        if y != before:
            found += [(x, before), (x, y)]
    if points:
        found.append(points[-1])
    return found
