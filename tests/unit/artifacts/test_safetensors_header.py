from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lightship.artifacts.safetensors_header import read_safetensors_header
from lightship.errors import CheckpointError


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def tensor(begin: int, end: int, *, dtype: str = "U8", shape: list[Any] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def test_header_well_formed_file_gives_tensors_in_order(tmp_path: Path) -> None:
    header = {"b": tensor(4, 12, dtype="BF16", shape=[2, 2]), "a": tensor(0, 4, dtype="F32", shape=[])}
    entries = read_safetensors_header(write(tmp_path / "m.safetensors", header, bytes(12)))
    assert [(e.name, e.dtype, e.num_elements, e.num_bytes) for e in entries] == [
        ("a", "F32", 1, 4),
        ("b", "BF16", 4, 8),
    ]


def test_header_half_byte_elements_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"a": tensor(0, 3, dtype="F4", shape=[2, 3])}, bytes(3))
    assert read_safetensors_header(path)[0].num_elements == 6


def test_header_real_file_agrees_with_the_reference_library(tmp_path: Path) -> None:
    reference = pytest.importorskip("safetensors.numpy", reason="comes with the development extras only")
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "m.safetensors"
    reference.save_file({"x": numpy.ones((3, 5), numpy.float16), "y": numpy.ones(7, numpy.int64)}, path)
    assert {(e.name, e.shape, e.dtype) for e in read_safetensors_header(path)} == {
        ("x", (3, 5), "F16"),
        ("y", (7,), "I64"),
    }


@dataclass(frozen=True)
class Case:
    id: str
    header: Any
    num_data_bytes: int
    message: str


CASES = (
    Case("truncated", {"a": tensor(0, 8)}, 5, r"truncated: it has \d+ bytes, its header says \d+"),
    Case("too-long", {"a": tensor(0, 8)}, 9, "too long"),
    Case("gap", {"a": tensor(0, 4), "b": tensor(5, 8)}, 8, "'b' leaves a gap"),
    Case("gap-at-start", {"a": tensor(1, 4)}, 4, "'a' leaves a gap"),
    Case("overlap", {"a": tensor(0, 4), "b": tensor(3, 8)}, 8, "'b' overlaps"),
    Case("backwards", {"a": {"dtype": "U8", "shape": [1], "data_offsets": [4, 3]}}, 4, "'a' has"),
    Case("negative", {"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 1]}}, 1, "'a' has"),
    Case("boolean-shape", {"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, 1, "'a' has"),
    Case("size-differs-from-shape", {"a": tensor(0, 4, shape=[3])}, 4, "cannot have 4 bytes"),
    Case("unknown-type", {"a": tensor(0, 4, dtype="Q9")}, 4, "unknown type 'Q9'"),
    Case("unhashable-type", {"a": {"dtype": [], "shape": [1], "data_offsets": [0, 1]}}, 1, "unknown type"),
    Case("entry-is-no-object", {"a": 3}, 0, "unknown type None"),
    Case("not-json", b"{nope", 0, "not JSON"),
    Case("not-text", b"\xff\xfe\x80", 0, "not JSON"),
    Case("not-an-object", [1], 0, "not a JSON object"),
    Case("name-twice", b'{"a": 1, "a": 2}', 0, "used twice"),
    Case("deeply-nested", b"[" * 100_000, 0, "not JSON"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_header_damaged_file_is_refused(tmp_path: Path, case: Case) -> None:
    path = write(tmp_path / "m.safetensors", case.header, bytes(case.num_data_bytes))
    with pytest.raises(CheckpointError, match=case.message) as caught:
        read_safetensors_header(path)
    assert caught.value.where == str(path)


def test_header_truncation_message_gives_both_sizes(tmp_path: Path, make_safetensors: Callable[..., bytes]) -> None:
    content = make_safetensors({"a": [4, 4]})
    path = tmp_path / "m.safetensors"
    path.write_bytes(content[:-10])
    with pytest.raises(CheckpointError, match=f"it has {len(content) - 10} bytes, its header says {len(content)}"):
        read_safetensors_header(path)


@pytest.mark.parametrize("num_bytes", [0, 7])
def test_header_file_shorter_than_a_length_is_refused(tmp_path: Path, num_bytes: int) -> None:
    (tmp_path / "m.safetensors").write_bytes(bytes(num_bytes))
    with pytest.raises(CheckpointError, match="too few for a header"):
        read_safetensors_header(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("length", "message"), [(2**63, "more than the 100000000 allowed"), (50, "header alone needs 58")]
)
def test_header_length_beyond_the_file_is_refused_unread(tmp_path: Path, length: int, message: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(CheckpointError, match=message):
        read_safetensors_header(tmp_path / "m.safetensors")
