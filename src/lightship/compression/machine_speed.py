"""What this machine moves and multiplies, measured with numpy in about two seconds. Not cached: the caller keeps it.

A rough figure for the roofline, on purpose without an engine: reading a working set of a given size with all cores, and
a product of float32 matrices.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lightship.artifacts.roofline import MachineSpeed
from lightship.errors import ToolchainError

_NUM_REPEATS = 5
# Bytes. Below this the start of the threads is what is measured; above it memory is, and more would only take longer.
_LEAST_BYTES, _MOST_BYTES = 2**23, 2**28
# Rows of a square float32 matrix: 12 MiB for three, so that a product is bound by arithmetic.
_MATRIX_ROWS = 1024

# How much faster than float32 on the same machine other arithmetic can be at best, by what brings it.
# Products per instruction of the same width: 2 for bf16 dot products, 4 for int8 (VNNI). A tile multiplies 16 x 16 x 32
# bf16 or 16 x 16 x 64 int8 in 16 cycles, 512 and 1024 a cycle, where two AVX-512 units do 32 in float32.
# Source: Intel 64 and IA-32 Architectures Optimization Reference Manual, chapters on VNNI and AMX.
_BF16_RATIOS = {"amx_bf16": 16.0, "avx512_bf16": 2.0, "bf16": 2.0}
_INT8_RATIOS = {"amx_int8": 32.0, "avx512_vnni": 4.0, "avx_vnni": 4.0, "i8mm": 8.0, "asimddp": 4.0}


def arithmetic_ratio(instruction_sets: tuple[str, ...], *, is_int8: bool) -> float:
    """How much faster than float32 products of 8-bit integers (or of 16-bit floats) can be on such a machine."""
    ratios = {**_BF16_RATIOS, **_INT8_RATIOS} if is_int8 else _BF16_RATIOS
    return max((ratios[name] for name in instruction_sets if name in ratios), default=1.0)


def measure_machine_speed(*, working_set_bytes: int, num_threads: int | None = None) -> MachineSpeed:
    """The best of several rounds, in float32 arithmetic.

    Args:
        working_set_bytes: How much is read over and over: as much as the model's weights, because what fits into the
            cache is read several times faster than memory.
        num_threads: Threads that read; all cores of this process by default.

    Raises: ToolchainError: numpy is not installed.
    Effects: keeps all cores busy for a second or two, takes the working set's memory.
    """
    try:
        import numpy as np
    except ImportError as error:
        raise ToolchainError(
            "the machine's speed is measured with numpy, and numpy is not installed",
            where="roofline",
            hint="Install it with `pip install 'lightship[local]'`.",
        ) from error
    threads = num_threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [None])
    return MachineSpeed(
        bandwidth_bytes_per_s=_read_bytes_per_s(np, min(max(working_set_bytes, _LEAST_BYTES), _MOST_BYTES), threads),
        flops_per_s=_flops_per_s(np),
    )


def _read_bytes_per_s(np: Any, num_bytes: int, num_threads: int) -> float:
    # A dot product reads two arrays, adds as it goes, and lets go of the interpreter lock.
    count = max(1, num_bytes // 4 // num_threads // 2)
    pairs = [(np.ones(count, np.float32), np.ones(count, np.float32)) for _ in range(num_threads)]
    best_s = float("inf")
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in range(_NUM_REPEATS):
            start = time.perf_counter()
            list(pool.map(lambda pair: np.dot(*pair), pairs))
            best_s = min(best_s, time.perf_counter() - start)
    return 8 * count * num_threads / best_s


def _flops_per_s(np: Any) -> float:
    left, right = (np.ones((_MATRIX_ROWS, _MATRIX_ROWS), np.float32) for _ in range(2))
    best_s = float("inf")
    for _ in range(_NUM_REPEATS):
        start = time.perf_counter()
        np.matmul(left, right)
        best_s = min(best_s, time.perf_counter() - start)
    return float(2 * _MATRIX_ROWS**3 / best_s)
