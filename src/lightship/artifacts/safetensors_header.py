"""Reads and checks the header of a safetensors file without reading the weights.

Ours rather than the `safetensors` package: the checks are few, their messages name what is wrong and where, and the
core stays without numpy or torch.

Source: https://huggingface.co/docs/safetensors (8 bytes little-endian header length, JSON header, tensor data)
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightship.errors import CheckpointError

# Limit of the reference implementation, against headers that exhaust memory.
_MAX_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
_BITS_PER_ELEMENT = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
_HINT = "Download or copy the file again."


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: where its bytes lie, counted from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def num_elements(self) -> int:
        """Product of the shape; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor's data."""
        return self.end - self.begin


def read_safetensors_header(path: Path) -> tuple[TensorEntry, ...]:
    """The file's tensors in the order of their data, which fills the file without gap or overlap.

    Does not: read the weights, so NaN and infinities are not found here.
    Raises: CheckpointError: the file is truncated, too long, or its header is not what the format asks for.
    """
    file_bytes = path.stat().st_size
    header, header_bytes = _read_header(path, file_bytes)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _damaged(path, "`__metadata__` is not an object")
    entries = sorted((_entry(path, name, value) for name, value in header.items()), key=lambda e: (e.begin, e.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            kind = "overlaps the one before it" if entry.begin < position else "leaves a gap before it"
            raise _damaged(path, f"tensor {entry.name!r} {kind} (it begins at {entry.begin} instead of {position})")
        position = entry.end
    expected_bytes = _LENGTH_BYTES + header_bytes + position
    if file_bytes != expected_bytes:
        kind = "truncated" if file_bytes < expected_bytes else "too long"
        raise _damaged(path, f"the file is {kind}: it has {file_bytes} bytes, its header says {expected_bytes}")
    return tuple(entries)


def data_offset(path: Path) -> int:
    """Where the tensors' data begin, in bytes from the start of the file.

    Raises: CheckpointError: as `read_safetensors_header`.
    """
    return _LENGTH_BYTES + _read_header(path, path.stat().st_size)[1]


def _read_header(path: Path, file_bytes: int) -> tuple[dict[str, Any], int]:
    """The header and its length in bytes."""
    if file_bytes < _LENGTH_BYTES:
        raise _damaged(path, f"the file is truncated: {file_bytes} bytes are too few for a header")
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(_LENGTH_BYTES))
        if header_bytes > _MAX_HEADER_BYTES:
            raise _damaged(
                path, f"the header would have {header_bytes} bytes, more than the {_MAX_HEADER_BYTES} allowed"
            )
        if _LENGTH_BYTES + header_bytes > file_bytes:
            needed_bytes = _LENGTH_BYTES + header_bytes
            raise _damaged(
                path, f"the file is truncated: it has {file_bytes} bytes, its header alone needs {needed_bytes}"
            )
        raw = file.read(header_bytes)
    try:
        header = json.loads(raw, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _damaged(path, "the header is not a JSON object")
    return header, header_bytes


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name is used twice")
    return content


def _entry(path: Path, name: str, value: Any) -> TensorEntry:
    fields: dict[str, Any] = value if isinstance(value, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in _BITS_PER_ELEMENT:
        raise _damaged(path, f"tensor {name!r} has unknown type {dtype!r}")
    if shape is None or offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        shown = {key: fields.get(key) for key in ("shape", "data_offsets")}
        raise _damaged(path, f"tensor {name!r} has {shown}")
    entry = TensorEntry(name, dtype, shape, *offsets)
    if entry.num_elements * _BITS_PER_ELEMENT[dtype] != entry.num_bytes * 8:
        what = f"tensor {name!r} of shape {list(shape)} and type {dtype} cannot have {entry.num_bytes} bytes of data"
        raise _damaged(path, what)
    return entry


def _counts(value: Any) -> tuple[int, ...] | None:
    """The value if it is a list of whole numbers that are not negative, else None."""
    is_list_of_counts = isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
    return tuple(value) if is_list_of_counts else None


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(what, where=str(path), hint=_HINT)
