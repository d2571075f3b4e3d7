"""The layer that tries another replica, before the first byte only and within a budget.

It is the only layer that retries: two that do multiply.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from lightship.ports.engine import AttemptError, AttemptFailure, Engine, EngineCall, EngineReply

# Retries a budget holds at first and at most: enough for one replica's death on a quiet gateway.
RESERVE_RETRIES = 10
_UNITS_PER_RETRY = 1000  # whole numbers, so that ten tenths are one


class RetryBudget:
    """Bounds retries to a share of requests, plus a fixed reserve.

    Args:
        share: Retries per request in the long run; 0 allows none at all.
    """

    def __init__(self, share: float) -> None:
        self._units = RESERVE_RETRIES * _UNITS_PER_RETRY
        self.apply(share)

    def apply(self, share: float) -> None:
        """Effects: retries are bounded by this share from now on."""
        self._deposit_units = round(share * _UNITS_PER_RETRY)
        self._most_units = RESERVE_RETRIES * _UNITS_PER_RETRY if self._deposit_units else 0
        self._units = min(self._units, self._most_units)

    def note_request(self) -> None:
        """Every request pays in its share."""
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


class RetryingEngine:
    """Another engine, whose failed attempts are repeated at replicas that were not tried yet.

    Args:
        inner: Chooses a replica outside `call.excluded` and names it in its errors.
        max_attempts: Attempts for one call, the first included.
        budget: Shared by all calls.
    """

    def __init__(self, inner: Engine, *, max_attempts: int, budget: RetryBudget) -> None:
        self._inner = inner
        self._max_attempts = max_attempts
        self._budget = budget

    def apply(self, *, max_attempts: int, budget_share: float) -> None:
        """Effects: calls from now on get these limits; the budget keeps what it holds, up to its new size."""
        self._max_attempts = max_attempts
        self._budget.apply(budget_share)

    @asynccontextmanager
    async def open(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        """See `Engine`.

        Raises: AttemptError: that of the last attempt; one with the replica's own error object goes before others.
        """
        self._budget.note_request()
        async with AsyncExitStack() as stack:
            yield await self._first_reply(stack, call)

    async def _first_reply(self, stack: AsyncExitStack, call: EngineCall) -> EngineReply:
        failed: AttemptError | None = None
        for attempt in range(1, self._max_attempts + 1):
            try:
                reply = await stack.enter_async_context(self._inner.open(call))
            except AttemptError as error:
                if error.failure is AttemptFailure.NO_REPLICA:
                    if failed is None:
                        raise
                    self._budget.give_back()
                    raise failed from None
                failed = error if failed is None or failed.api_error is None or error.api_error else failed
                if attempt == self._max_attempts or not self._budget.try_take():
                    raise failed from None
                call = replace(call, excluded=call.excluded | {error.replica})
            else:
                return reply if attempt == 1 else replace(reply, num_attempts=attempt)
        raise AssertionError("a gateway makes at least one attempt")
