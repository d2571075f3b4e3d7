"""The counters of any number of gateways, in one Redis server.

The store's clock is that of the Redis server, so that gateways need not agree on the time; days and months are the
gateways' own. Counters are as durable as the server: with its append-only file a restart forgets at most a second of
spending, without persistence it forgets all of it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from lightship.errors import UsageError
from lightship.gateway.tenants.ledger_store import StoreUnavailableError
from lightship.gateway.tenants.limits import Amounts, Answer, Exchange, LimitKind, Refusal, StaleExchangeError
from lightship.gateway.tenants.redis_script import SCRIPT
from lightship.ports.clock import Clock

if TYPE_CHECKING:
    from redis.asyncio import Redis

_SCRIPT_SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()  # how Redis names scripts
_KINDS = {
    "concurrent": LimitKind.CONCURRENT_REQUESTS,
    "requests": LimitKind.REQUESTS_PER_MIN,
    "tokens": LimitKind.TOKENS_PER_MIN,
    "day_tokens": LimitKind.DAILY_TOKENS,
    "day_usd": LimitKind.DAILY_USD,
    "month_tokens": LimitKind.MONTHLY_TOKENS,
    "month_usd": LimitKind.MONTHLY_USD,
}


class _Reply(msgspec.Struct, frozen=True, array_like=True):
    """What the script returns; Lua has one kind of number."""

    kind: str
    wait_s: float
    is_exhausted: bool
    extra: Amounts
    left: Amounts


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Reply)


class RedisStore:
    """A `LedgerStore` in Redis 5 or newer, or Valkey.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout_s: Of one exchange, connecting included.
        prefix: Of the names of its keys.
        clock: Instead of the server's, for tests.

    Raises: UsageError: the extra `redis` is not installed.
    """

    is_shared = True

    def __init__(
        self, url: str, *, timeout_s: float = 0.05, prefix: str = "lightship:limits", clock: Clock | None = None
    ) -> None:
        self._timeout_s = timeout_s
        self._prefix = prefix
        self._clock = clock
        self._client = _client(url, timeout_s=timeout_s)

    async def exchange(self, exchanges: Sequence[Exchange]) -> list[Answer]:
        """See `LedgerStore`: one round trip, and one step per tenant."""
        from redis.exceptions import NoScriptError, RedisError

        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    replies = await self._run(exchanges)
                except NoScriptError:  # a server that was started anew
                    await self._client.script_load(SCRIPT)
                    replies = await self._run(exchanges)
            return [_answer(_decoder.decode(reply)) for reply in replies]
        except TimeoutError as error:
            raise StoreUnavailableError(f"Redis did not answer within {self._timeout_s:g} s") from error
        except (RedisError, OSError, msgspec.MsgspecError) as error:
            if "STALE" in str(error):
                raise StaleExchangeError from error
            raise StoreUnavailableError(f"Redis: {type(error).__name__}: {error}") from error

    async def aclose(self) -> None:
        """See `LedgerStore`."""
        await self._client.aclose()

    async def _run(self, exchanges: Sequence[Exchange]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        now = "" if self._clock is None else repr(self._clock.monotonic_s())
        for exchange in exchanges:
            # The braces keep a tenant's keys in one slot of a cluster.
            base = f"{self._prefix}:{{{exchange.tenant}}}"
            keys = (f"{base}:positions", f"{base}:{exchange.calendar.day}", f"{base}:{exchange.calendar.month}")
            pipeline.evalsha(_SCRIPT_SHA, len(keys), *keys, _encoder.encode(exchange), now)
        return await pipeline.execute()


def _client(url: str, *, timeout_s: float) -> Redis:
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        hint = "Install it: pip install 'lightship[redis]'."
        raise UsageError("shared limits in Redis need the package redis", hint=hint) from error
    try:
        # No retries: after a time limit nobody waits for the answer any more, and `Ledger` asks again.
        return Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )
    except ValueError as error:  # its message may quote the address, which may hold a password
        hint = "Write it like redis://host:6379/0."
        raise UsageError("the address of Redis cannot be read", where="redis_url", hint=hint) from error


def _answer(reply: _Reply) -> Answer:
    refusal = Refusal(_KINDS[reply.kind], reply.wait_s, reply.is_exhausted) if reply.kind else None
    return Answer(refusal, reply.extra, reply.left)
