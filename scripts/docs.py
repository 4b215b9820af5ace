"""Rewrites the derived head of each docs/commands/*.md from what a running server says of its commands.

    docs.py                     starts a server, writes
    docs.py --check [SOCKET]    writes nothing; status 1 and the list of pages that are out of date

A page is: the derived head, up to the END line, then whatever people wrote. A missing page gets a head only.
"""

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from harness import RawClient, Server, as_map  # noqa: E402

PAGES = ROOT / "docs/commands"
BEGIN = "<!-- Derived by `make docs` from the running server: change the command table instead. -->"
END = "<!-- End of the derived part. -->"


def usage(argument: dict[bytes, Any]) -> str:
    """One argument as in the manual: `[WAIT ms]`, `key [key ...]`, `<a | b>`."""
    flags = argument.get(b"flags", [])
    kind, token = argument[b"type"], argument.get(b"token", b"").decode()
    inner = [usage(as_map(each)) for each in argument.get(b"arguments", [])]
    name = argument.get(b"display_text", argument[b"name"]).decode()
    text = {b"oneof": " | ".join(inner), b"block": " ".join(inner), b"pure-token": ""}.get(kind, name)
    if kind == b"oneof" and b"optional" not in flags:
        text = f"<{text}>"
    if b"multiple_token" in flags:
        text = f"{token} {text} [{token} {text} ...]"
    else:
        if b"multiple" in flags:
            text = f"{text} [{text} ...]"
        text = f"{token} {text}".strip()
    return f"[{text}]" if b"optional" in flags else text


def words(items: Any) -> str:
    return " ".join(f"`{item.decode()}`" for item in sorted(items, key=bytes.lower))


def head(name: str, info: list[Any], docs: dict[bytes, Any]) -> str:
    """The derived head of a command's page."""
    lines = [f"# {name}", "", BEGIN, ""]
    if summary := docs.get(b"summary"):
        lines += [summary.decode().rstrip(".") + ".", ""]
    if arguments := docs.get(b"arguments"):
        lines += ["    " + " ".join([name, *(usage(as_map(each)) for each in arguments)]), ""]
    arity = int(info[1])
    key_specs = [as_map(each) for each in info[8]]
    rows = {
        "Since": docs.get(b"since", b"").decode(),
        "Complexity": docs.get(b"complexity", b"").decode(),
        "Arity": f"{arity}" if arity > 0 else f"{-arity} or more",
        "Flags": words(flag for flag in info[2] if flag != b"module"),
        "Keys": "; ".join(words(spec[b"flags"]) for spec in key_specs) or "none",
        "Tips": words(info[7]),
    }
    lines += ["| | |", "|---|---|", *(f"| {title} | {value} |" for title, value in rows.items() if value), "", END]
    return "\n".join(lines) + "\n"


def pages(client: RawClient) -> dict[Path, tuple[str, str]]:
    """Each command's page: as it is, and as it should be."""
    found = {}
    for name in sorted(client.call("COMMAND", "LIST", "FILTERBY", "MODULE", "cacheguard")):
        [info] = client.call("COMMAND", "INFO", name)
        docs = as_map(client.call("COMMAND", "DOCS", name))[name]
        path = PAGES / f"{name.decode().lower()}.md"
        now = path.read_text() if path.exists() else ""
        written = now.partition(END + "\n")[2] if END in now else "\n" + now
        found[path] = now, head(name.decode().upper(), info, as_map(docs)) + written
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", nargs="?", const="", metavar="SOCKET")
    check = parser.parse_args().check
    if check:
        with RawClient(check) as client:
            found = pages(client)
    else:
        with Server() as server:
            found = pages(server.raw())

    stale = {path: texts for path, texts in found.items() if texts[0] != texts[1]}
    for path, (now, wanted) in stale.items():
        if check is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted)
        else:
            name = str(path.relative_to(ROOT))
            sys.stdout.writelines(difflib.unified_diff(now.splitlines(True), wanted.splitlines(True), name, "derived"))
    print(f"docs: {len(found)} pages, {len(stale)} {'written' if check is None else 'out of date: make docs'}")
    return int(check is not None and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
