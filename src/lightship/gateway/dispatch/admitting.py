"""The layer that lets requests in: it waits for a place where the dispatcher says so, and tells it how they ended.

All decisions are the dispatcher's; here are the futures of those who wait, and one timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from types import TracebackType

from lightship.gateway import headers as names
from lightship.gateway.dispatch.config import DispatchConfig
from lightship.gateway.dispatch.dispatcher import Dispatcher
from lightship.gateway.dispatch.ladder import RungReason
from lightship.gateway.dispatch.ticket import Answered, Decision, RefusalReason, Refuse, Start, Ticket
from lightship.gateway.request_body import with_members
from lightship.ports.clock import Clock
from lightship.ports.engine import AttemptError, Engine, EngineCall, EngineReply
from lightship.wire.errors import ApiError, overloaded
from lightship.wire.paths import API_PATHS

# Seconds. While anyone waits the dispatcher is asked at least so often: a rung may have come back, or the level moved.
_TICK_S = 0.05
_MESSAGES = {
    RefusalReason.QUEUE_FULL: "Too many requests wait already. Try again.",
    RefusalReason.DEADLINE: "No engine became free in time. Try again.",
    RefusalReason.SATURATED: "The engines are busy for longer than this request may wait. Try again.",
    RefusalReason.NO_VARIANT: "No engine is ready that may answer this request.",
}


class AdmittedEngine:
    """Another engine, to which calls get through when the dispatcher lets them.

    Args:
        inner: Answers the calls, on the rung they carry.
        dispatcher: Decides; shared with nobody.
        clock: Time.
        jitter: A number from 0 to 1 for each refusal, by which clients that were refused together come back apart.

    Concurrency: one event loop.
    """

    def __init__(
        self,
        inner: Engine,
        dispatcher: Dispatcher,
        *,
        clock: Clock,
        jitter: Callable[[], float],
    ) -> None:
        self.dispatcher = dispatcher
        self._inner = inner
        self._clock = clock
        self._jitter = jitter
        self._timer: asyncio.TimerHandle | None = None

    def open(self, call: EngineCall) -> AbstractAsyncContextManager[EngineReply]:
        """See `Engine`. What generates nothing takes no place.

        Raises: ApiError: 503, saying why and when to come back.
        """
        if not call.terms.max_output_tokens:
            return self._inner.open(call)
        return _Admission(self, call)

    def apply(self, config: DispatchConfig) -> None:
        """Effects: requests from now on meet these ladders and bounds; those that wait may start at once."""
        self.dispatcher.apply(config)
        self.advance()

    async def start(
        self, call: EngineCall, *, arrived_s: float | None = None, avoided: frozenset[int] = frozenset()
    ) -> Ticket:
        """A started ticket for the call, after as long a wait as that takes.

        Args:
            call: As it came.
            arrived_s: When it came, on the monotonic clock; None is now.
            avoided: Rungs on which it failed already.

        Raises: ApiError: 503; CancelledError: the client left, and nothing is held for it.
        """
        now_s = self._clock.monotonic_s()
        ticket = Ticket(
            call.served_model,
            call.rung,
            call.is_pinned,
            call.terms,
            now_s if arrived_s is None else arrived_s,
            call.is_streaming,
            avoided=avoided,
        )
        decision: Decision = self.dispatcher.offer(ticket, now_s)
        if isinstance(decision, Refuse):
            raise self._error(decision, was_queued=False)
        if not isinstance(decision, Start):
            await self._wait(ticket)
        return ticket

    def finish(self, ticket: Ticket, answered: Answered | None) -> None:
        """Gives the place back."""
        self.dispatcher.finish(ticket, self._clock.monotonic_s(), answered)
        if self.dispatcher.num_waiting:
            self.advance()

    def advance(self) -> None:
        """Effects: wakes those who start now and those who have to go."""
        for decision in self.dispatcher.advance(self._clock.monotonic_s()):
            waiter: asyncio.Future[Refuse | None] = decision.ticket.handle
            if not waiter.done():
                waiter.set_result(decision if isinstance(decision, Refuse) else None)
            # a waiter that is done was cancelled in this very turn of the loop: `_wait` gives its place back
        self._set_timer()

    async def _wait(self, ticket: Ticket) -> None:
        waiter: asyncio.Future[Refuse | None] = asyncio.get_running_loop().create_future()
        ticket.handle = waiter
        self._set_timer()
        try:
            refused = await waiter
        except asyncio.CancelledError:
            self.dispatcher.withdraw(ticket)
            if ticket.place is not None:
                self.finish(ticket, None)
            raise
        if refused is not None:
            raise self._error(refused, was_queued=True)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_s = self.dispatcher.next_wake_s()
        if wake_s is not None:
            delay_s = min(_TICK_S, max(0.0, wake_s - self._clock.monotonic_s()))
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.advance)

    def _error(self, refused: Refuse, *, was_queued: bool) -> ApiError:
        retry_after_s = refused.retry_after_s * (0.75 + 0.5 * self._jitter())
        error = overloaded(_MESSAGES[refused.reason], reason=refused.reason.value, retry_after_s=retry_after_s)
        error.was_queued = was_queued
        if not refused.may_retry:
            error.headers["x-should-retry"] = "false"
        return error


class _Admission:
    """One call from its arrival to its end."""

    __slots__ = ("_call", "_engine", "_first_byte_s", "_inner", "_reply", "_ticket")

    def __init__(self, engine: AdmittedEngine, call: EngineCall) -> None:
        self._engine = engine
        self._call = call

    async def __aenter__(self) -> EngineReply:
        engine = self._engine
        reply = self._reply = await self._first_reply()
        ticket = self._ticket
        self._first_byte_s = now_s = engine._clock.monotonic_s()
        engine.dispatcher.first_byte(ticket, now_s)
        place = ticket.place
        assert place is not None, "a started ticket has a place"
        reply.headers[names.QUALITY_LOSS] = place.loss_words
        reply.headers.setdefault(names.SERVED_VARIANT, place.facts.variant_name)
        reply.queue_s = ticket.started_s - ticket.arrived_s
        reply.rung = ticket.rung
        reply.degraded = degraded_words(
            ticket.rung, ticket.reason, is_trimmed=ticket.is_trimmed, asked=ticket.asked_rung
        )
        return reply

    async def _first_reply(self) -> EngineReply:
        """The reply of the first rung that gives one: where all replicas of one fail, another rung is as good as if the
        first had been known to be down, and as allowed.

        Raises: AttemptError: that of the first rung, when no other may answer. ApiError: see `AdmittedEngine.start`.
        """
        engine, call = self._engine, self._call
        arrived_s = engine._clock.monotonic_s()
        avoided: frozenset[int] = frozenset()
        failed: AttemptError | None = None
        while True:
            try:
                self._ticket = ticket = await engine.start(call, arrived_s=arrived_s, avoided=avoided)
            except ApiError:
                if failed is None:
                    raise
                raise failed from None
            try:
                self._inner = engine._inner.open(_placed(call, ticket))
                return await self._inner.__aenter__()
            except AttemptError as error:
                engine.finish(ticket, None)
                failed = failed or error
                avoided |= {ticket.rung}
            except BaseException:
                engine.finish(ticket, None)
                raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await self._inner.__aexit__(kind, error, traceback)
        finally:
            self._engine.finish(self._ticket, self._answered() if error is None else None)

    def _answered(self) -> Answered | None:
        reply = self._reply
        if reply.status >= 400:
            return None
        num_tokens = reply.usage.num_output_tokens
        tpot_s = None
        if self._call.is_streaming and num_tokens > 1:
            tpot_s = (self._engine._clock.monotonic_s() - self._first_byte_s) / (num_tokens - 1)
        ttft_s = self._first_byte_s - self._ticket.started_s
        return Answered(ttft_s if self._call.is_streaming else 0.0, tpot_s, num_tokens)


def _placed(call: EngineCall, ticket: Ticket) -> EngineCall:
    """The call on its rung, with a shorter answer where it was trimmed."""
    most = call.terms.trimmed_output_tokens
    if ticket.is_trimmed and most is not None and call.terms.max_output_tokens > most:
        fields = API_PATHS[call.path].output_limit_fields
        return replace(call, rung=ticket.rung, body=with_members(call.body, dict.fromkeys(fields, most), add=fields[0]))
    return replace(call, rung=ticket.rung) if ticket.rung != call.rung else call


def degraded_words(rung: int, reason: RungReason, *, is_trimmed: bool, asked: int) -> str:
    """What `x-degraded` says; "" for an answer as it was asked for.

    >>> degraded_words(1, RungReason.LEVEL, is_trimmed=False, asked=0)
    'rung=1; reason=load'
    """
    parts = [f"rung={rung}; reason={reason.value}"] if rung != asked else []
    if is_trimmed:
        parts.append("max_tokens=trimmed")
    return "; ".join(parts)
