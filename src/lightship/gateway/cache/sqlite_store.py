"""Answers in a SQLite file that the processes of one machine share.

Reads happen on the event loop: by primary key, from a connection of their own, which in WAL mode waits for no writer.
Writes happen in one thread. What is read is marked as used at most once a minute, so that a read is not a write.
A damaged file is emptied: it is a cache.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from lightship.errors import UsageError
from lightship.gateway.cache.store import StoreCounts
from lightship.ports.clock import Clock

_log = logging.getLogger(__name__)

# A writer waits this long for another process; a cache that is busier is not worth waiting for.
_BUSY_TIMEOUT_S = 0.2
# At the start several processes make the file at a time, on a disk that may be slow.
_OPEN_TIMEOUT_S = 5.0
_USED_RESOLUTION_S = 60.0
# Entries that make room at once, so that a write stays short.
_EVICTED_AT_ONCE = 64
# Writes that wait for the thread; more are dropped, or a slow disk would fill the memory.
_MAX_WAITING_WRITES = 256
_SCHEMA_VERSION = 1
# The sum of all sizes is kept by the database itself, so that every process sees the same one.
_SCHEMA = f"""
CREATE TABLE answers (key TEXT PRIMARY KEY, value BLOB, expires_s REAL, used_s REAL, num_bytes INTEGER);
CREATE INDEX answers_used ON answers (used_s);
CREATE INDEX answers_expires ON answers (expires_s);
CREATE TABLE totals (num_bytes INTEGER, num_entries INTEGER);
INSERT INTO totals VALUES (0, 0);
CREATE TRIGGER answers_added AFTER INSERT ON answers BEGIN
  UPDATE totals SET num_bytes = num_bytes + NEW.num_bytes, num_entries = num_entries + 1; END;
CREATE TRIGGER answers_removed AFTER DELETE ON answers BEGIN
  UPDATE totals SET num_bytes = num_bytes - OLD.num_bytes, num_entries = num_entries - 1; END;
PRAGMA user_version = {_SCHEMA_VERSION};
"""
# Tables last: what hangs on them goes with them, and is not missed.
_EVERYTHING = """
SELECT type, name FROM sqlite_master
WHERE type IN ('trigger', 'view', 'table') AND name NOT LIKE 'sqlite_%' ORDER BY type = 'table'
"""
# What an entry takes beside its value: key, numbers and two index entries, rounded up.
ENTRY_OVERHEAD_BYTES = 300


@asynccontextmanager
async def sqlite_response_store(path: Path, *, max_bytes: int, clock: Clock) -> AsyncIterator[SqliteResponseStore]:
    """A store in the file, which is made where it is missing or damaged; closed with the block.

    Raises: UsageError: the folder cannot be written.
    """
    store = SqliteResponseStore(path, max_bytes=max_bytes, clock=clock)
    try:
        yield store
    finally:
        await store.aclose()


class SqliteResponseStore:
    """A `ResponseStore` in a file.

    Args:
        path: Of the file; only its owner may read it, for it holds answers.
        max_bytes: All values, with what keeping them takes; the file holds as much, and is reused, not shrunk.
        clock: Its Unix time bounds the life of an entry, for processes share nothing else.

    Raises: UsageError: the file cannot be made.
    """

    def __init__(self, path: Path, *, max_bytes: int, clock: Clock) -> None:
        self.counts = StoreCounts()
        self._path = path
        self._max_bytes = max_bytes
        self._clock = clock
        self._num_waiting = 0
        self._is_healing = False
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="response-cache")
        try:
            self._open()
        except (sqlite3.Error, OSError) as error:
            raise UsageError(
                f"the response cache cannot be opened: {error}",
                where=str(path),
                hint="Make the state folder writable, or leave it out to keep answers in memory.",
            ) from error

    async def get(self, key: str) -> bytes | None:
        """See `ResponseStore`."""
        now_s = self._clock.unix_s()
        try:
            row = self._reads.execute("SELECT value, expires_s, used_s FROM answers WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._note_failure(error)
            if _is_damaged(error) and not self._is_healing:
                self._is_healing = True
                self._send(self._heal)
            return None
        if row is None:
            return None
        value, expires_s, used_s = row
        if not isinstance(value, bytes) or not isinstance(expires_s, float) or now_s >= expires_s:
            return None
        if isinstance(used_s, float) and now_s - used_s > _USED_RESOLUTION_S:
            self._send(lambda: self._mark_used(key, now_s))
        return value

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> bool:
        """See `ResponseStore`."""
        num_bytes = len(value) + ENTRY_OVERHEAD_BYTES
        if num_bytes > self._max_bytes:
            return False
        now_s = self._clock.unix_s()
        row = (key, value, now_s + ttl_s, now_s, num_bytes)
        written = self._send(lambda: self._write(row))
        return written is not None and await asyncio.shield(written)

    def resize(self, *, max_bytes: int) -> None:
        """See `ResponseStore`."""
        self._max_bytes = max_bytes

    async def aclose(self) -> None:
        """Effects: waits for writes under way, and closes the file."""
        await asyncio.to_thread(self._writer.shutdown, wait=True)
        self._close()

    def _send(self, write: Callable[[], bool]) -> asyncio.Future[bool] | None:
        if self._num_waiting >= _MAX_WAITING_WRITES:
            self.counts.num_failed += 1
            return None
        self._num_waiting += 1
        written = asyncio.get_running_loop().run_in_executor(self._writer, self._guarded, write)
        written.add_done_callback(self._note_written)
        return written

    def _note_written(self, written: asyncio.Future[bool]) -> None:
        self._num_waiting -= 1

    def _guarded(self, write: Callable[[], bool]) -> bool:
        try:
            return write()
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._writes.execute("ROLLBACK")
            self._note_failure(error)
            if _is_damaged(error):
                self._start_again()
            return False

    def _write(self, row: tuple[str, bytes, float, float, int]) -> bool:
        execute = self._writes.execute
        execute("BEGIN IMMEDIATE")
        execute("DELETE FROM answers WHERE key = ?", row[:1])
        execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", row)
        self._make_room(now_s=row[3])
        execute("COMMIT")
        return True

    def _make_room(self, *, now_s: float) -> None:
        execute = self._writes.execute
        execute(
            "DELETE FROM answers WHERE key IN (SELECT key FROM answers WHERE expires_s <= ? LIMIT ?)",
            (now_s, _EVICTED_AT_ONCE),
        )
        while True:
            num_bytes, num_entries = execute("SELECT num_bytes, num_entries FROM totals").fetchone()
            if num_bytes <= self._max_bytes or not num_entries:
                break
            evicted, freed = [], 0
            for key, size in execute(
                "SELECT key, num_bytes FROM answers ORDER BY used_s, rowid LIMIT ?", (_EVICTED_AT_ONCE,)
            ).fetchall():
                if num_bytes - freed <= self._max_bytes:
                    break
                evicted.append((key,))
                freed += size
            self._writes.executemany("DELETE FROM answers WHERE key = ?", evicted)
            self.counts.num_evicted += len(evicted)
        self.counts.num_bytes, self.counts.num_entries = num_bytes, num_entries

    def _mark_used(self, key: str, now_s: float) -> bool:
        self._writes.execute("UPDATE answers SET used_s = ? WHERE key = ?", (now_s, key))
        return True

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # SQLite gives the files beside it the same rights.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        try:
            self._connect()
        except sqlite3.DatabaseError as error:
            if not _is_damaged(error):
                raise
            _log.warning("%s is damaged and is emptied: %s", self._path, error)
            self._remove()
            self._connect()

    def _connect(self) -> None:
        self._writes = self._connection(busy_timeout_s=_OPEN_TIMEOUT_S)
        try:
            self._writes.execute("PRAGMA journal_mode = WAL")
            self._writes.execute("PRAGMA synchronous = OFF")  # what a power cut takes is asked for again
            self._make_schema()
            self._writes.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_S * 1000:.0f}")
            reads = self._connection(busy_timeout_s=0.0)  # the event loop waits for nobody
            reads.execute("PRAGMA query_only = ON")
            self._reads = reads
        except BaseException:
            self._writes.close()
            raise

    def _connection(self, *, busy_timeout_s: float) -> sqlite3.Connection:
        # Each connection is used by one thread at a time, which SQLite cannot know.
        return sqlite3.connect(self._path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)

    def _make_schema(self) -> None:
        self._writes.execute("BEGIN IMMEDIATE")  # one process makes it, the others find it
        (version,) = self._writes.execute("PRAGMA user_version").fetchone()
        if version != _SCHEMA_VERSION:
            for kind, name in self._writes.execute(_EVERYTHING).fetchall():
                quoted = name.replace('"', '""')
                self._writes.execute(f'DROP {kind} IF EXISTS "{quoted}"')
            for statement in _statements(_SCHEMA):
                self._writes.execute(statement)
        self._writes.execute("COMMIT")
        (self.counts.num_bytes, self.counts.num_entries) = self._writes.execute("SELECT * FROM totals").fetchone()

    def _heal(self) -> bool:
        self._start_again()
        self._is_healing = False
        return True

    def _start_again(self) -> None:
        """Effects: makes the file anew; runs in the writer's thread, and readers miss until it is there."""
        try:
            self._writes.close()
            self._remove()
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            self._connect()
        except (sqlite3.Error, OSError) as error:
            self._note_failure(error)

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _close(self) -> None:
        for connection in (self._reads, self._writes):
            with suppress(sqlite3.Error):
                connection.close()

    def _note_failure(self, error: Exception) -> None:
        self.counts.num_failed += 1
        if (
            self.counts.num_failed & (self.counts.num_failed - 1) == 0
        ):  # 1, 2, 4, 8, ...: a full disk must not fill the log
            _log.warning("%s: the response cache failed %d times: %s", self._path, self.counts.num_failed, error)


def _is_damaged(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}


def _statements(script: str) -> list[str]:
    statements, pending = [], ""
    for line in script.strip().splitlines():
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements
