"""The layer that sends a second attempt to another replica when the first byte is late; off unless configured.

    first attempt --later than the p95 of recent ones--> second attempt at another replica
    whichever has its first byte first answers; the other one is cancelled at once, and counted out like any other

Only requests that may be answered twice are hedged: deterministic ones, or all if the configuration says so. A hedge is
paid for from the retry budget, so that a slow hour is not doubled. A request that is being retried is not hedged too.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from types import TracebackType

import msgspec

from lightship.gateway.routing.balancing import BalancedEngine, ReplicaAttempt
from lightship.gateway.routing.config import Hedging
from lightship.gateway.routing.pool import ReplicaPool
from lightship.gateway.routing.retrying import HedgedAttemptError, RetryBudget
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, EngineReply
from lightship.wire.errors import ApiError


class _Sampling(msgspec.Struct, frozen=True):
    temperature: float | None = None


_decoder = msgspec.json.Decoder(_Sampling)


def is_deterministic(body: bytes) -> bool:
    """Whether asking twice gives the same answer: a temperature of zero."""
    try:
        return _decoder.decode(body).temperature == 0
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


class HedgedEngine:
    """The balanced replicas, with a second attempt for calls whose first byte is late.

    Args:
        inner: Gives attempts to replicas.
        pool: Knows how long a first byte takes, and whether hedging is on.
        budget: That of retries.
    """

    def __init__(self, inner: BalancedEngine, *, pool: ReplicaPool, budget: RetryBudget) -> None:
        self._inner = inner
        self._pool = pool
        self._budget = budget

    def open(self, call: EngineCall) -> AbstractAsyncContextManager[EngineReply]:
        """See `Engine`."""
        delay_s = self._delay_s(call)
        if delay_s is None:
            return self._inner.open(call)
        return _HedgedCall(self._inner, call, delay_s=delay_s, budget=self._budget, pool=self._pool)

    def _delay_s(self, call: EngineCall) -> float | None:
        """When the call gets a second attempt; None when it gets none."""
        routing = self._pool.routing
        if routing.hedging is Hedging.OFF or call.excluded:
            return None
        usual_s = self._pool.usual_first_byte_s(call)
        if usual_s is None or (routing.hedging is Hedging.DETERMINISTIC and not is_deterministic(call.body)):
            return None
        return max(usual_s, routing.hedge_min_delay_s)


class _HedgedCall:
    """The context of one call: that of the attempt that won."""

    def __init__(
        self, engine: BalancedEngine, call: EngineCall, *, delay_s: float, budget: RetryBudget, pool: ReplicaPool
    ) -> None:
        self._engine = engine
        self._call = call
        self._delay_s = delay_s
        self._budget = budget
        self._counts = pool.counts
        self._attempts: list[ReplicaAttempt] = []
        self._results: dict[ReplicaAttempt, EngineReply | AttemptError | ApiError] = {}
        self._winner: ReplicaAttempt

    async def __aenter__(self) -> EngineReply:
        winner: ReplicaAttempt | None = None
        try:
            async with asyncio.TaskGroup() as group:
                await self._race(group)
            winner = next((attempt for attempt in self._attempts if self._is_answered(attempt)), None)
        finally:
            await self._leave_all_but(winner)
        if winner is None:
            raise self._failure()
        self._winner = winner
        reply = self._results[winner]
        assert isinstance(reply, EngineReply)
        if len(self._attempts) == 1:
            return reply
        self._counts.hedges["lost" if winner is self._attempts[0] else "won"] += 1
        return replace(reply, num_attempts=2)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._winner.__aexit__(kind, error, trace)

    async def _race(self, group: asyncio.TaskGroup) -> None:
        """Returns when an attempt has answered, or all have failed; those still under way are cancelled."""
        first = self._engine.open(self._call)
        running = {group.create_task(self._try(first))}
        self._attempts.append(first)
        await asyncio.wait(running, timeout=self._delay_s)
        if first not in self._results and first.replica and self._budget.try_take():
            second = self._engine.open(replace(self._call, excluded=self._call.excluded | {first.replica}))
            self._attempts.append(second)
            running.add(group.create_task(self._try(second)))
        while running and not any(self._is_answered(attempt) for attempt in self._attempts):
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in running:
            task.cancel()

    async def _try(self, attempt: ReplicaAttempt) -> None:
        try:
            self._results[attempt] = await attempt.__aenter__()
        except AttemptError as error:
            if error.failure is AttemptFailure.NO_REPLICA and attempt is not self._attempts[0]:
                self._attempts.remove(attempt)  # nobody else is there: the first attempt goes on alone
                self._budget.give_back()
            self._results[attempt] = error
        except ApiError as error:
            self._results[attempt] = error

    def _is_answered(self, attempt: ReplicaAttempt) -> bool:
        return isinstance(self._results.get(attempt), EngineReply)

    async def _leave_all_but(self, winner: ReplicaAttempt | None) -> None:
        """Effects: attempts that answered as well, or when nobody wanted it any more, are left as if cancelled."""
        for attempt in self._attempts:
            if attempt is not winner and self._is_answered(attempt):
                await attempt.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)

    def _failure(self) -> AttemptError | ApiError:
        """The failure to tell of: a refusal of the request before what went wrong with a replica."""
        errors = [self._results[attempt] for attempt in self._attempts]
        for error in errors:
            if isinstance(error, ApiError):
                return error
        failed = [error for error in errors if isinstance(error, AttemptError)]
        if len(failed) == 1:
            return failed[0]
        self._counts.hedges["failed"] += 1
        best = next((error for error in failed if error.api_error is not None), failed[0])
        other = failed[1] if best is failed[0] else failed[0]
        return HedgedAttemptError(best, other_replica=other.replica)
