"""Fixtures: a server shared by the tests of a file, servers of one's own, clients in both protocols."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings

from harness import RawClient, Server, eventually

settings.register_profile(
    "default",
    deadline=None,
    print_blob=True,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("explore", settings.get_profile("default"), derandomize=False, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


class SharedServer(Server):
    """A server that is brought back to its first state between tests."""

    def start(self) -> "SharedServer":
        super().start()
        self._config_first = self._read_config()
        return self

    def reset(self) -> None:
        """Ends all clients, drops all data, undoes CONFIG SET; a new process if the old one is gone."""
        self.expect_crash = False
        self.close_clients()
        if not self.is_running:
            self.start()
        for kind in ("normal", "pubsub"):
            self.call("CLIENT", "KILL", "TYPE", kind)
        changed = self._read_config().items() - self._config_first.items()
        for name, _ in changed:
            self.call("CONFIG", "SET", name, self._config_first[name])
        self.call("FLUSHALL")
        # A flush ends leases in the turns that follow it.
        eventually(lambda: self.stats()["leases"] == 0)

    def _read_config(self) -> dict[bytes, bytes]:
        flat = self.call("CONFIG", "GET", "*")
        return dict(zip(flat[::2], flat[1::2]))


@pytest.fixture(scope="module")
def shared_server() -> Iterator[SharedServer]:
    server = SharedServer(name="shared server")
    with server:
        yield server
        server.assert_alive()
        assert server.stats()["panics"] == 0


@pytest.fixture
def server(shared_server: SharedServer) -> Iterator[SharedServer]:
    """An empty server with the module, shared by the tests of a file. Roles, ACLs and restarts need `fresh_server`."""
    shared_server.reset()
    yield shared_server
    shared_server.assert_alive()


@pytest.fixture
def fresh_server() -> Iterator[Callable[..., Server]]:
    """Starts servers for this test only: `fresh_server(appendonly=True, config={...})`; arguments as of Server."""
    started: list[Server] = []

    def start(**options: Any) -> Server:
        server = Server(name=f"server {len(started) + 1}", **options)
        started.append(server)
        return server.start()

    yield start
    failures = []
    for server in reversed(started):
        try:
            server.close()
        except AssertionError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def protocol(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def r(server: SharedServer, protocol: int) -> redis.Redis:
    """redis-py on the shared server, in both protocols."""
    return server.client(protocol)


@pytest.fixture
def connect(server: SharedServer, protocol: int) -> Callable[..., RawClient]:
    """Opens raw clients on the shared server, in the protocol of the test."""

    def open_client(**options: Any) -> RawClient:
        return server.raw(protocol, **options)

    return open_client


@pytest.fixture
def raw(connect: Callable[..., RawClient]) -> RawClient:
    """One raw client on the shared server, in both protocols."""
    return connect()


@pytest.fixture
def soak_seconds(request: pytest.FixtureRequest) -> float:
    """How long a test of the long run goes on: its share of SOAK_MINUTES (60) of all such tests that were chosen."""
    chosen = sum(item.get_closest_marker("soak") is not None for item in request.session.items)
    return float(os.environ.get("SOAK_MINUTES", "60")) * 60 / chosen


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of the long run have no time limit, and are run only where they are asked for by `-m`."""
    long = [item for item in items if item.get_closest_marker("soak")]
    for item in long:
        item.add_marker(pytest.mark.timeout(0))
    if "soak" not in config.getoption("markexpr"):
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Any:
    report = yield
    if report.failed:
        for server in Server.running:
            report.sections.append((f"log of {server}", server.log_tail()))
    return report
