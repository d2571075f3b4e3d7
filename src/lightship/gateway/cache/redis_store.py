"""Answers in a Redis (or Valkey) server that several gateways share.

A server that is down or slow reads as empty, and costs at most one time-out per second: after a failure nobody asks it
until a second later one call tries again. The server bounds the memory (`maxmemory` with an LRU policy); entries carry
their own end of life.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError, ResponseError

from lightship.gateway.cache.store import StoreCounts
from lightship.ports.clock import Clock

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

KEY_PREFIX = "lightship:response:"
_RETRY_AFTER_S = 1.0
_MAX_CONNECTIONS = 64


@asynccontextmanager
async def redis_response_store(url: str, *, timeout_s: float, clock: Clock) -> AsyncIterator[RedisResponseStore]:
    """A store in the server at `url`, which need not be up; its connections are closed with the block."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_MAX_CONNECTIONS,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
    )
    client = Redis.from_pool(pool)
    try:
        yield RedisResponseStore(client, timeout_s=timeout_s, clock=clock)
    finally:
        await client.aclose()


class RedisResponseStore:
    """A `ResponseStore` in Redis.

    Args:
        client: Connected on demand; the caller closes it.
        timeout_s: Of one call, connecting included.
        clock: Paces the attempts at a server that failed.
    """

    def __init__(self, client: Redis, *, timeout_s: float, clock: Clock) -> None:
        self.counts = StoreCounts(num_bytes=None, num_entries=None)
        self._client = client
        self._timeout_s = timeout_s
        self._clock = clock
        self._closed_until_s = 0.0
        self._is_down = False

    async def get(self, key: str) -> bytes | None:
        """See `ResponseStore`."""
        if not self._may_ask():
            return None
        value = await self._bounded(self._client.get(KEY_PREFIX + key))
        return value if isinstance(value, bytes) else None

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> bool:
        """See `ResponseStore`."""
        if not self._may_ask():
            return False
        ttl_ms = max(1, round(ttl_s * 1000))
        return bool(await self._bounded(self._client.set(KEY_PREFIX + key, value, px=ttl_ms)))

    def resize(self, *, max_bytes: int) -> None:
        """See `ResponseStore`. The server's own bound counts, not this one."""

    def _may_ask(self) -> bool:
        """Whether the server is worth a call; of those that come while it is down, one per second is."""
        if not self._is_down:
            return True
        now_s = self._clock.monotonic_s()
        if now_s < self._closed_until_s:
            return False
        self._closed_until_s = now_s + _RETRY_AFTER_S
        return True

    async def _bounded(self, answer: Awaitable[_T]) -> _T | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await answer
        except ResponseError as error:
            # It answers, only not as it should: another program's value, or no room by its own policy.
            self.counts.num_failed += 1
            _log.debug("the response cache's Redis refused a call: %s", _said(error))
            return None
        except (RedisError, OSError, TimeoutError) as error:
            self.counts.num_failed += 1
            self._closed_until_s = self._clock.monotonic_s() + _RETRY_AFTER_S
            if not self._is_down:
                self._is_down = True
                _log.warning("the response cache's Redis does not answer, so nothing is found in it: %s", _said(error))
            return None
        if self._is_down:
            self._is_down = False
            _log.info("the response cache's Redis answers again")
        return result


def _said(error: BaseException) -> str:
    return type(error).__name__  # its text may hold the address with a password
