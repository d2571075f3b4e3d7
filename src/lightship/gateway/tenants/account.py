"""What one gateway process knows of one tenant: requests under way, and what it holds of the limits.

Counting only: `ledger.py` decides when the store is asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from lightship.gateway.tenants.limits import (
    ADVANCE_DIVISOR,
    SLOT_S,
    UNLIMITED,
    WINDOW_S,
    Amounts,
    Answer,
    Exchange,
    Limits,
    Refusal,
    SlotUse,
    calendar_at,
)

# A holder with requests under way gives signs of life so often.
HEARTBEAT_S = 5.0
# A refusal is repeated for so long without asking the store again: a tenant over its limit must not keep it busy.
REFUSAL_HOLDS_S = 0.1


class Left(NamedTuple):
    """What is left of a minute's requests and tokens, None without a limit, and when all of it is there again."""

    requests: int | None
    tokens: int | None
    reset_s: float


class Slot:
    """What one process used in `SLOT_S` seconds."""

    __slots__ = ("num_requests", "num_tokens", "start_s")

    def __init__(self, start_s: float) -> None:
        self.start_s = start_s
        self.num_requests = 0
        self.num_tokens = 0


class Reservation:
    """One request's part of its tenant's limits, until it is settled."""

    __slots__ = ("account", "is_settled", "nanousd", "num_tokens", "slot")

    def __init__(self, account: Account, slot: Slot, num_tokens: int, nanousd: int) -> None:
        self.account = account
        self.slot = slot
        self.num_tokens = num_tokens
        self.nanousd = nanousd
        self.is_settled = False


class Account:
    """What one process knows of one tenant.

    `free_...` was taken from the store and not used yet; what is not limited is always free.
    """

    def __init__(self, holder: str, tenant: str, limits: Limits, now_s: float) -> None:
        self.holder = holder
        self.tenant = tenant
        self.slots: deque[Slot] = deque([Slot(now_s - now_s % SLOT_S)])
        self.slot_end_s = self.slots[-1].start_s + SLOT_S
        self.lease_end_s = 0.0
        # The UTC day that what is held was taken in; budgets of another day have not granted it.
        self.day_start_unix_s = 0.0
        self.day_end_unix_s = 0.0
        self.exchanged_s = 0.0
        self.num_running = 0
        self.reserved_tokens = 0
        self.reserved_nanousd = 0
        self.spent_tokens = 0
        self.spent_nanousd = 0
        self.acked_tokens = 0
        self.acked_nanousd = 0
        # What the store does not know yet; and whether something is held in advance.
        self.is_changed = False
        self.has_advance = False
        # Of the store's last answer.
        self.left = Amounts()
        self.refusal: Refusal | None = None
        self.refusal_end_s = 0.0
        self.refused_tokens = 0
        self.refused_nanousd = 0
        # Of the last request that asked, and how many wait for an answer.
        self.num_tokens = 0
        self.nanousd = 0
        self.num_asking = 0
        self.num_taken = 0
        self.lock = asyncio.Lock()
        self.change_limits(limits)

    def change_limits(self, limits: Limits) -> None:
        """Requests under way keep what they have; everything else is asked for anew."""
        self.limits = limits
        self.has_token_budget = limits.daily_tokens is not None or limits.monthly_tokens is not None
        self.has_money_budget = limits.daily_nanousd is not None or limits.monthly_nanousd is not None
        self.refusal = None
        self.drop_free()

    def drop_free(self) -> None:
        """Nothing is held in advance any more."""
        limits = self.limits
        self.has_advance = False
        self.drop_free_rates()
        self.free_concurrent = UNLIMITED if limits.concurrent_requests is None else 0
        self.free_tokens = 0 if self.has_token_budget else UNLIMITED
        self.free_nanousd = 0 if self.has_money_budget else UNLIMITED

    def drop_free_rates(self) -> None:
        limits = self.limits
        self.free_requests = UNLIMITED if limits.requests_per_min is None else 0
        self.free_rate_tokens = UNLIMITED if limits.tokens_per_min is None else 0

    def start_slot(self, now_s: float) -> None:
        """What was taken in advance of the slot before is not carried over: it would count in the wrong minute."""
        start_s = now_s - now_s % SLOT_S
        self.slots.append(Slot(start_s))
        self.slot_end_s = start_s + SLOT_S
        while self.slots[0].start_s <= now_s - WINDOW_S:
            self.slots.popleft()
        self.drop_free_rates()

    def is_day_of(self, unix_s: float) -> bool:
        """Whether what is held was taken in this UTC day."""
        return self.day_start_unix_s <= unix_s < self.day_end_unix_s

    def can_take(self, num_tokens: int, nanousd: int) -> bool:
        return (
            self.free_concurrent > 0
            and self.free_requests > 0
            and self.free_rate_tokens >= num_tokens
            and self.free_tokens >= num_tokens
            and self.free_nanousd >= nanousd
        )

    def take(self, num_tokens: int, nanousd: int) -> Reservation:
        slot = self.slots[-1]
        slot.num_requests += 1
        slot.num_tokens += num_tokens
        self.free_concurrent -= 1
        self.free_requests -= 1
        self.free_rate_tokens -= num_tokens
        self.free_tokens -= num_tokens
        self.free_nanousd -= nanousd
        self.reserved_tokens += num_tokens
        self.reserved_nanousd += nanousd
        self.num_running += 1
        self.num_taken += 1
        self.is_changed = True
        return Reservation(self, slot, num_tokens, nanousd)

    def give(self, reservation: Reservation, num_tokens: int, nanousd: int) -> None:
        slot = reservation.slot
        unused_tokens = reservation.num_tokens - num_tokens
        slot.num_tokens -= unused_tokens
        if slot is self.slots[-1]:
            self.free_rate_tokens += unused_tokens
        self.free_concurrent += 1
        self.free_tokens += unused_tokens
        self.free_nanousd += reservation.nanousd - nanousd
        self.reserved_tokens -= reservation.num_tokens
        self.reserved_nanousd -= reservation.nanousd
        self.spent_tokens += num_tokens
        self.spent_nanousd += nanousd
        self.num_running -= 1
        self.is_changed = True
        self.refusal = None  # something was given back

    def standing_refusal(self, now_s: float, num_tokens: int, nanousd: int) -> Refusal | None:
        """The last refusal, while it holds for a request of this size."""
        is_as_large = num_tokens >= self.refused_tokens and nanousd >= self.refused_nanousd
        return self.refusal if now_s < self.refusal_end_s and is_as_large else None

    def refuse(self, refusal: Refusal, now_s: float, num_tokens: int, nanousd: int) -> None:
        self.refusal = refusal
        self.refusal_end_s = now_s + min(refusal.wait_s, REFUSAL_HOLDS_S)
        self.refused_tokens, self.refused_nanousd = num_tokens, nanousd

    def is_due(self, now_s: float) -> bool:
        """Whether the store has to hear of it."""
        is_alive_due = self.num_running > 0 and now_s - self.exchanged_s >= HEARTBEAT_S
        return self.is_changed or self.has_advance or is_alive_due

    @property
    def is_busy(self) -> bool:
        """Whether somebody holds its lock or waits for it: only one that is not busy can be locked without waiting."""
        return self.lock.locked() or self.num_asking > 0

    def is_forgettable(self, now_s: float) -> bool:
        """Whether nothing would be lost without it."""
        is_quiet = not self.is_changed and not self.has_advance and not self.num_running and not self.is_busy
        return is_quiet and self.slots[-1].start_s <= now_s - WINDOW_S

    def known_left(self, now_s: float) -> Left:
        requests, tokens = self.left.requests + self.free_requests, self.left.rate_tokens + self.free_rate_tokens
        return Left(
            None if self.limits.requests_per_min is None else max(0, requests),
            None if self.limits.tokens_per_min is None else max(0, tokens),
            max(0.0, self.slots[-1].start_s + WINDOW_S - now_s),
        )

    def missing(self, num_tokens: int, nanousd: int) -> Amounts:
        """What one more request needs beyond what is free."""
        return Amounts(
            requests=max(0, 1 - self.free_requests),
            rate_tokens=max(0, num_tokens - self.free_rate_tokens),
            budget_tokens=max(0, num_tokens - self.free_tokens),
            nanousd=max(0, nanousd - self.free_nanousd),
            concurrent=max(0, 1 - self.free_concurrent),
        )

    def advance(self, num_requests: int) -> Amounts:
        """What `num_requests` like the last one would take of everything that is limited."""
        limits = self.limits
        return Amounts(
            requests=num_requests if limits.requests_per_min is not None else 0,
            rate_tokens=num_requests * self.num_tokens if limits.tokens_per_min is not None else 0,
            budget_tokens=num_requests * self.num_tokens if self.has_token_budget else 0,
            nanousd=num_requests * self.nanousd if self.has_money_budget else 0,
            concurrent=num_requests if limits.concurrent_requests is not None else 0,
        )

    @property
    def is_tight(self) -> bool:
        """Whether so little is left that nothing could be taken in advance."""
        one = self.advance(1)
        return any(left // ADVANCE_DIVISOR < size for left, size in zip(_values(self.left), _values(one), strict=True))

    def exchange(self, now_s: float, unix_s: float, *, sequence: int, need: Amounts, extra: Amounts) -> Exchange:
        """Everything the store has to know."""
        limits = self.limits
        calendar = calendar_at(unix_s)
        self.day_end_unix_s = unix_s + calendar.day_left_s
        self.day_start_unix_s = self.day_end_unix_s - 86_400
        current = self.slots[-1]
        slots = [SlotUse(now_s - slot.start_s, slot.num_requests, slot.num_tokens) for slot in self.slots]
        slots[-1] = SlotUse(
            now_s - current.start_s,
            current.num_requests + (0 if limits.requests_per_min is None else self.free_requests),
            current.num_tokens + (0 if limits.tokens_per_min is None else self.free_rate_tokens),
        )
        held = Amounts(
            budget_tokens=self.reserved_tokens + (self.free_tokens if self.has_token_budget else 0),
            nanousd=self.reserved_nanousd + (self.free_nanousd if self.has_money_budget else 0),
            concurrent=self.num_running + (0 if limits.concurrent_requests is None else self.free_concurrent),
        )
        return Exchange(
            holder=self.holder,
            tenant=self.tenant,
            limits=limits,
            calendar=calendar,
            sequence=sequence,
            slots=tuple(slots),
            held=held,
            spent_tokens=self.spent_tokens,
            spent_nanousd=self.spent_nanousd,
            acked_tokens=self.acked_tokens,
            acked_nanousd=self.acked_nanousd,
            need=need,
            extra=extra,
        )

    def apply(self, exchange: Exchange, answer: Answer, slot: Slot) -> None:
        """Takes in what was granted; `slot` was the current one when it was asked for."""
        self.left = answer.left
        self.has_advance = any(_values(answer.extra))
        for granted in (exchange.need, answer.extra) if answer.refusal is None else ():
            if slot is self.slots[-1]:
                self.free_requests += granted.requests
                self.free_rate_tokens += granted.rate_tokens
            self.free_tokens += granted.budget_tokens
            self.free_nanousd += granted.nanousd
            self.free_concurrent += granted.concurrent


def _values(amounts: Amounts) -> tuple[int, ...]:
    return (amounts.requests, amounts.rate_tokens, amounts.budget_tokens, amounts.nanousd, amounts.concurrent)
