"""What a tenant may use, and the decision whether something more fits into it.

Pure: time, counts and reservations come in as values. Every store of counters decides by `decide`, or is tested
against it.

**Rates** (requests and tokens per minute) are counted in slots of `SLOT_S` seconds, and a slot counts for `WINDOW_S`
from its beginning. So no twelve slots in a row hold more than the limit, which bounds the long-run rate exactly. A
token bucket was not taken because of refunds: what is reserved too much leaks out of a bucket while a request runs, and
giving it back at the end would give it twice. Here it is taken out of the slot it stands in, and out of nothing once
that slot is over.

**Budgets** are per UTC day and month. Each period has a row of its own, so a clock that jumps to another day and back
finds what was spent there. What is reserved counts against the period that is; what was used counts in the period in
which the store learns of it, within a second.

**Concurrency** and what is held back for requests under way belong to a *holder*, one gateway process, and count while
it gives signs of life.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

# A minute, as in the names of the limits.
WINDOW_S = 60.0
SLOT_S = 5.0
# A holder that says nothing for so long is dead, and what it held is free again. Holders report every second or five.
LEASE_S = 15.0
# Of what is left, the part one holder may take in advance of its needs: sixteen holders can all have one.
ADVANCE_DIVISOR = 16
# When the limit is free again cannot be foreseen: requests under way have to end.
SOON_S = 1.0
# Stands for no limit: more than can be used up, and a whole number even where numbers are floating-point.
UNLIMITED = 2**53

NANOUSD_PER_USD = 10**9


class LimitKind(StrEnum):
    """Which limit; the words are those of the messages."""

    CONCURRENT_REQUESTS = "concurrent requests"
    REQUESTS_PER_MIN = "requests per minute"
    TOKENS_PER_MIN = "tokens per minute"
    DAILY_TOKENS = "tokens per day"
    MONTHLY_TOKENS = "tokens per month"
    DAILY_USD = "USD per day"
    MONTHLY_USD = "USD per month"

    @property
    def is_budget(self) -> bool:
        """Whether it is money or a total, not a rate."""
        return self in _BUDGETS


_BUDGETS = frozenset({LimitKind.DAILY_TOKENS, LimitKind.MONTHLY_TOKENS, LimitKind.DAILY_USD, LimitKind.MONTHLY_USD})


class Limits(msgspec.Struct, frozen=True, array_like=True):
    """Limits of one tenant; None sets none. Money is in billionths of a dollar, so that sums are exact."""

    requests_per_min: int | None = None
    tokens_per_min: int | None = None
    concurrent_requests: int | None = None
    daily_tokens: int | None = None
    monthly_tokens: int | None = None
    daily_nanousd: int | None = None
    monthly_nanousd: int | None = None

    @property
    def has_budget(self) -> bool:
        """Whether a total is limited, in tokens or money."""
        budgets = (self.daily_tokens, self.monthly_tokens, self.daily_nanousd, self.monthly_nanousd)
        return any(budget is not None for budget in budgets)

    def share(self, divisor: int) -> Limits:
        """Rates and concurrency of one of `divisor` processes that know nothing of each other; no budgets."""

        def part(limit: int | None) -> int | None:
            return None if limit is None else max(1, limit // divisor)

        return Limits(part(self.requests_per_min), part(self.tokens_per_min), part(self.concurrent_requests))


class Amounts(msgspec.Struct, frozen=True, array_like=True):
    """What one or several requests take: of the minute's requests and tokens, of the budgets, and at the same time."""

    requests: int = 0
    rate_tokens: int = 0
    budget_tokens: int = 0
    nanousd: int = 0
    concurrent: int = 0


class SlotUse(msgspec.Struct, frozen=True, array_like=True):
    """What was taken in one slot, which began `age_s` before it was written down."""

    age_s: float
    requests: int
    tokens: int


class Position(msgspec.Struct, frozen=True, array_like=True):
    """What one holder last wrote about one tenant, at `written_s` of the store's clock.

    `reported_tokens` and `reported_nanousd` are its totals that are already part of what was spent.
    """

    written_s: float
    sequence: int
    slots: tuple[SlotUse, ...]
    held: Amounts
    reported_tokens: int
    reported_nanousd: int


class Calendar(msgspec.Struct, frozen=True, array_like=True):
    """The UTC periods a moment lies in, as numbers like 20261127 and 202611, and the time until they end."""

    day: int
    month: int
    day_left_s: float
    month_left_s: float


class Exchange(msgspec.Struct, frozen=True, array_like=True):
    """What a holder tells about a tenant, all of it absolute, so that saying it twice does no harm, and asks for.

    Args:
        holder: Who says it.
        tenant: Whose.
        limits: Its limits.
        calendar: Now.
        sequence: Higher than in every exchange before; one that comes late is recognised by it.
        slots: What this holder took in the last minute.
        held: Tokens, money and running requests it holds, used or not.
        spent_tokens, spent_nanousd: What was used up through it since it started.
        acked_tokens, acked_nanousd: The part of that the store is known to have.
        need: To be granted as a whole or not at all.
        extra: Would be welcome, for requests to come.
    """

    holder: str
    tenant: str
    limits: Limits
    calendar: Calendar
    sequence: int
    slots: tuple[SlotUse, ...] = ()
    held: Amounts = Amounts()
    spent_tokens: int = 0
    spent_nanousd: int = 0
    acked_tokens: int = 0
    acked_nanousd: int = 0
    need: Amounts = Amounts()
    extra: Amounts = Amounts()


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """Which limit, and in how many seconds it makes sense to ask again; infinite when it never will.

    `is_exhausted` says that even without the reservations of requests under way it would not fit.
    """

    kind: LimitKind
    wait_s: float
    is_exhausted: bool


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What came of an exchange: `need` was granted unless there is a refusal, and `extra` of what was welcome.

    `left` is what nobody holds after that; `UNLIMITED` where there is no limit, below 0 where it was passed.
    """

    refusal: Refusal | None
    extra: Amounts
    left: Amounts


class StaleExchangeError(Exception):
    """An exchange arrived after a later one of the same holder; nothing was written."""


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer, and what has to be written for it to be true."""

    answer: Answer
    position: Position
    spent_tokens: int
    spent_nanousd: int


def calendar_at(unix_s: float) -> Calendar:
    """The day and month of a moment."""
    now = datetime.fromtimestamp(unix_s, UTC)
    next_month = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    month = now.year * 100 + now.month
    return Calendar(
        day=month * 100 + now.day,
        month=month,
        day_left_s=86_400 - unix_s % 86_400,
        month_left_s=next_month.timestamp() - unix_s,
    )


def redated(position: Position, now_s: float) -> Position | None:
    """The position as of now, when the store's clock went back behind it; None when it need not be written again.

    It is then neither forgotten, which would be a refund, nor kept until the clock is there again.
    """
    return msgspec.structs.replace(position, written_s=now_s) if position.written_s > now_s else None


def is_alive(position: Position, now_s: float) -> bool:
    """Whether what it holds still counts."""
    return now_s - position.written_s < LEASE_S


def is_forgettable(position: Position, now_s: float) -> bool:
    """Whether it no longer matters: not even its reported totals, should its holder come back."""
    return now_s - position.written_s > 3600


def decide(
    exchange: Exchange,
    *,
    own: Position | None,
    others: Iterable[Position],
    spent: Mapping[int, tuple[int, int]],
    now_s: float,
) -> Decision:
    """Whether the need fits into the limits, how much more may be taken in advance, and the holder's new position.

    Args:
        exchange: What the holder says.
        own: Its position so far.
        others: Those of the other holders, none of them written after `now_s`.
        spent: Tokens and billionths of a dollar by period.
        now_s: On the store's clock.

    Raises: StaleExchangeError: a later exchange of this holder was already written.
    """
    others = list(others)
    if own is not None and own.sequence >= exchange.sequence:
        raise StaleExchangeError
    new_tokens = exchange.spent_tokens - (exchange.acked_tokens if own is None else own.reported_tokens)
    new_nanousd = exchange.spent_nanousd - (exchange.acked_nanousd if own is None else own.reported_nanousd)
    spent = {
        period: (tokens + new_tokens, nanousd + new_nanousd)
        for period in (exchange.calendar.day, exchange.calendar.month)
        for tokens, nanousd in [spent.get(period, (0, 0))]
    }
    held = _held_by_all(exchange, others, now_s)
    slots = _slots_of_all(exchange, others, now_s)
    rooms = list(_rooms(exchange, spent=spent, held=held, slots=slots))
    left = _least(rooms)
    need, wanted = exchange.need, exchange.extra
    short = next((room for room in rooms if getattr(need, room.resource) > max(0, room.left)), None)
    refusal = None if short is None else _refusal(short, getattr(need, short.resource), exchange, slots)
    granted = need if refusal is None else Amounts()
    left = {resource: left[resource] - getattr(granted, resource) for resource in _RESOURCES}
    extra = _advance(wanted, left) if refusal is None else Amounts()
    position = Position(
        written_s=now_s,
        sequence=exchange.sequence,
        slots=_with_current(exchange.slots, granted, extra),
        held=_held(exchange.held, granted, extra),
        reported_tokens=exchange.spent_tokens,
        reported_nanousd=exchange.spent_nanousd,
    )
    answer = Answer(refusal, extra, Amounts(*(left[name] - getattr(extra, name) for name in _RESOURCES)))
    return Decision(answer, position, new_tokens, new_nanousd)


_RESOURCES = Amounts.__struct_fields__


@dataclass(frozen=True, slots=True)
class _Room:
    """One limit, what is left of it, and what would be left if nothing were held back for requests under way."""

    kind: LimitKind
    resource: str
    left: int
    left_unheld: int
    resets_s: float = SOON_S


def _rooms(
    exchange: Exchange, *, spent: Mapping[int, tuple[int, int]], held: Amounts, slots: list[SlotUse]
) -> Iterator[_Room]:
    """In the order in which a refusal names them: what passes soonest first."""
    limits, calendar = exchange.limits, exchange.calendar
    if limits.concurrent_requests is not None:
        left = limits.concurrent_requests - held.concurrent
        yield _Room(LimitKind.CONCURRENT_REQUESTS, "concurrent", left, limits.concurrent_requests)
    if limits.requests_per_min is not None:
        left = limits.requests_per_min - sum(slot.requests for slot in slots)
        yield _Room(LimitKind.REQUESTS_PER_MIN, "requests", left, left)
    if limits.tokens_per_min is not None:
        left = limits.tokens_per_min - sum(slot.tokens for slot in slots)
        yield _Room(LimitKind.TOKENS_PER_MIN, "rate_tokens", left, left)
    day_tokens, day_nanousd = spent[calendar.day]
    month_tokens, month_nanousd = spent[calendar.month]
    for kind, resource, limit, used, ends_s in (
        (LimitKind.DAILY_TOKENS, "budget_tokens", limits.daily_tokens, day_tokens, calendar.day_left_s),
        (LimitKind.DAILY_USD, "nanousd", limits.daily_nanousd, day_nanousd, calendar.day_left_s),
        (LimitKind.MONTHLY_TOKENS, "budget_tokens", limits.monthly_tokens, month_tokens, calendar.month_left_s),
        (LimitKind.MONTHLY_USD, "nanousd", limits.monthly_nanousd, month_nanousd, calendar.month_left_s),
    ):
        if limit is not None:
            yield _Room(kind, resource, limit - used - getattr(held, resource), limit - used, ends_s)


def _least(rooms: list[_Room]) -> dict[str, int]:
    left = dict.fromkeys(_RESOURCES, UNLIMITED)
    for room in rooms:
        left[room.resource] = min(left[room.resource], room.left)
    return left


def _refusal(room: _Room, need: int, exchange: Exchange, slots: list[SlotUse]) -> Refusal:
    if room.kind.is_budget:
        is_exhausted = need > room.left_unheld
        return Refusal(room.kind, room.resets_s if is_exhausted else SOON_S, is_exhausted)
    if room.kind is LimitKind.CONCURRENT_REQUESTS:
        return Refusal(room.kind, SOON_S, is_exhausted=False)
    return Refusal(room.kind, _wait_for_slots(room, need, slots), is_exhausted=False)


def _wait_for_slots(room: _Room, need: int, slots: list[SlotUse]) -> float:
    """Until so many of the oldest slots are over that the need fits in."""
    left = room.left
    for slot in sorted(slots, key=lambda slot: -slot.age_s):
        left += slot.requests if room.resource == "requests" else slot.tokens
        if left >= need:
            return WINDOW_S - slot.age_s
    return WINDOW_S


def _slots_of_all(exchange: Exchange, others: list[Position], now_s: float) -> list[SlotUse]:
    """Every slot that still counts, its age as of now."""
    slots = [slot for slot in exchange.slots if slot.age_s < WINDOW_S]
    for position in others:
        elapsed_s = now_s - position.written_s
        if elapsed_s < WINDOW_S:
            aged = (SlotUse(slot.age_s + elapsed_s, slot.requests, slot.tokens) for slot in position.slots)
            slots += [slot for slot in aged if slot.age_s < WINDOW_S]
    return slots


def _held_by_all(exchange: Exchange, others: list[Position], now_s: float) -> Amounts:
    held = [exchange.held, *(position.held for position in others if is_alive(position, now_s))]
    return Amounts(
        budget_tokens=sum(part.budget_tokens for part in held),
        nanousd=sum(part.nanousd for part in held),
        concurrent=sum(part.concurrent for part in held),
    )


def _advance(wanted: Amounts, left: Mapping[str, int]) -> Amounts:
    return Amounts(*(min(getattr(wanted, name), max(0, left[name]) // ADVANCE_DIVISOR) for name in _RESOURCES))


def _with_current(slots: tuple[SlotUse, ...], granted: Amounts, extra: Amounts) -> tuple[SlotUse, ...]:
    """The last slot is the current one; what was granted counts there."""
    requests, tokens = granted.requests + extra.requests, granted.rate_tokens + extra.rate_tokens
    if not requests and not tokens:
        return slots
    current = slots[-1]
    return (*slots[:-1], SlotUse(current.age_s, current.requests + requests, current.tokens + tokens))


def _held(held: Amounts, granted: Amounts, extra: Amounts) -> Amounts:
    return Amounts(
        budget_tokens=held.budget_tokens + granted.budget_tokens + extra.budget_tokens,
        nanousd=held.nanousd + granted.nanousd + extra.nanousd,
        concurrent=held.concurrent + granted.concurrent + extra.concurrent,
    )


def impossible(limits: Limits, *, num_tokens: int, nanousd: int) -> LimitKind | None:
    """The limit that a request of this size could not keep even if nothing else were sent."""
    for kind, limit, size in (
        (LimitKind.TOKENS_PER_MIN, limits.tokens_per_min, num_tokens),
        (LimitKind.DAILY_TOKENS, limits.daily_tokens, num_tokens),
        (LimitKind.DAILY_USD, limits.daily_nanousd, nanousd),
        (LimitKind.MONTHLY_TOKENS, limits.monthly_tokens, num_tokens),
        (LimitKind.MONTHLY_USD, limits.monthly_nanousd, nanousd),
    ):
        if limit is not None and size > limit:
            return kind
    return None
