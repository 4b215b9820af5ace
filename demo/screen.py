"""The terminal: a live table while it runs; plain lines where the output is not a terminal; the final table."""

import math
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .outcome import Outcome, Plan, Progress
from .strategies import NoProtection

PLAIN_WIDTH = 140
PLAIN_SECONDS = 1.0
HEADINGS = (
    "",
    "origin\ncalls",
    "\nexpiries",
    "at expiry, ms\np50 / p99 / max",
    "after origin, ms\np50 / p99",
    "all, ms\np50",
    "server\ncommands",
    "extra per\nexpiry",
)

Row = Progress | Outcome | str | None


class Screen:
    """Shows the rows of all ways; `with Screen(...) as screen:` draws until the end of the block."""

    def __init__(self, plan: Plan, ways: tuple[type[NoProtection], ...]) -> None:
        self.plan, self.ways = plan, ways
        self.rows: dict[str, Row] = {way.name: None for way in ways}
        self.console = Console()
        if not self.console.is_terminal:
            self.console = Console(width=PLAIN_WIDTH)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self.said_at = 0.0

    def __enter__(self) -> "Screen":
        if self.live:
            self.live.start()
            self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self._draw()
            self.live.stop()
        elif kind is None:
            self.console.print(self.table())

    def show(self, name: str, row: Row) -> None:
        """The newest about a way: under way, finished, or the reason why it is left out."""
        self.rows[name] = row
        if self.live:
            self._draw()
        else:
            self._say(name, row)

    def say(self, text: str) -> None:
        """A line or a paragraph outside the table."""
        self.console.print(Text(text), soft_wrap=not self.console.is_terminal)

    def _draw(self) -> None:
        self.live.update(self.table(), refresh=True)

    def _say(self, name: str, row: Row) -> None:
        now = time.monotonic()
        if isinstance(row, Progress) and now - self.said_at < PLAIN_SECONDS:
            return
        self.said_at = now
        title = next(way.title for way in self.ways if way.name == name)
        if isinstance(row, str):
            self.say(f"{title}: {row}")
        elif isinstance(row, Outcome):
            self.say(f"{title}: done after {row.seconds:.1f} s, {row.origin_calls} origin calls")
        elif row:
            self.say(f"{title}: {row.seconds:.1f} s, {row.origin_calls} origin calls, {row.answers} reads answered")

    def table(self) -> Table:
        """All rows as they are now."""
        plan = self.plan
        title = f"{plan.clients:,} clients, one key: TTL {plan.ttl_ms} ms, origin {plan.origin_ms} ms"
        table = Table(title=title, title_style="bold", header_style="dim", expand=False)
        for number, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="right" if number else "left", no_wrap=True)
        for way in self.ways:
            row = self.rows[way.name]
            style = "bold green" if way.needs_module else ""
            table.add_row(Text(way.title), *cells(row), style=style if row else "dim")
        return table


def cells(row: Row) -> list[str]:
    """The cells of a way after its title."""
    if isinstance(row, Progress):
        waiting = f"{row.reading:,} waiting" if row.reading else ""
        begin = [
            f"{row.origin_calls:,}",
            str(row.expiries),
            times(row.at_expiry.p50, row.at_expiry.p99, row.at_expiry.max),
        ]
        return [*begin, waiting, "", f"{row.commands:,}", ""]
    if isinstance(row, Outcome):
        slow, late = row.at_expiry, row.after_origin
        begin = [f"{row.origin_calls:,}", str(row.expiries), times(slow.p50, slow.p99, slow.max)]
        extra = f"{row.extra_commands:,.0f}"
        return [*begin, times(late.p50, late.p99), f"{row.overall.p50:.2f}", f"{row.commands:,}", extra]
    return ["left out" if row else "", *["" for _ in HEADINGS[2:]]]


def times(*milliseconds: float) -> str:
    """Rounded and in one cell; empty where nothing was measured yet."""
    return "" if any(map(math.isnan, milliseconds)) else " / ".join(f"{each:,.0f}" for each in milliseconds)
