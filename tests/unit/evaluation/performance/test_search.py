"""The search for the highest load, on synthetic attainment functions whose answer is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.performance.client import LoadClient
from lightship.evaluation.performance.load_result import summarize_load
from lightship.evaluation.performance.open_loop import ClientLateError, OpenLoop, PlannedRequest, run_open_loop
from lightship.evaluation.performance.records import Slo
from lightship.evaluation.performance.search import (
    NextRun,
    SearchPlan,
    SearchResult,
    Trial,
    Verdict,
    judge_loads,
    next_step,
    search_load,
)
from lightship.ports.engine import HopTimeouts
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

if TYPE_CHECKING:
    from tests.unit.evaluation.performance.conftest import SimulatedEngine

PLAN = SearchPlan(attainment=0.95, first=4, lowest=0.5, highest=1000, duration_s=60)
USERS = replace(PLAN, is_whole=True, lowest=1, first=1)


def search(plan: SearchPlan, attainment: Callable[[float], float], *, seed: int | None = None) -> SearchResult:
    """Runs the decisions on an endpoint whose requests meet the SLO with that probability (exactly, or drawn)."""
    rng = random.Random(seed)
    trials: list[Trial] = []
    while isinstance(step := next_step(trials, plan), NextRun):
        num_requests = max(1, round(step.load * step.duration_s * (20 if plan.is_whole else 1)))
        share = attainment(step.load)
        if seed is None:
            num_good = round(share * num_requests)
        else:
            num_good = sum(rng.random() < share for _ in range(num_requests))
        trials.append(Trial(step.load, num_good, num_requests, step.duration_s))
    return step


def falling(capacity: float) -> Callable[[float], float]:
    """All good up to the capacity, then ever fewer."""
    return lambda load: 1.0 if load <= capacity else max(0.0, 1 - 3 * (load / capacity - 1))


@given(st.floats(3.0, 900.0))
def test_search_finds_any_capacity_to_the_wanted_precision(capacity: float) -> None:
    found = search(PLAN, falling(capacity))
    assert found.best is not None
    assert found.lowest_missed is not None
    # attainment passes 0.95 a sixtieth above the capacity
    assert found.best.load <= capacity * (1 + 0.05 / 3)
    assert found.lowest_missed.load >= capacity
    assert found.lowest_missed.load <= found.best.load * 1.05
    assert found.notes == ()


@given(st.integers(1, 500))
def test_search_of_users_finds_any_whole_number(capacity: int) -> None:
    found = search(replace(USERS, precision=0.001), lambda users: 1.0 if users <= capacity else 0.0)
    assert found.best is not None
    assert found.lowest_missed is not None
    assert (found.best.load, found.lowest_missed.load) == (capacity, capacity + 1)


def test_search_takes_the_way_it_says() -> None:
    found = search(USERS, lambda users: 1.0 if users <= 6 else 0.0)
    assert [trial.load for trial in found.trials] == [1, 2, 4, 8, 6, 7]


def test_search_goes_down_when_the_first_load_misses() -> None:
    found = search(replace(PLAN, first=100), falling(20))
    assert [trial.load for trial in found.trials][:4] == [100, 50, 25, 12.5]
    assert found.best is not None
    assert found.best.load == pytest.approx(20, rel=0.06)


def test_search_stops_when_even_the_lowest_load_misses() -> None:
    found = search(PLAN, lambda load: 0.0)
    assert found.best is None
    assert found.lowest_missed is not None
    assert found.lowest_missed.load == 0.5
    assert found.reason == "even the lowest load, 0.5, misses"


def test_search_stops_at_the_highest_load_allowed() -> None:
    found = search(replace(PLAN, highest=50), lambda load: 1.0)
    assert found.best is not None
    assert found.best.load == 50
    assert found.lowest_missed is None
    assert "the highest load allowed, 50" in found.reason


def test_search_undecided_load_is_run_again_twice_as_long_and_then_not_promised() -> None:
    found = search(replace(PLAN, first=10), lambda load: 0.95 if load == 10 else float(load < 10))
    at_ten = [trial.duration_s for trial in found.trials if trial.load == 10]
    assert at_ten == [60, 120, 240]
    assert found.best is not None
    assert found.best.load < 10


def test_search_few_requests_never_prove_a_load() -> None:
    # 95 % of all with Wilson's interval needs 73 good requests of 73: 1 request per second for 30 s is too few
    first = Trial(1.0, 30, 30, 30)
    assert judge_loads([first], PLAN)[0].verdict is Verdict.UNDECIDED
    assert judge_loads([replace(first, num_good=72, num_requests=72)], PLAN)[0].verdict is Verdict.UNDECIDED
    assert judge_loads([replace(first, num_good=73, num_requests=73)], PLAN)[0].verdict is Verdict.MET
    assert next_step([first], replace(PLAN, duration_s=30)) == NextRun(1.0, 60)


def test_search_keeps_its_bounds() -> None:
    by_runs = search(replace(PLAN, max_runs=5), falling(300))
    assert (len(by_runs.trials), by_runs.reason) == (5, "the limit of 5 runs was reached")
    by_time = search(replace(PLAN, max_total_s=200), falling(300))
    assert sum(trial.duration_s for trial in by_time.trials) <= 200
    assert by_time.reason == "the limit of 200 s of load was reached"
    assert by_time.best is not None
    assert by_time.best.load == 16  # the third run of 60 s


def test_search_attainment_that_rises_with_load_is_noted_and_the_lower_bracket_kept() -> None:
    trials = [Trial(4, 100, 100, 60), Trial(8, 50, 100, 60), Trial(16, 100, 100, 60)]
    found = next_step(trials, replace(PLAN, max_runs=3))
    assert isinstance(found, SearchResult)
    assert found.best is not None
    assert found.best.load == 4
    assert found.lowest_missed is not None
    assert found.lowest_missed.load == 8
    (note,) = found.notes
    assert "higher at 16 (100/100) than at 8 (50/100)" in note


def test_search_stopped_while_undecided_says_so() -> None:
    found = next_step([Trial(4, 100, 100, 60), Trial(8, 95, 100, 60)], replace(PLAN, max_runs=2))
    assert isinstance(found, SearchResult)
    assert found.lowest_missed is not None
    assert found.lowest_missed.verdict is Verdict.UNDECIDED
    assert found.notes == ("the runs at 8 do not decide; it counts as not met",)


def test_search_with_chance_hardly_ever_promises_too_much() -> None:
    # requests per second at which the true attainment is exactly 0.95
    limit = 40 * (1 + 0.05 / 3)
    found = [search(PLAN, falling(40), seed=seed) for seed in range(100)]
    promised = [one.best.load for one in found if one.best is not None]
    assert len(promised) == 100
    # a load above the limit is promised when the lower end of a 95 % interval lies above the truth: 2.5 % of the time
    # for each load tried near it
    assert sum(load > limit for load in promised) <= 10
    assert sum(promised) / 100 == pytest.approx(40, rel=0.06)


@pytest.mark.parametrize(
    "changes",
    [
        {"attainment": 1.0},
        {"attainment": 0.0},
        {"first": 0.1},
        {"highest": math.inf},
        {"lowest": 0},
        {"duration_s": 0},
        {"precision": 0},
        {"max_runs": 0},
    ],
)
def test_search_senseless_bounds_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(MeasurementError):
        replace(PLAN, **changes)  # type: ignore[arg-type]


def test_search_runs_measure_a_live_load_in_virtual_time(simulated_engine: type[SimulatedEngine]) -> None:
    """An engine that answers one request at a time, in 0.1 s: above 10 requests per second the queue never ends."""
    slo = Slo(ttft_ms=400, tpot_ms=1000)
    limits = HopTimeouts(connect_s=5, first_token_s=100, next_token_s=100, total_s=100)

    async def measure(step: NextRun, number: int) -> Trial:
        clock = LoopClock()
        free_at_s = 0.0

        class OneAtATime(simulated_engine):  # type: ignore[valid-type,misc]
            async def exchange(self, body: bytes, receiver: object) -> None:
                nonlocal free_at_s
                free_at_s = max(free_at_s, clock.monotonic_s()) + 0.1
                self.prefill_s = free_at_s - clock.monotonic_s()
                await super().exchange(body, receiver)

        client = LoadClient(OneAtATime(0, 0), "m", clock=clock, limits=limits, has_fixed_length=True)
        num_requests = int(step.load * step.duration_s)
        plan = (PlannedRequest(index / step.load, f"{number}/{index}", 1) for index in range(num_requests))
        run = await run_open_loop(client, OpenLoop(0, step.duration_s), plan, clock=clock)
        found = summarize_load(run, slo)
        return Trial(step.load, found.num_good, found.num_requests, step.duration_s)

    found = run_in_virtual_time(search_load(replace(PLAN, duration_s=40), measure))
    assert found.best is not None
    assert found.best.load == pytest.approx(10, rel=0.06)


def failing_at(load: float, error: MeasurementError) -> SearchResult:
    async def measure(step: NextRun, number: int) -> Trial:
        if step.load >= load:
            raise error
        return Trial(step.load, 1000, 1000, step.duration_s)

    return run_in_virtual_time(search_load(PLAN, measure))


def test_search_client_that_cannot_offer_the_load_ends_it() -> None:
    found = failing_at(16, ClientLateError("the load client was late"))
    assert found.best is not None
    assert found.best.load == 8
    assert found.reason == "the client could not offer 16: the load client was late"


def test_search_load_under_which_nothing_is_answered_counts_as_missed() -> None:
    found = failing_at(16, MeasurementError("no measured request succeeded"))
    assert found.best is not None
    assert 14 < found.best.load < 16
    assert found.trials[2].failure == "no measured request succeeded"


def test_search_first_run_that_fails_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="gone"):
        failing_at(0, MeasurementError("gone"))
