from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lightship.gateway.tenants.limits import (
    Amounts,
    Calendar,
    Exchange,
    LimitKind,
    Limits,
    Position,
    Refusal,
    SlotUse,
    calendar_at,
    decide,
    impossible,
    redated,
)

TODAY = Calendar(20261127, 202611, 3600.0, 86_400.0)


def position(written_s: float, *slots: SlotUse, held: Amounts = Amounts()) -> Position:  # noqa: B008 # frozen
    return Position(written_s, 1, slots, held, 0, 0)


def exchange(limits: Limits, need: Amounts, *slots: SlotUse, extra: Amounts = Amounts()) -> Exchange:  # noqa: B008
    return Exchange("me", "team", limits, TODAY, 1, (*slots, SlotUse(0.0, 0, 0)), need=need, extra=extra)


@pytest.mark.parametrize(
    ("moment", "day", "month", "day_left_s", "month_left_s"),
    [
        (datetime(2026, 11, 27, 23, 59, 59, tzinfo=UTC), 20261127, 202611, 1, 3 * 86_400 + 1),
        (datetime(2026, 12, 31, tzinfo=UTC), 20261231, 202612, 86_400, 86_400),
        (datetime(2028, 2, 28, 12, tzinfo=UTC), 20280228, 202802, 43_200, 86_400 + 43_200),  # a leap year
    ],
)
def test_calendar_at_names_utc_periods_and_their_ends(
    moment: datetime, day: int, month: int, day_left_s: float, month_left_s: float
) -> None:
    assert calendar_at(moment.timestamp()) == Calendar(day, month, day_left_s, month_left_s)


def test_decide_waits_until_enough_slots_of_all_holders_are_over() -> None:
    other = position(90.0, SlotUse(20.0, 0, 300), SlotUse(5.0, 0, 300))  # ten seconds ago: now 30 and 15 s old
    asked = exchange(Limits(tokens_per_min=1000), Amounts(rate_tokens=500), SlotUse(40.0, 0, 200))
    decision = decide(asked, own=None, others=[other], spent={}, now_s=100.0)
    # 200 are left; those of 40 s make it 400, those of 30 s make it 700.
    assert decision.answer.refusal == Refusal(LimitKind.TOKENS_PER_MIN, 30.0, is_exhausted=False)


def test_decide_refused_grants_and_changes_nothing() -> None:
    asked = exchange(Limits(requests_per_min=1), Amounts(requests=2), extra=Amounts(requests=9))
    decision = decide(asked, own=None, others=[], spent={}, now_s=0.0)
    assert decision.answer.extra == Amounts()
    assert decision.position.slots == asked.slots


def test_decide_gives_a_sixteenth_of_what_is_left_in_advance() -> None:
    asked = exchange(Limits(daily_tokens=1700), Amounts(budget_tokens=100), extra=Amounts(budget_tokens=500))
    decision = decide(asked, own=None, others=[], spent={}, now_s=0.0)
    assert decision.answer.extra.budget_tokens == 100
    assert decision.position.held.budget_tokens == 200
    assert decision.answer.left.budget_tokens == 1500


def test_decide_names_what_passes_soonest() -> None:
    limits = Limits(requests_per_min=1, concurrent_requests=1, daily_tokens=1)
    need = Amounts(requests=2, concurrent=2, budget_tokens=2)
    refusal = decide(exchange(limits, need), own=None, others=[], spent={}, now_s=0.0).answer.refusal
    assert refusal is not None
    assert refusal.kind is LimitKind.CONCURRENT_REQUESTS


def test_decide_dead_holder_keeps_its_minute_and_loses_what_it_held() -> None:
    other = position(0.0, SlotUse(0.0, 1, 0), held=Amounts(concurrent=1, budget_tokens=100))
    limits = Limits(requests_per_min=1, concurrent_requests=1, daily_tokens=100)
    need = Amounts(requests=1, concurrent=1, budget_tokens=100)
    answer = decide(exchange(limits, need), own=None, others=[other], spent={}, now_s=15.0).answer
    assert answer.refusal == Refusal(LimitKind.REQUESTS_PER_MIN, 45.0, is_exhausted=False)


def test_redated_position_ahead_of_the_clock_counts_from_now() -> None:
    assert redated(position(100.0), 40.0) == position(40.0)
    assert redated(position(40.0), 40.0) is None


def test_impossible_names_the_limit_that_one_request_passes() -> None:
    limits = Limits(tokens_per_min=1000, daily_nanousd=50)
    assert impossible(limits, num_tokens=1000, nanousd=50) is None
    assert impossible(limits, num_tokens=1001, nanousd=0) is LimitKind.TOKENS_PER_MIN
    assert impossible(limits, num_tokens=1, nanousd=51) is LimitKind.DAILY_USD
