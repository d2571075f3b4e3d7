"""The layer in which requests wait for a model that wakes. It stands above admission: what is held has no turn yet.

A request that is let go gets in as if it had just come: it was promised to be answered once the model is awake, and not
that this takes no longer than a first token.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from types import TracebackType

import msgspec

from lightship.gateway import headers as names
from lightship.gateway.activation.config import ActivationConfig
from lightship.gateway.activation.decide import HoldDecision, RungSeen, hold_or_pass
from lightship.ports.clock import Clock
from lightship.ports.engine import AttemptError, AttemptFailure, CallTerms, Engine, EngineCall, EngineReply
from lightship.ports.replica_control import ReplicaControl
from lightship.wire.errors import ApiError, overloaded

# Failures after which a request may be held once more: its engine was gone before it had begun.
_ENGINE_GONE = frozenset({AttemptFailure.NO_REPLICA, AttemptFailure.CONNECT, AttemptFailure.CLOSED_EARLY})

IsUp = Callable[[str, int], bool]
AcceptableRungs = Callable[[EngineCall], Sequence[int]]


@dataclass(eq=False, slots=True)
class _Held:
    """A request that waits. `released` is done when it may go on."""

    call: EngineCall
    released: asyncio.Future[None]


class HeldEngine:
    """Another engine, to which calls get through once a rung that may answer them is up.

    Args:
        inner: Answers the calls.
        config: Bounds.
        control: Starts and stops the replicas.
        is_up: Whether a rung of a model takes requests.
        acceptable_rungs: The rungs that may answer a call, the one it asked for first.
        clock: Time.

    Concurrency: one event loop. `recheck` has to be called whenever a rung may have come up or a status changed.
    """

    def __init__(
        self,
        inner: Engine,
        config: ActivationConfig,
        *,
        control: ReplicaControl,
        is_up: IsUp,
        acceptable_rungs: AcceptableRungs,
        clock: Clock,
    ) -> None:
        self.config = config
        self.control = control
        self.num_released = 0
        self.num_expired = 0
        self._inner = inner
        self._is_up = is_up
        self._acceptable_rungs = acceptable_rungs
        self._clock = clock
        self._held: dict[_Held, None] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def open(self, call: EngineCall) -> AbstractAsyncContextManager[EngineReply]:
        """See `Engine`.

        Raises: ApiError: 503, too many wait already, or the model did not wake in time.
        """
        return _HeldCall(self, call)

    def num_held(self, served_model: str, rung: int) -> int:
        """Requests that wait for this rung."""
        return sum(one.call.served_model == served_model and one.call.rung == rung for one in self._held)

    def is_waking(self, call: EngineCall) -> bool:
        """Whether the call is held, or would be."""
        return self._decide(call).is_held

    def can_serve(self, served_model: str, rung: int) -> bool:
        """Whether a request for this rung would be held rather than refused, where it is not up."""
        return hold_or_pass([self._seen(served_model, rung)]).is_held

    def held(self) -> Iterator[tuple[str, int]]:
        """Model and asked rung of each request that waits."""
        return ((one.call.served_model, one.call.rung) for one in self._held)

    def recheck(self) -> None:
        """Effects: lets go who need not, or cannot, be held any longer; wakes what others still need."""
        for held in list(self._held):
            decision = self._decide(held.call)
            if not decision.is_held and not held.released.done():
                held.released.set_result(None)
            self._wake(held.call, decision)

    async def wait(self, call: EngineCall) -> float:
        """Holds the call as long as need be; for how long it did.

        Raises: ApiError: 503.
        """
        if self._is_up(call.served_model, call.rung):  # what `_decide` would find, at the cost of one look
            return 0.0
        decision = self._decide(call)
        self._wake(call, decision)
        if not decision.is_held:
            return 0.0
        key = (call.served_model, call.terms.priority)
        if self._counts[key] >= self.config.max_held:
            raise _refusal("Too many requests wait for this model to wake. Try again.", "queue-full", decision)
        started_s = self._clock.monotonic_s()
        held = _Held(call, asyncio.get_running_loop().create_future())
        self._held[held] = None
        self._counts[key] += 1
        try:
            async with asyncio.timeout(self._longest_s(call, started_s)):
                await held.released
        except TimeoutError:
            self.num_expired += 1
            error = _refusal("The model did not wake in time. Try again.", "deadline", self._decide(call))
            error.was_queued = True
            raise error from None
        finally:
            del self._held[held]
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]
        self.num_released += 1
        return self._clock.monotonic_s() - started_s

    def longest_s(self, call: EngineCall) -> float:
        """How long a call like this may be held."""
        return self.config.hold_s if call.is_streaming else self.config.whole_answer_hold_s

    def _longest_s(self, call: EngineCall, now_s: float) -> float:
        return max(0.0, min(self.longest_s(call), call.terms.deadline_s - now_s))

    def _decide(self, call: EngineCall) -> HoldDecision:
        return hold_or_pass([self._seen(call.served_model, rung) for rung in self._acceptable_rungs(call)])

    def _seen(self, served_model: str, rung: int) -> RungSeen:
        return RungSeen(rung, self._is_up(served_model, rung), self.control.status(served_model, rung))

    def _wake(self, call: EngineCall, decision: HoldDecision) -> None:
        if decision.wakes is not None:
            self.control.wake(call.served_model, decision.wakes)


class _HeldCall:
    """One call from its arrival to its end."""

    __slots__ = ("_call", "_engine", "_opened")

    def __init__(self, engine: HeldEngine, call: EngineCall) -> None:
        self._engine = engine
        self._call = call

    async def __aenter__(self) -> EngineReply:
        engine, call = self._engine, self._call
        held_s = await engine.wait(call)
        try:
            reply = await self._open(held_s)
        except AttemptError as error:
            if error.failure not in _ENGINE_GONE:
                raise
            again_s = await engine.wait(call)
            if not again_s:
                raise
            held_s += again_s
            reply = await self._open(held_s)
        if held_s:
            reply.queue_s += held_s
            reply.headers[names.COLD_START] = "true"
        return reply

    async def _open(self, held_s: float) -> EngineReply:
        call = self._call
        if held_s:
            longest_s = max(0.0, self._engine.longest_s(call) - held_s)
            call = replace(call, terms=released_terms(call.terms, longest_s))
        self._opened = self._engine._inner.open(call)
        return await self._opened.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._opened.__aexit__(kind, error, trace)


def released_terms(terms: CallTerms, longest_s: float) -> CallTerms:
    """The terms of a request that was held: it may wait for its turn as long as it could have been held.

    Many are let go at once; those that do not get in first must not be refused for a promise about a model that is
    awake.
    """
    return msgspec.structs.replace(terms, max_wait_s=max(terms.max_wait_s, longest_s), ttft_s=math.inf)


def _refusal(message: str, reason: str, decision: HoldDecision) -> ApiError:
    return overloaded(message, reason=reason, retry_after_s=min(30.0, max(1.0, decision.remaining_s)))
