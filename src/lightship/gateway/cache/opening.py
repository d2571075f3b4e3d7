"""The store that a gateway's state asks for: memory, SQLite or Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from lightship.errors import UsageError
from lightship.gateway.cache.config import CacheConfig
from lightship.gateway.cache.memory_store import MemoryResponseStore
from lightship.gateway.cache.sqlite_store import sqlite_response_store
from lightship.gateway.cache.store import ResponseStore
from lightship.gateway.state import StateConfig
from lightship.ports.clock import Clock

_REDIS_HINT = "Install lightship[redis], or take the Redis address out of the configuration."


@asynccontextmanager
async def open_store(config: CacheConfig, state: StateConfig, *, clock: Clock) -> AsyncIterator[ResponseStore]:
    """The store that a gateway's state asks for; it is closed with the block.

    Raises: UsageError: the folder cannot be written, or the client library of Redis is not installed.
    """
    if state.redis_url:
        try:
            from lightship.gateway.cache.redis_store import redis_response_store
        except ImportError as error:
            raise UsageError("answers are to be kept in Redis, but its client is missing", hint=_REDIS_HINT) from error
        async with redis_response_store(state.redis_url, timeout_s=state.redis_timeout_s, clock=clock) as redis_store:
            yield redis_store
    elif state.folder:
        path = Path(state.folder) / "responses.sqlite"
        async with sqlite_response_store(path, max_bytes=config.max_bytes, clock=clock) as sqlite_store:
            yield sqlite_store
    else:
        yield MemoryResponseStore(max_bytes=config.max_bytes, clock=clock)
