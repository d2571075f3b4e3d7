"""Keeps a gateway's keys as they are in the file: a change is in use within a second, without a restart."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path

from lightship.gateway.tenants.authentication import Authenticator, KeyTable
from lightship.gateway.tenants.key_store import open_keys, read_all
from lightship.ports.clock import Clock

_log = logging.getLogger(__name__)

_INTERVAL_S = 0.5


class KeyWatch:
    """Reads the file when it was changed, and gives its keys to an `Authenticator`.

    A file that is not there is one without keys. One that cannot be read changes nothing: the keys of before stay.

    Args:
        path: Of the file; None is one without keys.
        authenticator: Whose table is replaced.
        clock: Paces the looks at it.
    """

    def __init__(self, path: Path | None, authenticator: Authenticator, clock: Clock) -> None:
        self._path = path
        self._authenticator = authenticator
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._seen: tuple[int, int] | None = None
        self._is_broken = False
        self._is_moved = False

    def look_at(self, path: Path | None) -> None:
        """Effects: the next `refresh` reads this file."""
        if path != self._path:
            self._path = path
            self._is_moved = True

    async def refresh(self) -> None:
        """Effects: the authenticator has the keys that are in the file now. One call at a time."""
        table = await asyncio.to_thread(self._read_if_changed)
        if table is not None:
            self._authenticator.table = table

    async def run(self) -> None:
        """Looks at the file for ever; cancel it to end."""
        try:
            while True:
                await self._clock.sleep(_INTERVAL_S)
                await self.refresh()
        finally:
            self.close()

    def close(self) -> None:
        """Effects: releases the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _read_if_changed(self) -> KeyTable | None:
        """The new table; None when it is the same, or cannot be read."""
        try:
            table = self._read()
        except (sqlite3.Error, OSError, ValueError, TypeError, KeyError) as error:
            self.close()
            self._seen = None
            if not self._is_broken:
                _log.error("the keys in %s cannot be read, those of before stay: %s", self._path, error)
            self._is_broken = True
            return None
        if self._is_broken:
            _log.warning("the keys in %s can be read again", self._path)
        self._is_broken = False
        return table

    def _read(self) -> KeyTable | None:
        if self._is_moved:
            self.close()
            self._seen = None
        inode = None if self._path is None else _inode(self._path)
        if self._path is None or inode is None:
            self.close()
            is_news = self._seen is not None or self._is_moved
            self._seen, self._is_moved = None, False
            return KeyTable() if is_news else None
        if self._seen is not None and self._seen[0] != inode:  # another file has taken its place
            self.close()
        if self._connection is None:
            self._connection = open_keys(self._path)
            self._seen = None
        # Changes with every commit of another connection, and only then.
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if self._seen == (inode, version):
            return None
        table = KeyTable(read_all(self._connection))
        self._seen, self._is_moved = (inode, version), False
        return table


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
