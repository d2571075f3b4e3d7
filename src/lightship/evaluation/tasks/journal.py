"""What is done of a run, on disk: one line per item, so that a run that dies goes on where it was.

    {"format": "lightship-task-journal/1", "protocol": ..., "subject": ...}     first line: what was asked, of whom
    {"item": {...}, "served": {...}, "counts": {...}}                           then one line per finished item

Lines are only ever appended, by one process at a time (a lock beside the file). A line that was cut off by a crash is
dropped when the journal is opened again, and its item is asked again; anything else that is not a journal of this very
run is refused and left as it is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from lightship.artifacts.disk import full_disk_as_storage_error
from lightship.artifacts.locks import try_lock
from lightship.errors import MeasurementError
from lightship.evaluation.tasks.asking import Asked

_FORMAT = "lightship-task-journal/1"
# A power cut loses at most so many items; a process that dies loses none, since each line is handed to the system.
_LINES_PER_SYNC = 16

_OTHER_FILE = "Name another file."


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    protocol: str
    subject: str
    format: str = _FORMAT


class Journal:
    """An open journal: what was there (`done`, by item id, in the order of the file), and appending to it.

    Made by `open_journal`.
    Concurrency: several tasks of one event loop may append; each line is written at once and whole.
    """

    def __init__(self, path: Path, file: int, done: dict[str, Asked]) -> None:
        self.path = path
        self.done = done
        self._file = file
        self._num_unsynced = 0

    async def append(self, asked: Asked) -> None:
        """Adds a finished item, which a crash of this process does not lose any more.

        Raises: StorageFullError: the disk is full.
        """
        with full_disk_as_storage_error(self.path.parent):
            _write(self._file, msgspec.json.encode(asked) + b"\n")
        self.done[asked.result.item_id] = asked
        self._num_unsynced += 1
        if self._num_unsynced >= _LINES_PER_SYNC:
            self._num_unsynced = 0
            await asyncio.to_thread(os.fsync, self._file)


@contextmanager
def open_journal(path: Path, *, protocol: str, subject: str) -> Iterator[Journal]:
    """The journal at `path`, new or gone on with, for the length of the block; synced to the disk at its end.

    Raises:
        MeasurementError: the file is a journal of another run, damaged in the middle, or no journal at all; or another
            process writes it. It is left as it is.
        StorageFullError: the disk is full.
    Effects: creates file, lock file and folder; cuts off an incomplete last line.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not stack.enter_context(try_lock(path.with_name(f"{path.name}.lock"))):
                raise MeasurementError(
                    "another process is writing this journal", where=str(path), hint="Wait for its end, or stop it."
                )
            file = stack.enter_context(_opened(path))
            journal = _resumed(path, file, _Header(protocol, subject))
        except OSError as error:
            raise MeasurementError(f"cannot keep a journal: {error.strerror or error}", where=str(path)) from error
        yield journal


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        yield file
    finally:
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _resumed(path: Path, file: int, header: _Header) -> Journal:
    content = path.read_bytes()
    first_line = msgspec.json.encode(header) + b"\n"
    complete = content[: content.rfind(b"\n") + 1]
    if not complete:
        if not first_line.startswith(content):
            raise MeasurementError("the file is not a journal of task results", where=str(path), hint=_OTHER_FILE)
        done: dict[str, Asked] = {}
        os.ftruncate(file, 0)
        with full_disk_as_storage_error(path.parent):
            _write(file, first_line)
    else:
        done = _parsed(complete, header, path)
        os.ftruncate(file, len(complete))
    return Journal(path, file, done)


def _parsed(complete: bytes, header: _Header, path: Path) -> dict[str, Asked]:
    """The items of whole lines, the first of which must be the header."""
    lines = complete.split(b"\n")[:-1]
    try:
        found = msgspec.json.decode(lines[0], type=_Header)
    except msgspec.DecodeError as error:
        raise MeasurementError(
            "the file is not a journal of task results", where=str(path), hint=_OTHER_FILE
        ) from error
    for name in ("format", "protocol", "subject"):
        ours, theirs = getattr(header, name), getattr(found, name)
        if ours != theirs:
            raise MeasurementError(
                f"the journal belongs to another run: its {name} is {theirs!r}, this run's is {ours!r}",
                where=str(path),
                hint="Name another file, or delete this one to measure anew.",
            )
    done: dict[str, Asked] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            asked = msgspec.json.decode(line, type=Asked)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MeasurementError(
                f"the line is damaged: {error}",
                where=f"{path}:{number}",
                hint="Delete the line; its item is asked again.",
            ) from error
        if asked.result.item_id in done:
            raise MeasurementError(
                f"the item {asked.result.item_id!r} is there twice", where=f"{path}:{number}", hint="Delete the line."
            )
        done[asked.result.item_id] = asked
    return done


def _write(file: int, content: bytes) -> None:
    """Writes all of it; a regular file takes it at once unless the disk is full or a signal comes."""
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]
