"""Whether weights are finite, looked at before work is spent on them.

One NaN makes every output NaN; better told at once than after an hour of compression. Weights are judged by their
exponent bits, so nothing is converted and no torch is needed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from lightship.artifacts.checkpoint import Checkpoint, shard_paths
from lightship.artifacts.safetensors_header import TensorEntry, data_offset, read_safetensors_header
from lightship.errors import CheckpointError
from lightship.ports.variants import WeightFormat

# An element is NaN or infinite when all these bits are set: the exponent; for E4M3, which has no infinity, all but the
# sign. Source: IEEE 754-2019, section 3.4; OCP 8-bit Floating Point Specification 1.0, section 5.
_ALL_SET = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}
# Masks among the buffers of some checkpoints are infinite, and are meant to be.
_WEIGHT_NAMES = (".weight", ".bias")
_SLICE_BYTES = 2**26


def check_finite(checkpoint: Checkpoint) -> None:
    """Returns when no weight or bias of the checkpoint is NaN or infinite; other formats are not looked at.

    Raises: CheckpointError: one is; names the tensor.
    """
    if checkpoint.weight_format is WeightFormat.SAFETENSORS:
        _check_folder(checkpoint.folder, checkpoint.digest)


@lru_cache(maxsize=16)
def _check_folder(folder: Path, digest: str) -> None:
    """Looks once at each content: several recipes of one source follow each other."""
    del digest
    for path in shard_paths(folder):
        start = data_offset(path)
        for entry in read_safetensors_header(path):
            if entry.dtype in _ALL_SET and entry.name.endswith(_WEIGHT_NAMES) and entry.num_bytes:
                _check_tensor(path, entry, start)


def _check_tensor(path: Path, entry: TensorEntry, start: int) -> None:
    kind, bits = _ALL_SET[entry.dtype]
    mask = np.array(bits, dtype=kind)
    step = _SLICE_BYTES // mask.itemsize
    num_bad = 0
    for first in range(0, entry.num_elements, step):
        count = min(step, entry.num_elements - first)
        offset = start + entry.begin + first * mask.itemsize
        elements = np.fromfile(path, dtype=mask.dtype, count=count, offset=offset)
        num_bad += int(np.count_nonzero((elements & mask) == mask))
    if num_bad:
        raise CheckpointError(
            f"{num_bad:,} of the {entry.num_elements:,} values of {entry.name!r} are NaN or infinite",
            where=str(path),
            hint="Take a checkpoint from before the training diverged, or copy the file again.",
        )
