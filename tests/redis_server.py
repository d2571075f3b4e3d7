"""A real Redis for tests: `redis-server` on a free loopback port, without persistence, gone at the end.

Fixtures of every test: `redis_server`, an empty one that tests share, and `private_redis_server`, which a test may
kill, freeze and start again.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_START_TIMEOUT_S = 10.0


class RedisServer:
    """One `redis-server` process.

    Effects: a process and a folder, until `close`.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="redis-test-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self.start()

    @property
    def url(self) -> str:
        """The address, with database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts it on the same port, empty; returns when it takes commands."""
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._folder),
            "save": "",
            "appendonly": "no",
        }
        command = [_binary(), *(word for name, value in options.items() for word in (f"--{name}", value))]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._is_answering():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                log_text = (self._folder / "log").read_text("utf-8", "replace")
                self.close()
                raise RuntimeError(f"redis-server did not start: {log_text[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Ends it without a farewell, as a crash does; its content is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """A crash and a new, empty server at the same address."""
        self.kill()
        self.start()

    def stop_answering(self) -> None:
        """Freezes it: connections are taken and nothing is answered, until `answer_again`."""
        self._signal("STOP")

    def answer_again(self) -> None:
        """Ends `stop_answering`."""
        self._signal("CONT")

    def flush(self) -> None:
        """Removes everything in it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            assert connection.recv(64).startswith(b"+OK")

    def close(self) -> None:
        """Ends the process and removes the folder."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _signal(self, name: str) -> None:
        assert self._process is not None
        subprocess.run(["kill", f"-{name}", str(self._process.pid)], check=True)

    def _is_answering(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        return False


@pytest.fixture(scope="session")
def shared_redis_server() -> Iterator[RedisServer]:
    """One server for all tests; do not kill it."""
    server = _started_or_skipped()
    yield server
    server.close()


@pytest.fixture
def redis_server(shared_redis_server: RedisServer) -> RedisServer:
    """An empty server; do not kill it."""
    shared_redis_server.flush()
    return shared_redis_server


@pytest.fixture
def private_redis_server() -> Iterator[RedisServer]:
    """A server of this test alone, which may kill, freeze and restart it."""
    server = _started_or_skipped()
    yield server
    server.close()


def _started_or_skipped() -> RedisServer:
    if shutil.which("redis-server") is None:
        pytest.skip("REDIS IS NOT TESTED: no redis-server here; install it (Debian: apt-get install redis-server)")
    return RedisServer()


def _binary() -> str:
    binary = shutil.which("redis-server")
    assert binary is not None
    return binary


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
