"""The pages as a whole: links lead somewhere, every page can be found, nothing is retyped, the words are plain ones."""

import re
from pathlib import Path

import pytest

from harness import Server

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PICTURE_BYTES_MAX = 40_000
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)

# Words of the code that mean nothing to a reader, and phrases of no English that people search for.
PRIVATE = [
    r"\bpump\w*",
    r"\b(?:outbox|roster|unheard|tally)\b",
    r"\bparked\b|\bparking\b",
    r"\bin doubt\b|\bdoubts?\b|\bdoubted\b",
    r"\bturns? of the (?:event )?loop\b|\bin the same turn\b|\bin one turn\b|\bnext turns?\b",
    r"\bin line\b|\bstands? in\b",
    r"\bhands? out\b|\bhanded out\b",
    r"\bpassed over\b|\bnever heard of it\b",
    r"\bwhole again\b",
    r"\bre-?arms?\b",
    r"\blets? (?:all|a|an) [\w ]{1,20} (?:be|last)\b",
    r"\bleases? (?:is|are) out\b|\blease out\b",
    r"\bdeposed\b|\bdearest\b",
    r"\bwhoever is next\b|\bwho (?:is|comes|asks|waits) (?:gone|next|second)\b",
]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without code and addresses, with its line breaks."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    text = BLOCK.sub(blank, page.read_text())
    text = re.sub(r"^ {4}\S.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "`code`", re.sub(r"\]\([^)]*\)", "]", text))


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    return LINK.findall(BLOCK.sub("", page.read_text()))


def target(page: Path, link: str) -> Path:
    """The file that a relative link names; a folder stands for its README."""
    path = (page.parent / link.partition("#")[0]).resolve() if not link.startswith("#") else page
    return path / "README.md" if path.is_dir() else path


def relative(page: Path) -> list[str]:
    return [link for link in links(page) if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in relative(page):
        path, anchor = target(page, link), link.partition("#")[2]
        if not path.exists() or anchor and anchor not in anchors(path):
            broken.append(link)
    assert not broken


def test_every_page_can_be_reached_from_the_readme() -> None:
    found, wanted = {README}, [README]
    while wanted:
        page = wanted.pop()
        for path in (target(page, link) for link in relative(page)):
            if path.suffix == ".md" and path not in found:
                found.add(path)
                wanted.append(path)
    assert not [name_of(page) for page in PAGES if page not in found]


def test_every_command_is_in_the_table_of_the_readme(shared_server: Server) -> None:
    linked = set(re.findall(r"\(docs/commands/([\w.]+)\.md\)", README.read_text()))
    assert linked == {name.lower() for name in shared_server.command_names()}


def test_every_setting_and_statistic_is_described(shared_server: Server) -> None:
    text = (ROOT / "docs/operations.md").read_text()
    settings = shared_server.call("CONFIG", "GET", "cacheguard.*")[::2]
    missing = [name.decode() for name in settings if f"| `{name.decode().removeprefix('cacheguard.')}` |" not in text]
    missing += [name for name in shared_server.stats() if f"| `{name}` |" not in text]
    assert not missing


def test_the_first_screen_has_one_picture_one_table_and_two_ways_to_try_it() -> None:
    first = README.read_text().partition("\n## The two commands")[0]
    assert len(re.findall(r"^!\[", first, re.MULTILINE)) == 1
    [columns] = re.findall(r"^(\|.*\|)\n\| ---", first, re.MULTILINE)
    assert columns.count("|") == 4
    assert "docker compose up" in first and "make run" in first


def test_the_table_of_the_readme_is_of_the_run_that_drew_the_picture() -> None:
    """`make demo` writes all three; nobody retypes a figure."""
    measured = (ROOT / "docs/img/stampede.md").read_text()
    rows = re.findall(r"^\| (.+) \| ([\d,.]+) \| [\d,]+ / [\d,]+ / ([\d,]+) ms \|", measured, re.MULTILINE)
    shown = re.findall(r"^\| (.+) \| ([\d,.]+) \| ([\d,]+) ms \|$", README.read_text(), re.MULTILINE)
    assert rows and rows == shown
    picture = (ROOT / "docs/img/stampede.svg").read_text()
    for title, calls, slowest in rows:
        assert all(f">{words}<" in picture for words in (title.strip("*"), calls, slowest)), title


def test_pictures_are_small_svg_files_with_text_as_text() -> None:
    pictures = [path for path in (ROOT / "docs/img").iterdir() if path.suffix != ".md"]
    used = {target(page, link) for page in PAGES for link in relative(page)}
    assert pictures
    for path in pictures:
        assert path.suffix == ".svg" and path in used, f"{path.name} is no linked SVG"
        text = path.read_text()
        assert len(text) <= PICTURE_BYTES_MAX and text.count("<text") > 5 and "<path" not in text, path.name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_words_are_plain(page: Path) -> None:
    if page.name == "glossary.md":
        return
    text = prose(page)
    found = [
        f"{name_of(page)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for pattern in PRIVATE
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert not found


def test_the_words_that_people_search_for_are_there() -> None:
    text = " ".join(page.read_text().lower() for page in PAGES)
    glossary = (ROOT / "docs/glossary.md").read_text().lower()
    for word in (
        "cache stampede", "thundering herd", "dogpile", "single-flight", "stale-while-revalidate", "fencing token",
        "sliding window", "token bucket", "rate limiter", "distributed lock", "semaphore", "negative caching",
    ):  # fmt: skip
        assert word in text and word in glossary, word


def test_headers_are_not_retyped() -> None:
    """A page of a command has one derived head, and no second syntax line of its own."""
    for page in (ROOT / "docs/commands").glob("*.md"):
        text = page.read_text()
        assert text.count("<!-- Derived by") == text.count("<!-- End of the derived part. -->") == 1, page.name
        below = text.partition("<!-- End of the derived part. -->")[2]
        assert not re.search(r"^ {4}(?:CACHE|CL)\.", below, re.MULTILINE), page.name
