"""The open loop on a simulated engine in virtual time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.performance.client import LoadClient
from lightship.evaluation.performance.closed_loop import LoadRun
from lightship.evaluation.performance.open_loop import (
    ClientLateError,
    LagLimits,
    OpenLoop,
    PlannedRequest,
    refuse_late_client,
    run_open_loop,
)
from lightship.evaluation.performance.records import ErrorKind, RequestRecord
from lightship.ports.engine import HopTimeouts
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

if TYPE_CHECKING:
    from tests.unit.evaluation.performance.conftest import SimulatedEngine

LIMITS = HopTimeouts(connect_s=5, first_token_s=1000, next_token_s=1000, total_s=1000)


class SlowSleeper(LoopClock):
    """Sleeps longer than asked, as a busy machine does."""

    def __init__(self, extra_s: float) -> None:
        self._extra_s = extra_s

    async def sleep(self, duration_s: float) -> None:
        await super().sleep(duration_s + self._extra_s)


def opened(
    engine: SimulatedEngine,
    load: OpenLoop,
    offsets_s: Sequence[float],
    *,
    num_output_tokens: int = 3,
    extra_s: float = 0,
) -> LoadRun:
    async def main() -> LoadRun:
        clock = SlowSleeper(extra_s)
        client = LoadClient(engine, "m", clock=clock, limits=LIMITS, has_fixed_length=True)
        plan = (
            PlannedRequest(offset, f"p{index}", num_output_tokens + index) for index, offset in enumerate(offsets_s)
        )
        return await run_open_loop(client, load, plan, clock=clock)

    return run_in_virtual_time(main())


def test_open_loop_requests_leave_on_schedule_whatever_the_answers_take(
    simulated_engine: type[SimulatedEngine],
) -> None:
    engine = simulated_engine(prefill_s=5.0, step_s=0.1)
    run = opened(engine, OpenLoop(warmup_s=0.8, end_s=2.5), [0.5, 1.0, 1.0, 2.0])
    assert [one.sent_s for one in run.warmup] == pytest.approx([0.5])
    assert [one.sent_s for one in run.records] == pytest.approx([1.0, 1.0, 2.0])
    assert [one.ttft_ms for one in run.records] == pytest.approx([5000] * 3)
    assert (run.window_start_s, run.window_end_s) == pytest.approx((0.8, 2.5))


def test_open_loop_each_request_has_its_own_prompt_and_length(simulated_engine: type[SimulatedEngine]) -> None:
    engine = simulated_engine(prefill_s=0.1, step_s=0.1)
    run = opened(engine, OpenLoop(warmup_s=0, end_s=3), [0.0, 1.0, 2.0], num_output_tokens=2)
    assert [(body["prompt"], body["max_tokens"]) for body in engine.bodies] == [("p0", 2), ("p1", 3), ("p2", 4)]
    assert [one.num_output_tokens for one in run.records] == [2, 3, 4]


def test_open_loop_what_is_under_way_after_the_drain_is_cut_off(simulated_engine: type[SimulatedEngine]) -> None:
    engine = simulated_engine(prefill_s=0.5, step_s=0.5)
    run = opened(engine, OpenLoop(warmup_s=0, end_s=2, drain_s=1), [0.0, 1.9])
    assert [one.error for one in run.records] == [None, ErrorKind.CUT_OFF]
    assert run.records[1].ended_s == pytest.approx(3.0)
    assert len(run.records[1].token_times_s) == 2  # at 2.4 and 2.9


def test_open_loop_failed_requests_stay_in_the_records(simulated_engine: type[SimulatedEngine]) -> None:
    engine = simulated_engine(prefill_s=0.1, step_s=0.1, failing=lambda number: number == 1)
    run = opened(engine, OpenLoop(warmup_s=0, end_s=3), [0.0, 1.0, 2.0])
    assert [one.error for one in run.records] == [None, ErrorKind.CONNECT, None]


def test_open_loop_latency_counts_from_the_schedule_and_the_lag_is_kept(
    simulated_engine: type[SimulatedEngine],
) -> None:
    engine = simulated_engine(prefill_s=0.1, step_s=0.1)
    run = opened(engine, OpenLoop(warmup_s=0, end_s=3), [1.0, 2.0], extra_s=0.008)
    assert [one.lag_s for one in run.records] == pytest.approx([0.008, 0.008])
    assert [one.ttft_ms for one in run.records] == pytest.approx([108, 108])


def test_open_loop_late_client_is_refused(simulated_engine: type[SimulatedEngine]) -> None:
    engine = simulated_engine(prefill_s=0.1, step_s=0.1)
    with pytest.raises(ClientLateError, match="3 of 3 requests by more than 10 ms, one by 12 ms"):
        opened(engine, OpenLoop(warmup_s=0, end_s=4), [1.0, 2.0, 3.0], extra_s=0.012)


def lagging(*lags_s: float) -> list[RequestRecord]:
    return [RequestRecord(scheduled_s=1.0, sent_s=1.0 + lag_s, token_times_s=(), ended_s=9.0) for lag_s in lags_s]


def test_lag_limits_allow_one_stall_in_a_hundred_but_no_long_one() -> None:
    limits = LagLimits()
    refuse_late_client([], limits)
    refuse_late_client(lagging(*[0.001] * 198, 0.05, 0.05), limits)
    with pytest.raises(ClientLateError, match="3 of 200 requests"):
        refuse_late_client(lagging(*[0.001] * 197, 0.05, 0.05, 0.05), limits)
    with pytest.raises(ClientLateError, match="one by 101 ms"):
        refuse_late_client(lagging(*[0.001] * 999, 0.101), limits)


def test_open_loop_nothing_in_the_window_is_refused(simulated_engine: type[SimulatedEngine]) -> None:
    for offsets_s in ([0.1], [], [5.0]):
        with pytest.raises(MeasurementError, match="after the warm-up"):
            opened(simulated_engine(1, 1), OpenLoop(warmup_s=1, end_s=3), offsets_s)


@pytest.mark.parametrize("values", [(-1, 5, 1), (5, 5, 1), (0, 5, -1)])
def test_open_loop_senseless_bounds_are_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(MeasurementError, match="a run of 5 s"):
        OpenLoop(*values)


def test_open_loop_long_prompts_are_made_as_they_are_needed(simulated_engine: type[SimulatedEngine]) -> None:
    engine = simulated_engine(prefill_s=0.1, step_s=0.1)
    num_made = 0
    made_when_sent: list[int] = []

    def plan() -> Iterator[PlannedRequest]:
        nonlocal num_made
        for index in range(8):
            num_made += 1
            yield PlannedRequest(float(index), "x" * 2**24, 1)

    class Watching(LoopClock):
        async def sleep(self, duration_s: float) -> None:
            made_when_sent.append(num_made)
            await super().sleep(duration_s)

    async def main() -> LoadRun:
        clock = Watching()
        client = LoadClient(engine, "m", clock=clock, limits=LIMITS, has_fixed_length=True)
        return await run_open_loop(client, OpenLoop(warmup_s=0, end_s=9), plan(), clock=clock)

    assert len(run_in_virtual_time(main()).records) == 8
    # five of 16 MiB pass the bound of 64 MiB; then one more before each wait
    assert made_when_sent == [5, 5, 5, 5, 6, 7, 8]
