"""Checkpoints as streams of tensors: read one by one, written in shards, so that no model need fit in memory twice."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

# What Hugging Face writes by default; small enough that a shard in memory does not matter.
MAX_SHARD_BYTES = 4_000_000_000
_INDEX = "model.safetensors.index.json"


class CheckpointTensors:
    """The tensors of a checkpoint folder, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = self._locate()

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the files' order."""
        return tuple(self._files)

    def read(self, name: str) -> Any:
        """One tensor. Raises: ValueError: there is none of this name, or it holds NaN or infinite values."""
        if name not in self._files:
            raise ValueError(f"the checkpoint has no tensor {name!r}")
        with safe_open(self._folder / self._files[name], framework="pt") as file:
            tensor = file.get_tensor(name)
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds NaN or infinite values; the checkpoint is damaged")
        return tensor

    def _locate(self) -> dict[str, str]:
        index = self._folder / _INDEX
        if index.is_file():
            return dict(json.loads(index.read_text("utf-8"))["weight_map"])
        where: dict[str, str] = {}
        for path in sorted(self._folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                where |= dict.fromkeys(file.keys(), path.name)
        return where


def write_shards(tensors: Iterable[tuple[str, Any]], output: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> int:
    """Number of weights written, as `model.safetensors` or as shards with their index.

    Effects: fills `output`; parts have other names until all are there.
    """
    parts: list[list[str]] = []
    held: dict[str, Any] = {}
    held_bytes, total_bytes, num_weights = 0, 0, 0

    def flush() -> None:
        nonlocal held, held_bytes
        save_file(held, output / f"part-{len(parts)}.tmp", metadata={"format": "pt"})
        parts.append(list(held))
        held, held_bytes = {}, 0

    for name, tensor in tensors:
        num_bytes = tensor.numel() * tensor.element_size()
        if held and held_bytes + num_bytes > max_shard_bytes:
            flush()
        held[name] = tensor.contiguous()
        held_bytes += num_bytes
        total_bytes += num_bytes
        num_weights += tensor.numel()
    flush()
    _name_parts(parts, output, total_bytes)
    return num_weights


def _name_parts(parts: list[list[str]], output: Path, total_bytes: int) -> None:
    for number in range(len(parts)):
        (output / f"part-{number}.tmp").chmod(0o644)  # safetensors leaves a file that nobody else may read
    if len(parts) == 1:
        (output / "part-0.tmp").replace(output / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(parts):
        file_name = f"model-{number + 1:05d}-of-{len(parts):05d}.safetensors"
        (output / f"part-{number}.tmp").replace(output / file_name)
        weight_map |= dict.fromkeys(names, file_name)
    content = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (output / _INDEX).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
