"""The picture of an invalidation: how long a GET takes, over time, while a million entries go.

Usage: python benches/invalidate.py --json FILE && python benches/picture.py FILE docs/img/invalidate
Needs what demo/requirements.txt names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent))
from demo.picture import COLORS, FAINT, GRID, STYLE, plain  # noqa: E402

BEFORE_S, AFTER_S = 1.0, 5.0  # what is shown, around the invalidation
HUES = {"cache-guard": COLORS["cache-guard"]}


def in_words(ms: float) -> str:
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"


def draw(outcomes: list[dict], path: Path) -> None:
    with plt.rc_context(STYLE | {"svg.hashsalt": "invalidate"}):
        figure, axes = plt.subplots(figsize=(11, 4.2), facecolor="white")
        figure.subplots_adjust(left=0.065, right=0.975, top=0.77, bottom=0.13)
        figure.text(0.02, 0.93, "A million cached pages are invalidated at second 0", fontsize=15, fontweight="bold")
        below = "How long another client waits for a plain GET on the same server: the longest of each 5 ms."
        figure.text(0.02, 0.87, below, fontsize=10, color=FAINT)
        plain(axes, "")
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        # The quicker one is drawn last, to be seen.
        for each in sorted(outcomes, key=lambda each: -each["busy_max"]):
            shown = [(at, took) for at, took in each["samples"] if -BEFORE_S <= at <= AFTER_S]
            color = HUES.get(each["name"], COLORS["poll"])
            gone = f"{each['gone'] / 1000:.1f} s"
            label = f"{each['name']}: answered after {each['answered']:.1f} ms, all memory given back after {gone}"
            if each["name"] != "cache-guard":
                label = f"{each['name']}: answered after {each['answered']:,.0f} ms, in which nobody else is served"
            # A GET that takes long stands for the stretch that it took.
            line = [(x, took) for at, took in shown for x in (at, at + took / 1000)]
            axes.plot(*zip(*line), color=color, linewidth=0.8, label=label)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: in_words(ms)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda s, _: f"{s:g} s"))
        axes.set_xlim(-BEFORE_S, AFTER_S)
        axes.set_ylim(0.02, 30_000)
        axes.legend(loc="upper right", frameon=False, fontsize=9.5)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), dpi=160)
        plt.close(figure)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
