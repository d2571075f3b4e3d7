"""A checkpoint of given layer shapes, written by hand, and the context of a step."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lightship.artifacts.checkpoint import Checkpoint, inspect_checkpoint
from lightship.compression.steps.base import StepContext, TextFile

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
}
SHAPES = {
    "model.embed_tokens.weight": (32, 64),
    "model.layers.0.self_attn.q_proj.weight": (64, 64),
    "model.layers.0.self_attn.k_proj.weight": (32, 64),
    "model.layers.0.self_attn.v_proj.weight": (32, 64),
    "model.layers.0.self_attn.o_proj.weight": (64, 64),
    "model.layers.0.mlp.gate_proj.weight": (128, 64),
    "model.layers.0.mlp.up_proj.weight": (128, 64),
    "model.layers.0.mlp.down_proj.weight": (64, 128),
    "model.norm.weight": (64,),
}

MakeCheckpoint = Callable[..., Checkpoint]


def _safetensors(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    header: dict[str, Any] = {}
    position = 0
    for name, shape in shapes.items():
        end = position + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(position)


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    """Makes a checkpoint: `shapes` replaces or adds tensors, other arguments replace values of its config."""

    def make(*, shapes: Mapping[str, tuple[int, ...]] | None = None, **config: Any) -> Checkpoint:
        folder = tmp_path / "checkpoint"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG | config))
        (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
        (folder / "model.safetensors").write_bytes(_safetensors(SHAPES | dict(shapes or {})))
        return inspect_checkpoint(folder)

    return make


@pytest.fixture
def context_of(tmp_path: Path) -> Callable[[Checkpoint], StepContext]:
    """The context of a recipe that begins with a checkpoint."""
    calibration = TextFile(tmp_path / "calibration.jsonl", "sha256:calibration")
    return lambda checkpoint: StepContext(checkpoint, {}, calibration)
