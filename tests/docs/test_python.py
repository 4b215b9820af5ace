"""The Python of the README and of the pages outside of recipes: it runs, and does what its page says."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from harness import Server, eventually

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RUN = {"README.md", "docs/commands/cache.tagscan.md", "docs/commands/cache.invalidate.md"}
SLOTS = 16_384


def code(page: str) -> Any:
    """The one block of a page, compiled with the page's lines."""
    text = (ROOT / page).read_text()
    [block] = BLOCK.finditer(text)
    return compile("\n" * text[: block.start(1)].count("\n") + block[1], page, "exec")


def test_every_block_is_run_here_or_with_the_recipes() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    with_code = {str(page.relative_to(ROOT)) for page in pages if BLOCK.search(page.read_text())}
    assert {page for page in with_code if not page.startswith("docs/recipes/")} == RUN


def test_the_readme(server: Server) -> None:
    loaded: list[int] = []
    names: dict[str, Any] = {"redis": server.client(), "load_from_database": lambda id: loaded.append(id) or b"<html>"}
    exec(code("README.md"), names)
    assert [names["page"](42), names["page"](42), names["page"](7)] == [b"<html>"] * 3
    assert loaded == [42, 7] and server.stats()["leases"] == 0


def test_a_scan_of_a_tag(server: Server) -> None:
    client = server.client()
    keys = {b"page:%d" % number for number in range(2_500)}
    for key in keys:
        client.execute_command("CACHE.SETSM", key, "v", 60_000, "TAGS", 1, "list")
    names: dict[str, Any] = {"r": client}
    exec(code("docs/commands/cache.tagscan.md"), names)
    assert set(names["keys"]) == keys and len(names["keys"]) == len(keys)


def test_an_invalidation_in_a_cluster(fresh_server: Callable[..., Server], capsys: pytest.CaptureFixture[str]) -> None:
    config = {"cluster-enabled": "yes", "cluster-node-timeout": 5_000}
    first, second = fresh_server(config=config), fresh_server(config=config)
    first.call("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS // 2 - 1)
    second.call("CLUSTER", "ADDSLOTSRANGE", SLOTS // 2, SLOTS - 1)
    first.call("CLUSTER", "MEET", "127.0.0.1", second.port)
    for node in (first, second):
        eventually(lambda node=node: b"cluster_state:ok" in node.call("CLUSTER", "INFO"), 30)
    client = redis.RedisCluster(host="127.0.0.1", port=first.port)
    try:
        for number in range(20):
            client.execute_command("CACHE.SETSM", f"page:{number}", "v", 60_000, "TAGS", 1, "list")
        assert min(node.call("DBSIZE") for node in (first, second)) > 0, "both nodes have some"
        exec(code("docs/commands/cache.invalidate.md"), {"r": client})
    finally:
        client.close()
    assert capsys.readouterr().out == "20\n"
    assert [node.call("DBSIZE") for node in (first, second)] == [0, 0]


def test_the_origin_of_the_demonstration_has_a_pool() -> None:
    """Twenty queries at once, the others queue first come, first served; without a pool all run at once."""
    sys.path.insert(0, str(ROOT))
    try:
        from demo.origin import Origin, number_of
    finally:
        sys.path.remove(str(ROOT))
    database = Origin(0.2, pool=20)
    answers = [database.begin(now=5.0) for _ in range(1_000)]
    assert answers == sorted(answers) and (database.calls, database.calls_at_once_max) == (1_000, 1_000)
    assert answers[19] == pytest.approx(5.2) and answers[20] == pytest.approx(5.4)
    assert answers[-1] == pytest.approx(15.0), "a thousand queries of 0.2 s, twenty at once"
    assert [number_of(database.deliver()) for _ in range(3)] == [1, 2, 3]
    assert database.begin(now=30.0) == pytest.approx(30.2), "by then the pool is idle"
    unlimited = Origin(0.2)
    assert {unlimited.begin(now=5.0) for _ in range(1_000)} == {5.2}
