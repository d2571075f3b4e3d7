"""A running system, started as a user starts it: `lightship up` with the built-in model."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightship.artifacts.home import data_home

STARTUP_TIMEOUT_S = 300.0


def ensure_environment(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment with these packages, made on first use and kept for later runs.

    Programs that clients use have dependencies of their own, which must not decide about ours.
    """
    text = "\n".join(requirements)
    root = os.environ.get("LIGHTSHIP_TEST_ENVIRONMENTS")
    folder = Path(root) if root else data_home(os.environ) / "test-environments"
    folder /= f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    python, note = folder / "bin" / "python", folder / "requirements.txt"
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
        note.write_text(text, "utf-8")  # last: an installation that was cut short begins again
    return python


@pytest.fixture(scope="session")
def environments() -> Callable[[str, Sequence[str]], Path]:
    """Environments of other programs."""
    return ensure_environment


@dataclass(frozen=True)
class RunningUp:
    """A started `lightship up`."""

    process: subprocess.Popen[str]
    base_url: str
    home: Path
    environment: dict[str, str]

    @property
    def model(self) -> str:
        """Name of the model it serves."""
        return "fairytales"


def environment_for(home: Path) -> dict[str, str]:
    """The environment of a user whose data lies in `home` and who lets the system choose a free port."""
    return {**os.environ, "LIGHTSHIP_HOME": str(home), "LIGHTSHIP__GATEWAY__LISTEN": "127.0.0.1:0"}


def start_up(home: Path, *arguments: str, folder: Path) -> RunningUp:
    """Starts `lightship up` and waits until it has printed its address."""
    environment = environment_for(home)
    home.mkdir(parents=True, exist_ok=True)
    log_path = folder / "up.log"
    command = [sys.executable, "-m", "lightship", "up", *arguments]
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=folder, start_new_session=True
        )
    for line in process.stdout or ():
        if match := re.match(r"(http://[^/]+)/v1 ", line):
            return RunningUp(process, match[1], home, environment)
    code = process.wait(STARTUP_TIMEOUT_S)
    if process.stdout is not None:
        process.stdout.close()
    raise AssertionError(f"lightship up ended with {code}: {log_path.read_text()}")


def stop_up(running: RunningUp, *, number: int = signal.SIGINT) -> int:
    """Sends the signal of Ctrl-C and waits for the end; the exit code."""
    running.process.send_signal(number)
    code = running.process.wait(timeout=60)
    if running.process.stdout is not None:
        running.process.stdout.close()
    return code


def wait_until(is_true: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Polls until the condition holds; fails when it does not within the limit."""
    pause = threading.Event()
    end = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end, f"not so within {timeout_s:g} s"
        pause.wait(0.1)


@dataclass(frozen=True)
class Systems:
    """What tests do with whole systems."""

    start: Callable[..., RunningUp] = start_up
    stop: Callable[..., int] = stop_up
    wait_until: Callable[..., None] = wait_until


@pytest.fixture(scope="session")
def systems() -> Systems:
    """Starting, stopping and waiting."""
    return Systems()


@pytest.fixture(scope="session")
def running_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUp]:
    """The built-in model's two plainest variants, measured and served."""
    folder = tmp_path_factory.mktemp("up")
    running = start_up(folder / "home", "--set", "variants=[fp16, quarter-depth]", folder=folder)
    yield running
    assert stop_up(running) == 0
