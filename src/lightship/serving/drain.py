"""Counts requests in flight, so that a server stops accepting, finishes what it has, and only then ends.

OPEN --start_draining()--> DRAINING --last request leaves--> (wait_until_idle returns)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class InFlight:
    """The count of requests under way in this process; used from one event loop only."""

    def __init__(self) -> None:
        self._count = 0
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def count(self) -> int:
        """Requests under way."""
        return self._count

    @property
    def is_draining(self) -> bool:
        """Whether new requests are to be refused."""
        return self._is_draining

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts one request while the block runs, on every path out of it."""
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0:
                self._idle.set()

    def start_draining(self) -> None:
        """From now on new requests are to be refused."""
        self._is_draining = True

    async def wait_until_idle(self, *, timeout_s: float) -> bool:
        """Whether the count reached zero within the time limit."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
