"""Where answers are kept: one Protocol, and the choice among its implementations.

A store keeps bytes under keys for a time and within a size. It is a cache: it may forget anything at any moment, and
what goes wrong in it reads as "not there".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lightship.errors import UsageError
from lightship.gateway.cache.config import CacheConfig
from lightship.gateway.state import StateConfig
from lightship.ports.clock import Clock

_REDIS_HINT = "Install lightship[redis], or take the Redis address out of the configuration."


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


@asynccontextmanager
async def open_store(config: CacheConfig, state: StateConfig, *, clock: Clock) -> AsyncIterator[ResponseStore]:
    """The store that a gateway's state asks for; it is closed with the block.

    Raises: UsageError: the folder cannot be written, or the client library of Redis is not installed.
    """
    from lightship.gateway.cache.memory_store import MemoryResponseStore  # each leaf brings its own imports

    if state.redis_url:
        try:
            from lightship.gateway.cache.redis_store import redis_response_store
        except ImportError as error:
            raise UsageError("answers are to be kept in Redis, but its client is missing", hint=_REDIS_HINT) from error
        async with redis_response_store(state.redis_url, timeout_s=state.redis_timeout_s, clock=clock) as redis_store:
            yield redis_store
    elif state.folder:
        from lightship.gateway.cache.sqlite_store import sqlite_response_store

        path = Path(state.folder) / "responses.sqlite"
        async with sqlite_response_store(path, max_bytes=config.max_bytes, clock=clock) as sqlite_store:
            yield sqlite_store
    else:
        yield MemoryResponseStore(max_bytes=config.max_bytes, clock=clock)
