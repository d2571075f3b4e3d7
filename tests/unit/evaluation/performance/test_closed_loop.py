"""The closed loop on a simulated engine in virtual time."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.performance.client import LoadClient
from lightship.evaluation.performance.closed_loop import ClosedLoop, LoadRun, run_closed_loop
from lightship.evaluation.performance.load_result import summarize_load
from lightship.evaluation.performance.records import ErrorKind, Slo
from lightship.ports.engine import HopTimeouts
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

if TYPE_CHECKING:
    from tests.unit.evaluation.performance.conftest import SimulatedEngine

SLO = Slo(ttft_ms=400, tpot_ms=40)
LIMITS = HopTimeouts(connect_s=5, first_token_s=1000, next_token_s=1000, total_s=1000)


def closed(
    engine: SimulatedEngine, *, concurrency: int, duration_s: float, cap_s: float = 1000, max_requests: int = 1000
) -> LoadRun:
    """A closed-loop run of ten-token answers to prompts of 16 tokens."""
    load = ClosedLoop(
        concurrency=concurrency,
        num_output_tokens=10,
        duration_s=duration_s,
        time_cap_s=cap_s,
        max_requests=max_requests,
    )
    prompts = (f"prompt {number} ".ljust(64, ".") for number in count())

    async def main() -> LoadRun:
        clock = LoopClock()
        client = LoadClient(engine, "m", clock=clock, limits=LIMITS, has_fixed_length=True)
        return await run_closed_loop(client, load, prompts, clock=clock)

    return run_in_virtual_time(main())


def test_closed_loop_single_user_measures_hand_computed_figures(simulated_engine: type[SimulatedEngine]) -> None:
    # warm-up and every answer: 0.1 s prefill + 9 steps of 0.1 s = 1.0 s
    run = closed(simulated_engine(prefill_s=0.1, step_s=0.1), concurrency=1, duration_s=2.5)
    result = summarize_load(run, Slo(ttft_ms=150, tpot_ms=150))
    assert (run.window_start_s, run.window_end_s) == pytest.approx((1.0, 4.0))
    assert len(run.warmup) == 1
    assert (result.num_requests, result.num_good) == (3, 3)
    assert result.output_tokens_per_s.per_s == pytest.approx(10.0)
    assert result.goodput_requests_per_s.per_s == pytest.approx(1.0)
    assert result.ttft_ms is not None
    assert result.ttft_ms.p50 == pytest.approx(100)
    assert result.tpot_ms is not None
    assert result.tpot_ms.p99 == pytest.approx(100)
    assert result.mean_output_tokens == 10
    assert result.mean_prompt_tokens == 16


def test_closed_loop_users_start_out_of_step_and_all_stay_busy(simulated_engine: type[SimulatedEngine]) -> None:
    engine = simulated_engine(prefill_s=0.1, step_s=0.1)
    run = closed(engine, concurrency=5, duration_s=4.0)
    assert [body["max_tokens"] for body in engine.bodies[:5]] == [2, 4, 6, 8, 10]
    for time_s in (run.window_start_s + 0.01, run.window_end_s - 0.01):
        assert sum(one.sent_s <= time_s <= one.ended_s for one in (*run.warmup, *run.records)) == 5
    # five users of ten tokens a second each; the window is four seconds long and ends at an answer
    result = summarize_load(run, SLO)
    assert result.output_tokens_per_s.per_s == pytest.approx(50, rel=0.03)


def test_closed_loop_prompts_are_never_repeated(simulated_engine: type[SimulatedEngine]) -> None:
    engine = simulated_engine(prefill_s=0.1, step_s=0.01)
    closed(engine, concurrency=3, duration_s=2.0)
    prompts = [body["prompt"] for body in engine.bodies]
    assert len(prompts) > 10
    assert len(set(prompts)) == len(prompts)


def test_closed_loop_max_requests_bounds_the_run(simulated_engine: type[SimulatedEngine]) -> None:
    engine = simulated_engine(prefill_s=0.1, step_s=0.1)
    run = closed(engine, concurrency=2, duration_s=50, max_requests=12)
    assert len(run.records) == 12
    assert len(engine.bodies) == 14


def test_closed_loop_time_cap_cuts_off_what_is_in_flight(simulated_engine: type[SimulatedEngine]) -> None:
    run = closed(simulated_engine(prefill_s=0.1, step_s=0.1), concurrency=1, duration_s=50, cap_s=6.55)
    assert run.window_end_s == pytest.approx(6.55)
    assert [one.error for one in run.records] == [None] * 5 + [ErrorKind.CUT_OFF]
    result = summarize_load(run, SLO)
    assert result.num_undecided == 1
    assert result.errors == {}
    assert result.output_tokens_per_s.per_s == pytest.approx(55 / 5.55)


def test_closed_loop_errors_count_as_missed_and_not_in_latency(simulated_engine: type[SimulatedEngine]) -> None:
    engine = simulated_engine(prefill_s=0.1, step_s=0.02, failing=lambda number: number % 4 == 1)
    result = summarize_load(closed(engine, concurrency=1, duration_s=5), SLO)
    num_errors = result.errors["connect"]
    assert num_errors > 3
    assert result.num_good == result.num_requests - num_errors
    assert result.attainment == pytest.approx(result.num_good / result.num_requests)
    assert result.ttft_ms is not None
    assert result.ttft_ms.num_items == result.num_good


def test_closed_loop_broken_server_is_refused_after_few_requests(simulated_engine: type[SimulatedEngine]) -> None:
    engine = simulated_engine(prefill_s=0.1, step_s=0.1, failing=lambda number: True)
    with pytest.raises(MeasurementError, match="first failure was connect: refused"):
        closed(engine, concurrency=4, duration_s=10)
    assert len(engine.bodies) == 4 * 3


def test_closed_loop_cap_within_warmup_is_refused(simulated_engine: type[SimulatedEngine]) -> None:
    with pytest.raises(MeasurementError, match=r"time cap of 0\.5 s"):
        closed(simulated_engine(prefill_s=0.1, step_s=0.1), concurrency=2, duration_s=10, cap_s=0.5)


def test_closed_loop_server_that_dies_leaves_too_short_a_window(simulated_engine: type[SimulatedEngine]) -> None:
    engine = simulated_engine(prefill_s=0.1, step_s=0.1, failing=lambda number: number > 2)
    with pytest.raises(MeasurementError, match=r"busy for only .* of the 100 s wanted"):
        closed(engine, concurrency=1, duration_s=100)
