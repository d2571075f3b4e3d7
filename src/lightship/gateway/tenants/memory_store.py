"""The counters of one process, gone when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightship.gateway.tenants.limits import Answer, Exchange, Position, decide, is_forgettable, redated
from lightship.ports.clock import Clock

# Days and months kept of one tenant; a clock that jumps about finds those it was at last.
_MAX_PERIODS = 8


@dataclass
class _Tenant:
    spent: dict[int, tuple[int, int]] = field(default_factory=dict)
    positions: dict[str, Position] = field(default_factory=dict)


class MemoryStore:
    """A `LedgerStore` in a dictionary.

    Args:
        clock: The store's clock is its `monotonic_s`.
    """

    is_shared = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}

    async def exchange(self, exchanges: Sequence[Exchange]) -> list[Answer]:
        """See `LedgerStore`. Never waits."""
        now_s = self._clock.monotonic_s()
        return [self._exchange_one(exchange, now_s) for exchange in exchanges]

    async def aclose(self) -> None:
        """See `LedgerStore`."""

    def _exchange_one(self, exchange: Exchange, now_s: float) -> Answer:
        tenant = self._tenants.setdefault(exchange.tenant, _Tenant())
        for holder, position in list(tenant.positions.items()):
            if newer := redated(position, now_s):
                tenant.positions[holder] = newer
            elif is_forgettable(position, now_s):
                del tenant.positions[holder]
        own = tenant.positions.get(exchange.holder)
        others = [position for holder, position in tenant.positions.items() if holder != exchange.holder]
        decision = decide(exchange, own=own, others=others, spent=tenant.spent, now_s=now_s)
        tenant.positions[exchange.holder] = decision.position
        for period in (exchange.calendar.day, exchange.calendar.month):
            tokens, nanousd = tenant.spent.pop(period, (0, 0))
            tenant.spent[period] = (tokens + decision.spent_tokens, nanousd + decision.spent_nanousd)
        while len(tenant.spent) > _MAX_PERIODS:
            del tenant.spent[next(iter(tenant.spent))]
        return decision.answer
