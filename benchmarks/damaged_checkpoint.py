"""A checkpoint damaged on purpose: what a gate must refuse.

    python benchmarks/damaged_checkpoint.py SOURCE OUT {zero-layer=3,int2}

SOURCE is a folder with bfloat16 `model.safetensors` (the built-in model's). `zero-layer=N` sets every weight of layer
N to zero, so that it passes its input on unchanged; `int2` rounds every matrix of the layers to four levels, per row.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

_COPIED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def damage(source: Path, out: Path, kind: str) -> None:
    """Effects: makes the folder `out`."""
    tensors = read_bfloat16(source / "model.safetensors")
    for name, tensor in tensors.items():
        if kind.startswith("zero-layer=") and f".layers.{kind.split('=')[1]}." in name:
            tensor[...] = 0.0
        elif kind == "int2" and ".layers." in name and tensor.ndim == 2:
            tensor[...] = to_four_levels(tensor)
    out.mkdir(parents=True)
    for name in _COPIED:
        shutil.copy(source / name, out / name)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def to_four_levels(matrix: np.ndarray) -> np.ndarray:
    """Each row rounded to the nearest of four evenly spaced values between its extremes."""
    low, high = matrix.min(axis=1, keepdims=True), matrix.max(axis=1, keepdims=True)
    step = np.maximum(high - low, np.float32(1e-12)) / np.float32(3)
    rounded: np.ndarray = low + step * np.round((matrix - low) / step)
    return rounded


def read_bfloat16(path: Path) -> dict[str, np.ndarray]:
    """The tensors in float32; bfloat16 is its upper half."""
    content = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + header_bytes])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            sys.exit(f"{name} is {entry['dtype']}, not BF16")
        begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        halves = np.frombuffer(content[begin:end], dtype="<u2").astype(np.uint32) << 16
        tensors[name] = halves.view(np.float32).reshape(entry["shape"]).copy()
    return tensors


if __name__ == "__main__":
    damage(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
