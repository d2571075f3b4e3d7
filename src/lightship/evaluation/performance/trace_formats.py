"""Trace files in three formats, plain or gzip; the format is recognised by the first line.

    lightship  JSON lines: arrival_s, num_prompt_tokens, num_output_tokens,
               optionally hash_ids, block_tokens (512), session_id, prompt
    mooncake   JSON lines: timestamp (ms), input_length, output_length, hash_ids (one per 512 tokens of prompt)
    azure      CSV: TIMESTAMP (date and time; the earliest is 0), ContextTokens, GeneratedTokens

Fields of the foreign formats that are not named here mean nothing to a replay; unknown fields of our own are refused.

Source: https://github.com/kvcache-ai/Mooncake (FAST25-release), https://github.com/Azure/AzurePublicDataset
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import TypeVar

import msgspec

from lightship.errors import MeasurementError
from lightship.evaluation.performance.traces import Trace, TraceRequest, TraceSelection, select_requests

DEFAULT_BLOCK_TOKENS = 512
# Bytes of a file as it lies on the disk, and requests in it: an hour of a large service has some ten thousand.
_MAX_FILE_BYTES = 2**30
_MAX_REQUESTS = 2_000_000
# Tokens. Beyond every model's context: a longer one is a wrong column.
_MAX_LENGTH = 100_000_000
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class _Line:
    """One line that is not blank, and where it stands."""

    where: str
    text: str

    def error(self, what: str, *, hint: str | None = None) -> MeasurementError:
        return MeasurementError(what, where=self.where, hint=hint)


def read_trace(path: Path, *, format_name: str | None = None, selection: TraceSelection | None = None) -> Trace:
    """The load that a trace file holds, or the part of it that `selection` names.

    Args:
        path: The file; gzip is recognised by its content.
        format_name: One of `TRACE_FORMATS`; None: recognised by the first line.

    Raises: MeasurementError: it cannot be read, a line is wrong (named with its number), or nothing is left.
    Effects: reads the file.
    """
    if format_name is not None and format_name not in _READERS:
        raise MeasurementError(f"unknown trace format {format_name!r}", hint=f"Known: {', '.join(TRACE_FORMATS)}.")
    content = _file_content(path)
    plain = io.BytesIO(content)
    opened = gzip.GzipFile(fileobj=plain) if content.startswith(_GZIP_MAGIC) else plain
    try:
        with io.TextIOWrapper(opened, encoding="utf-8-sig") as text:
            lines = _lines(text, str(path))
            first = next(lines, None)
            if first is None:
                raise MeasurementError("the trace is empty", where=str(path))
            found = format_name or _recognised(first)
            requests, block_tokens = _READERS[found](chain([first], lines))
    except UnicodeDecodeError as error:
        raise MeasurementError(f"not a text file: {error.reason}", where=str(path)) from error
    except (OSError, EOFError, zlib.error) as error:  # gzip reports damage by all three
        raise MeasurementError(f"the file is damaged: {error}", where=str(path)) from error
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", path.name.removesuffix(".gz").rpartition(".")[0] or path.name)
    name = f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}"
    return select_requests(
        requests, selection or TraceSelection(), name=name, format_name=found, block_tokens=block_tokens
    )


def _file_content(path: Path) -> bytes:
    try:
        with path.open("rb") as opened:
            content = opened.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise MeasurementError(f"the trace cannot be read: {error.strerror}", where=str(path)) from error
    if len(content) > _MAX_FILE_BYTES:
        raise MeasurementError(f"the trace is over {_MAX_FILE_BYTES} bytes", where=str(path), hint="Cut it to a part.")
    return content


def _lines(text: io.TextIOBase, name: str) -> Iterator[_Line]:
    num_requests = 0
    for number, line in enumerate(text, start=1):
        if stripped := line.strip():
            num_requests += 1
            if num_requests > _MAX_REQUESTS:
                raise MeasurementError(
                    f"the trace has over {_MAX_REQUESTS} lines", where=name, hint="Cut it to a part."
                )
            yield _Line(f"{name}:{number}", stripped)


def _recognised(first: _Line) -> str:
    names = {column.strip().strip('"').lower() for column in first.text.split(",")}
    if {name.lower() for name in _AZURE_COLUMNS} <= names:
        return "azure"
    try:
        keys = set(msgspec.json.decode(first.text, type=dict[str, msgspec.Raw]))
    except msgspec.DecodeError:
        keys = set()
    if {"timestamp", "input_length"} <= keys:
        return "mooncake"
    if "arrival_s" in keys:
        return "lightship"
    raise first.error(
        "not a trace in a known format",
        hint="Expected JSON lines with `arrival_s` (lightship) or `timestamp` and `input_length` (mooncake), or CSV "
        f"with the header {','.join(_AZURE_COLUMNS)} (azure).",
    )


_Read = tuple[list[TraceRequest], float]


class _MooncakeRow(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


def _read_mooncake(lines: Iterator[_Line]) -> _Read:
    decoder = msgspec.json.Decoder(_MooncakeRow)
    requests = []
    for line in lines:
        row = _decoded(decoder, line)
        arrival_s = _arrival(row.timestamp / 1000, line)
        requests.append(_request(line, arrival_s, row.input_length, row.output_length, prefix_blocks=row.hash_ids))
    return requests, DEFAULT_BLOCK_TOKENS


class _OwnRow(msgspec.Struct):
    arrival_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    hash_ids: tuple[int, ...] = ()
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    session_id: str = ""
    prompt: str | None = None


def _read_own(lines: Iterator[_Line]) -> _Read:
    decoder = msgspec.json.Decoder(_OwnRow)
    known = _OwnRow.__struct_fields__
    block_tokens: int | None = None
    requests = []
    for line in lines:
        row = _decoded(decoder, line)
        for key in msgspec.json.decode(line.text, type=dict[str, msgspec.Raw]):
            if key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
                raise line.error(f"unknown field {key!r}", hint=hint)
        if row.block_tokens < 1 or row.block_tokens != (block_tokens or row.block_tokens):
            raise line.error(f"block_tokens must be one number >= 1 in the whole trace, got {row.block_tokens}")
        block_tokens = row.block_tokens
        request = _request(
            line,
            _arrival(row.arrival_s, line),
            row.num_prompt_tokens,
            row.num_output_tokens,
            prefix_blocks=row.hash_ids,
            session_id=row.session_id,
            prompt=row.prompt,
        )
        requests.append(request)
    return requests, float(block_tokens or DEFAULT_BLOCK_TOKENS)


_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def _read_azure(lines: Iterator[_Line]) -> _Read:
    header_line = next(lines)
    header = [column.strip().lower() for column in next(csv.reader([header_line.text]))]
    missing = [name for name in _AZURE_COLUMNS if name.lower() not in header]
    if missing:
        raise header_line.error(f"the header lacks {', '.join(missing)}")
    places = [header.index(name.lower()) for name in _AZURE_COLUMNS]
    requests = []
    for line in lines:
        cells = next(csv.reader([line.text]))
        if len(cells) != len(header):
            raise line.error(f"{len(cells)} columns where the header has {len(header)}")
        time, prompt, output = (cells[place].strip() for place in places)
        requests.append(_request(line, _azure_time_s(time, line), _whole(prompt, line), _whole(output, line)))
    began_s = min((request.arrival_s for request in requests), default=0.0)
    return [replace(request, arrival_s=request.arrival_s - began_s) for request in requests], DEFAULT_BLOCK_TOKENS


def _azure_time_s(text: str, line: _Line) -> float:
    """Seconds since an arbitrary day; the wall clock's zone plays no part in differences."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise line.error(f"not a date and time: {text[:40]!r}") from error
    if time.tzinfo is not None:
        return time.timestamp()
    return time.toordinal() * 86400.0 + time.hour * 3600 + time.minute * 60 + time.second + time.microsecond / 1e6


def _whole(text: str, line: _Line) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise line.error(f"not a number of tokens: {text[:40]!r}")
    return int(text)


Row = TypeVar("Row")


def _decoded(decoder: msgspec.json.Decoder[Row], line: _Line) -> Row:
    try:
        return decoder.decode(line.text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise line.error(f"not a request: {error}") from error


def _arrival(arrival_s: float, line: _Line) -> float:
    if not (math.isfinite(arrival_s) and arrival_s >= 0):
        raise line.error(f"it arrives at {arrival_s:g} s, before the trace begins")
    return arrival_s


def _request(
    line: _Line,
    arrival_s: float,
    num_prompt_tokens: int,
    num_output_tokens: int,
    *,
    prefix_blocks: tuple[int, ...] = (),
    session_id: str = "",
    prompt: str | None = None,
) -> TraceRequest:
    for what, length in (("prompt", num_prompt_tokens), ("output", num_output_tokens)):
        if not 0 <= length <= _MAX_LENGTH:
            raise line.error(f"{length} {what} tokens")
    if prompt == "":
        raise line.error("the prompt is empty")
    return TraceRequest(arrival_s, num_prompt_tokens, num_output_tokens, prefix_blocks, session_id, prompt)


_READERS: dict[str, Callable[[Iterator[_Line]], _Read]] = {
    "lightship": _read_own,
    "mooncake": _read_mooncake,
    "azure": _read_azure,
}
TRACE_FORMATS = tuple(_READERS)
