"""`scale`: expected numbers are worked out by hand from the policy in the test."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.scaling.decide import most_replicas, scale
from lightship.scaling.records import Prefer, ScaleDecision, ScaleHistory, ScaleLoad, ScalePolicy, ScaleReason

POLICY = ScalePolicy(
    min_replicas=0,
    max_replicas=8,
    in_flight_per_replica=10.0,
    idle_after_s=600.0,
    scale_down_window_s=300.0,
    scale_down_period_s=120.0,
)


def run(loads: list[ScaleLoad], *, replicas: int, policy: ScalePolicy = POLICY) -> list[ScaleDecision]:
    """The decisions over a series of loads, each with the history of the one before."""
    decisions = []
    history = ScaleHistory(replicas=replicas)
    for load in loads:
        decisions.append(scale(load, history, policy))
        history = decisions[-1].history
    return decisions


def test_scale_one_waiting_request_at_zero_wakes_one_replica() -> None:
    (decision,) = run([ScaleLoad(now_s=0.0, num_queued=1)], replicas=0)
    assert (decision.replicas, decision.reason) == (1, ScaleReason.WAKE)


def test_scale_fifty_waiting_at_zero_starts_as_many_as_they_need_at_once() -> None:
    (decision,) = run([ScaleLoad(now_s=0.0, num_queued=50)], replicas=0)
    assert decision.replicas == 5


def test_scale_more_in_flight_than_replicas_should_have_goes_up_at_once() -> None:
    (decision,) = run([ScaleLoad(now_s=0.0, num_in_flight=31, num_ready=1)], replicas=1)
    assert (decision.replicas, decision.reason) == (4, ScaleReason.LOAD)
    assert decision.detail == "31 under way and 0 waiting at 10 each"


def test_scale_exactly_full_replicas_stays() -> None:
    (decision,) = run([ScaleLoad(now_s=0.0, num_in_flight=30, num_ready=3)], replicas=3)
    assert (decision.replicas, decision.reason) == (3, ScaleReason.STEADY)


def test_scale_starting_replicas_are_not_asked_for_again() -> None:
    load = ScaleLoad(now_s=0.0, num_queued=20, num_in_flight=10, num_ready=1, num_starting=2)
    (decision,) = run([load], replicas=3)
    assert (decision.replicas, decision.reason) == (3, ScaleReason.STEADY)


def test_scale_missing_data_changes_nothing_and_forgets_nothing() -> None:
    before = ScaleHistory(replicas=3, wanted=((0.0, 3),), last_busy_s=0.0)
    decision = scale(ScaleLoad(now_s=5000.0, is_complete=False), before, POLICY)
    assert (decision.replicas, decision.reason, decision.history) == (3, ScaleReason.MISSING_DATA, before)


def test_scale_promise_missed_although_load_is_low_adds_one() -> None:
    load = ScaleLoad(now_s=0.0, num_in_flight=5, num_ready=2, attainment=0.80)
    (decision,) = run([load], replicas=2)
    assert (decision.replicas, decision.reason) == (3, ScaleReason.ATTAINMENT)


def test_scale_promise_missed_while_a_replica_starts_waits_for_it() -> None:
    load = ScaleLoad(now_s=0.0, num_in_flight=5, num_ready=2, num_starting=1, attainment=0.80)
    (decision,) = run([load], replicas=3)
    assert decision.replicas == 3


def test_scale_less_load_stays_for_the_window_then_goes_down_one_at_a_time() -> None:
    peak = ScaleLoad(now_s=0.0, num_in_flight=40, num_ready=4)
    quiet = [ScaleLoad(now_s=float(t), num_in_flight=5, num_ready=4) for t in range(10, 800, 10)]
    decisions = run([peak, *quiet], replicas=4)
    steps = {load.now_s: d.replicas for load, d in zip([peak, *quiet], decisions, strict=True)}
    assert all(steps[t] == 4 for t in (10, 150, 290)), "the peak is within the last 300 s"
    assert decisions[1].reason is ScaleReason.STABILIZING
    # the window is over at 300; then one each 120 s
    assert [steps[t] for t in (300, 410, 420, 530, 540, 790)] == [3, 3, 2, 2, 1, 1]


def test_scale_load_returning_within_the_window_begins_it_anew() -> None:
    loads = [
        ScaleLoad(now_s=0.0, num_in_flight=40, num_ready=4),
        ScaleLoad(now_s=200.0, num_in_flight=35, num_ready=4),
        ScaleLoad(now_s=310.0, num_in_flight=5, num_ready=4),
        ScaleLoad(now_s=499.0, num_in_flight=5, num_ready=4),
        ScaleLoad(now_s=500.0, num_in_flight=5, num_ready=4),
    ]
    assert [d.replicas for d in run(loads, replicas=4)] == [4, 4, 4, 4, 3]


def test_scale_a_pause_shorter_than_idle_after_keeps_one() -> None:
    loads = [
        ScaleLoad(now_s=0.0, num_in_flight=1, num_ready=1),
        ScaleLoad(now_s=599.0, num_ready=1),
        ScaleLoad(now_s=600.0, num_ready=1),
    ]
    decisions = run(loads, replicas=1)
    assert [d.replicas for d in decisions] == [1, 1, 0]
    assert decisions[-1].reason is ScaleReason.IDLE


def test_scale_idle_pool_goes_to_the_least_that_is_kept() -> None:
    policy = msgspec.structs.replace(POLICY, min_replicas=2)
    loads = [ScaleLoad(now_s=0.0, num_in_flight=60, num_ready=6), ScaleLoad(now_s=600.0, num_ready=6)]
    assert [d.replicas for d in run(loads, replicas=6, policy=policy)] == [6, 2]


def test_scale_asleep_without_requests_stays_asleep() -> None:
    decisions = run([ScaleLoad(now_s=float(t)) for t in (0, 1000, 2000)], replicas=0)
    assert [(d.replicas, d.reason) for d in decisions] == [(0, ScaleReason.STEADY)] * 3


def test_scale_fewer_than_the_least_are_started_without_load() -> None:
    policy = msgspec.structs.replace(POLICY, min_replicas=2)
    (decision,) = run([ScaleLoad(now_s=0.0)], replicas=0, policy=policy)
    assert (decision.replicas, decision.reason) == (2, ScaleReason.BOUNDS)


def test_scale_more_than_the_most_says_so() -> None:
    (decision,) = run([ScaleLoad(now_s=0.0, num_in_flight=200, num_ready=8)], replicas=8)
    assert (decision.replicas, decision.reason) == (8, ScaleReason.BOUNDS)
    assert "20 wanted, at most 8 allowed" in decision.detail


def test_scale_money_is_a_bound_of_its_own() -> None:
    policy = msgspec.structs.replace(POLICY, usd_per_replica_hour=2.5, max_usd_per_hour=8.0)
    (decision,) = run([ScaleLoad(now_s=0.0, num_in_flight=100, num_ready=1)], replicas=1, policy=policy)
    assert (decision.replicas, decision.reason) == (3, ScaleReason.COST)


def test_scale_ladder_first_counts_what_the_lowest_rung_takes() -> None:
    ladder = msgspec.structs.replace(POLICY, prefer=Prefer.LADDER, in_flight_at_lowest_rung=40.0)
    replicas = msgspec.structs.replace(ladder, prefer=Prefer.REPLICAS)
    load = [ScaleLoad(now_s=0.0, num_in_flight=35, num_ready=1)]
    assert [d.replicas for d in run(load, replicas=1, policy=ladder)] == [1]
    assert [d.replicas for d in run(load, replicas=1, policy=replicas)] == [4]


def test_scale_requests_on_lower_rungs_are_demand_where_replicas_come_first() -> None:
    load = ScaleLoad(now_s=0.0, num_in_flight=8, num_degraded=16.0, num_ready=1)
    for prefer, expected in ((Prefer.REPLICAS, 3), (Prefer.LADDER, 1)):
        policy = msgspec.structs.replace(POLICY, prefer=prefer, in_flight_per_replica=8.0, max_replicas=9)
        decision = scale(load, ScaleHistory(replicas=1), policy)
        assert decision.replicas == expected
    # and the pool is not idle, whatever comes first
    later = msgspec.structs.replace(load, now_s=1e6, num_in_flight=0)
    history = ScaleHistory(replicas=1, last_busy_s=0.0)
    assert scale(later, history, policy).history.last_busy_s == 1e6


def test_scale_a_slow_start_lengthens_the_window() -> None:
    policy = msgspec.structs.replace(POLICY, startup_s=500.0)
    loads = [
        ScaleLoad(now_s=0.0, num_in_flight=20, num_ready=2),
        ScaleLoad(now_s=400.0, num_in_flight=5, num_ready=2),
        ScaleLoad(now_s=501.0, num_in_flight=5, num_ready=2),
    ]
    assert [d.replicas for d in run(loads, replicas=2, policy=policy)] == [2, 2, 1]


def test_most_replicas_money_below_the_least_keeps_the_least() -> None:
    policy = msgspec.structs.replace(POLICY, min_replicas=2, usd_per_replica_hour=5.0, max_usd_per_hour=1.0)
    assert most_replicas(policy) == 2


@st.composite
def series(draw: st.DrawFn) -> list[ScaleLoad]:
    """Loads at rising times."""
    gaps = draw(st.lists(st.floats(0.1, 400.0), min_size=1, max_size=40))
    now_s, loads = 0.0, []
    for gap_s in gaps:
        now_s += gap_s
        loads.append(
            ScaleLoad(
                now_s=now_s,
                num_queued=draw(st.integers(0, 200)),
                num_in_flight=draw(st.integers(0, 200)),
                num_ready=draw(st.integers(0, 8)),
                num_starting=draw(st.integers(0, 8)),
                attainment=draw(st.none() | st.floats(0.0, 1.0)),
                is_complete=draw(st.booleans()),
            )
        )
    return loads


@given(series(), st.integers(0, 8))
def test_scale_any_series_stays_within_bounds_and_down_steps_apart(loads: list[ScaleLoad], replicas: int) -> None:
    decisions = run(loads, replicas=replicas)
    before, last_down_s = replicas, -1e9
    for load, decision in zip(loads, decisions, strict=True):
        assert 0 <= decision.replicas <= 8
        if load.is_complete and load.num_queued + load.num_in_flight:
            assert decision.replicas >= 1
        if decision.replicas < before and decision.reason is not ScaleReason.IDLE:
            assert before - decision.replicas == 1
            assert load.now_s - last_down_s >= POLICY.scale_down_period_s
        if decision.replicas < before:
            last_down_s = load.now_s
        before = decision.replicas
        assert len(decision.history.wanted) <= 9, "one entry for each height at most"


@pytest.mark.parametrize("load", [ScaleLoad(now_s=1.0, num_queued=7), ScaleLoad(now_s=1.0, is_complete=False)])
def test_scale_same_input_twice_decides_the_same(load: ScaleLoad) -> None:
    history = ScaleHistory(replicas=1, last_busy_s=0.5)
    assert scale(load, history, POLICY) == scale(load, history, POLICY)
