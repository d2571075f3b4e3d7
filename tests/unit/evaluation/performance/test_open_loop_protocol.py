"""Open-loop measurements end to end, on a simulated engine in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.performance.arrivals import ConstantArrivals, PoissonArrivals
from lightship.evaluation.performance.open_loop_protocol import (
    OpenLoopProtocol,
    OpenLoopResult,
    SyntheticWorkload,
    fit_token_length,
    open_loop_measurements,
    run_protocol,
)
from lightship.evaluation.performance.records import NO_SLO, Slo
from lightship.evaluation.performance.traces import Trace, TraceRequest, TraceSelection, select_requests
from lightship.ports.engine import HopTimeouts
from lightship.ports.measurements import Measurement, Metric, Target
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

if TYPE_CHECKING:
    from tests.unit.evaluation.performance.conftest import SimulatedEngine

SLO = Slo(ttft_ms=400, tpot_ms=40)
LIMITS = HopTimeouts(connect_s=5, first_token_s=1000, next_token_s=1000, total_s=1000)
TEXT = " ".join(f"word{number}" for number in range(3000))
CONSTANT = SyntheticWorkload(ConstantArrivals(2.0), num_prompt_tokens=50, num_output_tokens=5)
TARGET = Target("openvino", "2026.4", "CPU", "avx512", 2)


def measured(engine: SimulatedEngine, protocol: OpenLoopProtocol, slo: Slo = SLO) -> OpenLoopResult:
    return run_in_virtual_time(run_protocol(engine, "m", protocol, slo, LoopClock(), texts=[TEXT], limits=LIMITS))


def trace(*requests: TraceRequest, selection: TraceSelection | None = None) -> Trace:
    return select_requests(
        requests, selection or TraceSelection(), name="day-12345678", format_name="mooncake", block_tokens=16
    )


def test_protocol_constant_arrivals_give_hand_computed_figures(simulated_engine: type[SimulatedEngine]) -> None:
    engine = simulated_engine(prefill_s=0.1, step_s=0.02)
    found = measured(engine, OpenLoopProtocol(CONSTANT, duration_s=10, warmup_s=2))
    load = found.load
    assert load.offered_requests_per_s == pytest.approx(2.0)
    assert (load.num_requests, load.num_good, load.errors) == (20, 20, {})
    assert load.ttft_ms is not None
    assert load.tpot_ms is not None
    assert load.e2e_ms is not None
    assert (load.ttft_ms.p99, load.tpot_ms.p50, load.e2e_ms.p50) == pytest.approx((100, 20, 180))
    assert load.output_tokens_per_s.per_s == pytest.approx(10, rel=0.03)
    assert load.input_tokens_per_s.per_s == pytest.approx(100, rel=0.05)
    assert (load.mean_prompt_tokens, found.wanted_prompt_tokens) == (50, 50)
    assert (load.mean_output_tokens, found.wanted_output_tokens) == (5, 5)


def test_protocol_prompts_of_a_run_are_all_different(simulated_engine: type[SimulatedEngine]) -> None:
    engine = simulated_engine(prefill_s=0.1, step_s=0.02)
    measured(engine, OpenLoopProtocol(CONSTANT, duration_s=10))
    openings = [str(body["prompt"])[:12] for body in engine.bodies]
    assert len(openings) > 20
    # the first trial is sent twice: once to see whether `ignore_eos` is honoured
    assert len(set(openings)) == len(openings) - 1


def test_protocol_trace_is_followed_in_time_lengths_and_shared_beginnings(
    simulated_engine: type[SimulatedEngine],
) -> None:
    engine = simulated_engine(prefill_s=0.1, step_s=0.02)
    first, second = TraceRequest(0.0, 40, 3, (7, 1)), TraceRequest(1.0, 64, 9, (7, 2))
    found = measured(engine, OpenLoopProtocol(trace(first, second), warmup_s=0))
    sent = engine.bodies[-2:]
    assert [body["max_tokens"] for body in sent] == [3, 9]
    prompts = [str(body["prompt"]) for body in sent]
    assert [len(prompt) // 4 for prompt in prompts] == [40, 64]
    assert prompts[0][:64] == prompts[1][:64]  # 16 tokens of four characters
    assert prompts[0][64:72] != prompts[1][64:72]
    assert [one.scheduled_s - found.run.window_start_s for one in found.run.records] == pytest.approx([0, 1])
    assert (found.wanted_prompt_tokens, found.load.mean_prompt_tokens) == (52, 52)


def test_protocol_trace_may_find_prefixes_but_a_pattern_may_not(simulated_engine: type[SimulatedEngine]) -> None:
    requests = trace(TraceRequest(0.0, 40, 3), TraceRequest(1.0, 64, 9))
    found = measured(simulated_engine(0.1, 0.02, cached_share=0.5), OpenLoopProtocol(requests))
    assert found.load.cached_share == pytest.approx(0.5)
    with pytest.raises(MeasurementError, match="50% of the prompt tokens came from the prefix cache"):
        measured(simulated_engine(0.1, 0.02, cached_share=0.5), OpenLoopProtocol(CONSTANT, duration_s=10))


def test_protocol_warmup_of_a_trace_is_its_beginning(simulated_engine: type[SimulatedEngine]) -> None:
    requests = trace(*(TraceRequest(float(second), 40, 3) for second in range(10)))
    found = measured(simulated_engine(0.1, 0.02), OpenLoopProtocol(requests, warmup_s=4))
    assert (len(found.run.warmup), len(found.run.records)) == (4, 6)
    assert found.load.window_s == pytest.approx(6)


def test_protocol_name_says_all_that_figures_depend_on() -> None:
    workload = SyntheticWorkload(PoissonArrivals(10), 64, 32)
    protocol = OpenLoopProtocol(workload, duration_s=30)
    assert protocol.name == "open-loop-1/poisson/p64-o32/r10/30s/seed0"
    assert protocol.judged_name(SLO) == "open-loop-1/poisson/p64-o32/r10/30s/seed0/slo-ttft400ms-tpot40ms"
    whole = trace(TraceRequest(0.0, 4, 3), TraceRequest(9.0, 4, 3))
    assert OpenLoopProtocol(whole, seed=2).name == "open-loop-1/trace-day-12345678/18s/seed2"
    part = trace(TraceRequest(0.0, 4, 3), selection=TraceSelection(duration_s=60, time_scale=4))
    assert OpenLoopProtocol(part, warmup_s=5).name == "open-loop-1/trace-day-12345678/for60s-x4/5+10s/seed0"


def test_protocol_pattern_without_an_end_and_empty_lengths_are_refused() -> None:
    with pytest.raises(MeasurementError, match="Give a duration"):
        OpenLoopProtocol(CONSTANT)
    with pytest.raises(MeasurementError, match="at least one output token, got 0"):
        SyntheticWorkload(ConstantArrivals(1), 1, 0)


def test_fit_token_length_finds_the_line() -> None:
    found = fit_token_length([(40, 12), (40, 12), (400, 102), (400, 102)])
    assert (found.chars_per_token, found.overhead_tokens) == pytest.approx((4, 2))


@pytest.mark.parametrize("count", [lambda chars: 16, lambda chars: -chars, lambda chars: 10 * chars])
def test_fit_token_length_counts_of_something_else_are_refused(count: Callable[[int], int]) -> None:
    with pytest.raises(MeasurementError, match="do not follow the text"):
        fit_token_length([(chars, count(chars)) for chars in (40, 400)])


def by_metric(result: OpenLoopResult) -> dict[Metric, Measurement]:
    found = open_loop_measurements(result, variant_digest="sha256:00", target=TARGET, machine="m1", measured_unix_s=5.0)
    return {one.metric: one for one in found}


def test_measurements_carry_the_offered_rate_protocol_and_intervals(simulated_engine: type[SimulatedEngine]) -> None:
    protocol = OpenLoopProtocol(CONSTANT, duration_s=10)
    found = by_metric(measured(simulated_engine(0.1, 0.02), protocol))
    assert set(found) == {
        Metric.GOODPUT_REQUESTS_PER_S,
        Metric.SLO_ATTAINMENT,
        Metric.DECODE_TOKENS_PER_S,
        Metric.TTFT_MS,
        Metric.TPOT_MS,
    }
    for one in found.values():
        assert one.details["offered_requests_per_s"] == pytest.approx(2.0)
        assert one.details["lag_max_ms"] == pytest.approx(0, abs=1e-6)
        assert one.concurrency == 0
        assert one.interval is not None
        assert one.interval.low <= one.value <= one.interval.high
    assert found[Metric.TTFT_MS].value == pytest.approx(100)
    assert found[Metric.TTFT_MS].protocol == protocol.name
    assert found[Metric.SLO_ATTAINMENT].value == 1.0
    assert found[Metric.SLO_ATTAINMENT].protocol == protocol.judged_name(SLO)


def test_measurements_without_an_slo_have_no_goodput(simulated_engine: type[SimulatedEngine]) -> None:
    result = measured(simulated_engine(0.1, 0.02), OpenLoopProtocol(CONSTANT, duration_s=10), NO_SLO)
    assert set(by_metric(result)) == {Metric.DECODE_TOKENS_PER_S, Metric.TTFT_MS, Metric.TPOT_MS}
