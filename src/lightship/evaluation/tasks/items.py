"""Items files: one JSON object per line (`.jsonl`), a list of them (`.json`), or a table (`.parquet`, with pyarrow).

Reads and names places; what an item must hold is the task's business. JSON is read strictly: no NaN, valid UTF-8.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.scorer import Item
from lightship.evaluation.tasks.template import json_kind

# The largest public question sets take some 100 MB; a file above this is not one.
MAX_ITEMS_BYTES = 512 * 2**20
SUFFIXES = (".jsonl", ".json", ".parquet")
_HASH_DIGITS = 16


def read_records(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Line (or entry) number and object of each record, in the file's order; at least one.

    Raises: MeasurementError: unreadable, of another kind, empty, or a line that is not an object; names file and line.
    """
    suffix = path.name.removesuffix(".gz")
    kind = next((kind for kind in SUFFIXES if suffix.endswith(kind)), None)
    if kind is None or (kind == ".parquet" and path.suffix == ".gz"):
        raise MeasurementError(
            "not a known kind of items file",
            where=str(path),
            hint="Give .jsonl, .jsonl.gz, .json, .json.gz or .parquet.",
        )
    if kind == ".parquet":
        records = _parquet_records(path)
    else:
        read = _jsonl_records if kind == ".jsonl" else _json_records
        records = list(read(_read_text(path), path))
    if not records:
        raise MeasurementError("the file has no items", where=str(path))
    return records


def read_items(path: Path, *, id_field: str | None, cluster_field: str | None) -> tuple[Item, ...]:
    """The file's items with their ids.

    Args:
        id_field: Field with the id; None takes `id` where an item has it, else `line-N`.
        cluster_field: Field with the cluster; None makes each item its own.

    Raises: MeasurementError: as `read_records`; an id that is there twice; an id or cluster that is missing, or is
        neither text nor a whole number.
    """
    line_of_id: dict[str, int] = {}
    items = []
    for line, fields in read_records(path):
        place = f"{path}:{line}"
        item_id = _label(fields, id_field, default=f"line-{line}", fallback="id", place=place)
        if item_id in line_of_id:
            raise MeasurementError(
                f"the id {item_id!r} is there twice, first on line {line_of_id[item_id]}",
                where=place,
                hint="Ids pair the items of two runs, so each must be there once; `id:` in the task names their field.",
            )
        line_of_id[item_id] = line
        cluster = _label(fields, cluster_field, default=item_id, fallback=None, place=place)
        items.append(Item(item_id=item_id, fields=fields, line=line, cluster=cluster))
    return tuple(items)


def content_hash(value: Any) -> str:
    """The first 16 hex digits of a SHA-256 over the value as canonical JSON (sorted keys, no white space).

    >>> content_hash({"b": 1, "a": 2}) == content_hash({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:_HASH_DIGITS]


def _label(fields: dict[str, Any], field: str | None, *, default: str, fallback: str | None, place: str) -> str:
    if field is None and (fallback is None or fallback not in fields):
        return default
    name = field or fallback or ""
    if name not in fields:
        raise MeasurementError(f"the item has no field {name!r}", where=place, hint=f"It has {', '.join(fields)}.")
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        found = json_kind(value) if value != "" else "empty text"
        raise MeasurementError(f"the field {name!r} must be text or a whole number, got {found}", where=place)
    return str(value)


def _read_text(path: Path) -> str:
    opener = gzip.open if path.suffix == ".gz" else Path.open
    try:
        with opener(path, "rb") as stream:
            content: bytes = stream.read(MAX_ITEMS_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MeasurementError(f"cannot read the items: {reason}", where=str(path)) from error
    if len(content) > MAX_ITEMS_BYTES:
        raise MeasurementError(f"the items are over {MAX_ITEMS_BYTES} bytes", where=str(path), hint="Take a sample.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise MeasurementError("not UTF-8", where=f"{path}:{line}", hint="Convert the file to UTF-8.") from error


def _jsonl_records(content: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): it also breaks at U+2028 and others, which JSON allows inside a string.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            place = f"{path}:{number}"
            yield number, _object(_decoded(line, place=place, hint="Each line is one object."), place=place)


def _json_records(content: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    entries = _decoded(content, place=str(path), hint="A .json file is one list of objects.")
    if not isinstance(entries, list):
        raise MeasurementError(f"expected a list of objects, got {json_kind(entries)}", where=str(path))
    for number, entry in enumerate(entries, start=1):
        yield number, _object(entry, place=f"{path}: entry {number}")


def _decoded(text: str, *, place: str, hint: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MeasurementError(f"not JSON: {error}", where=place, hint=hint) from error


def _object(value: Any, *, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MeasurementError(f"expected an object, got {json_kind(value)}", where=place)
    return value


def _parquet_records(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Rows as objects; pyarrow is no dependency, since a table is a line of code away from JSONL."""
    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError as error:
        raise MeasurementError(
            "parquet files need the package pyarrow",
            where=str(path),
            hint="Install pyarrow, or convert the file to JSONL (pandas: to_json(orient='records', lines=True)).",
        ) from error
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise MeasurementError(f"cannot read the items: {error}", where=str(path)) from error
    for number, row in enumerate(rows, start=1):
        try:
            msgspec.json.encode(row)
        except (TypeError, ValueError, OverflowError) as error:
            raise MeasurementError(f"a value JSON does not have: {error}", where=f"{path}: row {number}") from error
    return list(enumerate(rows, start=1))
