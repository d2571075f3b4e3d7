"""Reads and checks the header of a GGUF file without reading the weights.

Ours rather than the `gguf` package: that one needs numpy, maps the file and trusts the lengths it finds there.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 3) and `ggml.h` of the pinned llama.cpp.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lightship.errors import CheckpointError

MAGIC = b"GGUF"
VERSION = 3
_DEFAULT_ALIGNMENT_BYTES = 32
# llama.cpp's own limits: GGML_MAX_DIMS and GGML_MAX_NAME.
_MAX_DIMENSIONS = 4
_MAX_NAME_BYTES = 64
# A tokenizer of a million entries has a header of some 50 MB; what is larger is damage.
_MAX_HEADER_BYTES = 512 * 2**20
# Name, elements per block, bytes per block, by number. Source: enum ggml_type and its traits.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}
# Metadata values of fixed size by number: `struct` code. 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_HINT = "Download or copy the file again."


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: where its bytes lie, counted from the start of the data; `shape` has the row length first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    @property
    def num_elements(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """Tensors in the order of their data, and the metadata without arrays (tokens, merges)."""

    tensors: tuple[GgufTensor, ...]
    metadata: Mapping[str, str | int | float | bool] = field(repr=False)

    @property
    def num_parameters(self) -> int:
        """Elements of all tensors but tables of rotary frequencies, which are no weights; a tied matrix counts once."""
        return sum(tensor.num_elements for tensor in self.tensors if not tensor.name.startswith("rope_"))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors, without padding."""
        return sum(tensor.num_bytes for tensor in self.tensors)


def read_gguf_header(path: Path) -> GgufHeader:
    """The file's tensors and metadata; every tensor lies inside the file, and none overlaps another.

    Does not: read the weights, so NaN and infinities are not found here.
    Raises: CheckpointError: the file is truncated, of another version, or its header is not what the format asks for.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        reader = _Reader(file, path, min(file_bytes, _MAX_HEADER_BYTES), is_whole=file_bytes <= _MAX_HEADER_BYTES)
        if reader.bytes(4) != MAGIC:
            raise reader.damaged("it does not begin like a GGUF file")
        version = reader.number("I")
        if version != VERSION:
            kind = "it is big-endian" if version == VERSION << 24 else f"it has version {version}"
            raise reader.damaged(f"{kind}; only version {VERSION}, little-endian, is read")
        num_tensors, num_values = reader.number("Q"), reader.number("Q")
        metadata = _read_metadata(reader, num_values)
        tensors = _read_tensors(reader, num_tensors)
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT_BYTES)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise reader.damaged(f"`general.alignment` is {alignment!r}, not a power of two")
        data_begin = -(-reader.position // alignment) * alignment
    _check_places(path, tensors, alignment=alignment, data_begin=data_begin, file_bytes=file_bytes)
    return GgufHeader(tuple(sorted(tensors, key=lambda tensor: tensor.offset)), metadata)


class _Reader:
    """Takes bytes from the file's beginning, never more than it has."""

    def __init__(self, file: BinaryIO, path: Path, limit_bytes: int, *, is_whole: bool) -> None:
        self.position = 0
        self._file = file
        self._path = path
        self._limit_bytes = limit_bytes
        self._is_whole = is_whole

    def bytes(self, count: int) -> bytes:
        self.check(count)
        content = self._file.read(count)
        if len(content) != count:
            raise self.damaged("the file became shorter while it was read")
        self.position += count
        return content

    def number(self, code: str) -> Any:
        (value,) = struct.unpack(f"<{code}", self.bytes(struct.calcsize(f"<{code}")))
        return value

    def string(self) -> str:
        content = self.bytes(self.number("Q"))
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"a string before byte {self.position} is not UTF-8") from error

    def skip(self, count: int) -> None:
        self.check(count)
        self._file.seek(count, 1)
        self.position += count

    def check(self, count: int) -> None:
        """Returns when so many more bytes are there."""
        if count > self._limit_bytes - self.position:
            what = "the file has" if self._is_whole else "a header may have"
            raise self.damaged(
                f"the header goes on for {count} bytes after byte {self.position}, {what} {self._limit_bytes}"
            )

    def damaged(self, what: str) -> CheckpointError:
        return _damaged(self._path, what)


def _read_metadata(reader: _Reader, num_values: int) -> dict[str, str | int | float | bool]:
    # a key's length, a type and one byte of value are the least that an entry takes
    reader.check(num_values * 13)
    metadata: dict[str, str | int | float | bool] = {}
    seen: set[str] = set()
    for _ in range(num_values):
        key, kind = reader.string(), reader.number("I")
        if key in seen:
            raise reader.damaged(f"the key {key!r} is there twice")
        seen.add(key)
        if kind == _ARRAY:
            _skip_array(reader, key)
        elif kind == _STRING:
            metadata[key] = reader.string()
        elif kind in _SCALARS:
            metadata[key] = reader.number(_SCALARS[kind])
        else:
            raise reader.damaged(f"the value of {key!r} has unknown type {kind}")
    return metadata


def _skip_array(reader: _Reader, key: str) -> None:
    kind, count = reader.number("I"), reader.number("Q")
    if kind in _SCALARS:
        reader.skip(count * struct.calcsize(f"<{_SCALARS[kind]}"))
    elif kind == _STRING:
        reader.check(count * 8)
        for _ in range(count):
            reader.skip(reader.number("Q"))
    else:
        raise reader.damaged(f"the array {key!r} has entries of type {kind}")


def _read_tensors(reader: _Reader, num_tensors: int) -> list[GgufTensor]:
    # a name's length, the number of dimensions, one of them, type and offset
    reader.check(num_tensors * 32)
    tensors = []
    for _ in range(num_tensors):
        name, num_dimensions = reader.string(), reader.number("I")
        if not name or len(name.encode()) >= _MAX_NAME_BYTES:
            raise reader.damaged(f"a tensor's name has {len(name.encode())} bytes")
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise reader.damaged(f"tensor {name!r} has {num_dimensions} dimensions")
        shape = tuple(reader.number("Q") for _ in range(num_dimensions))
        kind, offset = reader.number("I"), reader.number("Q")
        if kind not in TENSOR_TYPES:
            raise reader.damaged(f"tensor {name!r} has unknown type {kind}")
        dtype, block_elements, block_bytes = TENSOR_TYPES[kind]
        if min(shape) < 1 or shape[0] % block_elements:
            raise reader.damaged(f"tensor {name!r} of type {dtype} cannot have the shape {list(shape)}")
        tensors.append(GgufTensor(name, dtype, shape, offset, math.prod(shape) // block_elements * block_bytes))
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise reader.damaged("a tensor's name is used twice")
    return tensors


def _check_places(path: Path, tensors: list[GgufTensor], *, alignment: int, data_begin: int, file_bytes: int) -> None:
    end = 0
    for tensor in sorted(tensors, key=lambda one: one.offset):
        begin = -(-end // alignment) * alignment
        if tensor.offset != begin:
            kind = "overlaps the one before it" if tensor.offset < begin else "leaves a gap before it"
            raise _damaged(path, f"tensor {tensor.name!r} {kind} (it begins at {tensor.offset} instead of {begin})")
        end = begin + tensor.num_bytes
    needed_bytes = data_begin + end
    if tensors and not needed_bytes <= file_bytes < needed_bytes + alignment:  # the last one may be padded, too
        kind = "truncated" if file_bytes < needed_bytes else "too long"
        raise _damaged(path, f"the file is {kind}: it has {file_bytes} bytes, its header says {needed_bytes}")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"the GGUF file is damaged: {what}", where=str(path), hint=_HINT)
