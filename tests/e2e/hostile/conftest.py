"""A real gateway process and what tests that mistreat it look at: its answers, its counters, its memory."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lightship.engines.process import WorkerProcess, free_port
from lightship.engines.simulated.adapter import SimulatedAdapter
from lightship.engines.simulated.config import SimulatedWorkerConfig
from lightship.gateway.config import GatewayConfig, encode_config
from lightship.ports.engine_profile import EngineLimits, EngineProfile, ProfileOrigin, ProfileSource, StepCosts

GOOD_MODEL = "good"
LIMITS = EngineLimits(max_batched_tokens=2048, kv_block_tokens=16, context_length=1024)
COSTS = StepCosts(step_s=0.001, prefill_token_s=1e-6, decode_token_s=1e-6)
_GAUGE = re.compile(r"^# TYPE (\S+) gauge$", re.M)
# Gauges of what begins and ends with a request.
_UNDER_WAY = re.compile(r"^(?!.*_created$).*(in_flight|flights|queue|waiting|reserved|pending|replica_work)")


@dataclass(frozen=True)
class Answer:
    """One HTTP answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_whole: bool

    @property
    def error(self) -> dict[str, Any]:
        """The error object of the body."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


@dataclass(frozen=True)
class GatewayProcess:
    """A running gateway, spoken to over bare sockets."""

    process: subprocess.Popen[str]
    host: str
    port: int

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://{self.host}:{self.port}"

    def connect(self, *, timeout_s: float = 15.0) -> socket.socket:
        """A new connection; every wait on it is bounded."""
        return socket.create_connection((self.host, self.port), timeout=timeout_s)

    def send(self, *pieces: bytes, timeout_s: float = 15.0) -> bytes:
        """All that comes back after these bytes until the gateway closes. Raises: TimeoutError: it does not."""
        with self.connect(timeout_s=timeout_s) as connection:
            with suppress(OSError):  # it may close on us; what it said before is still there
                for piece in pieces:
                    connection.sendall(piece)
            return read_all(connection)

    def post(self, path: str, body: bytes | object, *headers: str) -> Answer:
        """The answer to one request on a connection of its own."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [
            f"POST {path} HTTP/1.1",
            "host: x",
            "connection: close",
            "content-type: application/json",
            f"content-length: {len(content)}",
            *headers,
        ]
        return parse(self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content))

    def get(self, path: str) -> Answer:
        """The answer to one request on a connection of its own."""
        return parse(self.send(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode("latin-1")))

    def under_way(self) -> dict[str, float]:
        """Every gauge that must be zero when nothing is asked."""
        text = self.get("/metrics").body.decode()
        names = {name for name in _GAUGE.findall(text) if _UNDER_WAY.search(name)}
        assert "lightship_requests_in_flight" in names
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines if name.partition("{")[0] in names}

    def count(self, line_start: str) -> float:
        """A sum over metrics."""
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(line_start))

    def memory_bytes(self, name: str = "VmRSS") -> int:
        """Its memory now, or with `VmHWM` at its peak since `reset_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("utf-8")
        match = re.search(rf"^{name}:\s+(\d+) kB", status, re.M)
        assert match is not None
        return int(match[1]) * 1024

    def reset_peak(self) -> None:
        """Effects: the peak of memory is counted from now on."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", "utf-8")

    def is_calm(self) -> bool:
        """Whether nothing is under way."""
        return not any(self.under_way().values())

    def assert_unharmed(self, *, timeout_s: float = 10.0) -> None:
        """Asserts that every counter is back at zero, soon, and that the next client is served."""
        pause = threading.Event()
        end_s = time.monotonic() + timeout_s
        while not self.is_calm():
            assert time.monotonic() < end_s, f"still under way: {self.under_way()}"
            pause.wait(0.05)
        assert self.process.poll() is None
        answer = self.post("/v1/completions", {"model": GOOD_MODEL, "prompt": "Once", "max_tokens": 2})
        assert answer.status == 200, answer.body


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes, cleanly or not."""
    pieces: list[bytes] = []
    with suppress(ConnectionError):
        while piece := connection.recv(2**18):
            pieces.append(piece)
    return b"".join(pieces)


def parse(raw: bytes) -> Answer:
    """The first answer in these bytes."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    assert status_line.startswith("HTTP/1.1 "), raw[:200]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body, is_whole = _dechunk(body)
    else:
        length = int(headers.get("content-length", "0"))
        body, is_whole = body[:length], len(body) >= length
    return Answer(int(status_line.split(" ")[1]), headers, body, is_whole)


def _dechunk(body: bytes) -> tuple[bytes, bool]:
    parts: list[bytes] = []
    start = 0
    while (end := body.find(b"\r\n", start)) >= 0:
        size = int(body[start:end], 16)
        if size == 0:
            return b"".join(parts), body.startswith(b"\r\n", end + 2)
        parts.append(body[end + 2 : end + 2 + size])
        start = end + 2 + size + 2
    return b"".join(parts), False


@contextmanager
def gateway_process(config: GatewayConfig, folder: Path) -> Iterator[GatewayProcess]:
    """A gateway with this configuration on a free port; it must end well when it is told to stop."""
    path = folder / "gateway.json"
    path.write_bytes(encode_config(config))
    log_path = folder / "gateway.log"
    with log_path.open("w") as log:
        command = [sys.executable, "-m", "lightship.gateway", str(path)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, text=True)
    try:
        pause = threading.Event()
        end_s = time.monotonic() + 30
        while (match := re.search(r"listening on http://([\d.]+):(\d+)", log_path.read_text("utf-8"))) is None:
            assert process.poll() is None, log_path.read_text("utf-8")
            assert time.monotonic() < end_s, "the gateway did not start"
            pause.wait(0.05)
        yield GatewayProcess(process, match[1], int(match[2]))
        process.terminate()
        assert process.wait(20) == 0
        log_text = log_path.read_text("utf-8")
        for sign in ("Traceback", "was destroyed", "never retrieved", "never awaited"):  # of bugs, and of leaked tasks
            assert sign not in log_text, log_text[-8000:]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def simulated_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A simulated worker that answers well."""
    source = ProfileSource(origin=ProfileOrigin.ASSUMED, description="test")
    config = SimulatedWorkerConfig(
        model_name=GOOD_MODEL,
        variant_name="v",
        variant_digest="sha256:" + "ab" * 32,
        port=free_port(),
        profile=EngineProfile(name="test", costs=COSTS, limits=LIMITS, source=source),
        mean_answer_tokens=16,
        is_fault_admin=True,
    )
    folder = tmp_path_factory.mktemp("simulated")
    adapter = SimulatedAdapter()
    adapter.write_config(config, folder / "worker.json")
    process = WorkerProcess(
        name=GOOD_MODEL,
        command=adapter.worker_command(folder / "worker.json"),
        base_url=config.address,
        log_path=folder / "worker.log",
    )
    with asyncio.Runner() as runner:
        runner.run(process.start(startup_timeout_s=30.0))
        yield config.address
        runner.run(process.stop(drain_timeout_s=5.0))


@dataclass(frozen=True)
class Tools:
    """What the tests of this folder use."""

    gateway: Callable[[GatewayConfig, Path], Any] = gateway_process
    parse: Callable[[bytes], Answer] = parse
    read_all: Callable[[socket.socket], bytes] = read_all
    good_model: str = GOOD_MODEL


@pytest.fixture(scope="session")
def tools() -> Tools:
    """Starting a gateway and reading its answers."""
    return Tools()
