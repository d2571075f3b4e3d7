"""The layer that tries another replica, before the first byte only and within a budget.

It is the only layer that retries: two that do multiply. There is no pause before another replica: it has done nothing
that waiting would mend. A replica that says it is full (`x-reject-reason`) may be right about all of them: that is
tried at one other replica, once.
"""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from types import TracebackType

from lightship.gateway.routing.failures import is_shed
from lightship.ports.clock import Clock
from lightship.ports.engine import AttemptError, AttemptFailure, Engine, EngineCall, EngineReply

# Retries a budget holds at first, and may always hold: enough for one replica's death on a quiet gateway.
RESERVE_RETRIES = 10
# Seconds, or up to twice as many: what requests have paid in lasts so long. All that a replica has under way fails at
# once when it dies or hangs, and on a busy gateway that is far more than the reserve.
_KEPT_S = 5.0
_UNITS_PER_RETRY = 1000  # whole numbers, so that ten tenths are one


class RetryBudget:
    """Bounds retries to a share of requests, plus a fixed reserve. Hedges are retries too.

    Args:
        share: Retries per request in the long run; 0 allows none at all.
        clock: Tells what is recent; without one no more than the reserve is ever held.
    """

    def __init__(self, share: float, *, clock: Clock | None = None) -> None:
        self._clock = clock
        self._since_s = -math.inf
        self._num_recent = self._num_before = 0
        self._units = RESERVE_RETRIES * _UNITS_PER_RETRY
        self.apply(share)

    def apply(self, share: float) -> None:
        """Effects: retries are bounded by this share from now on."""
        self._deposit_units = round(share * _UNITS_PER_RETRY)
        self._units = min(self._units, self._most_units)

    def note_request(self) -> None:
        """Every request pays in its share."""
        if self._clock is not None:
            self._note_recent(self._clock.monotonic_s())
        self._units = min(self._units + self._deposit_units, self._most_units)

    def try_take(self) -> bool:
        """Whether there was a retry left; it is then spent."""
        if self._units < _UNITS_PER_RETRY:
            return False
        self._units -= _UNITS_PER_RETRY
        return True

    def give_back(self) -> None:
        """A retry that was taken did not happen."""
        self._units = min(self._units + _UNITS_PER_RETRY, self._most_units)

    @property
    def _most_units(self) -> int:
        if not self._deposit_units:
            return 0
        paid_in = self._deposit_units * (self._num_recent + self._num_before)
        return max(RESERVE_RETRIES * _UNITS_PER_RETRY, paid_in)

    def _note_recent(self, now_s: float) -> None:
        age_s = now_s - self._since_s
        if age_s >= _KEPT_S:
            self._num_before = self._num_recent if age_s < 2 * _KEPT_S else 0
            self._num_recent, self._since_s = 0, now_s
        self._num_recent += 1


class HedgedAttemptError(AttemptError):
    """Two attempts under way at a time failed; `replica` is one of the two, `other_replica` the other."""

    def __init__(self, error: AttemptError, *, other_replica: str) -> None:
        super().__init__(
            error.failure, error.message, replica=error.replica, status=error.status, api_error=error.api_error
        )
        self.other_replica = other_replica


class RetryingEngine:
    """Another engine, whose failed attempts are repeated at replicas that were not tried yet.

    Args:
        inner: Chooses a replica outside `call.excluded` and names it in its errors.
        max_attempts: Attempts for one call, the first included.
        budget: Shared by all calls.
        clock: After a call's deadline nobody waits for another attempt; without a clock there are no deadlines.
    """

    def __init__(self, inner: Engine, *, max_attempts: int, budget: RetryBudget, clock: Clock | None = None) -> None:
        self._inner = inner
        self._max_attempts = max_attempts
        self._budget = budget
        self._clock = clock

    def apply(self, *, max_attempts: int, budget_share: float) -> None:
        """Effects: calls from now on get these limits; the budget keeps what it holds, up to its new size."""
        self._max_attempts = max_attempts
        self._budget.apply(budget_share)

    def open(self, call: EngineCall) -> _RetriedCall:
        """See `Engine`.

        Raises: AttemptError: that of the last attempt; one with the replica's own error object goes before others.
        """
        return _RetriedCall(self, call)

    async def first_reply(self, call: EngineCall) -> tuple[AbstractAsyncContextManager[EngineReply], EngineReply]:
        """The first attempt that gives a reply, entered, and the reply."""
        self._budget.note_request()
        failed: AttemptError | None = None
        num_attempts = num_shed = 0
        while True:
            attempt = self._inner.open(call)
            try:
                reply = await attempt.__aenter__()
            except AttemptError as error:
                if error.failure is AttemptFailure.NO_REPLICA:
                    if failed is None:
                        raise
                    self._budget.give_back()
                    raise failed from None
                failed = error if failed is None or failed.api_error is None or error.api_error else failed
                tried = _tried(error)
                num_attempts += len(tried)
                num_shed += is_shed(error)
                if not self._may_retry(call, num_attempts=num_attempts, num_shed=num_shed):
                    raise failed from None
                call = replace(call, excluded=call.excluded | tried)
            else:
                if num_attempts:
                    reply = replace(reply, num_attempts=num_attempts + reply.num_attempts)
                return attempt, reply

    def _may_retry(self, call: EngineCall, *, num_attempts: int, num_shed: int) -> bool:
        """Whether there is another attempt; it is then paid for."""
        is_late = self._clock is not None and self._clock.monotonic_s() >= call.terms.deadline_s
        return num_attempts < self._max_attempts and num_shed <= 1 and not is_late and self._budget.try_take()


class _RetriedCall:
    """The context of one call: that of the attempt that gave the reply."""

    __slots__ = ("_attempt", "_call", "_engine")

    def __init__(self, engine: RetryingEngine, call: EngineCall) -> None:
        self._engine = engine
        self._call = call

    async def __aenter__(self) -> EngineReply:
        self._attempt, reply = await self._engine.first_reply(self._call)
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._attempt.__aexit__(kind, error, trace)


def _tried(error: AttemptError) -> frozenset[str]:
    """The replicas behind a failure."""
    if isinstance(error, HedgedAttemptError):
        return frozenset({error.replica, error.other_replica})
    return frozenset({error.replica})
