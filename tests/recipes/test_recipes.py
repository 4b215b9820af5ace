"""The code of the pages in docs/recipes, taken from them and run. Each does what its page says."""

import asyncio
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from harness import Server, eventually
from harness.clock import Clock

PAGES = Path(__file__).resolve().parents[2] / "docs/recipes"
Recipe = dict[str, Any]


@pytest.fixture
def recipe(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Recipe]:
    """Runs a page's code, with the server of the test in place of the one on port 6379; its names."""

    def client(**options: Any) -> redis.Redis:
        if options.pop("port", None) == 6379:
            options |= {"unix_socket_path": server.socket_path, "socket_timeout": 30}
        return original(**options)

    original = redis.Redis
    monkeypatch.setattr(redis, "Redis", client)

    def run(page: str) -> Recipe:
        path = PAGES / f"{page}.md"
        [code] = re.finditer(r"^```python\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
        lines_above = path.read_text()[: code.start(1)].count("\n")
        names: Recipe = {"__name__": page}
        exec(compile("\n" * lines_above + code[1], str(path), "exec"), names)
        return names

    return run


class Origin:
    """A database: counts what it is asked, lets a test look at a load under way, and can fail."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.version, self.during, self.failure = 1, None, None
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, what: Any) -> bytes:
        value = f"{what} version {self.version}".encode()
        self.asked.append(what)
        assert self.gate.wait(30)
        if self.during:
            self.during, during = None, self.during
            during()
        if self.failure:
            raise self.failure
        return value


def together(count: int, call: Callable[[], Any]) -> list[Any]:
    """What `count` threads got that called at once; an exception as a value."""
    results: list[Any] = [None] * count

    def run(place: int) -> None:
        try:
            results[place] = call()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return results


def stampede(server: Server, origin: Origin, call: Callable[[], Any], count: int = 20) -> list[Any]:
    """`count` callers at once; the origin answers when all others wait."""
    origin.gate.clear()
    opener = threading.Thread(
        target=lambda: (eventually(lambda: server.stats()["waiters"] == count - 1, 20), origin.gate.set()), daemon=True
    )
    opener.start()
    results = together(count, call)
    opener.join()
    return results


def test_every_page_is_listed_and_run() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    listed = set(re.findall(r"\]\(([\w-]+)\.md\)", (PAGES / "README.md").read_text()))
    run = set(re.findall(r'recipe\("([\w-]+)"\)', Path(__file__).read_text()))
    assert pages == listed == run
    for page in pages:
        text = (PAGES / f"{page}.md").read_text()
        assert "**What you can rely on**" in text and "**What you cannot**" in text, page


def test_cache_aside(server: Server, recipe: Callable[[str], Recipe]) -> None:
    names, origin = recipe("cache-aside"), Origin()
    assert names["page"](7) == b"<h1>Page 7</h1>"
    names["load_page"] = origin
    assert stampede(server, origin, lambda: names["page"](1)) == [b"1 version 1"] * 20
    assert origin.asked == [1]
    origin.version = 2
    assert names["page"](1) == b"1 version 1"
    names["page_has_changed"](1)
    assert names["page"](1) == b"1 version 2"
    server.call("SET", "page:9", "native")
    assert names["page"](9) == b"native"


def test_cache_aside_with_token(server: Server, recipe: Callable[[str], Recipe]) -> None:
    names, origin = recipe("cache-aside-with-token"), Origin()
    names["load_page"] = origin
    page = names["page"]
    assert stampede(server, origin, lambda: page(1)) == [b"1 version 1"] * 20
    assert page(1) == b"1 version 1" and origin.asked == [1]

    def change() -> None:
        origin.version = 2
        names["page_has_changed"](1)

    names["page_has_changed"](1)
    origin.during = change
    assert page(1) == b"1 version 1", "read before the change"
    assert server.call("EXISTS", "page:1") == 0, "and not stored after it"
    assert page(1) == b"1 version 2"
    assert page(1) == b"1 version 2" and origin.asked == [1, 1, 1]

    server.call("CACHE.SETSM", "page:1", "old", 1, "STALE", 600_000)
    eventually(lambda: server.call("CACHE.GET", "page:1", "META")[0] == b"stale")
    assert sorted(together(10, lambda: page(1)))[0] in (b"1 version 2", b"old")
    assert page(1) == b"1 version 2" and len(origin.asked) == 4


def test_many_keys(server: Server, recipe: Callable[[str], Recipe]) -> None:
    names = recipe("many-keys")
    asked: list[int] = []
    load = names["load_pages"]
    names["load_pages"] = lambda numbers: asked.extend(numbers) or load(numbers)
    expected = {number: f"<h1>Page {number}</h1>".encode() for number in range(30)}
    lists = [list(range(30)), list(range(29, -1, -1)), list(range(10, 20)), [5, 5, 6]]
    iterator = iter(lists * 3)
    results = together(12, lambda: names["pages"](next(iterator)))
    assert all(result == {number: expected[number] for number in result} for result in results)
    assert sorted(asked) == list(range(30)), "each was loaded once"
    assert names["pages"]([]) == {}
    server.call("CACHE.GETSM", "page:99", "LEASE", 600_000)
    server.call("CONFIG", "SET", "cacheguard.wait-ms", 20)
    with pytest.raises(TimeoutError):
        names["pages"]([1, 99])


def test_pages_and_products(server: Server, recipe: Callable[[str], Recipe]) -> None:
    names = recipe("pages-and-products")
    page, changed = names["page"], names["product_changed"]
    assert page(1) == b"<h1>Page 1: [1, 2]</h1>"
    made: list[int] = []
    prices = {1: 10, 2: 20, 3: 30}
    during: list[Callable[[], None]] = []

    def load(number: int) -> tuple[bytes, list[int]]:
        made.append(number)
        products = [number, number + 1]
        html = repr([prices[product] for product in products]).encode()
        if during:
            during.pop()()
        return html, products

    names["load_page"] = load
    assert changed(2) == 1
    assert [page(1), page(2), page(1)] == [b"[10, 20]", b"[20, 30]", b"[10, 20]"] and made == [1, 2]
    prices[2] = 21
    assert changed(2) == 2
    assert (page(1), page(2)) == (b"[10, 21]", b"[21, 30]")

    def change_meanwhile() -> None:
        prices[1] = 11
        assert changed(1) == 0, "the page is not there, it is being made"

    server.call("CACHE.DEL", "page:1")
    during.append(change_meanwhile)
    assert page(1) == b"[11, 21]", "the first one was refused"
    assert page(1) == b"[11, 21]" and made == [1, 2, 1, 2, 1, 1]
    assert names["price_list_changed"](3) == 1
    assert server.call("CACHE.GET", "page:2", "META")[0] == b"stale"
    assert page(2) == b"[21, 30]" and server.call("CACHE.GET", "page:2", "META")[0] == b"hit"


def test_origin_failure(server: Server, recipe: Callable[[str], Recipe]) -> None:
    names, origin = recipe("origin-failure"), Origin()
    names["load_page"] = origin
    page, unavailable = names["page"], names["Unavailable"]
    origin.failure = names["DatabaseDown"]("no route")
    results = stampede(server, origin, lambda: page(1))
    assert {type(result) for result in results} == {unavailable} and origin.asked == [1]
    with pytest.raises(unavailable, match="try again in"):
        page(1)
    with pytest.raises(redis.ResponseError, match="FAILED no route"):
        server.client().execute_command("CACHE.GETSM", "page:1")

    server.call("CACHE.SETSM", "page:2", "old", 1, "STALE", 600_000)
    eventually(lambda: server.call("CACHE.GET", "page:2", "META")[0] == b"stale")
    assert [page(2), page(2), page(2)] == [b"old"] * 3 and origin.asked == [1, 2]

    origin.failure = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        page(3)
    origin.failure = None
    assert page(3) == b"3 version 1", "released, so that the next one may try at once"
    eventually(lambda: type(together(1, lambda: page(1))[0]) is bytes, timeout=10)
    assert server.stats()["leases"] == 0


def test_negative_caching(server: Server, recipe: Callable[[str], Recipe]) -> None:
    names = recipe("negative-caching")
    rows, asked = {"ada": b"Ada Lovelace"}, []
    names["load_user"] = lambda name: asked.append(name) or rows.get(name)
    user = names["user"]
    assert [user("ada"), user("bob"), user("bob"), user("ada")] == [b"Ada Lovelace", None, None, b"Ada Lovelace"]
    assert asked == ["ada", "bob"]
    assert 0 < server.call("PTTL", "user:bob") <= names["ABSENT_MS"] < server.call("PTTL", "user:ada")
    rows["bob"] = b"Bob"
    names["user_was_created"]("bob")
    assert user("bob") == b"Bob"

    def found_just_before(name: str) -> None:
        rows[name] = b"Eve"
        names["user_was_created"](name)

    names["load_user"] = found_just_before
    assert user("eve") is None, "asked before she was created"
    names["load_user"] = rows.get
    assert user("eve") == b"Eve"


def test_not_modified(server: Server, recipe: Callable[[str], Recipe]) -> None:
    names = recipe("not-modified")
    sent: list[Any] = []
    fetch = names["fetch"]

    def counted(number: int, etag: bytes | None) -> tuple[bytes | None, bytes]:
        body, newest = fetch(number, etag)
        sent.append((etag, body))
        return body, newest

    names["fetch"] = counted
    names["FRESH_MS"] = 30
    body = b"<h1>Page 1</h1>"
    assert names["page"](1) == body
    eventually(lambda: server.call("CACHE.GET", "page:1", "META")[0] == b"stale")
    names["FRESH_MS"] = 60_000
    assert names["page"](1) == body
    assert names["page"](1) == body
    assert sent == [(None, body), (b"v1", None)]
    assert server.call("CACHE.GET", "page:1", "META")[0] == b"hit"


def test_session(server: Server, recipe: Callable[[str], Recipe]) -> None:
    names = recipe("session")
    read, life = names["read"], names["LIFE_MS"]
    assert read("s") is None
    names["log_in"]("s", {"user": "ada"})
    assert read("s") == {"user": "ada"}
    server.call("PEXPIRE", "session:s", 60_000)
    assert read("s") == {"user": "ada"}
    assert life - 60_000 < server.call("PTTL", "session:s") <= life, "reading kept it alive"
    at = server.call("PEXPIRETIME", "session:s")
    read("s")
    assert server.call("PEXPIRETIME", "session:s") == at, "but not at each request"
    assert names["save"]("s", {"user": "ada", "cart": [1]}, 3) is True
    assert names["save"]("s", {"user": "ada"}, 2) is False
    assert read("s") == {"user": "ada", "cart": [1]}
    names["log_out"]("s")
    assert read("s") is None
    assert server.call("CACHE.TOUCH", "session:s", life) == 0


def test_one_connection(server: Server, recipe: Callable[[str], Recipe]) -> None:
    names, origin = recipe("one-connection"), Origin()
    names["load_page"] = origin
    news, shared = names["News"](), names["r"]
    clients = server.info("clients")["connected_clients"]

    origin.gate.clear()
    answered: list[bytes] = []
    readers = [threading.Thread(target=lambda: answered.append(names["page"](1, news)), daemon=True) for _ in range(10)]
    for reader in readers:
        reader.start()
    eventually(lambda: origin.asked and len(news.events[b"page:1"]) == 9, message="nine wait for the news")
    stats = server.stats()
    assert (stats["waiters"], server.info("clients")["connected_clients"]) == (0, clients), "none waits in the server"
    assert shared.ping(), "the connection is free"
    origin.gate.set()
    for reader in readers:
        reader.join(5)
    assert answered == [b"1 version 1"] * 10 and origin.asked == [1]

    token = shared.execute_command("CACHE.GETSM", "page:2", "LEASE", 60_000, "META")[2]
    with pytest.raises(TimeoutError):
        names["page"](2, news, wait_s=0.05)
    assert shared.execute_command("CACHE.RENEW", "page:2", token, 50) == 1
    assert names["page"](2, news) == b"2 version 1", "the lease ended without a value, and it asked again"
    news.pubsub.unsubscribe()
    eventually(lambda: not news.pubsub.subscribed, message="it does not listen any more")


def test_rate_limit_wsgi(server: Server, recipe: Callable[[str], Recipe]) -> None:
    names = recipe("rate-limit")
    names["POLICIES"].update(burst=(3, 600_000))
    names["RULES"][:2] = [3, 600_000]

    def app(environ: dict[str, str], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"hello"]

    def get(limited: Any, address: str) -> tuple[str, dict[str, str], bytes]:
        told: list[Any] = []
        body = b"".join(limited({"REMOTE_ADDR": address}, lambda *words: told.extend(words)))
        return told[0], dict(told[1]), body

    limited = names["LimitedWsgi"](app, names["r"])
    for left in (2, 1, 0):
        status, headers, body = get(limited, "::1")
        assert (status, body, headers["Content-Type"]) == ("200 OK", b"hello", "text/html")
        assert headers["RateLimit"] == f'"burst";r={left};t=600' and "Retry-After" not in headers
    assert headers["RateLimit-Policy"] == '"burst";q=3;w=600, "hour";q=1000;w=3600'
    status, headers, body = get(limited, "::1")
    assert (status, body) == ("429 Too Many Requests", b"too many requests\n")
    assert 500 < int(headers["Retry-After"]) <= 600 and headers["RateLimit"].startswith('"burst";r=0;t=')
    assert get(limited, "::2")[0] == "200 OK", "each client has a limit of its own"
    gone = names["LimitedWsgi"](app, redis.Redis(unix_socket_path="/nowhere"))
    assert get(gone, "::1")[2] == b"hello"


def test_rate_limit_asgi(server: Server, recipe: Callable[[str], Recipe]) -> None:
    names = recipe("rate-limit")
    names["POLICIES"].update(burst=(2, 600_000))
    names["RULES"][:2] = [2, 600_000]

    async def app(scope: dict[str, Any], receive: Any, send: Callable[..., Any]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"hello"})

    async def run() -> list[list[dict[str, Any]]]:
        client = redis.asyncio.Redis(unix_socket_path=server.socket_path)
        limited, seen = names["LimitedAsgi"](app, client), []
        for _ in range(3):
            sent: list[dict[str, Any]] = []

            async def send(message: dict[str, Any], sent: list[dict[str, Any]] = sent) -> None:
                sent.append(message)

            await limited({"type": "http", "client": ("::1", 5)}, None, send)
            seen.append(sent)
        await client.aclose()
        return seen

    answers = asyncio.run(run())
    assert [start["status"] for start, _ in answers] == [200, 200, 429]
    assert [body["body"] for _, body in answers] == [b"hello", b"hello", b"too many requests\n"]
    assert dict(answers[0][0]["headers"])[b"ratelimit"] == b'"burst";r=1;t=600'
    assert dict(answers[0][0]["headers"])[b"x"] == b"y"
    assert 500 < int(dict(answers[2][0]["headers"])[b"retry-after"]) <= 600


def test_pacing(server: Server, recipe: Callable[[str], Recipe]) -> None:
    names = recipe("pacing")
    made: list[int] = []
    refused = server.stats()["limits_refused"]
    assert together(20, lambda: names["in_turn"](made.append, 1)) == [None] * 20
    assert made == [1] * 20 and server.stats()["limits_refused"] == refused
    names["EVERY_MS"], names["WAIT_MS"] = 600_000, 1
    server.call("FLUSHALL")
    names["in_turn"](made.append, 1)
    with pytest.raises(names["Busy"]):
        names["in_turn"](made.append, 1)


def test_lock(server: Server, recipe: Callable[[str], Recipe]) -> None:
    names = recipe("lock")
    inside: list[int] = []

    def make() -> bytes:
        inside.append(1)
        assert sum(inside) == 1, "one at a time"
        inside.append(-1)
        return b"text"

    assert together(20, lambda: names["update_report"](1, make)) == [None] * 20
    assert server.call("CACHE.GET", "report:1") == b"text" and server.call("EXISTS", "lock:1") == 0

    names["TTL_MS"] = 60
    loser = names["Lock"]("lock:2")
    eventually(lambda: server.call("EXISTS", "lock:2") == 0, message="it was paused for too long")
    names["TTL_MS"] = 60_000
    with names["locked"]("lock:2") as successor:
        assert successor.fence > loser.fence
        successor.write("report:2", b"new")
        with pytest.raises(names["LockLost"]):
            loser.write("report:2", b"old")
        assert not loser.extend() and not loser.release()
        assert server.call("CACHE.GET", "report:2") == b"new"
        names["WAIT_MS"] = 20
        with pytest.raises(names["NotAcquired"]):
            names["Lock"]("lock:2")
        assert successor.take() == successor.fence, "asking again is safe"
        assert successor.extend()
    assert names["Lock"]("lock:2").fence > successor.fence


@pytest.mark.parametrize("count", [3, 5])
def test_redlock(fresh_server: Callable[..., Server], recipe: Callable[[str], Recipe], count: int) -> None:
    names = recipe("redlock")
    started = [fresh_server() for _ in range(count)]
    names["servers"] = [each.client(socket_timeout=5) for each in started]
    lock_of = names["Redlock"]
    fences: list[int] = []
    inside: list[int] = []

    def hold() -> bool:
        lock = lock_of("k")
        if not lock.take(30):
            return False
        inside.append(1)
        assert sum(inside) == 1, "one at a time"
        fences.append(lock.fence)
        inside.append(-1)
        lock.release()
        return True

    assert together(6, lambda: hold()) == [True] * 6
    assert fences == sorted(set(fences)) and len(fences) == 6, "numbers rise among all servers"

    for stopped in started[: count // 2]:
        stopped.kill9()
    assert together(4, lambda: hold()) == [True] * 4
    holder, other = lock_of("k"), lock_of("k")
    assert holder.take() and not other.try_once()
    started[0].start()  # it has forgotten everything, and its numbers rise all the same
    names["servers"][0] = started[0].client(socket_timeout=5)
    if count == 3:
        fence = holder.fence
        started[2].restart(kill=True)
        names["servers"][2] = started[2].client(socket_timeout=5)
        assert other.take() and other.fence > fence, "two of three have forgotten: the number is what is left"
    fences.append((other if count == 3 else holder).fence)
    assert fences == sorted(set(fences))

    for each in started:
        if each.is_running:
            each.kill9()
    assert not lock_of("k").take(0.05)


def test_redlock_does_not_follow_a_server_that_has_just_started(
    fresh_server: Callable[..., Server], recipe: Callable[[str], Recipe]
) -> None:
    """Its numbers are too far ahead for the others, so a client that asks for higher ones gets nothing for a minute."""
    names = recipe("redlock")
    with Clock() as clock:
        clock.set_ms(-180_000)
        started = [fresh_server(env=clock.env) for _ in range(2)]
        clock.set_ms(0)  # these two have run for three minutes
        started.append(fresh_server())
        names["servers"] = [each.client(socket_timeout=5) for each in started]
        assert started[1].call("CACHE.LOCK", "k", "other", 60_000)
        lock = names["Redlock"]("k")
        assert not lock.try_once(), "one of three has it, and one another number"
        started[1].call("CACHE.UNLOCK", "k", "other")
        assert lock.take(5)
        for each in started:
            each.kill9()
