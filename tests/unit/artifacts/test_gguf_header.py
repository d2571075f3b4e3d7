"""Files are written by hand from the format's description; the toolchain tests compare with the `gguf` package."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.artifacts.checkpoint import inspect_checkpoint
from lightship.artifacts.gguf_header import read_gguf_header
from lightship.errors import CheckpointError, UnsafeCheckpointError
from lightship.ports.variants import WeightFormat

F32, F16, Q8_0, Q4_K = 0, 1, 8, 12
UINT32, STRING, ARRAY, BOOL = 4, 8, 9, 7


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(key: str, kind: int, content: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + content


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@dataclass
class Parts:
    """A file with 320 parameters: one F16 matrix of 32 x 8 (512 bytes), one Q8_0 row of 64 (68 bytes, padded)."""

    magic: bytes = b"GGUF"
    version: int = 3
    values: list[bytes] = field(
        default_factory=lambda: [
            value("general.architecture", STRING, text("llama")),
            value("llama.block_count", UINT32, struct.pack("<I", 2)),
            value("tokenizer.ggml.add_bos_token", BOOL, b"\x01"),
            value("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text("bc")),
            value("tokenizer.ggml.token_type", ARRAY, struct.pack("<IQ", UINT32, 2) + bytes(8)),
        ]
    )
    tensors: list[bytes] = field(
        default_factory=lambda: [
            tensor("output.weight", (64,), Q8_0, 512),
            tensor("token_embd.weight", (32, 8), F16, 0),
        ]
    )
    counts: tuple[int, int] | None = None
    data: bytes = bytes(512 + 68 + 28)

    def content(self) -> bytes:
        num_tensors, num_values = self.counts or (len(self.tensors), len(self.values))
        head = self.magic + struct.pack("<IQQ", self.version, num_tensors, num_values)
        head += b"".join(self.values) + b"".join(self.tensors)
        return head + bytes(-len(head) % 32) + self.data


def write(path: Path, parts: Parts) -> Path:
    path.write_bytes(parts.content())
    return path


def test_header_well_formed_file_gives_tensors_in_order_and_plain_metadata(tmp_path: Path) -> None:
    header = read_gguf_header(write(tmp_path / "m.gguf", Parts()))
    assert [(t.name, t.dtype, t.shape, t.offset, t.num_bytes) for t in header.tensors] == [
        ("token_embd.weight", "F16", (32, 8), 0, 512),
        ("output.weight", "Q8_0", (64,), 512, 68),
    ]
    assert (header.num_parameters, header.weight_bytes) == (320, 580)
    assert header.metadata == {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "tokenizer.ggml.add_bos_token": True,
    }


def test_header_other_alignment_moves_the_data(tmp_path: Path) -> None:
    parts = Parts(tensors=[tensor("a", (1,), F32, 0), tensor("b", (1,), F32, 8)], data=bytes(12))
    parts.values.append(value("general.alignment", UINT32, struct.pack("<I", 8)))
    path = tmp_path / "m.gguf"
    head = parts.content()[: -len(parts.data)].rstrip(b"\0")
    # the last offset's zero bytes belong to the header: 8 is 08 00 00 00 00 00 00 00
    path.write_bytes(head + bytes(7) + bytes(-(len(head) + 7) % 8) + parts.data)
    assert [tensor.offset for tensor in read_gguf_header(path).tensors] == [0, 8]


def test_header_tables_of_rotary_frequencies_are_no_parameters(tmp_path: Path) -> None:
    parts = Parts(tensors=[tensor("rope_freqs.weight", (4,), F32, 0)], data=bytes(16))
    header = read_gguf_header(write(tmp_path / "m.gguf", parts))
    assert (header.num_parameters, header.weight_bytes) == (0, 16)


@dataclass(frozen=True)
class Case:
    id: str
    parts: Parts
    message: str


def last_value(content: bytes) -> Parts:
    return Parts(values=[content])


CASES = (
    Case("magic", Parts(magic=b"GGML"), "does not begin like a GGUF file"),
    Case("version", Parts(version=2), "version 2"),
    Case("big-endian", Parts(version=3 << 24), "big-endian"),
    Case("too-many-values", Parts(counts=(2, 2**40)), r"goes on for \d+ bytes"),
    Case("too-many-tensors", Parts(counts=(2**60, 5)), r"goes on for \d+ bytes"),
    Case("key-too-long", last_value(struct.pack("<Q", 2**63)), r"goes on for \d+ bytes"),
    Case("unknown-value-type", last_value(value("k", 13, bytes(40))), "'k' has unknown type 13"),
    Case("key-twice", Parts(values=[value("k", BOOL, b"\0")] * 2), "'k' is there twice"),
    Case("text-not-utf8", last_value(value("k", STRING, struct.pack("<Q", 2) + b"\xff\xfe")), "not UTF-8"),
    Case("array-too-long", last_value(value("k", ARRAY, struct.pack("<IQ", UINT32, 2**62))), r"goes on for \d+ bytes"),
    Case("texts-too-many", last_value(value("k", ARRAY, struct.pack("<IQ", STRING, 2**50))), r"goes on for \d+ bytes"),
    Case("array-of-arrays", last_value(value("k", ARRAY, struct.pack("<IQ", ARRAY, 1))), "entries of type 9"),
    Case("alignment", Parts(values=[value("general.alignment", UINT32, struct.pack("<I", 24))]), "power of two"),
    Case("no-name", Parts(tensors=[tensor("", (1,), F32, 0)]), "name has 0 bytes"),
    Case("long-name", Parts(tensors=[tensor("n" * 64, (1,), F32, 0)]), "name has 64 bytes"),
    Case("no-dimension", Parts(tensors=[tensor("a", (), F32, 0)]), "0 dimensions"),
    Case("five-dimensions", Parts(tensors=[tensor("a", (1,) * 5, F32, 0)]), "5 dimensions"),
    Case("empty-dimension", Parts(tensors=[tensor("a", (4, 0), F32, 0)]), r"cannot have the shape \[4, 0\]"),
    Case("row-not-in-blocks", Parts(tensors=[tensor("a", (128, 2), Q4_K, 0)]), "Q4_K cannot have the shape"),
    Case("unknown-type", Parts(tensors=[tensor("a", (1,), 999, 0)]), "unknown type 999"),
    Case("name-twice", Parts(tensors=[tensor("a", (8,), F32, 0), tensor("a", (8,), F32, 32)]), "used twice"),
    Case("overlap", Parts(tensors=[tensor("a", (16,), F32, 0), tensor("b", (8,), F32, 32)]), "'b' overlaps"),
    Case("gap", Parts(tensors=[tensor("a", (8,), F32, 0), tensor("b", (8,), F32, 96)]), "'b' leaves a gap"),
    Case("huge-shape", Parts(tensors=[tensor("a", (2**62, 2**62), F32, 0)]), "truncated"),
    Case("truncated", Parts(data=bytes(512 + 67)), "truncated: it has"),
    Case("too-long", Parts(data=bytes(512 + 68 + 32)), "too long"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_header_damaged_file_is_refused_with_the_reason(tmp_path: Path, case: Case) -> None:
    path = write(tmp_path / "m.gguf", case.parts)
    with pytest.raises(CheckpointError, match=case.message) as caught:
        read_gguf_header(path)
    assert caught.value.where == str(path)
    assert caught.value.hint


def test_header_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole, path = Parts().content(), tmp_path / "m.gguf"
    for num_bytes in range(len(whole) - 28):
        path.write_bytes(whole[:num_bytes])
        with pytest.raises(CheckpointError):
            read_gguf_header(path)


@given(position=st.integers(0, 300), replacement=st.integers(0, 255))
def test_header_any_byte_changed_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, replacement: int
) -> None:
    content = bytearray(Parts().content())
    content[position] = replacement
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    path.write_bytes(content)
    try:
        header = read_gguf_header(path)
    except CheckpointError:
        return
    assert header.weight_bytes <= len(content)


@pytest.fixture
def gguf_folder(checkpoint: Path) -> Path:
    (checkpoint / "model.safetensors").unlink()
    write(checkpoint / "model.gguf", Parts())
    return checkpoint


def test_inspect_gguf_folder_counts_from_the_header(gguf_folder: Path) -> None:
    found = inspect_checkpoint(gguf_folder)
    assert found.weight_format is WeightFormat.GGUF
    assert (found.num_parameters, found.weight_bytes, found.dtypes) == (320, 580, ("F16", "Q8_0"))
    assert (found.context_length, found.num_layers) == (64, 2)
    assert {entry.path for entry in found.files} == {"config.json", "model.gguf", "tokenizer.json"}


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


FOLDER_CASES: tuple[tuple[str, Callable[[Path], Any], str], ...] = (
    ("no-config", lambda f: (f / "config.json").unlink(), "config.json is missing"),
    ("both", lambda f: shutil.copy(f / "tokenizer.json", f / "a.safetensors"), "both model.gguf and a.safetensors"),
    ("no-weights", lambda f: write(f / "model.gguf", Parts(tensors=[], data=b"")), "holds no weights"),
    ("not-gguf", lambda f: (f / "model.gguf").write_bytes(bytes(99)), "does not begin like"),
    ("no-context", lambda f: change_config(f, max_position_embeddings=None), "max_position_embeddings"),
)


@pytest.mark.parametrize(("damage", "message"), [case[1:] for case in FOLDER_CASES], ids=[c[0] for c in FOLDER_CASES])
def test_inspect_bad_gguf_folder_is_refused(gguf_folder: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(gguf_folder)
    with pytest.raises(CheckpointError, match=message):
        inspect_checkpoint(gguf_folder)


def test_inspect_pickle_named_gguf_is_refused(gguf_folder: Path) -> None:
    (gguf_folder / "model.gguf").write_bytes(b"PK\x03\x04" + bytes(99))
    with pytest.raises(UnsafeCheckpointError):
        inspect_checkpoint(gguf_folder)
