"""Runs a part of the tests with each server under valgrind; status 1 if a report has the module in one of its stacks.

    memcheck.py [name...]    servers of scripts/servers.sh, or `system`; without names: system and redis-8.6

What valgrind reports of the server alone is counted and left alone; what the module only passes through is named, with
the reason, in scripts/valgrind.supp. Reports are kept in target/valgrind/<name>/.
"""

import html
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SERVERS = Path(os.environ.get("SERVERS", "target/servers")).resolve()
REPORTS = ROOT / "target/valgrind"
NAMES = ["system", "redis-8.6"]
MODULE = "libcache_guard.so"
FRAMES_SHOWN = 30
SLOWER = 20  # times: deadlines of the harness are stretched so much

# All commands, what is persisted, and what ends with its connection. Left out is what a slow server answers otherwise: tests
# in which a lock of some milliseconds must still be held when the next command comes.
COMMANDS = [page.stem.removeprefix("cache.").replace(".", "_") for page in sorted((ROOT / "docs/commands").glob("*.*.md"))]
TESTS = [str(path) for name in COMMANDS for path in (ROOT / "tests").glob(f"*/test_{name}.py")]
TESTS += ["tests/limit/test_limits_noise.py", "tests/lock/test_bind.py", "tests/lock/test_payloads.py"]
TESTS += ["tests/tag/test_corners.py", "tests/persistence/test_dump_restore.py"]
CHOSEN = "not slow and not soak"


def install() -> None:
    """valgrind, and the symbols of the C library, without which it does not start."""
    has_symbols = Path("/usr/lib/debug/.build-id").exists()
    if shutil.which("valgrind") and has_symbols:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        sys.exit("memcheck: valgrind and the debug symbols of libc are needed (Debian: valgrind libc6-dbg)")
    subprocess.run(["apt-get", "-qq", "update"], check=True)
    command = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", "valgrind", "libc6-dbg"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})


def valgrind(folder: Path) -> list[str]:
    """The program to run a server under."""
    return [
        "valgrind",
        "--quiet",
        "--xml=yes",
        f"--xml-file={folder}/%p.xml",
        "--child-silent-after-fork=yes",
        "--trace-children=yes",  # a server of servers.sh is started by a script
        # Debian's servers take jemalloc as a shared library; its functions are malloc's.
        "--soname-synonyms=somalloc=*jemalloc*",
        "--leak-check=full",
        "--show-leak-kinds=definite",
        "--num-callers=40",
        "--keep-debuginfo=yes",
        f"--suppressions={ROOT}/scripts/valgrind.supp",
    ]


def reports(folder: Path) -> list[str]:
    """All reports; a server that was killed left a file without an end."""
    return [
        report for file in folder.glob("*.xml") for report in re.findall(r"<error>.*?</error>", file.read_text(errors="replace"), re.DOTALL)
    ]


def told(report: str) -> str:
    what = re.search(r"<(?:what|text)>(.*?)<", report)
    lines = [what[1] if what else "?"]
    for frame in re.findall(r"<frame>(.*?)</frame>", report, re.DOTALL):
        field = dict(re.findall(r"<(fn|obj|file|line)>(.*?)<", frame))
        place = f"{field.get('file', field.get('obj', '?'))}:{field.get('line', '')}"
        if not place.startswith("library/"):  # how a panic is caught
            lines.append(f"    {field.get('fn', '?')} ({place})")
    return html.unescape("\n".join(lines[:FRAMES_SHOWN]))


def check(name: str) -> bool:
    """Whether the tests on that server passed without a report of ours."""
    folder = REPORTS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = os.environ | {
        "CACHE_GUARD_WRAP": " ".join(valgrind(folder)),
        "CACHE_GUARD_SLOWER": f"{SLOWER}",
    }
    if name != "system":
        make = [ROOT / "scripts/servers.sh", SERVERS, name]
        if subprocess.run(make, env=os.environ | {"WITH_SYMBOLS": "yes"}, stdout=subprocess.DEVNULL).returncode:
            return False
        environment["REDIS_SERVER"] = f"{SERVERS}/{name}/bin/server"
    print(f"== {name} under valgrind", flush=True)
    start = time.monotonic()
    options = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "-m", CHOSEN, "-o", "timeout=1200"]
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", *options, *(os.environ.get("PYTEST_ARGS") or "").split(), *TESTS]
    status = subprocess.run(command, cwd=ROOT, env=environment).returncode
    found = reports(folder)
    ours = [report for report in found if MODULE in report]
    for text in sorted(set(map(told, ours))):
        print(text)
    runs = len(list(folder.glob("*.xml")))
    seconds = round(time.monotonic() - start)
    print(f"== {name}: {runs} servers, {len(ours)} reports of ours, {len(found) - len(ours)} of the server's own, {seconds} s")
    if status:
        print(f"== {name}: tests failed")
    return not ours and status == 0 and runs > 0


if __name__ == "__main__":
    install()
    sys.exit(0 if all([check(name) for name in sys.argv[1:] or NAMES]) else 1)
