"""Worker processes: ready, early end, too slow, stop, memory. The workers here are ten lines of Python."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from lightship.engines.process import WorkerProcess, free_port
from lightship.errors import EngineError

SERVER = """
import http.server, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[2])); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER


def make(tmp_path: Path, program: str, *, status: int = 200) -> WorkerProcess:
    port = free_port()
    command = [sys.executable, "-c", program, str(port), str(status)]
    return WorkerProcess(
        name="w", command=command, base_url=f"http://127.0.0.1:{port}", log_path=tmp_path / "logs" / "w.log"
    )


def test_start_ready_worker_runs_until_stopped(tmp_path: Path) -> None:
    async def scenario() -> tuple[float, int, bool, int | None]:
        process = make(tmp_path, SERVER)
        started_s = await process.start(startup_timeout_s=20.0)
        memory_bytes, was_running = process.peak_rss_bytes(), process.is_running
        await process.stop(drain_timeout_s=5.0)
        await process.stop(drain_timeout_s=5.0)
        return started_s, memory_bytes, was_running, process.returncode

    started_s, memory_bytes, was_running, returncode = asyncio.run(scenario())
    assert 0 < started_s < 20
    assert memory_bytes > 2**20
    assert was_running
    assert returncode == -15


def test_start_worker_that_ends_early_tells_its_last_words(tmp_path: Path) -> None:
    process = make(tmp_path, "import sys; sys.exit('no such model')")
    with pytest.raises(EngineError, match=r"ended with status 1(.|\n)*no such model"):
        asyncio.run(process.start(startup_timeout_s=20.0))
    assert not process.is_running


def test_start_worker_never_ready_is_killed_after_its_budget(tmp_path: Path) -> None:
    process = make(tmp_path, STUBBORN, status=503)
    with pytest.raises(EngineError, match=r"not ready within 0\.5 s"):
        asyncio.run(process.start(startup_timeout_s=0.5))
    assert process.returncode is not None
    assert process.peak_rss_bytes() == 0


def test_stop_worker_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    async def scenario() -> int | None:
        process = make(tmp_path, STUBBORN)
        await process.start(startup_timeout_s=20.0)
        await process.stop(drain_timeout_s=0.1)
        return process.returncode

    assert asyncio.run(scenario()) == -9


def test_start_missing_program_is_an_engine_error(tmp_path: Path) -> None:
    process = WorkerProcess(
        name="w", command=[str(tmp_path / "none")], base_url="http://127.0.0.1:1", log_path=tmp_path / "w.log"
    )
    with pytest.raises(EngineError, match="cannot start"):
        asyncio.run(process.start(startup_timeout_s=1.0))


def test_log_tail_is_of_this_start_only(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "w.log").write_text("words of an earlier worker\n")
    process = make(tmp_path, "raise SystemExit('mine')")
    with pytest.raises(EngineError):
        asyncio.run(process.start(startup_timeout_s=20.0))
    assert process.log_tail() == "mine"
