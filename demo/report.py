"""What remains of a run: stampede.md, ready for a README, and stampede.svg and stampede.png, the picture of it."""

from pathlib import Path

from .outcome import Outcome, Plan
from .picture import draw

HEADINGS = (
    "",
    "origin calls per expiry",
    "answer at expiry: p50 / p99 / max",
    "of it after the origin's answer: p50 / p99",
    "p50 of all reads",
    "commands on the server",
    "extra commands per expiry",
    "server CPU",
)


def write_all(folder: Path, plan: Plan, outcomes: list[Outcome], note: str) -> list[Path]:
    """Writes the three files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "stampede.md"
    table.write_text(markdown(outcomes, note))
    return [table, *draw(folder / "stampede", plan, outcomes)]


def markdown(outcomes: list[Outcome], note: str) -> str:
    """The table and what it was measured on."""
    lines = [row(HEADINGS), row(["---", *["---:" for _ in HEADINGS[1:]]])]
    for each in outcomes:
        slow, late = each.at_expiry, each.after_origin
        name = f"**{each.title}**" if each.name == "cache-guard" else each.title
        lines.append(
            row(
                [
                    name,
                    f"{each.calls_per_expiry:,.4g}",
                    f"{slow.p50:.0f} / {slow.p99:.0f} / {slow.max:.0f} ms",
                    f"{late.p50:.0f} / {late.p99:.0f} ms",
                    f"{each.overall.p50:.2f} ms",
                    f"{each.commands:,}",
                    f"{each.extra_commands:,.0f}",
                    f"{each.server_cpu_ms:,.0f} ms",
                ]
            )
        )
    return "\n".join([*lines, "", note, ""])


def row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"
