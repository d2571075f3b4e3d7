"""The counters of all processes of one machine, in one SQLite file.

The store's clock is the machine's monotonic one, which all its processes share. After a reboot it begins anew: what was
written before then lies ahead of it and is re-dated, see `limits.redated`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from lightship.gateway.tenants.ledger_store import StoreUnavailableError
from lightship.gateway.tenants.limits import Answer, Exchange, Position, decide, is_forgettable, redated
from lightship.ports.clock import Clock

# Stored in the file's `user_version`; raised with each change of the tables.
SCHEMA_VERSION = 1
# A transaction takes well under a millisecond; a wait this long means that a process was stopped in the middle of one.
_BUSY_TIMEOUT_S = 0.25

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spent (
    tenant TEXT NOT NULL,
    period INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    nanousd INTEGER NOT NULL,
    PRIMARY KEY (tenant, period)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS positions (
    tenant TEXT NOT NULL,
    holder TEXT NOT NULL,
    position BLOB NOT NULL,
    PRIMARY KEY (tenant, holder)
) WITHOUT ROWID;
"""
_ADD_SPENT = """
INSERT INTO spent VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens, nanousd = nanousd + excluded.nanousd
"""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Position)


class SqliteStore:
    """A `LedgerStore` in the file `path`, which is made with its folder when it is first used.

    All calls run in one thread of its own: a transaction takes some 30 microseconds, but milliseconds when another
    process writes or the machine is busy, which must not hold up the event loop.

    Args:
        path: On a local disk.
        clock: `monotonic_s` of the machine.
    """

    is_shared = True

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="limits")
        self._connection: sqlite3.Connection | None = None

    async def exchange(self, exchanges: Sequence[Exchange]) -> list[Answer]:
        """See `LedgerStore`: one transaction."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._exchange, exchanges)

    async def aclose(self) -> None:
        """See `LedgerStore`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _exchange(self, exchanges: Sequence[Exchange]) -> list[Answer]:
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                now_s = self._clock.monotonic_s()
                answers = [_exchange_one(connection, exchange, now_s) for exchange in exchanges]
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
            self._close()
            raise StoreUnavailableError(f"{self._path}: {error}") from error
        return answers

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = connection = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            # A crash of a process loses nothing; a power failure may lose the last seconds of counting.
            connection.execute("PRAGMA synchronous = NORMAL")
            if connection.execute("PRAGMA user_version").fetchone()[0] > SCHEMA_VERSION:
                raise sqlite3.DatabaseError("a newer lightship wrote this file")
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _exchange_one(connection: sqlite3.Connection, exchange: Exchange, now_s: float) -> Answer:
    tenant, calendar = exchange.tenant, exchange.calendar
    positions = {}
    for holder, encoded in connection.execute("SELECT holder, position FROM positions WHERE tenant = ?", (tenant,)):
        positions[holder] = _decoder.decode(encoded)
    for holder, position in list(positions.items()):
        if newer := redated(position, now_s):
            positions[holder] = newer
            _write_position(connection, tenant, holder, newer)
        elif is_forgettable(position, now_s):
            del positions[holder]
            connection.execute("DELETE FROM positions WHERE tenant = ? AND holder = ?", (tenant, holder))
    query = "SELECT period, tokens, nanousd FROM spent WHERE tenant = ? AND period IN (?, ?)"
    rows = connection.execute(query, (tenant, calendar.day, calendar.month))
    spent = {period: (tokens, nanousd) for period, tokens, nanousd in rows}
    own = positions.pop(exchange.holder, None)
    decision = decide(exchange, own=own, others=positions.values(), spent=spent, now_s=now_s)
    _write_position(connection, tenant, exchange.holder, decision.position)
    if decision.spent_tokens or decision.spent_nanousd:
        for period in (calendar.day, calendar.month):
            connection.execute(_ADD_SPENT, (tenant, period, decision.spent_tokens, decision.spent_nanousd))
    return decision.answer


def _write_position(connection: sqlite3.Connection, tenant: str, holder: str, position: Position) -> None:
    row = (tenant, holder, _encoder.encode(position))
    connection.execute("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", row)
