"""A real server in a folder of its own: start, stop, kill, restart, look inside.

A server listens on 127.0.0.1 and on a unix socket (which clients prefer). It keeps nothing on disk unless asked to. Whoever stops it learns whether it crashed: a bug report or a panic in the log is an AssertionError.

Environment: REDIS_SERVER names the binary (else redis-server, else valkey-server from PATH), CACHE_GUARD_MODULE the
library (else target/release/libcache_guard.so), CACHE_GUARD_WRAP a program with its options that servers run under, and
CACHE_GUARD_SLOWER how many times longer than usual everything may take then.
"""

import atexit
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .eventually import SLOWER, eventually
from .herd import Herd
from .raw import Address, RawClient, RespError

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT = 30 * SLOWER
STOP_TIMEOUT = 20 * SLOWER
LOG_TAIL_LINES = 60
CRASH_MARKS = re.compile(
    r"BUG REPORT START|panicked at|cacheguard: panic|AddressSanitizer|ASSERTION FAILED", re.IGNORECASE
)

CONFIG_DEFAULT = {
    "bind": "127.0.0.1",
    "save": '""',
    "appendonly": "no",
    "maxclients": "12000",
    "repl-diskless-sync-delay": "0",
    "shutdown-timeout": "0",
    "crash-memcheck-enabled": "no",
    "enable-debug-command": "yes",
    "enable-module-command": "yes",
    "lazyfree-lazy-user-flush": "no",
}


def server_binary() -> str:
    named = os.environ.get("REDIS_SERVER")
    found = shutil.which(named) if named else shutil.which("redis-server") or shutil.which("valkey-server")
    if not found:
        raise FileNotFoundError(f"no server binary: {named or 'redis-server'} (set REDIS_SERVER)")
    return found


def module_path() -> Path:
    return Path(os.environ.get("CACHE_GUARD_MODULE", ROOT / "target/release/libcache_guard.so")).resolve()


@cache
def binary_version(binary: str) -> tuple[bool, tuple[int, ...]]:
    """Whether it is Valkey, and its own version (Valkey's, not the Redis version it claims)."""
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    numbers = re.search(r"v=(\d+)\.(\d+)\.(\d+)", text)
    assert numbers, text
    return "valkey" in text.lower(), tuple(map(int, numbers.groups()))


def free_port() -> int:
    """A TCP port that nobody listens on, below the ephemeral range and with room for a cluster bus port."""
    while True:
        port = random.SystemRandom().randrange(10_000, 22_000)
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) != 0:
                return port


class Server:
    """One server process; `with Server() as server:` starts and stops it.

    `module_args` are the arguments of `loadmodule`, `config` overrides or adds lines of the configuration file,
    `args` are command line arguments, `wrap` a program to run it under, `env` is added to its environment. `module=None` starts the plain server. `port=0` picks a free one. `dir` is the
    folder of its data, by default one in `home`, which also has its log, configuration and socket and goes with `close`.
    """

    running: ClassVar[set["Server"]] = set()

    def __init__(
        self,
        *,
        module: Path | None | bool = True,
        module_args: Sequence[str | int] = (),
        config: Mapping[str, str | int] | None = None,
        args: Sequence[str] = (),
        wrap: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        appendonly: bool = False,
        port: int = 0,
        dir: Path | None = None,
        binary: str | None = None,
        name: str = "server",
    ) -> None:
        self.binary = binary or server_binary()
        self.is_valkey, self.version = binary_version(self.binary)
        self.module = module_path() if module is True else module or None
        self.module_args, self.args, self.name = tuple(module_args), tuple(args), name
        self.wrap = tuple(wrap) or tuple(shlex.split(os.environ.get("CACHE_GUARD_WRAP", "")))
        self.env = dict(env or {})
        self.config = CONFIG_DEFAULT | {key: str(value) for key, value in (config or {}).items()}
        if appendonly:  # written before every answer: else kill9 may lose, on any server, what was acknowledged
            self.config = {"appendfsync": "always"} | self.config | {"appendonly": "yes"}
        self.port, self._port_wanted = port, port
        self.home = Path(tempfile.mkdtemp(prefix="cg-"))
        self.dir = Path(dir or self.home / "data")
        self.dir.mkdir(exist_ok=True)
        self.primary: Server | None = None
        self.expect_crash = False
        self._process: subprocess.Popen | None = None
        self._clients: list[Any] = []
        self._control: RawClient | None = None
        self._log_checked = 0

    # Life

    def start(self) -> "Server":
        """Starts the process and waits until it answers; another port is tried if somebody took ours."""
        assert not self.is_running, f"{self} runs already"
        for attempt in range(5):
            self.port = self._port_wanted or free_port()
            self._write_config()
            with open(self.log_path, "ab") as log:
                log_start = log.tell()
                self._process = subprocess.Popen(
                    [*self.wrap, self.binary, str(self.home / "server.conf"), *self.args],
                    cwd=self.home,
                    env=os.environ | self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            Server.running.add(self)
            try:
                self.wait_until_ready()
                return self
            except BaseException:
                self._end(signal.SIGKILL)
                taken = "Address already in use" in self.log()[log_start:]
                if self._port_wanted or not taken or attempt == 4:
                    raise
        raise AssertionError("unreachable")

    def wait_until_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Waits until the data set is loaded and PING is answered."""

        def ready() -> bool:
            if not self.is_running:
                raise RuntimeError(f"{self} ended while starting:\n{self.log_tail()}")
            try:
                return self.control().call("PING") == b"PONG"
            except OSError:
                self._drop_control()
                return False

        eventually(ready, timeout, lambda: f"{self} is ready:\n{self.log_tail()}")

    def stop(self, save: bool = False) -> None:
        """Ends the server in good order and fails if it had crashed. `save` writes an RDB first."""
        if self.is_running and save:
            assert self.call("SAVE") == b"OK"
        self._end(signal.SIGTERM)
        self.check_log()

    def kill9(self) -> None:
        """Ends it as a power cut would."""
        self._end(signal.SIGKILL)
        self.check_log()

    def restart(self, kill: bool = False, save: bool = False, **changes: Any) -> "Server":
        """Ends it (SIGKILL with `kill`, after SAVE with `save`) and starts it on the same folder.

        `changes` sets attributes first: `config={...}` is merged, `binary=` and `module_args=` replace.
        """
        self.kill9() if kill else self.stop(save)
        for key, value in changes.items():
            if key == "config":
                value = self.config | {name: str(setting) for name, setting in value.items()}
            assert hasattr(self, key), key
            setattr(self, key, value)
        self.is_valkey, self.version = binary_version(self.binary)
        return self.start()

    def close(self) -> None:
        """Stops it and removes its folder."""
        try:
            self.close_clients()
            self.stop()
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> "Server":
        try:
            return self if self.is_running else self.start()
        except BaseException:
            shutil.rmtree(self.home, ignore_errors=True)
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            print(f"---- {self}, end of its log ----\n{self.log_tail()}", file=sys.stderr)
            self.expect_crash = True  # the error under way says more
        self.close()

    # Clients

    @property
    def socket_path(self) -> str:
        return str(self.home / "server.sock")

    def address(self, tcp: bool = False) -> Address:
        return ("127.0.0.1", self.port) if tcp else self.socket_path

    def client(self, protocol: int = 2, tcp: bool = False, **options: Any) -> redis.Redis:
        """redis-py, replies as bytes, no retries."""
        where = {"host": "127.0.0.1", "port": self.port} if tcp else {"unix_socket_path": self.socket_path}
        options = {"socket_timeout": 30 * SLOWER, "retry": Retry(NoBackoff(), 0)} | options
        return self._remember(redis.Redis(protocol=protocol, decode_responses=False, **where, **options))

    def raw(
        self, protocol: int = 2, tcp: bool = False, timeout: float = 10, auth: tuple[str, str] | None = None
    ) -> RawClient:
        return self._remember(RawClient(self.address(tcp), protocol, timeout, auth))

    def herd(self, count: int, protocol: int = 2, tcp: bool = False) -> Herd:
        """`count` connections in one epoll loop."""
        return self._remember(Herd(self.address(tcp), count, protocol))

    def close_clients(self) -> None:
        """Closes every client made by client(), raw() and herd()."""
        while self._clients:
            self._clients.pop().close()

    def control(self) -> RawClient:
        """The harness's own RESP2 connection, which tests may use for questions that do not wait."""
        if self._control is None:
            self._control = RawClient(self.socket_path, 2, 30 * SLOWER)
        return self._control

    def call(self, *args: Any) -> Any:
        """A command on the control connection; an error reply is an AssertionError."""
        reply = self.control().call(*args)
        assert not isinstance(reply, RespError), f"{self}: {args[0]}: {reply}"
        return reply

    # Looking inside

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log_path(self) -> Path:
        return self.home / "server.log"

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def check_log(self) -> None:
        """AssertionError if the log tells of a crash or a panic since the last check."""
        text = self.log()
        fresh, self._log_checked = text[self._log_checked :], len(text)
        if (mark := CRASH_MARKS.search(fresh)) and not self.expect_crash:
            raise AssertionError(
                f"{self} crashed or panicked:\n{fresh[max(0, mark.start() - 500) : mark.start() + 4000]}"
            )

    def assert_alive(self) -> None:
        """It runs, answers, and neither crashed nor panicked."""
        self.check_log()
        assert self.is_running, f"{self} is gone:\n{self.log_tail()}"
        assert self.call("PING") == b"PONG"

    def info(self, section: str = "everything") -> dict[str, int | float | str]:
        """INFO of a section; numbers as numbers."""
        fields: dict[str, int | float | str] = {}
        for line in self.call("INFO", section).decode(errors="replace").splitlines():
            key, colon, value = line.partition(":")
            if colon and not line.startswith("#"):
                fields[key] = _number(value)
        return fields

    def stats(self) -> dict[str, int | float | str]:
        """INFO cacheguard without the server's prefix on its fields."""
        return {key.removeprefix("cacheguard_"): value for key, value in self.info("cacheguard").items()}

    def command_names(self) -> list[str]:
        """The module's commands in capitals, sorted."""
        names = self.call("COMMAND", "LIST", "FILTERBY", "MODULE", "cacheguard")
        return sorted(name.decode().upper() for name in names)

    def digest(self) -> bytes:
        """DEBUG DIGEST: equal data sets have equal digests."""
        return self.call("DEBUG", "DIGEST")

    def digest_value(self, *keys: bytes | str) -> list[bytes]:
        return self.call("DEBUG", "DIGEST-VALUE", *keys)

    # Replication

    def replica_of(self, primary: "Server | None") -> None:
        """Makes it a replica of another server, or a primary again with None."""
        self.primary = primary
        self.call("REPLICAOF", *(("127.0.0.1", primary.port) if primary else ("NO", "ONE")))

    def wait_for_sync(self, timeout: float = 30) -> None:
        """Waits until it has everything that its primary has replicated when this is called."""
        assert self.primary is not None, "replica_of first"
        wanted = self.primary.info("replication")["master_repl_offset"]

        def synced() -> bool:
            state = self.info("replication")
            return state.get("master_link_status") == "up" and state["slave_repl_offset"] >= wanted

        eventually(synced, timeout, lambda: f"{self} follows {self.primary}: {self.info('replication')}")

    def __repr__(self) -> str:
        family = "valkey" if self.is_valkey else "redis"
        return f"<{self.name} {family} {'.'.join(map(str, self.version))} port {self.port}>"

    def _remember(self, client: Any) -> Any:
        self._clients.append(client)
        return client

    def _drop_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _write_config(self) -> None:
        lines = [f"{key} {value}" for key, value in self.config.items()]
        lines += [f"port {self.port}", f"unixsocket {self.socket_path}", f"dir {self.dir}"]
        if self.module:
            assert self.module.exists(), f"{self.module} is not built: make build"
            lines.append(" ".join(["loadmodule", str(self.module), *map(str, self.module_args)]))
        (self.home / "server.conf").write_text("\n".join(lines) + "\n")

    def _end(self, how: signal.Signals) -> None:
        self._drop_control()
        Server.running.discard(self)
        if not self.is_running:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"{self} did not end within {STOP_TIMEOUT} s:\n{self.log_tail()}") from None


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


@atexit.register
def _kill_what_runs() -> None:
    for server in list(Server.running):
        if server._process is not None and server._process.poll() is None:
            server._process.kill()
