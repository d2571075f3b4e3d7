"""Measurements of a closed-loop protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lightship.evaluation.performance.client import LoadClient
from lightship.evaluation.performance.closed_loop import ClosedLoop, LoadRun, run_closed_loop
from lightship.evaluation.performance.load_result import LoadResult, summarize_load
from lightship.evaluation.performance.protocol import (
    QUICK,
    PerformanceProtocol,
    PerformanceResult,
    performance_measurements,
)
from lightship.evaluation.performance.records import Slo
from lightship.ports.engine import HopTimeouts
from lightship.ports.measurements import Metric, Target
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.evaluation.performance.conftest import SimulatedEngine

SLO = Slo(ttft_ms=400, tpot_ms=40)
LIMITS = HopTimeouts(connect_s=5, first_token_s=1000, next_token_s=1000, total_s=1000)
TARGET = Target("openvino", "2026.4", "CPU", "avx512", 2)


@pytest.fixture
def measured_load(simulated_engine: type[SimulatedEngine], numbered_prompts: Iterator[str]) -> LoadResult:
    """Eight users for three seconds."""
    load = ClosedLoop(concurrency=8, num_output_tokens=10, duration_s=3, time_cap_s=1000, max_requests=1000)

    async def main() -> LoadRun:
        clock = LoopClock()
        engine = simulated_engine(prefill_s=0.1, step_s=0.02)
        client = LoadClient(engine, "m", clock=clock, limits=LIMITS, has_fixed_length=True)
        return await run_closed_loop(client, load, numbered_prompts, clock=clock)

    return summarize_load(run_in_virtual_time(main()), SLO)


def test_performance_measurements_carry_protocol_counts_and_intervals(measured_load: LoadResult) -> None:
    load = measured_load
    protocol = PerformanceProtocol("t", 16, 10, (8,), duration_s=3, time_cap_s=9, max_requests=999)
    found = performance_measurements(
        PerformanceResult(protocol, SLO, has_fixed_length=True, loads=(load,)),
        variant_digest="sha256:00",
        target=TARGET,
        machine="m1",
        measured_unix_s=5.0,
    )
    by_metric = {one.metric: one for one in found}
    assert set(by_metric) == {
        Metric.DECODE_TOKENS_PER_S,
        Metric.GOODPUT_REQUESTS_PER_S,
        Metric.SLO_ATTAINMENT,
        Metric.TTFT_MS,
        Metric.TPOT_MS,
    }
    assert by_metric[Metric.TTFT_MS].value == pytest.approx(100)
    assert by_metric[Metric.TPOT_MS].details["p99"] == pytest.approx(20)
    assert by_metric[Metric.DECODE_TOKENS_PER_S].protocol == "closed-loop-1/t/p16-o10/c8/1x3s"
    goodput_protocol = "closed-loop-1/t/p16-o10/c8/1x3s/slo-ttft400ms-tpot40ms"
    assert by_metric[Metric.GOODPUT_REQUESTS_PER_S].protocol == goodput_protocol
    assert by_metric[Metric.SLO_ATTAINMENT].value == 1.0
    for one in found:
        assert one.concurrency == 8
        assert one.num_items == load.num_requests
        assert one.interval is not None
        assert one.interval.low <= one.value <= one.interval.high


def test_performance_measurements_free_length_is_another_protocol(measured_load: LoadResult) -> None:
    result = PerformanceResult(QUICK, SLO, has_fixed_length=False, loads=(measured_load,))
    found = performance_measurements(
        result, variant_digest="sha256:00", target=TARGET, machine="m1", measured_unix_s=5.0
    )
    assert all(one.protocol.endswith("/free-length") for one in found)
