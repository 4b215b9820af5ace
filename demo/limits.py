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

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from harness import Server  # noqa: E402

from . import picture  # noqa: E402
from .picture import FAINT, GRID  # noqa: E402

LIMIT, WINDOW_MS, EVERY_MS, LASTS_MS, BEFORE_BORDER_MS = 50, 1_000, 5, 3_600, 300
COLORS = {"SLIDING": "#0a9a72", "FIXED": "#d97f1e", "GCRA": "#3f78b5"}
STYLE = picture.STYLE | {"ytick.color": FAINT, "svg.hashsalt": "limits"}


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
            for name, verdict in zip(COLORS, verdicts):
                if verdict[0]:
                    seen[name].append(int(seconds) * 1_000 + int(micros) // 1_000 - int(start))
    return seen


def draw(path: Path, seen: dict[str, list[int]]) -> None:
    times = list(range(0, LASTS_MS, EVERY_MS))
    with plt.rc_context(STYLE):
        figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5.6), sharex=True, facecolor="white")
        for name, instants in seen.items():
            total = [sum(at <= now for at in instants) for now in times]
            lately = [sum(now - WINDOW_MS < at <= now for at in instants) for now in times]
            seconds = [at / 1_000 for at in times]
            above.step(seconds, total, where="post", color=COLORS[name], label=name, linewidth=1.8)
            below.step(seconds, lately, where="post", color=COLORS[name], linewidth=1.8)
        above.plot([0, LASTS_MS / 1_000], [0, LASTS_MS / EVERY_MS], color=FAINT, linewidth=1, linestyle=":")
        above.annotate("all that came", (0.33, 98), color=FAINT, rotation=55, fontsize=8)
        above.set_ylim(0, 260)
        above.set_ylabel("let through so far")
        above.legend(loc="lower right", frameon=False)
        below.axhline(LIMIT, color=FAINT, linewidth=1, linestyle="--")
        below.annotate("the limit", (3.28, LIMIT + 2), color=FAINT, fontsize=8)
        below.set_ylabel("let through in the last second")
        below.set_xlabel("seconds; fixed windows begin at the grey lines")
        borders = range(BEFORE_BORDER_MS, LASTS_MS, WINDOW_MS)
        for axes in (above, below):
            axes.set_xlim(0, LASTS_MS / 1_000)
            for border in borders:
                axes.axvline(border / 1_000, color=GRID, linewidth=3, zorder=0)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        figure.suptitle("200 requests a second under a limit of 50 a second", x=0.02, ha="left", fontweight="bold")
        figure.tight_layout()
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), dpi=110)


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
