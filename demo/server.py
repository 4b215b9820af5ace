"""A real server of our own: started on a free loopback port, kept in a temporary folder, ended by its pid.

It keeps nothing on disk. REDIS_SERVER names the binary (else redis-server or valkey-server from PATH),
CACHE_GUARD_MODULE the library. Without the library, or where the server refuses it, the plain server is started and
`module_missing` says why: the demonstration then leaves out the one way that needs it.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from .resp import Incomplete, RespError, encode, parse

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT = 15.0
STOP_TIMEOUT = 10.0
START_ATTEMPTS = 5
SPARE_CLIENTS = 64


class Control:
    """One blocking connection, for questions to the server outside the measurement."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=START_TIMEOUT)
        self._rest = b""

    def call(self, *args: bytes | str | int) -> Any:
        """The reply to a command; an error reply is raised as RespError."""
        self._sock.sendall(encode(*args))
        while True:
            try:
                reply, end = parse(self._rest, 0)
                break
            except Incomplete:
                data = self._sock.recv(1 << 16)
                if not data:
                    raise ConnectionError("the server closed the connection") from None
                self._rest += data
        self._rest = self._rest[end:]
        if isinstance(reply, RespError):
            raise reply
        return reply

    def info(self, section: str) -> dict[str, str]:
        """The fields of a section of INFO."""
        lines = self.call("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def close(self) -> None:
        self._sock.close()


class Server:
    """`with Server(clients) as server:` starts one with room for that many connections, and ends it."""

    def __init__(self, clients: int) -> None:
        self.binary = find_binary()
        self.clients = clients
        self.port = 0
        self.version = ""
        self.module_missing = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._home = Path(tempfile.mkdtemp(prefix="stampede-"))

    def __enter__(self) -> "Server":
        module = Path(os.environ.get("CACHE_GUARD_MODULE", ROOT / "target/release/libcache_guard.so")).resolve()
        try:
            if not module.exists():
                self.module_missing = f"{module.name} is not built (make build)"
                self._start()
                return self
            try:
                self._start("--loadmodule", str(module))
            except RuntimeError as error:
                self.module_missing = f"the server refused {module.name}: {error}"
                self._start()
            return self
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        crash = self._crash()
        self.close()
        if crash:
            raise RuntimeError(f"the server crashed: {crash}")

    def close(self) -> None:
        """Ends the process and removes its folder."""
        self._end()
        shutil.rmtree(self._home, ignore_errors=True)

    def _start(self, *options: str) -> None:
        """Starts it; another port is tried if somebody took ours. RuntimeError if it ends by itself."""
        for attempt in range(START_ATTEMPTS):
            self.port = free_port()
            with open(self._home / "server.log", "wb") as log:
                self._process = subprocess.Popen(self._command(*options), stdout=log, stderr=log, cwd=self._home)
            try:
                self._await_ready()
                return
            except RuntimeError as error:
                self._end()
                if "Address already in use" not in str(error) or attempt + 1 == START_ATTEMPTS:
                    raise

    def _command(self, *options: str) -> list[str]:
        fixed = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self._home)]
        sized = ["--port", str(self.port), "--maxclients", str(self.clients + SPARE_CLIENTS), "--tcp-backlog", "511"]
        return [self.binary, *fixed, *sized, *options]

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(self._last_words())
            try:
                with closing(Control(self.port)) as control:
                    self.version = version_of(control.info("server"))
                return
            except (OSError, RespError):
                if time.monotonic() > deadline:
                    raise RuntimeError("the server does not answer") from None
                time.sleep(0.02)

    def _crash(self) -> str:
        """The line of the log that tells of a crash; empty if there is none. A crash nobody waited for counts too."""
        lines = (self._home / "server.log").read_text(errors="replace").splitlines()
        return next((line.split(" # ", 1)[-1] for line in lines if " crashed by signal" in line), "")

    def _last_words(self) -> str:
        lines = (self._home / "server.log").read_text(errors="replace").splitlines()
        marked = [line.split(" # ", 1)[1] for line in lines if " # " in line and "overcommit" not in line]
        return " / ".join(marked[-2:]) or (lines[-1] if lines else "no output")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def version_of(info: dict[str, str]) -> str:
    """The server's name and own version, from INFO."""
    return f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"


def find_binary() -> str:
    """The server to run; FileNotFoundError if there is none."""
    named = os.environ.get("REDIS_SERVER")
    found = shutil.which(named) if named else shutil.which("redis-server") or shutil.which("valkey-server")
    if not found:
        raise FileNotFoundError(f"no server binary: {named or 'redis-server'} (set REDIS_SERVER)")
    return found


def free_port() -> int:
    """A loopback port that is free at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
