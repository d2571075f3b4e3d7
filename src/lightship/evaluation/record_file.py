"""Evaluation records as JSON files, so that a release can be compared with one that no longer runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lightship.errors import MeasurementError
from lightship.evaluation.record import EvaluationRecord
from lightship.evaluation.tasks.results import TaskRun

FORMAT = "lightship-evaluation/1"
# A record holds an excerpt of every item: 10,000 items of 6,000 characters are 60 MB.
MAX_FILE_BYTES = 512 * 2**20


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    record: EvaluationRecord


class _Header(msgspec.Struct):
    format: str = ""


def encode_record(record: EvaluationRecord) -> bytes:
    """The record as indented JSON; equal records give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(_File(FORMAT, record)), indent=1) + b"\n"


def write_record(record: EvaluationRecord, path: Path) -> None:
    """Effects: replaces the file in one step.

    Raises: MeasurementError: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(encode_record(record))
        partial.replace(path)
    except OSError as error:
        raise MeasurementError(f"the record cannot be written: {error.strerror}", where=str(path)) from error


def read_record(path: Path) -> EvaluationRecord:
    """The record in a file that `write_record` made.

    Raises: MeasurementError: it cannot be read, is something else, or its items do not hang together.
    """
    try:
        with path.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise MeasurementError(f"the record cannot be read: {error.strerror}", where=str(path)) from error
    if len(content) > MAX_FILE_BYTES:
        raise MeasurementError(f"the record is over {MAX_FILE_BYTES} bytes", where=str(path))
    try:
        found = msgspec.json.decode(content, type=_Header).format
        if found != FORMAT:
            raise MeasurementError(
                f"not an evaluation record: its format is {found!r}, expected {FORMAT!r}",
                where=str(path),
                hint="Make one with `lightship evaluate SUBJECT -o record.json`.",
            )
        record = msgspec.json.decode(content, type=_File).record
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MeasurementError(
            f"not an evaluation record: {error}",
            where=str(path),
            hint="Make one with `lightship evaluate SUBJECT -o record.json`.",
        ) from error
    for problem in _problems(record):
        raise MeasurementError(f"the record is damaged: {problem}", where=str(path))
    return record


def _problems(record: EvaluationRecord) -> Iterator[str]:
    names = [run.task for run in record.tasks]
    if len(names) != len(set(names)):
        yield "a task occurs twice"
    for run in record.tasks:
        yield from _run_problems(run)


def _run_problems(run: TaskRun) -> Iterator[str]:
    ids = [item.item_id for item in run.items]
    if len(ids) != len(set(ids)):
        yield f"an item of the task {run.task!r} occurs twice"
    if not run.items:
        yield f"the task {run.task!r} has no items"
    for item in run.items:
        for metric in run.metrics:
            score = item.scores.get(metric, math.nan)
            if not 0 <= score <= 1:
                yield f"task {run.task!r}, item {item.item_id!r}: {metric} is {score}, not within 0..1"
