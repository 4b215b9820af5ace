"""The picture of the three algorithms: what a real server lets through of a steady stream.

Requests come every 5 ms under a limit of 50 a second, from shortly before the border of a fixed window on. Above, all
that was let through by then; below, what was let through in the second that ends then.

Usage: python -m demo.limits [docs/img/limits]
"""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from harness import Server  # noqa: E402

from .svg import FAINT, GRID, Picture, Scale, steps  # noqa: E402

LIMIT, WINDOW_MS, EVERY_MS, LASTS_MS, BEFORE_BORDER_MS = 50, 1_000, 5, 3_600, 300
COLORS = {"SLIDING": "#0a9a72", "FIXED": "#d97f1e", "GCRA": "#3f78b5"}
TITLE = "200 requests a second under a limit of 50 a second"


def admitted() -> dict[str, list[int]]:
    """When each algorithm let a request through by the server's clock, in milliseconds from the start."""
    seen: dict[str, list[int]] = {name: [] for name in COLORS}
    with Server() as server:
        client = server.raw()
        calls = [("CACHE.RATELIMIT", name, LIMIT, WINDOW_MS, "ALGORITHM", name) for name in COLORS]
        now = time.time() * 1_000
        start = (now // WINDOW_MS + 2) * WINDOW_MS - BEFORE_BORDER_MS
        for at in range(0, LASTS_MS, EVERY_MS):
            time.sleep(max(0, (start + at) / 1_000 - time.time()))
            (seconds, micros), *verdicts = client.pipeline([("TIME",), *calls])
            for name, verdict in zip(COLORS, verdicts, strict=True):
                if verdict[0]:
                    seen[name].append(int(seconds) * 1_000 + int(micros) // 1_000 - int(start))
    return seen


def draw(path: Path, seen: dict[str, list[int]]) -> Path:
    """Two panels over the same seconds: all that was let through so far, and what of it in the last second."""
    picture = Picture(900, 520, TITLE)
    picture.text(24, 32, TITLE, size=18, bold=True)
    x = Scale(0, LASTS_MS / 1_000, 60, 870)
    above, below = Scale(0, 260, 260, 70), Scale(0, 110, 470, 310)
    panel(picture, x, above, (0, 50, 100, 150, 200, 250), "let through so far")
    panel(picture, x, below, (0, 25, 50, 75, 100), "let through in the last second")
    for second in (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5):
        picture.text(x(second), 488, f"{second:g} s", size=11, color=FAINT, anchor="middle")
    picture.text(465, 508, "fixed windows begin at the thick grey lines", size=11, color=FAINT, anchor="middle")
    times = list(range(0, LASTS_MS, EVERY_MS))
    for place, (name, instants) in enumerate(seen.items()):
        total = [(now / 1_000, sum(at <= now for at in instants)) for now in times]
        lately = [(now / 1_000, sum(now - WINDOW_MS < at <= now for at in instants)) for now in times]
        for scale, points in ((above, total), (below, lately)):
            picture.line(steps([(x(at), scale(count)) for at, count in points]), color=COLORS[name], width=2)
        picture.bar(680, 200 + 18 * place, 18, 5, COLORS[name])
        picture.text(704, 207 + 18 * place, name, size=12)
    came = 260 * EVERY_MS / 1_000
    picture.line([(x(0), above(0)), (x(came), above(260))], color=FAINT, dashes="2 3")
    picture.text(x(came) + 6, above(250), "all that came", size=11, color=FAINT)
    picture.line([(x.start, below(LIMIT)), (x.end, below(LIMIT))], color=FAINT, dashes="5 3")
    picture.text(x.end, below(LIMIT) - 5, "the limit", size=11, color=FAINT, anchor="end")
    return picture.save(path)


def panel(picture: Picture, x: Scale, y: Scale, counts: tuple[int, ...], title: str) -> None:
    """The lines and names of a panel's axes."""
    picture.text(x.start, y.end - 8, title, size=12, color=FAINT)
    for count in counts:
        picture.line([(x.start, y(count)), (x.end, y(count))], color=GRID)
        picture.text(x.start - 8, y(count) + 4, str(count), size=11, color=FAINT, anchor="end")
    for border in range(BEFORE_BORDER_MS, LASTS_MS, WINDOW_MS):
        picture.line([(x(border / 1_000), y.start), (x(border / 1_000), y.end)], color=GRID, width=4)


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/img/limits")
    seen = admitted()
    draw(path, seen)
    for name, instants in seen.items():
        most = max(sum(end - WINDOW_MS < at <= end for at in instants) for end in instants)
        gaps = [after - before for before, after in pairwise(instants)]
        print(f"{name}: {len(instants)} let through, {most} in the worst second, gaps up to {max(gaps)} ms")


if __name__ == "__main__":
    main()
