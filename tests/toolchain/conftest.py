"""The real toolchains, made once and kept, and jobs that are found among this machine's processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightship.artifacts.home import data_home
from lightship.compression.toolchains.definitions import COMPRESS, GGUF, OPENVINO_CONVERT, TRAIN, VLLM
from lightship.compression.toolchains.environment import ToolchainFolder
from lightship.ports.progress import SilentProgress

_PROC = Path("/proc")


@pytest.fixture(scope="session")
def toolchain_root() -> Path:
    """Folder of toolchains that outlives the test run: a gigabyte each is fetched once per machine, not per run."""
    named = os.environ.get("LIGHTSHIP_TEST_TOOLCHAINS")
    return Path(named) if named else data_home(os.environ) / "toolchains"


@pytest.fixture(scope="session")
def convert_python(toolchain_root: Path) -> Path:
    """Interpreter of the toolchain `openvino-convert`, installed on first use."""
    return ToolchainFolder(toolchain_root).ensure(OPENVINO_CONVERT, SilentProgress()).python


@pytest.fixture(scope="session")
def train_python(toolchain_root: Path) -> Path:
    """Interpreter of the toolchain `train`, installed on first use."""
    return ToolchainFolder(toolchain_root).ensure(TRAIN, SilentProgress()).python


@pytest.fixture(scope="session")
def compress_python(toolchain_root: Path) -> Path:
    """Interpreter of the toolchain `compress`, installed on first use."""
    return ToolchainFolder(toolchain_root).ensure(COMPRESS, SilentProgress()).python


@pytest.fixture(scope="session")
def gguf_python(toolchain_root: Path) -> Path:
    """Interpreter of the toolchain `gguf`, installed and compiled on first use (minutes)."""
    return ToolchainFolder(toolchain_root).ensure(GGUF, SilentProgress()).python


@pytest.fixture(scope="session")
def vllm_python(toolchain_root: Path) -> Path:
    """Interpreter of the toolchain `vllm`, installed on first use."""
    return ToolchainFolder(toolchain_root).ensure(VLLM, SilentProgress()).python


@pytest.fixture(scope="session")
def cuda_python() -> Path:
    """An interpreter with torch for CUDA, transformers and a device: the toolchain's own torch is for CPUs."""
    named = os.environ.get("LIGHTSHIP_TEST_CUDA_PYTHON")
    if not named:
        pytest.skip("NOT TESTED: set LIGHTSHIP_TEST_CUDA_PYTHON to a Python whose torch sees a CUDA device")
    return Path(named)


@dataclass(frozen=True)
class Processes:
    """What tests that kill jobs need to see."""

    @staticmethod
    def jobs(kind: str, home: Path) -> list[int]:
        """Process ids of the running jobs of that kind whose job file lies below `home`."""
        found = []
        for folder in _PROC.glob("[0-9]*"):
            try:
                argv = (folder / "cmdline").read_text("utf-8", errors="replace").split("\0")
            except OSError:
                continue  # it ended while we looked
            if kind in argv and any(argument.startswith(f"{home}/") for argument in argv):
                found.append(int(folder.name))
        return found

    @staticmethod
    def wait_until(is_true: Callable[[], bool], *, timeout_s: float = 120.0) -> None:
        """Polls, often enough to act on what was just written; fails when it does not happen in time."""
        pause = threading.Event()
        end = time.monotonic() + timeout_s
        while not is_true():
            assert time.monotonic() < end, f"not so within {timeout_s:g} s"
            pause.wait(0.005)


@pytest.fixture(scope="session")
def processes() -> Processes:
    """Looking at processes."""
    return Processes()
