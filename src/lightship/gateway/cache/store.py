"""Where answers are kept.

A store keeps bytes under keys for a time and within a size. It is a cache: it may forget anything at any moment, and
what goes wrong in it reads as "not there".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class StoreCounts:
    """What a store knows of itself. `num_bytes` and `num_entries` are None where only a server knows.

    `num_evicted` counts entries that had to make room before their time, `num_failed` calls that found the store down
    or damaged.
    """

    num_bytes: int | None = 0
    num_entries: int | None = 0
    num_evicted: int = 0
    num_failed: int = 0


class ResponseStore(Protocol):
    """Bytes under keys, for a time and within a size.

    Concurrency: any number of calls at a time, from one event loop.
    """

    counts: StoreCounts

    async def get(self, key: str) -> bytes | None:
        """The value last put under the key; None where there is none, its time is over or the store is down."""
        ...

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> bool:
        """Keeps the value for at most `ttl_s` and says whether it did; others may have to make room for it."""
        ...

    def resize(self, *, max_bytes: int) -> None:
        """Another bound for all values together; entries over it go at once or with the next `put`."""
        ...
