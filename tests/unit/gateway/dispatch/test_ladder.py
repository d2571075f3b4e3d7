"""Which rung a request gets, and when the level moves."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from lightship.gateway.dispatch.config import LadderPolicy, RungFacts
from lightship.gateway.dispatch.ladder import (
    LadderLoad,
    Level,
    RungChoice,
    RungReason,
    RungView,
    Wish,
    choose_rung,
    next_level,
)
from lightship.ports.engine import Degrade

TOP = RungView(RungFacts(variant_name="fp16"))
MIDDLE = RungView(RungFacts(variant_name="int8", quality_loss=0.01, quality_loss_high=0.015))
LOW = RungView(RungFacts(variant_name="quarter", quality_loss=0.06, quality_loss_high=0.08))
LADDER = (TOP, MIDDLE, LOW)
POLICY = LadderPolicy(down_dwell_s=1.0, up_dwell_s=10.0, up_load_share=0.8, trial_s=60.0, most_patience_s=80.0)


@dataclass(frozen=True)
class Case:
    """A wish on the ladder at a level, and what it should get."""

    name: str
    wish: Wish
    level: int
    expected: RungChoice
    ladder: tuple[RungView, ...] = LADDER


CASES = (
    Case("no load", Wish(), 0, RungChoice(0, RungReason.ASKED)),
    Case("load", Wish(), 1, RungChoice(1, RungReason.LEVEL)),
    Case("more load", Wish(), 2, RungChoice(2, RungReason.LEVEL)),
    Case("never degraded", Wish(degrade=Degrade.NEVER), 2, RungChoice(0, RungReason.ASKED)),
    # 1 - 0.08 = 0.92 is below 0.95, and 1 - 0.015 = 0.985 is not
    Case("floor between rungs", Wish(min_quality=0.95), 2, RungChoice(1, RungReason.LEVEL)),
    Case("floor above all lower rungs", Wish(min_quality=0.99), 2, RungChoice(0, RungReason.QUALITY_FLOOR)),
    Case("explicit rung", Wish(asked_rung=2, is_pinned=True), 0, RungChoice(2, RungReason.EXPLICIT)),
    Case("prefers the cheapest", Wish(degrade=Degrade.PREFERRED), 0, RungChoice(2, RungReason.PREFERRED)),
    Case("session stays where leaving is dear", Wish(session_rung=0, is_session_costly=True), 1,
         RungChoice(0, RungReason.ASKED)),
    Case("session on a lower rung stays there", Wish(session_rung=2, is_session_costly=True), 1,
         RungChoice(2, RungReason.SESSION)),
    Case("session leaves where that is cheap", Wish(session_rung=2), 0, RungChoice(0, RungReason.ASKED)),
    Case("budget is spent", Wish(), 2, RungChoice(0, RungReason.BUDGET),
         (TOP, replace(MIDDLE, may_degrade=False), replace(LOW, may_degrade=False))),
    Case("budget reaches for the smaller loss only", Wish(), 2, RungChoice(1, RungReason.LEVEL),
         (TOP, MIDDLE, replace(LOW, may_degrade=False))),
    Case("top rung is down", Wish(), 0, RungChoice(1, RungReason.UNAVAILABLE), (replace(TOP, is_up=False), MIDDLE)),
    Case("nothing is up", Wish(), 0, RungChoice(None, RungReason.UNAVAILABLE), (replace(TOP, is_up=False),)),
    Case("top is down and nothing else may answer", Wish(degrade=Degrade.NEVER), 0,
         RungChoice(None, RungReason.UNAVAILABLE), (replace(TOP, is_up=False), MIDDLE)),
    Case("explicit rung is down", Wish(asked_rung=1, is_pinned=True), 0, RungChoice(None, RungReason.EXPLICIT),
         (TOP, replace(MIDDLE, is_up=False))),
    Case("room for the better rung after all", Wish(), 1, RungChoice(0, RungReason.ASKED),
         (replace(TOP, has_room_to_mix=True), MIDDLE)),
    Case("room for the rung above only", Wish(), 2, RungChoice(1, RungReason.ROOM),
         (TOP, replace(MIDDLE, has_room_to_mix=True), LOW)),
    Case("a floor that nothing reaches", Wish(min_quality=0.995), 0, RungChoice(None, RungReason.QUALITY_FLOOR),
         (MIDDLE, LOW)),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_choose_rung_gives_each_request_what_it_accepts(case: Case) -> None:
    assert choose_rung(case.wish, case.ladder, level=case.level) == case.expected


def test_choose_rung_unmeasured_lower_rung_serves_nobody_with_a_floor() -> None:
    ladder = (TOP, RungView(RungFacts(variant_name="other", quality_loss=None)))
    assert choose_rung(Wish(min_quality=0.01), ladder, level=1).rung == 0
    assert choose_rung(Wish(), ladder, level=1).rung == 1


def moved(
    level: Level, *, overloaded: bool, arrivals_per_s: float, now_s: float, above_per_s: float | None = None
) -> Level:
    load = LadderLoad(overloaded, arrivals_per_s, arrivals_per_s if above_per_s is None else above_per_s)
    return next_level(level, load, POLICY, lowest=2, now_s=now_s)


def test_level_short_overload_does_not_move() -> None:
    level = moved(Level(), overloaded=True, arrivals_per_s=100, now_s=0.0)
    level = moved(level, overloaded=False, arrivals_per_s=100, now_s=0.9)
    level = moved(level, overloaded=True, arrivals_per_s=100, now_s=1.0)
    assert moved(level, overloaded=True, arrivals_per_s=100, now_s=1.9).step == 0


def test_level_lasting_overload_steps_down_one_at_a_time_to_the_lowest() -> None:
    level, steps = Level(), []
    for now_s in (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0):
        level = moved(level, overloaded=True, arrivals_per_s=100, now_s=now_s)
        steps.append(level.step)
    # an overload has to last a second after each step, which is noticed at 1.5 and 3
    assert steps == [0, 1, 1, 1, 2, 2, 2]


def down_at(arrivals_per_s: float, now_s: float, level: Level | None = None) -> Level:
    level = moved(level or Level(), overloaded=True, arrivals_per_s=arrivals_per_s, now_s=now_s - 1.0)
    level = moved(level, overloaded=True, arrivals_per_s=arrivals_per_s, now_s=now_s)
    return moved(level, overloaded=False, arrivals_per_s=arrivals_per_s, now_s=now_s)


def test_level_arrivals_clearly_fewer_goes_up_after_the_dwell() -> None:
    level = down_at(100, 0.0)
    assert moved(level, overloaded=False, arrivals_per_s=79, now_s=9.9).step == 1
    assert moved(level, overloaded=False, arrivals_per_s=79, now_s=10.0).step == 0


def test_level_arrivals_clearly_fewer_for_each_replica_above_goes_up_after_the_dwell() -> None:
    level = down_at(100, 0.0)
    # as many as ever, but there are more replicas above than when that step was left
    assert moved(level, overloaded=False, arrivals_per_s=100, above_per_s=79, now_s=9.9).step == 1
    assert moved(level, overloaded=False, arrivals_per_s=100, above_per_s=79, now_s=10.0).step == 0
    # and half as many, with so few replicas above that each would get nearly what it could not serve
    level = Level(step=1, changed_s=0.0, failed_per_s=100, patience_s=100.0)
    assert moved(level, overloaded=False, arrivals_per_s=50, above_per_s=81, now_s=99.0).step == 1


def test_level_failed_trials_come_ever_more_seldom() -> None:
    level, now_s, waits = down_at(100, 0.0), 0.0, []
    for _ in range(6):
        start_s = now_s
        while level.step == 1:  # arrivals stay as they were, and the rung serves them: a trial is all there is
            now_s += 1.0
            level = moved(level, overloaded=False, arrivals_per_s=100, now_s=now_s)
        waits.append(now_s - start_s)
        now_s += 2.0
        level = down_at(100, now_s, level)
    assert waits == [10, 20, 40, 80, 80, 80]


def test_level_trial_that_holds_forgets_the_patience() -> None:
    level = down_at(100, 0.0)
    level = moved(level, overloaded=False, arrivals_per_s=100, now_s=10.0)
    assert level.step == 0
    level = down_at(100, 100.0, level)  # 90 s later: longer than a trial
    assert moved(level, overloaded=False, arrivals_per_s=100, now_s=110.0).step == 0
