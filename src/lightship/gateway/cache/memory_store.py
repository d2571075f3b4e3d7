"""Answers in this process's memory: the least recently used makes room."""

from __future__ import annotations

from collections import OrderedDict

from lightship.gateway.cache.store import StoreCounts
from lightship.ports.clock import Clock

# What an entry takes beside its value: the key, the map's slot and the objects' heads, rounded up.
ENTRY_OVERHEAD_BYTES = 400


class MemoryResponseStore:
    """A `ResponseStore` in memory.

    Args:
        max_bytes: All entries, with what keeping them takes.
        clock: Its monotonic time bounds the life of an entry.
    """

    def __init__(self, *, max_bytes: int, clock: Clock) -> None:
        self.counts = StoreCounts()
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._num_bytes = 0

    async def get(self, key: str) -> bytes | None:
        """See `ResponseStore`."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, expires_s = entry
        if self._clock.monotonic_s() >= expires_s:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> bool:
        """See `ResponseStore`."""
        if len(value) + ENTRY_OVERHEAD_BYTES > self._max_bytes:
            return False
        if key in self._entries:
            self._drop(key)
        self._entries[key] = (value, self._clock.monotonic_s() + ttl_s)
        self._num_bytes += len(value) + ENTRY_OVERHEAD_BYTES
        self._make_room()
        return True

    def resize(self, *, max_bytes: int) -> None:
        """See `ResponseStore`."""
        self._max_bytes = max_bytes
        self._make_room()

    def _make_room(self) -> None:
        while self._num_bytes > self._max_bytes:
            oldest = next(iter(self._entries))
            self.counts.num_evicted += self._entries[oldest][1] > self._clock.monotonic_s()
            self._drop(oldest)
        self._count()

    def _drop(self, key: str) -> None:
        value, _ = self._entries.pop(key)
        self._num_bytes -= len(value) + ENTRY_OVERHEAD_BYTES
        self._count()

    def _count(self) -> None:
        self.counts.num_bytes, self.counts.num_entries = self._num_bytes, len(self._entries)
