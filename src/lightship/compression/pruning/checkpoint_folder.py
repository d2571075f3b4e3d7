"""Writes a checkpoint that differs from another one in its tensors: same files, same types, other values or shapes.

Runs in jobs (safetensors and torch). Tensors pass one shard at a time, so a model need not fit in memory twice.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

CONFIG, INDEX, PRUNING = "config.json", "model.safetensors.index.json", "pruning.json"
_WEIGHTS = ".safetensors"
# Records of how the parent was made, which would be read as the child's.
_NOT_INHERITED = frozenset({CONFIG, INDEX, "distillation.json", "training_curve.jsonl", "training_curve.svg"})

TensorChange = Callable[[str, torch.Tensor], tuple[str, torch.Tensor] | None]


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`."""
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
    return config


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes an object as people read it."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def copy_accompanying(source: Path, files: Sequence[str], output: Path) -> None:
    """Copies tokenizer, generation settings, licence and the like: what lies at the top and is no weights.

    What lies in folders stays behind: it was derived from the weights that are about to change.
    """
    for name in files:
        if "/" not in name and not name.endswith(_WEIGHTS) and name not in _NOT_INHERITED:
            shutil.copyfile(source / name, output / name)


def shards(folder: Path) -> dict[str, list[str]]:
    """Names of the tensors by file; with an index, exactly those that it lists."""
    if (folder / INDEX).exists():
        where: dict[str, str] = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
        return {file: [name for name, at in where.items() if at == file] for file in sorted(set(where.values()))}
    found = {}
    for path in sorted(folder.glob(f"*{_WEIGHTS}")):
        with safe_open(path, framework="pt") as tensors:
            found[path.name] = list(tensors.keys())
    return found


def tensors_of(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a checkpoint with its name."""
    for file, names in shards(folder).items():
        with safe_open(folder / file, framework="pt") as tensors:
            for name in names:
                yield name, tensors.get_tensor(name)


def write_weights(source: Path, output: Path, change: TensorChange) -> None:
    """Writes the source's tensors as `change` makes them; those for which it gives None stay out.

    Raises: ValueError: a tensor holds NaN or infinite values (names it).
    """
    where: dict[str, str] = {}
    contents = shards(source)
    total_bytes = 0
    for number, (file, names) in enumerate(contents.items(), start=1):
        changed: dict[str, torch.Tensor] = {}
        with safe_open(source / file, framework="pt") as tensors:
            for name in names:
                if (made := change(name, tensors.get_tensor(name))) is not None:
                    _check_finite(*made)
                    changed[made[0]] = made[1].contiguous()
        if not changed:
            continue
        target = "model.safetensors" if len(contents) == 1 else f"model-{number:05d}-of-{len(contents):05d}.safetensors"
        save_file(changed, output / target, metadata={"format": "pt"})
        (output / target).chmod(0o644)  # safetensors leaves a file that nobody else may read
        where |= dict.fromkeys(changed, target)
        total_bytes += sum(tensor.numel() * tensor.element_size() for tensor in changed.values())
    if len(contents) > 1:
        write_json(output / INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(where.items()))})


def _check_finite(name: str, tensor: torch.Tensor) -> None:
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise ValueError(f"tensor {name!r} holds NaN or infinite values; use another copy of the checkpoint")
