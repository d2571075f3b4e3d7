"""Runs a job: a JSON file in, an artifact folder out, a subprocess in between, its log kept.

A job prints JSON lines on stdout: `{"event": "progress", "done": 3, "total": 10}` moves the bar,
`{"event": "error", "message": ...}` explains a failure, `{"event": "resources", "peak_rss_bytes": ...}` comes at the
end; everything else goes to the log.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightship.compression.toolchains import bootstrap
from lightship.errors import ToolchainError
from lightship.ports.progress import Progress, Task


@dataclass(frozen=True)
class JobSettings:
    """How to run one job.

    Args:
        python: The toolchain's interpreter.
        kind: Module name below `compression.jobs`.
        log_path: Receives all output; kept for people to read.
        timeout_s: The job is killed after this time.
    """

    python: Path
    kind: str
    log_path: Path
    timeout_s: float


@dataclass(frozen=True)
class JobCost:
    """What a job took; `peak_rss_bytes` is 0 where the system did not tell."""

    duration_s: float
    peak_rss_bytes: int


def run_job(settings: JobSettings, job: Mapping[str, Any], *, title: str, progress: Progress) -> JobCost:
    """Runs the job to its end; what it took.

    Raises: ToolchainError: it failed; the message is the job's own, the log is named.
    Effects: starts a subprocess, which is killed when this call is interrupted and ends when this process does.
    """
    settings.log_path.parent.mkdir(parents=True, exist_ok=True)
    job_path = settings.log_path.with_suffix(".job.json")
    job_path.write_text(json.dumps(job, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    argv = [str(settings.python), "-I", "-W", "ignore", bootstrap.__file__, settings.kind, str(job_path)]
    argv.append(bootstrap.EXIT_WITH_PARENT)
    followed = _Followed()
    started_s = time.monotonic()
    with progress.task(title) as task, settings.log_path.open("w", encoding="utf-8") as log:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        with _started(argv, pipes, title) as process:
            timer = threading.Timer(settings.timeout_s, process.kill)
            timer.start()
            try:
                for line in process.stdout or ():
                    log.write(line)
                    followed.read(line, task)
                code = process.wait()
            finally:
                timer.cancel()
                process.kill()
    if code != 0:
        reason = followed.message or _reason(code, settings.log_path)
        raise ToolchainError(reason, where=title, hint=f"The whole log: {settings.log_path}")
    return JobCost(time.monotonic() - started_s, followed.peak_rss_bytes)


def _started(argv: list[str], pipes: dict[str, Any], title: str) -> subprocess.Popen[str]:
    try:
        # A session of its own: the terminal's Ctrl-C then reaches only this process, which ends the job and cleans up.
        return subprocess.Popen(argv, text=True, start_new_session=True, **pipes)
    except OSError as error:
        raise ToolchainError(
            f"the toolchain's Python cannot be started: {error}",
            where=title,
            hint="Remove the toolchain (`lightship toolchain rm NAME`); it is made again on the next use.",
        ) from error


def _reason(code: int, log_path: Path) -> str:
    if code < 0:
        return f"it was killed (exit code {code}), perhaps for lack of memory"
    return _last_line(log_path) or f"it ended with exit code {code}"


@dataclass
class _Followed:
    """What a job said of itself so far: the message of an error, and its memory."""

    message: str | None = None
    peak_rss_bytes: int = 0

    def read(self, line: str, task: Task) -> None:
        """Applies one line of output."""
        if not line.startswith("{"):
            return
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            return  # some library printed a brace: it is in the log
        match event.get("event"):
            case "progress":
                task.advance(done=float(event["done"]), total=float(event["total"]), note=event.get("note"))
            case "error":
                self.message = str(event["message"])
            case "resources":
                self.peak_rss_bytes = int(event["peak_rss_bytes"])


def _last_line(log_path: Path) -> str:
    lines = log_path.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
