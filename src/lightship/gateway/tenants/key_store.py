"""The file of keys: SQLite, written by `lightship keys`, read by every gateway process."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightship.errors import ArtifactError, StorageFullError, UsageError
from lightship.gateway.tenants.keys import EVERYTHING, KeyRecord, KeyScopes, digest_of, new_key
from lightship.ports.clock import Clock

# Stored in the file's `user_version`; raised with each change of the tables.
SCHEMA_VERSION = 1
# All of them are in the memory of every gateway process, about half a kilobyte each.
MAX_KEYS = 100_000
_BUSY_TIMEOUT_S = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    prefix TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    scopes TEXT NOT NULL,
    label TEXT NOT NULL,
    created_unix_s REAL NOT NULL,
    expires_unix_s REAL,
    is_disabled INTEGER NOT NULL,
    rotated_unix_s REAL,
    old_digest BLOB,
    old_until_unix_s REAL NOT NULL
);
"""
_COLUMNS = (
    "prefix, digest, tenant, scopes, label, created_unix_s, expires_unix_s, is_disabled, rotated_unix_s, old_digest,"
    " old_until_unix_s"
)


class KeyStore:
    """The keys in the file `path`, which is made with the first one, readable by its owner only.

    Each call opens and closes the file. Every method raises ArtifactError when it cannot be used.

    Args:
        clock: `unix_s` dates what is done.
        random_bytes: A source fit for secrets.
    """

    def __init__(self, path: Path, clock: Clock, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._path = path
        self._clock = clock
        self._random_bytes = random_bytes

    def create(
        self, tenant: str, *, label: str = "", scopes: KeyScopes = EVERYTHING, expires_unix_s: float | None = None
    ) -> tuple[str, KeyRecord]:
        """A new key, which is never to be seen again, and its record.

        Raises: UsageError: there are too many keys.
        """
        with self._writing() as connection:
            if connection.execute("SELECT count(*) FROM keys").fetchone()[0] >= MAX_KEYS:
                hint = "Remove some with lightship keys rm."
                raise UsageError(f"there are {MAX_KEYS} keys already", where=str(self._path), hint=hint)
            while True:
                key = new_key(self._random_bytes)
                prefix = key.split("-")[1]
                if connection.execute("SELECT 1 FROM keys WHERE prefix = ?", (prefix,)).fetchone() is None:
                    break
            record = KeyRecord(
                prefix=prefix,
                digest=digest_of(key),
                tenant=tenant,
                scopes=scopes,
                label=label,
                created_unix_s=self._clock.unix_s(),
                expires_unix_s=expires_unix_s,
            )
            _write(connection, record)
        return key, record

    def all(self) -> list[KeyRecord]:
        """Every key, the oldest first; none when there is no file."""
        if not self._path.exists():
            return []
        with self._connection() as connection:
            return read_all(connection)

    def get(self, prefix: str) -> KeyRecord:
        """One key by its prefix, or by the whole key.

        Raises: UsageError: there is none.
        """
        name = _name(prefix)
        for record in self.all():
            if record.prefix == name:
                return record
        raise _no_such_key(name)

    def rotate(self, prefix: str, *, grace_s: float) -> tuple[str, KeyRecord]:
        """A new secret under the same prefix; the old one works for `grace_s` more.

        Raises: UsageError: there is no such key.
        """
        key = ""

        def rotated(record: KeyRecord) -> KeyRecord:
            nonlocal key
            key = new_key(self._random_bytes, prefix=record.prefix)
            now_s = self._clock.unix_s()
            return replace(
                record,
                digest=digest_of(key),
                rotated_unix_s=now_s,
                old_digest=record.digest if grace_s > 0 else None,
                old_until_unix_s=now_s + grace_s if grace_s > 0 else 0.0,
            )

        record = self._change(prefix, rotated)
        return key, record

    def disable(self, prefix: str) -> KeyRecord:
        """Switches a key off. Raises: UsageError: there is no such key."""
        return self._change(prefix, lambda record: replace(record, is_disabled=True))

    def enable(self, prefix: str) -> KeyRecord:
        """Switches a key on again. Raises: UsageError: there is no such key."""
        return self._change(prefix, lambda record: replace(record, is_disabled=False))

    def expire(self, prefix: str, at_unix_s: float | None) -> KeyRecord:
        """Sets when a key ends; None is never. Raises: UsageError: there is no such key."""
        return self._change(prefix, lambda record: replace(record, expires_unix_s=at_unix_s))

    def remove(self, prefix: str) -> KeyRecord:
        """Forgets a key. Raises: UsageError: there is no such key."""
        record = self.get(prefix)
        with self._writing() as connection:
            connection.execute("DELETE FROM keys WHERE prefix = ?", (record.prefix,))
        return record

    def _change(self, prefix: str, change: Callable[[KeyRecord], KeyRecord]) -> KeyRecord:
        name = _name(prefix)
        if not self._path.exists():
            raise _no_such_key(name)
        with self._writing() as connection:
            row = connection.execute(f"SELECT {_COLUMNS} FROM keys WHERE prefix = ?", (name,)).fetchone()
            if row is None:
                raise _no_such_key(name)
            record = change(_from_row(row))
            _write(connection, record)
        return record

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; the file is made where there is none."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
        except OSError as error:
            what, hint = f"the keys cannot be written: {error.strerror}", "Check the folder's permissions."
            raise ArtifactError(what, where=str(self._path), hint=hint) from error
        with self._connection() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = open_keys(self._path)
            try:
                yield connection
            finally:
                connection.close()
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            raise _unusable(self._path, error) from error


def open_keys(path: Path) -> sqlite3.Connection:
    """A connection to the file of keys; it exists.

    Raises: sqlite3.Error: it cannot be opened, or a newer program wrote it.
    """
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] > SCHEMA_VERSION:
            raise sqlite3.DatabaseError("a newer lightship wrote it")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def read_all(connection: sqlite3.Connection) -> list[KeyRecord]:
    """Every key, the oldest first."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'keys'").fetchone():
        return []  # the file has just been made
    query = f"SELECT {_COLUMNS} FROM keys ORDER BY created_unix_s, prefix LIMIT {MAX_KEYS}"
    return [_from_row(row) for row in connection.execute(query)]


def _write(connection: sqlite3.Connection, record: KeyRecord) -> None:
    scopes = record.scopes
    models = None if scopes.models is None else sorted(scopes.models)
    kept = {
        "models": models,
        "priority": scopes.priority,
        "max_priority": scopes.max_priority,
        "is_admin": scopes.is_admin,
    }
    row = (
        record.prefix,
        record.digest,
        record.tenant,
        json.dumps(kept),
        record.label,
        record.created_unix_s,
        record.expires_unix_s,
        record.is_disabled,
        record.rotated_unix_s,
        record.old_digest,
        record.old_until_unix_s,
    )
    connection.execute(f"INSERT OR REPLACE INTO keys ({_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)


def _from_row(row: tuple[Any, ...]) -> KeyRecord:
    prefix, digest, tenant, scopes, label, created_s, expires_s, is_disabled, rotated_s, old_digest, old_until_s = row
    kept = json.loads(scopes)
    models = kept.pop("models")
    return KeyRecord(
        prefix=prefix,
        digest=digest,
        tenant=tenant,
        scopes=KeyScopes(models=None if models is None else frozenset(models), **kept),
        label=label,
        created_unix_s=created_s,
        expires_unix_s=expires_s,
        is_disabled=bool(is_disabled),
        rotated_unix_s=rotated_s,
        old_digest=old_digest,
        old_until_unix_s=old_until_s,
    )


def _name(prefix_or_key: str) -> str:
    """The prefix in `PREFIX`, `ls-PREFIX` or a whole key: people paste what they have."""
    return prefix_or_key.removeprefix("ls-").partition("-")[0]


def _no_such_key(name: str) -> UsageError:
    # A whole key was cut down to its prefix; what is not one may still be a secret and is not repeated in full.
    return UsageError(f"there is no key {name[:8]!r}", hint="lightship keys ls shows those there are.")


def _unusable(path: Path, error: Exception) -> ArtifactError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the low byte is the primary code
    if code == sqlite3.SQLITE_FULL:
        return StorageFullError("the disk is full", where=str(path), hint="Free some space and run it again.")
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        what, hint = "another process keeps the keys locked", "Run it again."
        return ArtifactError(what, where=str(path), hint=hint)
    hint = "Check the file's owner and permissions; a damaged file has to be moved away, and keys made anew."
    return ArtifactError(f"the keys cannot be read: {error}", where=str(path), hint=hint)
