"""Whether this machine has the memory for a job, asked before it starts."""

from __future__ import annotations

import re
from pathlib import Path

from lightship.errors import ToolchainError
from lightship.units import format_bytes


def available_memory_bytes() -> int | None:
    """Memory that a new process can use without swapping; None where the system does not tell."""
    try:
        content = Path("/proc/meminfo").read_text("ascii")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s*(\d+) kB", content, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def check_memory(needed_bytes: int, *, title: str, available_bytes: int | None = None) -> None:
    """Returns when so much memory is available, or nobody knows how much there is.

    Raises: ToolchainError: there is less; the job would be killed half-way.
    """
    available = available_memory_bytes() if available_bytes is None else available_bytes
    if available is not None and available < needed_bytes:
        raise ToolchainError(
            f"about {format_bytes(needed_bytes)} of memory are needed, {format_bytes(available)} are available",
            where=title,
            hint="Stop what else runs here, use a machine with more memory, or take a recipe that needs less.",
        )
