"""A checkpoint damaged on purpose: what a gate must refuse, or a copy that differs a little.

    python benchmarks/damaged_checkpoint.py SOURCE OUT {zero-layer=3,round=2}

SOURCE is a folder with `model.safetensors` in bfloat16 or float32. `zero-layer=N` sets every weight of layer N to zero,
so that it passes its input on unchanged; `round=B` rounds every matrix of the layers to 2^B evenly spaced values per
row.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

_COPIED = (
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def damage(source: Path, out: Path, kind: str) -> Path:
    """Effects: makes the folder `out`, which is given back."""
    what, _, number = kind.partition("=")
    if what not in {"zero-layer", "round"} or not number.isdecimal():
        sys.exit(f"unknown damage {kind!r}")
    tensors = read_tensors(source / "model.safetensors")
    for name, tensor in tensors.items():
        if what == "zero-layer" and f".layers.{number}." in name:
            tensor[...] = 0.0
        elif what == "round" and ".layers." in name and tensor.ndim == 2:
            tensor[...] = to_levels(tensor, num_levels=2 ** int(number))
    out.mkdir(parents=True)
    for name in _COPIED:
        if (source / name).exists():
            shutil.copy(source / name, out / name)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def to_levels(matrix: np.ndarray, *, num_levels: int) -> np.ndarray:
    """Each row rounded to the nearest of evenly spaced values between its extremes."""
    low, high = matrix.min(axis=1, keepdims=True), matrix.max(axis=1, keepdims=True)
    step = np.maximum(high - low, np.float32(1e-12)) / np.float32(num_levels - 1)
    rounded: np.ndarray = low + step * np.round((matrix - low) / step)
    return rounded


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors in float32; bfloat16 is its upper half."""
    content = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + header_bytes])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(content[begin:end], dtype="<u2").astype(np.uint32) << 16).view(np.float32)
        elif entry["dtype"] == "F32":
            values = np.frombuffer(content[begin:end], dtype="<f4")
        else:
            sys.exit(f"{name} is {entry['dtype']}, neither BF16 nor F32")
        tensors[name] = values.reshape(entry["shape"]).copy()
    return tensors


if __name__ == "__main__":
    damage(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
