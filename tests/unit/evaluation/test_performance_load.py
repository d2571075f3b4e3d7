"""Loops, windows, rates and measurements, on a simulated engine in virtual time."""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.performance.client import EndpointError, LoadClient, OpenedStream
from lightship.evaluation.performance.closed_loop import ClosedLoop, LoadRun, run_closed_loop
from lightship.evaluation.performance.load_result import LoadResult, quantiles, rate, summarize_load
from lightship.evaluation.performance.open_loop import poisson_arrivals, refuse_late_client, run_open_loop
from lightship.evaluation.performance.prompts import OPENING_CHARS, draw_prompts
from lightship.evaluation.performance.protocol import (
    QUICK,
    PerformanceProtocol,
    PerformanceResult,
    performance_measurements,
)
from lightship.evaluation.performance.records import ErrorKind, RequestRecord, Slo
from lightship.ports.engine import HopTimeouts
from lightship.ports.measurements import Metric, Target

SLO = Slo(ttft_ms=400, tpot_ms=40)
LIMITS = HopTimeouts(connect_s=5, first_token_s=1000, next_token_s=1000, total_s=1000)


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting, moves time on."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits for something that will never come"
        self.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when every task sleeps; it is the clock, too."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    def monotonic_s(self) -> float:
        return self.time()

    def unix_s(self) -> float:
        return 1e9 + self.time()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)


@dataclass
class SimulatedEngine:
    """Every answer takes `prefill_s` to the first token and `step_s` for each further one, whatever the load."""

    prefill_s: float
    step_s: float
    failing: Callable[[int], bool] = lambda number: False
    bodies: list[dict[str, object]] = field(default_factory=list)

    @asynccontextmanager
    async def open(self, body: bytes) -> AsyncIterator[OpenedStream]:
        request = json.loads(body)
        number = len(self.bodies)
        self.bodies.append(request)
        if self.failing(number):
            await asyncio.sleep(self.prefill_s)
            raise EndpointError(ErrorKind.CONNECT, "refused")
        yield OpenedStream(200, self._stream(request["max_tokens"]))

    async def _stream(self, num_tokens: int) -> AsyncIterator[bytes]:
        for index in range(num_tokens):
            await asyncio.sleep(self.step_s if index else self.prefill_s)
            yield b'data: {"choices":[{"text":"x"}]}\n\n'
        usage = {"prompt_tokens": 16, "completion_tokens": num_tokens}
        yield b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n"


def virtually(work: Callable[[VirtualLoop], Awaitable[LoadRun]]) -> LoadRun:
    """The run that `work` gives in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:

        async def main() -> LoadRun:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            return await work(loop)

        return runner.run(main())


def numbered_prompts() -> Iterator[str]:
    return (f"prompt {number}" for number in count())


def closed(
    engine: SimulatedEngine, *, concurrency: int, duration_s: float, cap_s: float = 1000, max_requests: int = 1000
) -> LoadRun:
    """A closed-loop run of ten-token answers."""
    load = ClosedLoop(
        concurrency=concurrency,
        num_output_tokens=10,
        duration_s=duration_s,
        time_cap_s=cap_s,
        max_requests=max_requests,
    )

    async def work(clock: VirtualLoop) -> LoadRun:
        client = LoadClient(engine, "m", clock=clock, limits=LIMITS, has_fixed_length=True)
        return await run_closed_loop(client, load, numbered_prompts(), clock=clock)

    return virtually(work)


def record(*token_times_s: float, sent_s: float = 0.0, error: ErrorKind | None = None) -> RequestRecord:
    """A request sent at `sent_s` whose events carry one token each."""
    return RequestRecord(
        scheduled_s=sent_s,
        sent_s=sent_s,
        token_times_s=token_times_s,
        ended_s=token_times_s[-1] if token_times_s else sent_s,
        num_prompt_tokens=16,
        num_output_tokens=0 if error else len(token_times_s),
        error=error,
    )


def test_closed_loop_single_user_measures_hand_computed_figures() -> None:
    # warm-up and every answer: 0.1 s prefill + 9 steps of 0.1 s = 1.0 s
    run = closed(SimulatedEngine(prefill_s=0.1, step_s=0.1), concurrency=1, duration_s=2.5)
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


def test_closed_loop_users_start_out_of_step_and_all_stay_busy() -> None:
    engine = SimulatedEngine(prefill_s=0.1, step_s=0.1)
    run = closed(engine, concurrency=5, duration_s=4.0)
    assert [body["max_tokens"] for body in engine.bodies[:5]] == [2, 4, 6, 8, 10]
    for time_s in (run.window_start_s + 0.01, run.window_end_s - 0.01):
        assert sum(one.sent_s <= time_s <= one.ended_s for one in (*run.warmup, *run.records)) == 5
    # five users of ten tokens a second each; the window is four seconds long and ends at an answer
    result = summarize_load(run, SLO)
    assert result.output_tokens_per_s.per_s == pytest.approx(50, rel=0.03)


def test_closed_loop_prompts_are_never_repeated() -> None:
    engine = SimulatedEngine(prefill_s=0.1, step_s=0.01)
    closed(engine, concurrency=3, duration_s=2.0)
    prompts = [body["prompt"] for body in engine.bodies]
    assert len(prompts) > 10
    assert len(set(prompts)) == len(prompts)


def test_closed_loop_max_requests_bounds_the_run() -> None:
    engine = SimulatedEngine(prefill_s=0.1, step_s=0.1)
    run = closed(engine, concurrency=2, duration_s=50, max_requests=12)
    assert len(run.records) == 12
    assert len(engine.bodies) == 14


def test_closed_loop_time_cap_cuts_off_what_is_in_flight() -> None:
    run = closed(SimulatedEngine(prefill_s=0.1, step_s=0.1), concurrency=1, duration_s=50, cap_s=6.55)
    assert run.window_end_s == pytest.approx(6.55)
    assert [one.error for one in run.records] == [None] * 5 + [ErrorKind.CUT_OFF]
    result = summarize_load(run, SLO)
    assert result.num_undecided == 1
    assert result.errors == {}
    assert result.output_tokens_per_s.per_s == pytest.approx(55 / 5.55)


def test_closed_loop_errors_count_as_missed_and_not_in_latency() -> None:
    engine = SimulatedEngine(prefill_s=0.1, step_s=0.02, failing=lambda number: number % 4 == 1)
    result = summarize_load(closed(engine, concurrency=1, duration_s=5), SLO)
    num_errors = result.errors["connect"]
    assert num_errors > 3
    assert result.num_good == result.num_requests - num_errors
    assert result.attainment == pytest.approx(result.num_good / result.num_requests)
    assert result.ttft_ms is not None
    assert result.ttft_ms.num_items == result.num_good


def test_closed_loop_broken_server_is_refused_after_few_requests() -> None:
    engine = SimulatedEngine(prefill_s=0.1, step_s=0.1, failing=lambda number: True)
    with pytest.raises(MeasurementError, match="first failure was connect: refused"):
        closed(engine, concurrency=4, duration_s=10)
    assert len(engine.bodies) == 4 * 3


def test_closed_loop_cap_within_warmup_is_refused() -> None:
    with pytest.raises(MeasurementError, match=r"time cap of 0\.5 s"):
        closed(SimulatedEngine(prefill_s=0.1, step_s=0.1), concurrency=2, duration_s=10, cap_s=0.5)


def test_closed_loop_server_that_dies_leaves_too_short_a_window() -> None:
    engine = SimulatedEngine(prefill_s=0.1, step_s=0.1, failing=lambda number: number > 2)
    with pytest.raises(MeasurementError, match=r"busy for only .* of the 100 s wanted"):
        closed(engine, concurrency=1, duration_s=100)


def test_rate_window_borders_and_shares_are_hand_computed() -> None:
    # two tokens before the window, five in it (one exactly at its end), one after; the slow request is not good
    good = record(0.5, 1.0, 1.5, 2.0, sent_s=0.4)
    slow = record(2.5, 2.9, 3.0, 3.5, sent_s=0.6)
    run = LoadRun(concurrency=2, records=(good, slow), warmup=(), window_start_s=1.0, window_end_s=3.0)
    result = summarize_load(run, Slo(ttft_ms=400, tpot_ms=1000))
    assert result.output_tokens_per_s.per_s == pytest.approx(5 / 2)
    assert result.goodput_requests_per_s.per_s == pytest.approx((2 / 4) / 2)
    assert (result.num_good, result.num_requests) == (1, 2)


def test_rate_interval_is_batch_means_with_student_t() -> None:
    run = LoadRun(concurrency=1, records=(), warmup=(), window_start_s=0.0, window_end_s=10.0)
    amounts = [3, 5, 4, 6, 2, 4, 5, 3, 4, 4]  # mean 4, sum of squares about it 12, so s = sqrt(12 / 9)
    found = rate([(second + 0.5, amount) for second, amount in enumerate(amounts)], run)
    half_width = 2.262 * (12 / 9) ** 0.5 / 10**0.5
    assert found.per_s == pytest.approx(4)
    assert (found.interval.low, found.interval.high) == pytest.approx((4 - half_width, 4 + half_width))


@dataclass(frozen=True)
class Verdict:
    """A record and whether it meets 400 ms / 40 ms."""

    id: str
    record: RequestRecord
    is_met: bool | None


VERDICTS = [
    Verdict("at both limits", record(0.4, 0.44, 0.48), True),
    Verdict("late first token", record(0.401, 0.41), False),
    Verdict("slow tokens", record(0.1, 0.2), False),
    Verdict("single token has no tpot", record(0.1), True),
    Verdict("error misses", record(0.1, 0.11, error=ErrorKind.TRUNCATED), False),
    Verdict("cut off early is undecided", record(0.1, 0.11, error=ErrorKind.CUT_OFF), None),
    Verdict("cut off after the limit misses", record(0.5, error=ErrorKind.CUT_OFF), False),
]


@pytest.mark.parametrize("case", VERDICTS, ids=lambda case: case.id)
def test_slo_verdict(case: Verdict) -> None:
    assert SLO.is_met_by(case.record) is case.is_met


def test_quantiles_interpolate_between_order_statistics() -> None:
    found = quantiles([float(value) for value in range(101, 0, -1)])
    assert found is not None
    assert (found.p50, found.p95, found.p99, found.num_items) == (51, 96, 100, 101)


@pytest.mark.parametrize(("num_values", "ranks"), [(5, None), (6, (1, 6)), (20, (6, 15)), (100, (40, 61))])
def test_quantiles_median_interval_has_textbook_ranks(num_values: int, ranks: tuple[int, int] | None) -> None:
    # ranks as tabulated for the sign-test interval of a median at 95 %
    found = quantiles([float(rank) for rank in range(1, num_values + 1)])
    assert found is not None
    interval = found.p50_interval
    assert (interval and (interval.low, interval.high)) == ranks


@given(st.lists(st.floats(0, 1e6), min_size=6, max_size=60))
def test_quantiles_median_interval_encloses_the_median(values: list[float]) -> None:
    found = quantiles(values)
    assert found is not None
    assert found.p50 == pytest.approx(median(values))
    assert found.p50_interval is not None
    assert found.p50_interval.low <= found.p50 <= found.p50_interval.high


def test_open_loop_requests_leave_on_schedule_whatever_the_answers_take() -> None:
    engine = SimulatedEngine(prefill_s=5.0, step_s=0.1)

    async def work(clock: VirtualLoop) -> LoadRun:
        client = LoadClient(engine, "m", clock=clock, limits=LIMITS, has_fixed_length=True)
        return await run_open_loop(
            client,
            [0.5, 1.0, 1.5, 2.0],
            numbered_prompts(),
            clock=clock,
            num_output_tokens=3,
            warmup_s=0.8,
            time_cap_s=100,
        )

    run = virtually(work)
    assert [one.sent_s for one in run.warmup] == pytest.approx([0.5])
    assert [one.sent_s for one in run.records] == pytest.approx([1.0, 1.5, 2.0])
    assert [one.ttft_ms for one in run.records] == pytest.approx([5000] * 3)
    assert (run.window_start_s, run.window_end_s) == pytest.approx((0.8, 2.0))


def test_open_loop_late_client_is_refused() -> None:
    on_time = RequestRecord(scheduled_s=1.0, sent_s=1.005, token_times_s=(1.1,), ended_s=1.1)
    late = RequestRecord(scheduled_s=2.0, sent_s=2.025, token_times_s=(2.1,), ended_s=2.1)
    refuse_late_client([on_time], max_lag_s=0.01)
    with pytest.raises(MeasurementError, match="1 of 2 requests, by up to 25 ms"):
        refuse_late_client([on_time, late], max_lag_s=0.01)
    assert late.ttft_ms == pytest.approx(100)


def test_open_loop_nothing_after_warmup_is_refused() -> None:
    async def work(clock: VirtualLoop) -> LoadRun:
        client = LoadClient(SimulatedEngine(1, 1), "m", clock=clock, limits=LIMITS, has_fixed_length=True)
        return await run_open_loop(
            client, [0.1], numbered_prompts(), clock=clock, num_output_tokens=3, warmup_s=1, time_cap_s=9
        )

    with pytest.raises(MeasurementError, match="after the warm-up"):
        virtually(work)


def test_poisson_arrivals_have_the_rate_and_the_seed_decides() -> None:
    arrivals = poisson_arrivals(requests_per_s=50, duration_s=100, seed=1)
    assert len(arrivals) == pytest.approx(5000, abs=4 * 5000**0.5)
    assert list(arrivals) == sorted(arrivals)
    assert arrivals[-1] < 100
    assert arrivals == poisson_arrivals(requests_per_s=50, duration_s=100, seed=1)
    assert arrivals != poisson_arrivals(requests_per_s=50, duration_s=100, seed=2)


def draw(texts: list[str], num_prompts: int, *, num_chars: int = 80, seed: int = 0) -> list[str]:
    prompts = draw_prompts(texts, num_chars=num_chars, seed=seed)
    return [next(prompts) for _ in range(num_prompts)]


def test_prompts_have_the_stated_length_and_different_openings() -> None:
    text = " ".join(f"word{number}" for number in range(2000))
    prompts = draw([text], 500)
    assert {len(prompt) for prompt in prompts} == {80}
    assert len({prompt[:OPENING_CHARS] for prompt in prompts}) == 500
    assert all(prompt[:60] in f"{text} {text}" for prompt in prompts)


def test_prompts_same_seed_same_prompts() -> None:
    text = " ".join(f"word{number}" for number in range(500))
    assert draw([text], 20, seed=3) == draw([text], 20, seed=3)
    assert draw([text], 20, seed=3) != draw([text], 20, seed=4)


def test_prompts_short_text_is_shuffled_rather_than_repeated() -> None:
    prompts = draw(["the quick brown fox jumps over the lazy dog"], 200)
    assert len({prompt[:OPENING_CHARS] for prompt in prompts}) == 200


@pytest.mark.parametrize("texts", [[], ["  \n"]])
def test_prompts_without_words_are_refused(texts: list[str]) -> None:
    with pytest.raises(MeasurementError, match="no text"):
        draw(texts, 1)


def test_prompts_too_few_words_are_refused() -> None:
    with pytest.raises(MeasurementError, match="too few different words"):
        draw(["one two"], 5000)


TARGET = Target("openvino", "2026.4", "CPU", "avx512", 2)


def measured_load() -> LoadResult:
    return summarize_load(closed(SimulatedEngine(0.1, 0.02), concurrency=8, duration_s=3), SLO)


def test_performance_measurements_carry_protocol_counts_and_intervals() -> None:
    load = measured_load()
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
    assert by_metric[Metric.DECODE_TOKENS_PER_S].protocol == "closed-loop-1/t/p16-o10/c8/3s"
    goodput_protocol = "closed-loop-1/t/p16-o10/c8/3s/slo-ttft400ms-tpot40ms"
    assert by_metric[Metric.GOODPUT_REQUESTS_PER_S].protocol == goodput_protocol
    assert by_metric[Metric.SLO_ATTAINMENT].value == 1.0
    for one in found:
        assert one.concurrency == 8
        assert one.num_items == load.num_requests
        assert one.interval is not None
        assert one.interval.low <= one.value <= one.interval.high


def test_performance_measurements_free_length_is_another_protocol() -> None:
    result = PerformanceResult(QUICK, SLO, has_fixed_length=False, loads=(measured_load(),))
    found = performance_measurements(
        result, variant_digest="sha256:00", target=TARGET, machine="m1", measured_unix_s=5.0
    )
    assert all(one.protocol.endswith("/free-length") for one in found)
