from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from lightship.compression.ir_template import SafetensorsFile, assemble, has_template, pack
from lightship.errors import CheckpointError

MATRIX = np.array([[1.5, -2.0, 0.25], [3.0, 0.0, -1.0]], dtype=np.float32)  # exact in bf16 and fp16


def write_safetensors(path: Path, name: str, matrix: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    """A one-tensor bf16 file, written by hand: bf16 is the upper half of the float32 bits."""
    data = (matrix.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    header = json.dumps({name: {"dtype": "BF16", "shape": list(matrix.shape), "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def graph(*layers: tuple[str, str, int, int]) -> str:
    consts = "".join(
        f'<layer id="{i}" name="{name}" type="Const">'
        f'<data element_type="{kind}" offset="{offset}" size="{size}"/></layer>'
        for i, (name, kind, offset, size) in enumerate(layers)
    )
    return f'<net><layers>{consts}<layer id="9" name="op" type="Add"/></layers></net>'


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", "model.w.weight", MATRIX)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    folder = tmp_path / "converted"
    folder.mkdir()
    weights = MATRIX.astype(np.float16).tobytes()
    small = np.array([7, 8], dtype=np.int64).tobytes()
    (folder / "openvino_model.bin").write_bytes(weights + small)
    layers = ("self.model.w.weight_compressed", "f16", 0, len(weights)), ("shape", "i64", len(weights), len(small))
    (folder / "openvino_model.xml").write_text(graph(*layers))
    (folder / "openvino_tokenizer.xml").write_text("<net/>")
    return folder


def test_assemble_packed_checkpoint_restores_the_weights_bit_for_bit(
    checkpoint: Path, converted: Path, tmp_path: Path
) -> None:
    pack(checkpoint, converted, weight_format="fp16")
    output = tmp_path / "output"
    output.mkdir()
    assemble(checkpoint, output)
    for name in ("openvino_model.bin", "openvino_model.xml", "openvino_tokenizer.xml"):
        assert (output / name).read_bytes() == (converted / name).read_bytes()
    assert sorted(path.name for path in output.iterdir()) == [
        "config.json",
        "openvino_model.bin",
        "openvino_model.xml",
        "openvino_tokenizer.xml",
    ]


def test_pack_tensor_equal_to_a_constant_is_not_stored_again(checkpoint: Path, converted: Path) -> None:
    pack(checkpoint, converted, weight_format="fp16")
    constants = json.loads((checkpoint / "openvino" / "constants.json").read_text())["constants"]
    assert constants[0] == {"offset": 0, "tensor": "model.w.weight", "element_type": "f16"}
    assert "data" in constants[1]


def test_pack_constant_that_differs_from_its_tensor_is_stored_as_it_is(checkpoint: Path, converted: Path) -> None:
    bytes_ = bytearray((converted / "openvino_model.bin").read_bytes())
    bytes_[0] ^= 1
    (converted / "openvino_model.bin").write_bytes(bytes_)
    pack(checkpoint, converted, weight_format="fp16")
    constants = json.loads((checkpoint / "openvino" / "constants.json").read_text())["constants"]
    assert all("data" in entry for entry in constants)


def test_assemble_damaged_weights_are_refused(checkpoint: Path, converted: Path, tmp_path: Path) -> None:
    pack(checkpoint, converted, weight_format="fp16")
    write_safetensors(checkpoint / "model.safetensors", "model.w.weight", MATRIX + 1)
    with pytest.raises(CheckpointError, match="damaged"):
        assemble(checkpoint, tmp_path)


def test_assemble_missing_tensor_is_named(checkpoint: Path, converted: Path, tmp_path: Path) -> None:
    pack(checkpoint, converted, weight_format="fp16")
    write_safetensors(checkpoint / "model.safetensors", "another", MATRIX)
    with pytest.raises(CheckpointError, match=r"model\.w\.weight"):
        assemble(checkpoint, tmp_path)


def test_has_template_other_weight_format_is_false(checkpoint: Path, converted: Path) -> None:
    assert not has_template(checkpoint, weight_format="fp16")
    pack(checkpoint, converted, weight_format="fp16")
    assert has_template(checkpoint, weight_format="fp16")
    assert not has_template(checkpoint, weight_format="fp32")


def test_safetensors_bf16_values_are_exact(checkpoint: Path) -> None:
    tensors = SafetensorsFile(checkpoint / "model.safetensors")
    assert tensors.names == {"model.w.weight"}
    np.testing.assert_array_equal(tensors.read_f32("model.w.weight"), MATRIX)
