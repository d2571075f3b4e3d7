"""Tiny checkpoints, written by hand from the format's description, and a clock that stands still."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GRAPH = (
    '<?xml version="1.0"?><net name="m" version="11"><layers>'
    '<layer id="0" name="w" type="Const"><data element_type="f16" shape="4, 2" offset="0" size="16"/></layer>'
    '<layer id="1" name="w/scale" type="Const"><data element_type="f16" shape="4, 1" offset="16" size="8"/></layer>'
    '<layer id="2" name="axes" type="Const"><data element_type="i64" shape="1" offset="24" size="8"/></layer>'
    '<layer id="3" name="add" type="Add"/></layers></net>'
)
GRAPH_WEIGHT_BYTES = 32


class FixedClock:
    """A clock that shows one moment; waiting with it never ends by itself."""

    def __init__(self, unix_s: float = 1_700_000_000.5) -> None:
        self._unix_s = unix_s

    def monotonic_s(self) -> float:
        return 0.0

    def unix_s(self) -> float:
        return self._unix_s

    async def sleep(self, duration_s: float) -> None:
        raise AssertionError(f"nothing here sleeps for {duration_s} s")


def safetensors_bytes(tensors: dict[str, list[int]], *, dtype: str = "F32", bytes_per_element: int = 4) -> bytes:
    """A file with zeros: length of the header, header, data one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in tensors.items():
        num_bytes = bytes_per_element
        for dimension in shape:
            num_bytes *= dimension
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + num_bytes]}
        position += num_bytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(position)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def make_safetensors() -> Callable[..., bytes]:
    return safetensors_bytes


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """32 x 8 and 8 x 8 float32 weights: 320 parameters, 1280 bytes."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    (folder / "model.safetensors").write_bytes(safetensors_bytes({"embed": [32, 8], "layer": [8, 8]}))
    return folder


@pytest.fixture
def openvino_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "ir"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name in ("openvino_model", "openvino_tokenizer", "openvino_detokenizer"):
        (folder / f"{name}.xml").write_text(GRAPH)
        (folder / f"{name}.bin").write_bytes(bytes(GRAPH_WEIGHT_BYTES))
    return folder
