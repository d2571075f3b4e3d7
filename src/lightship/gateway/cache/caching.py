"""The layer that answers from what was answered before, and makes one engine call for all who ask the same at once.

    not for the cache    passed on as it is; `x-cache: bypass`
    stored               answered here; `x-cache: hit-exact`, `age`, at no cost
    under way            on board of the flight (see `single_flight`); `hit-exact` with age 0, at no cost
    neither              a flight of its own, and its answer is stored; `x-cache: miss`

A stored answer keeps the `id` and `created` of its body: it is that answer. Its request id is the request's own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from lightship.gateway.cache.answer import NotStored, StoredAnswer, answer_of, decode_answer, encode_answer
from lightship.gateway.cache.config import CacheConfig
from lightship.gateway.cache.flight import FlightBudget, Reader
from lightship.gateway.cache.key import (
    BypassError,
    BypassReason,
    CacheableRequest,
    may_be_deterministic,
    read_cacheable,
)
from lightship.gateway.cache.replay import replayed
from lightship.gateway.cache.single_flight import Flights, Landing
from lightship.gateway.cache.store import ResponseStore
from lightship.gateway.cache.telemetry import CacheResult, CacheTelemetry
from lightship.gateway.headers import CACHE, QUALITY_LOSS, SERVED_VARIANT
from lightship.ports.clock import Clock
from lightship.ports.engine import Engine, EngineCall, EngineReply, TokenUsage
from lightship.wire.errors import ApiError, overloaded
from lightship.wire.paths import CHAT_COMPLETIONS, COMPLETIONS

AGE = "age"
HIT, MISS, BYPASS = "hit-exact", "miss", "bypass"

AcceptableDigests = Callable[[EngineCall], Sequence[str]]
"""The variants that may answer a call now, as `x-served-variant` tells them, the one it asked for first."""

_CACHED_PATHS = frozenset({CHAT_COMPLETIONS, COMPLETIONS})
# Pieces of a replayed stream: large enough to cost little, small enough for a server's write buffer.
_PIECE_BYTES = 2**16
# Clocks of gateways that share a store may differ by this much; an answer from further in the future is not believed.
_CLOCK_SKEW_S = 60.0


class CachedEngine:
    """Another engine, whose answers are kept.

    Args:
        inner: Answers what is not stored. Its replies name their variant in `x-served-variant`.
        config: None turns the cache off.
        store: Where answers are kept.
        acceptable_digests: See `AcceptableDigests`.
        telemetry: Where requests are counted.
        clock: Its Unix time gives answers their age.

    Concurrency: one event loop, while `running`.
    """

    def __init__(
        self,
        inner: Engine,
        config: CacheConfig | None,
        *,
        store: ResponseStore,
        acceptable_digests: AcceptableDigests,
        telemetry: CacheTelemetry,
        clock: Clock,
    ) -> None:
        self.telemetry = telemetry
        self.clock = clock
        self.inner = inner
        self._config = config
        self._store = store
        self._acceptable_digests = acceptable_digests
        limits = config or CacheConfig()
        self._budget = FlightBudget(limits.max_entry_bytes, limits.max_flight_bytes)
        self.flights = Flights(inner, self._budget)
        telemetry.watch(store.counts, lambda: self.flights.num_under_way)

    def running(self) -> AbstractAsyncContextManager[None]:
        """The block in which calls can be opened."""
        return self.flights.running()

    def apply(self, config: CacheConfig | None) -> None:
        """Effects: other limits from now on; what is stored stays, as far as they let it."""
        self._config = config
        if config is not None:
            self._budget.max_entry_bytes = config.max_entry_bytes
            self._budget.max_bytes = config.max_flight_bytes
            self._store.resize(max_bytes=config.max_bytes)

    def open(self, call: EngineCall) -> AbstractAsyncContextManager[EngineReply]:
        """See `Engine`.

        Raises: what the inner engine raises, or the engine call of the flight that was boarded; ApiError: 503, the
            deadline passed while waiting for such a flight.
        """
        request = self._read(call)
        if isinstance(request, CacheableRequest):
            return _CachedCall(self, call, request)
        self.telemetry.record_bypass(request)
        return _PassedOn(self.inner.open(call), BYPASS)

    async def stored_reply(self, call: EngineCall, request: CacheableRequest) -> EngineReply | None:
        """The reply from the store, of the first variant that has one young enough and in the right form."""
        if self._config is None:
            return None
        max_age_s = min(self._config.ttl_s, call.terms.max_cached_age_s)
        for place, variant_digest in enumerate(self._acceptable_digests(call)):
            key = request.key.for_variant(variant_digest)
            value = await self._store.get(key)
            if value is None or (answer := decode_answer(key, value)) is None:
                continue
            age_s = self.clock.unix_s() - answer.stored_unix_s
            if not -_CLOCK_SKEW_S <= age_s < max_age_s:
                continue
            form = replayed(answer, path=call.path, is_streaming=request.is_streaming, wants_usage=request.wants_usage)
            if form is not None:
                content_type, body = form
                is_asked = place == 0 and answer.rung <= call.rung  # a list may begin with a lower rung
                return _hit(call, answer, content_type, body, age_s=max(0.0, age_s), is_asked=is_asked)
        return None

    def flight_key(self, call: EngineCall, request: CacheableRequest) -> Hashable:
        """What two requests must have in common to share one engine call: themselves, the form of the answer, and
        everything that decides about the rung and the place in the queue.
        """
        terms = call.terms
        return (
            request.key.digest,
            request.is_streaming,
            request.wants_usage,
            call.rung,
            call.is_pinned,
            terms.priority,
            terms.importance,
            terms.degrade,
            terms.min_quality,
            terms.may_leave,
            terms.trimmed_output_tokens,
        )

    def start_flight(self, key: Hashable | None, call: EngineCall, request: CacheableRequest) -> Reader:
        """The paying reader of a new flight, whose answer is stored when it is complete."""

        async def keep(landing: Landing) -> None:
            self.telemetry.record_answer(await self._keep(landing, request))

        return self.flights.start(key, call, keep)

    def _read(self, call: EngineCall) -> CacheableRequest | BypassReason:
        """What the cache has to know of the call, or why it is not for the cache. The cheapest tests come first."""
        config, terms = self._config, call.terms
        if config is None:
            return BypassReason.OFF
        if call.path not in _CACHED_PATHS:
            return BypassReason.PATH
        if config.deterministic_only and not may_be_deterministic(call.body, accepts_seed=config.accepts_seed):
            return BypassReason.NOT_DETERMINISTIC
        if not (terms.reads_cache or terms.stores_in_cache):
            return BypassReason.CACHE_CONTROL
        try:
            return read_cacheable(
                call.body,
                tenant=terms.tenant,
                path=call.path,
                served_model=call.served_model,
                deterministic_only=config.deterministic_only,
                accepts_seed=config.accepts_seed,
            )
        except BypassError as bypass:
            return bypass.reason

    async def _keep(self, landing: Landing, request: CacheableRequest) -> NotStored | None:
        config = self._config
        if config is None:
            return NotStored.OFF
        if landing.body is None:
            return NotStored.TOO_LARGE
        reply, terms = landing.reply, landing.call.terms
        trimmed = terms.trimmed_output_tokens
        if trimmed is not None and 0 < terms.max_output_tokens <= trimmed:
            trimmed = None  # nothing to trim
        answer = answer_of(
            landing.body,
            status=reply.status,
            headers=reply.headers,
            usage=reply.usage,
            rung=reply.rung,
            trimmed_output_tokens=trimmed,
            now_unix_s=self.clock.unix_s(),
        )
        if isinstance(answer, NotStored):
            return answer
        key = request.key.for_variant(answer.variant_digest)
        value = encode_answer(key, answer)
        if len(value) > config.max_entry_bytes:
            return NotStored.TOO_LARGE
        is_stored = await self._store.put(key, value, ttl_s=config.ttl_s)
        return None if is_stored else NotStored.STORE_DOWN


class _PassedOn:
    """A call of the inner engine as it is, with what the cache has to say about it."""

    __slots__ = ("_opened", "_word")

    def __init__(self, opened: AbstractAsyncContextManager[EngineReply], word: str) -> None:
        self._opened = opened
        self._word = word

    async def __aenter__(self) -> EngineReply:
        reply = await self._opened.__aenter__()
        reply.headers[CACHE] = self._word
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._opened.__aexit__(kind, error, trace)


class _CachedCall:
    """A call that the cache takes on."""

    __slots__ = ("_cache", "_call", "_passed_on", "_reader", "_request")

    def __init__(self, cache: CachedEngine, call: EngineCall, request: CacheableRequest) -> None:
        self._cache = cache
        self._call = call
        self._request = request
        self._reader: Reader | None = None
        self._passed_on: _PassedOn | None = None

    async def __aenter__(self) -> EngineReply:
        cache, terms = self._cache, self._call.terms
        if not terms.reads_cache:
            return await self._fly(cache.start_flight(None, self._call, self._request))
        key = cache.flight_key(self._call, self._request)
        reader = cache.flights.board_open(key) if terms.stores_in_cache else None
        if reader is None:
            cache.flights.begin_look_up()
            try:
                hit = await cache.stored_reply(self._call, self._request)
                if hit is None and cache.flights.has_landed(key):
                    hit = await cache.stored_reply(self._call, self._request)
            finally:
                cache.flights.end_look_up()
            if hit is not None:
                cache.telemetry.record_request(CacheResult.HIT)
                return hit
        if not terms.stores_in_cache:
            cache.telemetry.record_request(CacheResult.MISS)
            self._passed_on = _PassedOn(cache.inner.open(self._call), MISS)
            return await self._passed_on.__aenter__()
        while True:
            reader = reader or cache.flights.board_open(key) or cache.start_flight(key, self._call, self._request)
            try:
                return await self._fly(reader)
            except ApiError as error:
                if reader.is_first or not self._has_more_time(error):
                    raise
                reader = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._reader is not None:
            await self._cache.flights.leave(self._reader)
        if self._passed_on is not None:
            return await self._passed_on.__aexit__(kind, error, trace)
        return None

    async def _fly(self, reader: Reader) -> EngineReply:
        cache = self._cache
        started_s = 0.0 if reader.is_first else cache.clock.monotonic_s()
        try:
            reply = await (reader.reply() if reader.is_first else self._within_deadline(reader, started_s))
        except BaseException:
            await cache.flights.leave(reader)
            raise
        self._reader = reader
        cache.telemetry.record_request(CacheResult.MISS if reader.is_first else CacheResult.SHARED)
        # The flight's own reply is shared, so each client gets one that it may change.
        own = EngineReply(
            reply.status,
            {**reply.headers, CACHE: MISS},
            reader,
            reply.replica,
            num_attempts=reply.num_attempts,
            upstream_s=reply.upstream_s,
            queue_s=reply.queue_s,
            rung=reply.rung,
            degraded=reply.degraded,
            usage=reader.usage,
        )
        if not reader.is_first:
            own.queue_s, own.upstream_s = 0.0, cache.clock.monotonic_s() - started_s
            if reply.status == 200:
                own.headers |= {CACHE: HIT, AGE: "0"}
        return own

    def _has_more_time(self, error: ApiError) -> bool:
        """Whether the flight ended with the deadline of who started it, and this request's own is still to come."""
        is_deadline = error.headers.get("x-reject-reason") == "deadline"
        return is_deadline and self._cache.clock.monotonic_s() < self._call.terms.deadline_s

    async def _within_deadline(self, reader: Reader, now_s: float) -> EngineReply:
        """The reply of somebody else's call; who started it has its own deadline kept by the layers below."""
        deadline_s = self._call.terms.deadline_s
        if deadline_s == math.inf:
            return await reader.reply()
        try:
            async with asyncio.timeout(deadline_s - now_s):
                return await reader.reply()
        except TimeoutError:
            raise overloaded("No answer began before the request's deadline.", reason="deadline") from None


class _Pieces:
    """A stored body, in pieces."""

    __slots__ = ("_body", "_position")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._position = 0

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        start, self._position = self._position, self._position + _PIECE_BYTES
        if start >= len(self._body):
            raise StopAsyncIteration
        return self._body[start : self._position] if len(self._body) > _PIECE_BYTES else self._body


def _hit(
    call: EngineCall, answer: StoredAnswer, content_type: str, body: bytes, *, age_s: float, is_asked: bool
) -> EngineReply:
    headers = {
        "content-type": content_type,
        SERVED_VARIANT: answer.variant_digest,
        CACHE: HIT,
        AGE: str(int(age_s)),
    }
    if answer.quality_loss:
        headers[QUALITY_LOSS] = answer.quality_loss
    if not call.is_streaming:
        headers["content-length"] = str(len(body))
    return EngineReply(
        status=200,
        headers=headers,
        chunks=_Pieces(body),
        replica="",
        num_attempts=0,
        rung=call.rung if is_asked else answer.rung,
        degraded="" if is_asked else f"rung={answer.rung}; reason=cache",
        usage=TokenUsage(is_reported=True),
    )
