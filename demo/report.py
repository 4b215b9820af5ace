"""What remains of a run: stampede.md with all figures, stampede.svg, and the README's short table of the same run."""

from pathlib import Path

from .outcome import Outcome, Plan
from .picture import draw

HEADINGS = (
    "",
    "origin calls per expiry",
    "answer at expiry: p50 / p99 / max",
    "of it after the origin's first answer: p50 / p99",
    "p50 of all reads",
    "commands on the server",
    "extra commands per expiry",
    "server CPU",
)
SHORT_HEADINGS = ("protection", "queries to the database per expiry", "the slowest client waits")
BEGIN = "<!-- Derived by `make demo`: the figures of one run. -->"
END = "<!-- End of the derived part. -->"


def write_all(folder: Path, readme: Path | None, plan: Plan, outcomes: list[Outcome], note: str) -> list[Path]:
    """Writes the picture, the table of all figures and, between its marks in `readme`, the short one; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "stampede.md"
    table.write_text(markdown(outcomes, note))
    written = [table, draw(folder / "stampede", plan, outcomes)]
    if readme:
        before, _, rest = readme.read_text().partition(BEGIN + "\n")
        _, _, after = rest.partition(END)
        readme.write_text(f"{before}{BEGIN}\n\n{short(outcomes)}\n{END}{after}")
        written.append(readme)
    return written


def markdown(outcomes: list[Outcome], note: str) -> str:
    """All figures, and what they were measured on."""
    title = "# The stampede, measured"
    lines = [row(HEADINGS), row(["---", *["---:" for _ in HEADINGS[1:]]])]
    for each in outcomes:
        slow, late = each.at_expiry, each.after_origin
        lines.append(
            row(
                [
                    name_of(each),
                    f"{each.calls_per_expiry:,.4g}",
                    f"{slow.p50:,.0f} / {slow.p99:,.0f} / {slow.max:,.0f} ms",
                    f"{late.p50:,.0f} / {late.p99:,.0f} ms",
                    f"{each.overall.p50:.2f} ms",
                    f"{each.commands:,}",
                    f"{each.extra_commands:,.0f}",
                    f"{each.server_cpu_ms:,.0f} ms",
                ]
            )
        )
    picture = "![How long clients wait and what it costs, for each way](stampede.svg)"
    again = (
        "`make demo` measures again and rewrites this page, the picture and the table of the [README](../../README.md)."
    )
    return "\n".join([title, "", picture, "", *lines, "", note, "", again, ""])


def short(outcomes: list[Outcome]) -> str:
    """The table of three columns."""
    lines = [row(SHORT_HEADINGS), "| --- | ---: | ---: |"]
    for each in outcomes:
        lines.append(row([name_of(each), f"{each.calls_per_expiry:,.4g}", f"{each.at_expiry.max:,.0f} ms"]))
    return "\n".join([*lines, ""])


def name_of(outcome: Outcome) -> str:
    return f"**{outcome.title}**" if outcome.name == "cache-guard" else outcome.title


def row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"
