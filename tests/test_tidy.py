"""The house rules, checked. Each test names every place that breaks its rule."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from harness import Server
from rust_source import code_only, functions, line_of, modules_for_tests

ROOT = Path(__file__).resolve().parents[1]
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
SAFETY_LINES_ABOVE_MAX = 6
CRATES_INDEX = "registry+https://github.com/rust-lang/crates.io-index"


@cache
def project_files() -> list[Path]:
    """What is or could be committed."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
    )
    if listed.returncode:
        pytest.skip("not a git work tree")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


@cache
def texts() -> dict[str, str]:
    """The text files of the project by their path in it."""
    found = {}
    for path in project_files():
        data = path.read_bytes()
        if b"\0" not in data:
            found[str(path.relative_to(ROOT))] = data.decode(errors="replace")
    return found


def sources(under: str = "src/") -> dict[str, str]:
    return {path: text for path, text in texts().items() if path.startswith(under) and path.endswith(".rs")}


def codes(under: str = "src/") -> dict[str, str]:
    """Rust files without comments and strings."""
    return {path: code_only(text) for path, text in sources(under).items()}


def hits(pattern: str, files: dict[str, str], flags: int = 0) -> list[str]:
    return [
        f"{path}:{line_of(text, match.start())}: {match[0].strip()}"
        for path, text in files.items()
        for match in re.finditer(pattern, text, flags)
    ]


def is_ffi(path: str) -> bool:
    return path == "src/server/ffi.rs" or path.startswith("src/server/ffi/")


def test_there_are_sources() -> None:
    assert {path.split("/")[1] for path in sources()} >= {"lib.rs", "engine", "server"}


def test_files_are_short() -> None:
    lengths = {path: text.count("\n") for path, text in sources().items()}
    assert not {path: length for path, length in lengths.items() if length > FILE_LINES_MAX}


def test_functions_are_short() -> None:
    tests_only = {name for code in codes().values() for name in modules_for_tests(code)}
    long = [
        f"{path}:{function.line}: {function.name} has {function.length} lines"
        for path, code in codes().items()
        if Path(path).stem not in tests_only
        for function in functions(code)
        if function.length > FUNCTION_LINES_MAX
    ]
    assert not long


def test_every_file_says_what_lives_there() -> None:
    assert not [path for path, text in sources().items() if not text.startswith("//!")]


def test_names_are_nouns_of_the_domain() -> None:
    vague = r"(^|/)[a-z_]*(utils?|helpers?|manager|common|misc)[a-z_]*\.(rs|py|sh)$"
    assert not [path for path in texts() if re.search(vague, path)]
    assert not hits(r"\bfn\s+(handle_\w+|do_\w+|\w+_impl)\b", codes())


def test_nothing_is_left_for_later() -> None:
    later = r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK"]) + r")\b|\b(todo|unimplemented)!\("
    assert not hits(later, {path: text for path, text in texts().items() if not path.endswith(".lock")})


def test_unsafe_stays_in_ffi() -> None:
    assert not hits(r"\bunsafe\b", {path: code for path, code in codes().items() if not is_ffi(path)})


def unjustified(path: str, text: str) -> Iterator[str]:
    """The `unsafe` blocks, impls and functions without a reason in the lines above.

    A private `extern "C"` function needs none: it is a callback, and its contract is the module API's.
    """
    lines, code = text.splitlines(), code_only(text)
    block, function = r"unsafe\s*(?:\{|impl\b|extern\b[^;{(]*\{)", r"unsafe\s+(?:extern\s+)?fn\s+\w+"
    for match in re.finditer(rf"\b(?:{block}|(?P<public>pub[^;{{}}]*)?{function})", code):
        if match["public"] is None and re.search(r"\bextern\s+fn\b", match[0]):
            continue
        line = line_of(code, match.start())
        first = line - 1
        while first > 0 and re.match(r"\s*(//|#\[)", lines[first - 1]):
            first -= 1
        above = lines[min(first, max(0, line - 1 - SAFETY_LINES_ABOVE_MAX)) : line]
        if not any("// SAFETY:" in each or "# Safety" in each for each in above):
            yield f"{path}:{line}"


def test_unsafe_is_justified() -> None:
    assert not [place for path, text in sources().items() for place in unjustified(path, text)]


def test_the_engine_is_pure() -> None:
    impure = r"\bredis_module\b|\b(?:std|core)::(?:time|fs|net|io|thread|process|env)\b|\b(?:Instant|SystemTime)\b"
    assert not hits(impure, codes("src/engine/"))
    assert not hits(r"\bcrate::server\b", codes("src/engine/"))


def test_nothing_speaks_of_the_machine_it_was_written_on() -> None:
    traces = [
        "/work" + "/",
        "/root" + "/",
        "/opt/" + "wheels",
        "/tmp/" + "cg/",
        r"\bcl" + r"aude\b",
        r"\bsub" + "agent",
    ]
    assert not hits("|".join(traces), texts(), re.IGNORECASE)


def test_packages_come_from_the_public_registries() -> None:
    foreign = [
        each for each in re.findall(r'^source = "(.*)"$', texts()["Cargo.lock"], re.MULTILINE) if each != CRATES_INDEX
    ]
    assert not foreign
    required = {path: text for path, text in texts().items() if path.endswith("requirements.txt")}
    assert not hits(r"^(?![\w.\[\]-]+==[\w.]+(?:\s*;.*)?$|#|$).+", required, re.MULTILINE)


def test_every_command_has_a_page_and_tests(shared_server: Server) -> None:
    names = [name.lower() for name in shared_server.command_names()]
    assert names
    wanted = [f"docs/commands/{name}.md" for name in names]
    assert not [path for path in wanted if path not in texts()]
    families = re.compile(r"tests/(cache|tag|lock|limit)/(test_\w+\.py)")
    tests = {match[2] for match in map(families.fullmatch, texts()) if match}
    assert not {f"test_{name.removeprefix('cache.').replace('.', '_')}.py" for name in names} - tests
    pages = {Path(path).stem for path in texts() if path.startswith("docs/commands/")} - {"README", "index"}
    assert not pages - set(names), "pages of commands that do not exist"


def test_the_pages_tell_what_the_server_tells(shared_server: Server) -> None:
    run = [sys.executable, str(ROOT / "scripts/docs.py"), "--check", shared_server.socket_path]
    check = subprocess.run(run, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr
