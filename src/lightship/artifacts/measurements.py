"""Append-only store of measurements in one SQLite file, shared by any number of processes.

A figure is never changed or removed: a newer one is added, and both stay to be looked at. Triggers in the file hold
this against other programs too.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from lightship.artifacts.disk import full_disk_as_storage_error
from lightship.artifacts.locks import LockTimeoutError, wait_lock
from lightship.errors import ArtifactError, MeasurementError, StorageFullError
from lightship.ports.clock import Clock, SystemClock
from lightship.ports.measurements import Interval, Measurement, Metric, Target

# Stored in the file's `user_version`; raised with each change of the tables.
SCHEMA_VERSION = 1
EXPORT_FORMAT = "lightship-measurements"
# A writer holds the file for milliseconds; a wait this long means that a process hangs with the file locked.
_BUSY_TIMEOUT_S = 30.0

_SCHEMA = """
CREATE TABLE measurements (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    metric TEXT NOT NULL,
    value REAL NOT NULL,
    variant_digest TEXT NOT NULL,
    target TEXT NOT NULL,
    protocol TEXT NOT NULL,
    num_items INTEGER NOT NULL,
    interval TEXT,
    measured_unix_s REAL NOT NULL,
    machine TEXT NOT NULL,
    concurrency INTEGER NOT NULL,
    reference_digest TEXT,
    details TEXT NOT NULL
);
CREATE INDEX measurements_of_variant ON measurements (variant_digest, metric);
CREATE TRIGGER measurements_no_update BEFORE UPDATE ON measurements
BEGIN SELECT RAISE(ABORT, 'measurements are append-only'); END;
CREATE TRIGGER measurements_no_delete BEFORE DELETE ON measurements
BEGIN SELECT RAISE(ABORT, 'measurements are append-only'); END;
CREATE TRIGGER measurements_no_replace BEFORE INSERT ON measurements
WHEN EXISTS (SELECT 1 FROM measurements WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'measurements are append-only'); END;
"""
_COLUMNS = (
    "metric",
    "value",
    "variant_digest",
    "target",
    "protocol",
    "num_items",
    "interval",
    "measured_unix_s",
    "machine",
    "concurrency",
    "reference_digest",
    "details",
)
_INSERT = f"INSERT INTO measurements ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' for _ in _COLUMNS)})"


class MeasurementStore:
    """Measurements in the file `path`, which is made with the first one.

    Each call opens and closes the file, so that nothing is shared with child processes or left locked.

    Args:
        clock: Limits the wait for another process that makes the file; the machine's own by default.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or SystemClock()

    def append(self, measurements: Sequence[Measurement]) -> None:
        """Adds all of them, or none when it fails.

        Raises:
            MeasurementError: a figure is not finite or its interval does not hold it in order.
            StorageFullError: the disk is full. ArtifactError: the file cannot be used.
        """
        rows = [_to_row(measurement) for measurement in measurements]
        if not rows:
            return
        with full_disk_as_storage_error(self._path.parent):
            self._ensure_schema()
            with self._connection() as connection, _transaction(connection):
                connection.executemany(_INSERT, rows)

    def find(
        self,
        *,
        variant_digest: str | None = None,
        metric: Metric | None = None,
        target: Target | None = None,
        protocol: str | None = None,
        machine: str | None = None,
        concurrency: int | None = None,
    ) -> list[Measurement]:
        """Every measurement that agrees with all given values, in the order they were added.

        Raises: ArtifactError: the file cannot be read.
        """
        wanted: dict[str, Any] = {
            "variant_digest": variant_digest,
            "metric": metric.value if metric is not None else None,
            "target": _canonical_json(target) if target is not None else None,
            "protocol": protocol,
            "machine": machine,
            "concurrency": concurrency,
        }
        given = {column: value for column, value in wanted.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in given) or "TRUE"
        query = f"SELECT {', '.join(_COLUMNS)} FROM measurements WHERE {where} ORDER BY id"
        if not self._path.exists():
            return []
        self._ensure_schema()
        with self._connection() as connection:
            return [_from_row(row) for row in connection.execute(query, tuple(given.values()))]

    def latest(
        self,
        *,
        variant_digest: str | None = None,
        metric: Metric | None = None,
        target: Target | None = None,
        protocol: str | None = None,
        machine: str | None = None,
        concurrency: int | None = None,
    ) -> list[Measurement]:
        """As `find`, but only the newest of those that measure the same thing.

        The same thing is: metric, variant, target, protocol, machine, concurrency and reference. The newest is the one
        added last, since the time of a machine may jump.

        Raises: ArtifactError: the file cannot be read.
        """
        newest: dict[tuple[Any, ...], Measurement] = {}
        for measurement in self.find(
            variant_digest=variant_digest,
            metric=metric,
            target=target,
            protocol=protocol,
            machine=machine,
            concurrency=concurrency,
        ):
            key = _identity(measurement)
            newest.pop(key, None)  # so that the order is that of the newest, too
            newest[key] = measurement
        return list(newest.values())

    def export_json(self) -> bytes:
        """All measurements as one JSON object, in the order they were added; equal stores give equal bytes.

        Raises: ArtifactError: the file cannot be read.
        """
        records = [msgspec.to_builtins(measurement) for measurement in self.find()]
        content = {"format": EXPORT_FORMAT, "schema_version": SCHEMA_VERSION, "measurements": records}
        return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def _ensure_schema(self) -> None:
        """Makes the tables in a new file, and refuses one of another version."""
        if self._path.exists() and self._version() == SCHEMA_VERSION:
            return
        try:
            # One at a time: two connections that switch a new file to WAL together do not wait for each other.
            with wait_lock(
                self._path.with_name(f"{self._path.name}.lock"),
                self._clock,
                max_wait_s=_BUSY_TIMEOUT_S,
                on_wait=lambda: None,
            ):
                self._make_schema()
        except LockTimeoutError as error:
            raise ArtifactError("another process keeps the file locked", where=str(self._path)) from error

    def _make_schema(self) -> None:
        version = self._version()
        if version == SCHEMA_VERSION:
            return
        if version != 0:
            raise ArtifactError(
                f"the measurements have schema version {version}, this lightship reads {SCHEMA_VERSION}",
                where=str(self._path),
                hint="Update lightship, or move the file away to start anew.",
            )
        with self._connection() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    def _version(self) -> int:
        with self._connection() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            return int(version)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            # With WAL a crash of the machine may lose the last figures but never damages the file.
            connection.execute("PRAGMA synchronous = NORMAL")
            yield connection
        except sqlite3.Error as error:
            raise translate_sqlite_error(error, self._path) from error
        finally:
            if connection is not None:
                connection.close()


def translate_sqlite_error(error: sqlite3.Error, path: Path) -> ArtifactError:
    """What a failure of SQLite means to the user of the file."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the low byte is the primary code
    match code:
        case sqlite3.SQLITE_FULL:
            what, hint = "the disk became full while measurements were stored", "Free some space and run it again."
            return StorageFullError(what, where=str(path), hint=hint)
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            what = f"the measurements are damaged: {error}"
            hint = "Move the file away (its -wal and -shm neighbours too); what is missing is measured again."
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            what = f"another process kept the measurements locked for {_BUSY_TIMEOUT_S:.0f} s"
            hint = "Stop it and run the command again."
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            what = f"the measurements cannot be opened for writing: {error}"
            hint = "Check the owner and permissions of the file and its folder."
        case _:
            what, hint = f"the measurements cannot be used: {error}", "Check the disk and the file's permissions."
    return ArtifactError(what, where=str(path), hint=hint)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Everything inside the block, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # a full disk ends the transaction by itself
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _identity(measurement: Measurement) -> tuple[Any, ...]:
    return (
        measurement.metric,
        measurement.variant_digest,
        _canonical_json(measurement.target),
        measurement.protocol,
        measurement.machine,
        measurement.concurrency,
        measurement.reference_digest,
    )


def _canonical_json(value: object) -> str:
    """Equal values give equal text."""
    return json.dumps(msgspec.to_builtins(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _to_row(measurement: Measurement) -> tuple[Any, ...]:
    _check(measurement)
    record = {column: getattr(measurement, column) for column in _COLUMNS}
    record["metric"] = measurement.metric.value
    for column in ("target", "interval", "details"):
        record[column] = None if record[column] is None else _canonical_json(record[column])
    return tuple(record.values())


def _from_row(row: tuple[Any, ...]) -> Measurement:
    record = dict(zip(_COLUMNS, row, strict=True))
    try:
        record["metric"] = Metric(record["metric"])
        record["target"] = msgspec.json.decode(record["target"], type=Target)
        record["details"] = msgspec.json.decode(record["details"], type=dict[str, float])
        if record["interval"] is not None:
            record["interval"] = msgspec.json.decode(record["interval"], type=Interval)
    except (ValueError, msgspec.DecodeError) as error:
        what = f"a measurement cannot be read: {error}"
        hint = "Update lightship if a newer one wrote the file, else move the file away."
        raise ArtifactError(what, where="measurements", hint=hint) from error
    return Measurement(**record)


def _check(measurement: Measurement) -> None:
    interval = measurement.interval
    figures = [measurement.value, measurement.measured_unix_s, *measurement.details.values()]
    figures += [interval.low, interval.high, interval.level] if interval is not None else []
    if not all(math.isfinite(figure) for figure in figures):
        raise MeasurementError(f"{measurement.metric} is not finite: {measurement.value}", where=measurement.protocol)
    if interval is not None and not (interval.low <= interval.high and 0 < interval.level < 1):
        raise MeasurementError(f"{measurement.metric} has the interval {interval}", where=measurement.protocol)
    if measurement.num_items < 1:
        what = f"{measurement.metric} is over {measurement.num_items} items"
        raise MeasurementError(what, where=measurement.protocol, hint="A figure needs at least one item.")
