"""The picture: on the left, how the readers of an expired key get their answers; on the right, what it cost.

The left side is a distribution, not an average: for every way the share of waiting clients that have their value, by
the time since the first miss. The right side has the calls to the origin, how long the slowest client
waited, and the commands on the server, on log scales: they differ by orders of magnitude.
"""

from pathlib import Path

from .outcome import Outcome, Plan
from .svg import FAINT, GRID, INK, Picture, Scale

COLORS = {
    "none": "#c23b3b",
    "none-unlimited": "#8a919c",
    "poll": "#d97f1e",
    "publish": "#3f78b5",
    "cache-guard": "#0a9a72",
}
CURVE_POINTS = 120
WIDTH, HEIGHT = 960, 480
TOP, BOTTOM = 110, 400
ROW = 17


def draw(path: Path, plan: Plan, outcomes: list[Outcome]) -> Path:
    """Writes `path` with .svg; returns that."""
    heading = f"A hot key expires while {plan.clients:,} clients read it"
    picture = Picture(WIDTH, HEIGHT, heading)
    picture.text(24, 34, heading, size=20, bold=True)
    below = (
        f"The database needs {plan.origin_ms} ms for the value and runs {plan.pool} queries at once. "
        "Ways to wait for it, on one server."
    )
    picture.text(24, 56, below, size=13, color=FAINT)
    curves(picture, plan, outcomes)
    slowest = [each.at_expiry.max for each in outcomes]
    bars(
        picture, 96, "Queries sent to the database, per expiry", outcomes, [each.calls_per_expiry for each in outcomes]
    )
    bars(picture, 222, "The slowest client waits, ms", outcomes, slowest)
    bars(picture, 348, "Extra commands on the server, per expiry", outcomes, [each.extra_commands for each in outcomes])
    return picture.save(path)


def curves(picture: Picture, plan: Plan, outcomes: list[Outcome]) -> None:
    """The share of the clients that have their answer, over the time since the first miss (log scale)."""
    longest = max(max(each.answered, default=0) for each in outcomes) * 1000
    x = Scale(plan.origin_ms * 0.5, max(longest, plan.origin_ms * 2) * 1.1, 70, 500, log=True)
    y = Scale(0, 100, BOTTOM, TOP)
    picture.text(24, 90, "Clients that have their answer", size=13, bold=True)
    for percent in range(0, 101, 25):
        picture.line([(x.start, y(percent)), (x.end, y(percent))], color=GRID)
        picture.text(x.start - 8, y(percent) + 4, f"{percent} %", size=11, color=FAINT, anchor="end")
    for ms in (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000):
        if x.start <= x(ms) <= x.end:
            picture.line([(x(ms), TOP), (x(ms), BOTTOM)], color=GRID)
            words = f"{ms / 1000:g} s" if ms >= 1000 else f"{ms} ms"
            picture.text(x(ms), BOTTOM + 18, words, size=11, color=FAINT, anchor="middle")
    picture.text((x.start + x.end) / 2, BOTTOM + 38, "since the first miss", size=11, color=FAINT, anchor="middle")
    picture.line([(x(plan.origin_ms), TOP), (x(plan.origin_ms), BOTTOM)], dashes="4 3")
    words = "the first query is answered"
    picture.text(x(plan.origin_ms) - 5, (TOP + BOTTOM) / 2, words, size=11, color=FAINT, anchor="middle", turned=True)
    for each in outcomes:
        moments = sorted(each.answered)
        count = len(moments)
        ranks = [round(step * (count - 1) / CURVE_POINTS) for step in range(CURVE_POINTS + 1)] if count else []
        points = [(x(max(moments[rank] * 1000, plan.origin_ms * 0.5)), y(100 * (rank + 1) / count)) for rank in ranks]
        picture.line(points, color=COLORS[each.name], width=3 if is_ours(each) else 2)


def is_ours(outcome: Outcome) -> bool:
    return outcome.name == "cache-guard"


def bars(picture: Picture, top: float, title: str, outcomes: list[Outcome], values: list[float]) -> None:
    """A bar with its number for each way, on a log scale."""
    picture.text(540, top - 6, title, size=13, bold=True)
    x = Scale(0.6, max(10, *values) * 1.05, 715, 880, log=True)
    for place, (each, value) in enumerate(zip(outcomes, values, strict=True)):
        y = top + 4 + place * ROW
        picture.text(708, y + 11, each.title, size=11, anchor="end", bold=is_ours(each))
        picture.bar(x.start, y + 2, x(max(value, 0.6)) - x.start, ROW - 5, COLORS[each.name])
        text = f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:,.1f}"
        picture.text(x(max(value, 0.6)) + 6, y + 11, text, size=11, bold=is_ours(each), color=INK)
