"""How a long-running process gets its large blocks of memory."""

from __future__ import annotations

import contextlib
import ctypes

# `M_MMAP_THRESHOLD` of malloc.h.
_MMAP_THRESHOLD = -3
# Tables of bounded maps and large bodies are above it, answers and events below.
LARGE_BYTES = 2**20


def return_large_blocks() -> None:
    """Effects: blocks of `LARGE_BYTES` and more go back to the system as soon as they are freed.

    glibc raises the bound by itself, to up to 32 MiB, with the first large block that is freed. From then on a map that
    is full, and copies its table every so many insertions, leaves holes that small objects pin: memory creeps up for
    hours although nothing is kept. Where the C library has no such setting nothing happens.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, LARGE_BYTES)
