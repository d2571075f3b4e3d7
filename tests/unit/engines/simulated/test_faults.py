"""Which request meets which fault."""

from __future__ import annotations

import msgspec
import pytest

from lightship.engines.simulated.faults import FaultDraws, FaultKind, FaultPlan, FaultRule, parse_fault, status_error


def hits(plan: FaultPlan, count: int) -> list[FaultKind | None]:
    draws = FaultDraws(plan)
    found = [draws.draw() for _ in range(count)]
    return [None if rule is None else rule.kind for rule in found]


def test_next_requests_are_hit_and_then_no_more() -> None:
    plan = FaultPlan(rules=(FaultRule(kind=FaultKind.RESET, num_requests=2),))
    assert hits(plan, 4) == [FaultKind.RESET, FaultKind.RESET, None, None]


def test_share_hits_about_so_many_and_the_same_each_time() -> None:
    plan = FaultPlan(rules=(FaultRule(kind=FaultKind.HANG, share=0.3),), seed=7)
    found = hits(plan, 2000)
    # binomial, 2000 draws at 0.3: standard deviation 20.5; five of them
    assert abs(sum(kind is not None for kind in found) - 600) < 103
    assert hits(plan, 2000) == found
    assert hits(msgspec.structs.replace(plan, seed=8), 2000) != found


def test_first_rule_that_hits_wins_and_others_draw_on() -> None:
    rare = FaultRule(kind=FaultKind.HANG, share=0.5)
    always = FaultRule(kind=FaultKind.RESET)
    both = hits(FaultPlan(rules=(rare, always)), 100)
    alone = hits(FaultPlan(rules=(rare,)), 100)
    assert set(both) == {FaultKind.HANG, FaultKind.RESET}
    assert len(alone) == 100


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hang", FaultRule(kind=FaultKind.HANG)),
        ("503", FaultRule(kind=FaultKind.STATUS, status=503)),
        ("502:num_requests=5", FaultRule(kind=FaultKind.STATUS, status=502, num_requests=5)),
        ("truncate:share=0.25,after_events=3", FaultRule(kind=FaultKind.TRUNCATE, share=0.25, after_events=3)),
        ("slow_first_byte:delay_s=1.5", FaultRule(kind=FaultKind.SLOW_FIRST_BYTE, delay_s=1.5)),
    ],
)
def test_fault_as_people_write_it_is_read(text: str, expected: FaultRule) -> None:
    assert parse_fault(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hangs", "hangs"),
        ("418", "500"),
        ("501", "500, 502 or 503"),
        ("hang:share=2", "share"),
        ("hang:share=0", "share"),
        ("hang:share", "NAME=VALUE"),
        ("hang:delay_s=1", "delay_s has no meaning for the fault hang"),
        ("trickle", "needs delay_s"),
        ("500:retry_after_s=1", "503 only"),
        ("reset:after=1", "after"),
    ],
)
def test_fault_that_makes_no_sense_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_fault(text)


def test_status_503_tells_when_to_come_back() -> None:
    error = status_error(parse_fault("503:retry_after_s=2.5"))
    assert (error.status, error.headers["retry-after-ms"]) == (503, "2500")
    assert status_error(parse_fault("502")).status == 502
