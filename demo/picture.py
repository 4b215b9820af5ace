"""The picture: on the left, how the readers of an expired key get their answers; on the right, what it cost.

The left side is a distribution, not an average: for every way the share of waiting clients that have their value, by
the time since the first miss. The right side counts origin calls and commands (log scales: they differ by orders of
magnitude) and shows p50, p99 and max of the answer time.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from .outcome import Outcome, Plan

COLORS = {"none": "#8a919c", "poll": "#d97f1e", "publish": "#3f78b5", "cache-guard": "#0a9a72"}
INK, FAINT, GRID = "#1f2933", "#69737f", "#e4e8ec"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": GRID,
    "xtick.color": FAINT,
    "ytick.color": INK,
    "svg.hashsalt": "stampede",
}
CURVE_POINTS = 300
BAR_START = 0.6


def draw(path: Path, plan: Plan, outcomes: list[Outcome]) -> list[Path]:
    """Writes `path` with .svg and .png; returns both."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(11, 5.2), facecolor="white")
        grid = figure.add_gridspec(
            3, 2, width_ratios=[1.12, 1], left=0.05, right=0.975, top=0.815, bottom=0.1, wspace=0.38, hspace=0.78
        )
        heading = f"A hot key expires while {plan.clients:,} clients read it"
        figure.text(0.02, 0.945, heading, fontsize=15, fontweight="bold")
        below = (
            f"The origin needs {plan.origin_ms} ms to make the value again. Four ways to wait for it, on one server."
        )
        figure.text(0.02, 0.9, below, fontsize=10, color=FAINT)
        curves(figure.add_subplot(grid[:, 0]), plan, outcomes)
        calls = [each.calls_per_expiry for each in outcomes]
        bars(figure.add_subplot(grid[0, 1]), "Calls to the origin, per expiry", outcomes, calls)
        extra = [each.extra_commands for each in outcomes]
        bars(figure.add_subplot(grid[1, 1]), "Extra commands on the server, per expiry", outcomes, extra)
        spreads(figure.add_subplot(grid[2, 1]), plan, outcomes)
        written = [path.with_suffix(".svg"), path.with_suffix(".png")]
        figure.savefig(written[0], metadata={"Date": None})
        figure.savefig(written[1], dpi=160)
        plt.close(figure)
    return written


def plain(axes: Axes, title: str) -> None:
    """No frame, a light grid, the title at the left."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=7)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def curves(axes: Axes, plan: Plan, outcomes: list[Outcome]) -> None:
    """The share of the clients that have their answer, over the time since the first miss."""
    plain(axes, "Clients that have their answer")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    for each in outcomes:
        moments = sorted(each.answered)
        count = len(moments)
        ranks = [round(step * (count - 1) / CURVE_POINTS) for step in range(CURVE_POINTS + 1)] if count else []
        x = [moments[rank] * 1000 for rank in ranks]
        y = [100 * (rank + 1) / count for rank in ranks]
        width = 2.8 if each.name == "cache-guard" else 2
        axes.plot(x, y, color=COLORS[each.name], linewidth=width, label=each.title, solid_capstyle="round")
    end = max(max(each.answered, default=0) for each in outcomes) * 1000
    start = plan.origin_ms - 0.12 * (end - plan.origin_ms)
    axes.axvline(plan.origin_ms, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.annotate(
        "the origin answers",
        (plan.origin_ms, 50),
        (-4, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="center",
        fontsize=8,
        color=FAINT,
    )
    axes.set_xlim(start, end + 0.03 * (end - start))
    axes.set_ylim(0, 102)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
    axes.set_xlabel("ms since the first miss")
    legend = axes.legend(loc="lower right", frameon=False, fontsize=9.5, bbox_to_anchor=(1.0, 0.04))
    for label, each in zip(legend.get_texts(), outcomes, strict=True):
        label.set_fontweight(weight_of(each))


def weight_of(outcome: Outcome) -> str:
    """Bold is whose picture this is."""
    return "bold" if outcome.name == "cache-guard" else "normal"


def rows(axes: Axes, outcomes: list[Outcome]) -> None:
    """One row for each way, the first on top."""
    axes.set_yticks(range(len(outcomes)), [each.title for each in outcomes])
    axes.set_ylim(len(outcomes) - 0.45, -0.55)
    for label, each in zip(axes.get_yticklabels(), outcomes, strict=True):
        label.set_fontweight(weight_of(each))


def bars(axes: Axes, title: str, outcomes: list[Outcome], values: list[float]) -> None:
    """A bar with its number for each way, on a log scale."""
    plain(axes, title)
    axes.set_xscale("log")
    colors = [COLORS[each.name] for each in outcomes]
    axes.barh(
        range(len(values)), [max(0, value - BAR_START) for value in values], left=BAR_START, height=0.62, color=colors
    )
    for place, value in enumerate(values):
        text = f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:,.1f}"
        weight = weight_of(outcomes[place])
        axes.text(max(value, 1) * 1.15, place, text, va="center", fontsize=8.5, fontweight=weight)
    axes.set_xlim(BAR_START, max(10, *values) * 4)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelsize=7.5)
    rows(axes, outcomes)


def spreads(axes: Axes, plan: Plan, outcomes: list[Outcome]) -> None:
    """p50, p99 and max of the reads at expiry."""
    plain(axes, "Answer time of those clients: p50 / p99 / max, ms")
    for place, each in enumerate(outcomes):
        times, color = each.at_expiry, COLORS[each.name]
        axes.plot([times.p50, times.max], [place, place], color=color, linewidth=2, alpha=0.4)
        for value, marker, size in ((times.p50, "o", 6), (times.p99, "D", 5), (times.max, "|", 10)):
            axes.plot([value], [place], marker=marker, markersize=size, color=color, markeredgewidth=1.6)
        text = f"{times.p50:.0f} / {times.p99:.0f} / {times.max:.0f}"
        axes.annotate(
            text,
            (times.max, place),
            (9, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            fontweight=weight_of(each),
        )
    axes.axvline(plan.origin_ms, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    low = min(each.at_expiry.p50 for each in outcomes)
    high = max(each.at_expiry.max for each in outcomes)
    axes.set_xlim(low - 0.1 * (high - low), high + 0.55 * (high - low))
    axes.tick_params(axis="x", labelsize=7.5)
    rows(axes, outcomes)
