"""Weights that are NaN or infinite, written bit by bit."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from tests.unit.artifacts.conftest import CONFIG

from lightship.artifacts.checkpoint import Checkpoint, inspect_checkpoint
from lightship.artifacts.finite_weights import check_finite
from lightship.errors import CheckpointError

# Little-endian bytes of one element. Source of the patterns: IEEE 754, and the OCP specification of 8-bit floats.
LARGEST = {
    "F32": struct.pack("<f", 3.4028234e38),
    "F16": struct.pack("<e", 65504.0),
    "BF16": b"\x7f\x7f",
    "F8_E4M3": b"\x7e",
    "F8_E5M2": b"\x7b",
    "F64": struct.pack("<d", 1.7e308),
}
NOT_FINITE = [
    ("F32", struct.pack("<f", float("nan"))),
    ("F32", struct.pack("<f", float("-inf"))),
    ("F16", struct.pack("<e", float("inf"))),
    ("BF16", b"\x80\x7f"),
    ("BF16", b"\xc1\xff"),
    ("F8_E4M3", b"\xff"),
    ("F8_E5M2", b"\x7c"),
    ("F64", struct.pack("<d", float("nan"))),
]


def checkpoint(folder: Path, dtype: str, element: bytes, *, name: str = "model.norm.weight") -> Checkpoint:
    """Eight zeros and then the element, behind a tensor of one byte so that nothing is aligned."""
    data = b"\x01" + bytes(8 * len(element)) + element
    header = {
        "mask": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        name: {"dtype": dtype, "shape": [3, 3], "data_offsets": [1, len(data)]},
    }
    text = json.dumps(header).encode()
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    return inspect_checkpoint(folder)


@pytest.mark.parametrize("dtype", list(LARGEST))
def test_check_finite_largest_number_of_each_type_is_finite(dtype: str, tmp_path: Path) -> None:
    check_finite(checkpoint(tmp_path, dtype, LARGEST[dtype]))


@pytest.mark.parametrize(("dtype", "element"), NOT_FINITE)
def test_check_finite_one_bad_value_is_refused_by_name(dtype: str, element: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"1 of the 9 values of 'model\.norm\.weight' are NaN or infinite"):
        check_finite(checkpoint(tmp_path, dtype, element))


def test_check_finite_infinite_buffer_is_no_weight(tmp_path: Path) -> None:
    check_finite(checkpoint(tmp_path, "F32", struct.pack("<f", float("-inf")), name="model.attn.masked_scores"))


def test_check_finite_file_that_was_mended_is_looked_at_again(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        check_finite(checkpoint(tmp_path, "F32", struct.pack("<f", float("nan"))))
    check_finite(checkpoint(tmp_path, "F32", struct.pack("<f", 1.0)))
    with pytest.raises(CheckpointError):
        check_finite(checkpoint(tmp_path, "F32", struct.pack("<f", float("inf"))))


def test_check_finite_file_that_the_index_leaves_out_is_not_looked_at(tmp_path: Path) -> None:
    """Some checkpoints carry a second copy in another layout; nothing reads it."""
    checkpoint(tmp_path, "F32", struct.pack("<f", float("nan")))
    (tmp_path / "model.safetensors").rename(tmp_path / "consolidated.safetensors")
    names = {"mask": "model.safetensors", "model.norm.weight": "model.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    check_finite(checkpoint(tmp_path, "F32", struct.pack("<f", 1.0)))
