"""Runs the tests once per server, and keeps the table of what came of it in docs/operations.md.

    matrix.py everyday              the everyday tests on the newest Redis and Valkey; one that cannot be had is left out
    matrix.py everyday name...      the same on those named; a row of the table for each
    matrix.py all [name...]         all tests on all supported servers, or on those named; a row of the table for each

`system` is the server of this machine; the others are made by scripts/servers.sh in the folder SERVERS. A red server does
not end the run: the others are tested, and the exit status is 1 at the end. Only the rows of servers that were tested
change, so that a run can be done in parts. With PYTEST_ARGS, which may choose a part of the tests, no row is written.
"""

import argparse
import datetime
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SERVERS = Path(os.environ.get("SERVERS", "target/servers"))
RESULTS = ROOT / "target/results"
PAGE = ROOT / "docs/operations.md"
BEGIN = "<!-- Written by `make test-all`. -->"
END = "<!-- End of the table of `make test-all`. -->"
HEAD = ["| server | from | tests | passed | skipped | failed | seconds | date |", "|---|---|---|---:|---:|---:|---:|---|"]
NEWEST = ["redis-8.6", "valkey-9.1"]
NAMES = ["system", "redis-8.0.2", "redis-8.0-forky", "redis-8.2", "redis-8.6", "valkey-8.0", "valkey-8.1", "valkey-9.1"]


@dataclass
class Run:
    """What came of the tests on one server. A run that broke off without a report has failed once."""

    name: str
    server: str
    tests: str
    passed: int
    skipped: int
    failed: int
    seconds: int
    date: str

    def row(self) -> str:
        cells = (self.server, self.name, self.tests, self.passed, self.skipped, self.failed, self.seconds, self.date)
        return f"| {' | '.join(map(str, cells))} |"


def binary_of(name: str) -> str | None:
    """The server of that name, which is made if need be; None if it cannot be had (servers.sh says why)."""
    if name == "system":
        return os.environ.get("REDIS_SERVER") or "redis-server"
    made = subprocess.run([ROOT / "scripts/servers.sh", SERVERS, name], stdout=subprocess.DEVNULL)
    return str((SERVERS / name / "bin/server").resolve()) if made.returncode == 0 else None


def version_of(binary: str) -> str:
    """As in `Redis 8.6.3`."""
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=([\d.]+)", text)
    return f"{'Valkey' if 'valkey' in text.lower() else 'Redis'} {found[1] if found else '?'}"


def counts(report: Path) -> tuple[int, int, int]:
    """Passed, skipped and failed tests of a report of pytest."""
    suites = ET.parse(report).getroot().iter("testsuite")
    total = skipped = failed = 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        skipped += int(suite.get("skipped", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    return total - skipped - failed, skipped, failed


def test_on(name: str, binary: str, tests: str) -> Run:
    folder, server, start = RESULTS / name, version_of(binary), time.monotonic()
    print(f"== {server} ({name})", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.xml"):
        old.unlink()
    # -k: the slow half is run whatever became of the everyday one.
    goal = "pytest" if tests == "all" else "pytest-fast"
    command = ["make", "-sk", "--no-print-directory", f"RESULTS={folder}", goal]
    status = subprocess.run(command, cwd=ROOT, env=os.environ | {"REDIS_SERVER": binary}).returncode
    passed, skipped, failed = (sum(each) for each in zip((0, 0, 0), *map(counts, folder.glob("*.xml"))))
    if status and not failed:
        failed = 1
    run = Run(name, server, tests, passed, skipped, failed, round(time.monotonic() - start), f"{datetime.date.today()}")
    print(f"== {server}: {passed} passed, {skipped} skipped, {failed} failed, {run.seconds} s", flush=True)
    return run


def rows_of(page: str) -> dict[str, str]:
    """The rows of the table by what their server is called here."""
    table = page.partition(BEGIN)[2].partition(END)[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and line not in HEAD]
    return {row.split("|")[2].strip(): row for row in rows}


def with_rows(page: str, runs: list[Run]) -> str:
    assert BEGIN in page and END in page, f"{PAGE.relative_to(ROOT)} has lost the line {BEGIN} or {END}"
    rows = rows_of(page) | {run.name: run.row() for run in runs}
    known = [rows[name] for name in NAMES if name in rows]
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    return before + "\n".join([BEGIN, "", *HEAD, *known, "", END]) + after


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["everyday", "all"])
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    is_everyday = asked.what == "everyday"
    names = asked.names or (NEWEST if is_everyday else NAMES)
    if unknown := set(names) - set(NAMES):
        parser.error(f"unknown: {' '.join(sorted(unknown))}; known: {' '.join(NAMES)}")
    keeps_rows = (asked.names or not is_everyday) and not os.environ.get("PYTEST_ARGS")
    runs, absent = [], []
    for name in names:
        if binary := binary_of(name):
            runs.append(test_on(name, binary, asked.what))
        else:
            absent.append(name)
            print(f"== {name}: left out", flush=True)
        # After each server, so that nothing is lost when the run is ended.
        if runs and keeps_rows:
            PAGE.write_text(with_rows(PAGE.read_text(), runs))
    if keeps_rows:
        print("\n".join([*HEAD, *(run.row() for run in runs)]))
    is_red = any(run.failed for run in runs)
    return 1 if is_red or absent and not is_everyday else 0


if __name__ == "__main__":
    sys.exit(main())
