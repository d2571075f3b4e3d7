from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lightship.compression.toolchains.jobs import JobSettings, run_job
from lightship.errors import ToolchainError
from lightship.testing.recording_progress import RecordingProgress


def settings(tmp_path: Path, script: str, *, timeout_s: float = 30.0) -> JobSettings:
    """Settings whose interpreter ignores its arguments and runs `script` instead."""
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\n{script}\n", encoding="utf-8")
    python.chmod(0o755)
    return JobSettings(python, "any", tmp_path / "logs" / "job.log", timeout_s)


def test_run_job_progress_lines_move_the_bar(tmp_path: Path) -> None:
    progress = RecordingProgress()
    script = 'print("hello"); print(\'{"event": "progress", "done": 2, "total": 5}\')'
    run_job(settings(tmp_path, script), {"a": 1}, title="work", progress=progress)
    assert progress.titles == ["work"]
    assert progress.advances == [(2.0, 5.0)]
    assert "hello" in (tmp_path / "logs" / "job.log").read_text()
    assert '"a": 1' in (tmp_path / "logs" / "job.job.json").read_text()


def test_run_job_error_event_is_the_message(tmp_path: Path) -> None:
    script = 'print(\'{"event": "error", "message": "weights are NaN"}\'); raise SystemExit(1)'
    with pytest.raises(ToolchainError, match=r"weights are NaN.*job\.log"):
        run_job(settings(tmp_path, script), {}, title="work", progress=RecordingProgress())


def test_run_job_crash_without_event_quotes_the_last_line_of_the_log(tmp_path: Path) -> None:
    script = 'import sys; sys.stderr.write("first\\nout of memory\\n"); raise SystemExit(3)'
    with pytest.raises(ToolchainError, match="out of memory"):
        run_job(settings(tmp_path, script), {}, title="work", progress=RecordingProgress())


def test_run_job_over_its_time_limit_is_killed(tmp_path: Path) -> None:
    script = "import threading; threading.Event().wait(60)"
    with pytest.raises(ToolchainError, match="exit code -9"):
        run_job(settings(tmp_path, script, timeout_s=0.5), {}, title="work", progress=RecordingProgress())
