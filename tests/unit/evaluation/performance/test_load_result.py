"""What a run says: rates, verdicts, quantiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.performance.closed_loop import LoadRun
from lightship.evaluation.performance.load_result import quantiles, rate, summarize_load
from lightship.evaluation.performance.records import NO_SLO, ErrorKind, RequestRecord, Slo

SLO = Slo(ttft_ms=400, tpot_ms=40)


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


E2E_VERDICTS = [
    Verdict("ends at the limit", record(0.1, 0.5, 0.9), True),
    Verdict("ends too late", record(0.1, 0.5, 0.901), False),
    Verdict("cut off in time", record(0.1, 0.5, error=ErrorKind.CUT_OFF), None),
    Verdict("cut off after the limit", record(0.1, 1.0, error=ErrorKind.CUT_OFF), False),
]


@pytest.mark.parametrize("case", E2E_VERDICTS, ids=lambda case: case.id)
def test_slo_verdict_with_only_a_limit_on_the_whole_answer(case: Verdict) -> None:
    assert Slo(ttft_ms=math.inf, tpot_ms=math.inf, e2e_ms=900).is_met_by(case.record) is case.is_met


def test_slo_none_is_met_by_every_answer_and_by_no_error() -> None:
    assert NO_SLO.name == "slo-none"
    assert NO_SLO.is_met_by(record(500.0, 900.0)) is True
    assert NO_SLO.is_met_by(record(0.1, error=ErrorKind.TRUNCATED)) is False


@pytest.mark.parametrize("limit_ms", [0, -1, math.nan])
def test_slo_limit_that_nothing_can_meet_is_refused(limit_ms: float) -> None:
    with pytest.raises(MeasurementError, match="limit on e2e"):
        Slo(ttft_ms=1, tpot_ms=1, e2e_ms=limit_ms)


def test_quantiles_of_many_values_keep_a_median_interval_of_textbook_width() -> None:
    # the sign-test interval of a median of 10,001 values 1..n: ranks 5001 -+ 1.96 * sqrt(10001) / 2 = -+ 98
    found = quantiles([float(rank) for rank in range(1, 10_002)])
    assert found is not None
    assert found.p50_interval is not None
    assert found.p50_interval.low == pytest.approx(5001 - 98, abs=2)
    assert found.p50_interval.high == pytest.approx(5001 + 98, abs=2)


def test_quantiles_mean_and_spread_are_numpys() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    found = quantiles(values, are_independent=False)
    assert found is not None
    assert (found.mean, found.std, found.highest) == pytest.approx((3.875, np.std(values), 9))
    assert found.p90 == pytest.approx(np.percentile(values, 90))
    assert found.p50_interval is None


def open_run(*records: RequestRecord, warmup: tuple[RequestRecord, ...] = ()) -> LoadRun:
    return LoadRun(concurrency=0, records=records, warmup=warmup, window_start_s=0.0, window_end_s=4.0)


def test_summarize_open_loop_goodput_counts_requests_by_schedule_and_errors_as_missed() -> None:
    good = record(0.1, 0.12, sent_s=0.0)
    late_but_good = record(4.1, 4.12, sent_s=3.9)  # scheduled inside, answered outside the window
    slow = record(1.9, 1.92, sent_s=1.0)
    failed = record(2.1, sent_s=2.0, error=ErrorKind.STATUS)
    found = summarize_load(open_run(good, late_but_good, slow, failed), SLO)
    assert found.offered_requests_per_s == 1.0
    assert (found.num_good, found.num_requests, found.num_answered) == (2, 4, 3)
    assert found.goodput_requests_per_s.per_s == pytest.approx(2 / 4)
    # Wilson's interval of 2 of 4 at 95 %, from its published table: 0.1500 to 0.8500
    interval = found.goodput_requests_per_s.interval
    assert (interval.low, interval.high) == pytest.approx((0.1500, 0.8500), abs=5e-5)
    assert found.errors == {"status": 1}
    assert found.answered_requests_per_s.per_s == pytest.approx(2 / 4)  # two answers ended inside the window
    assert found.output_tokens_per_s.per_s == pytest.approx(4 / 4)
    assert found.input_tokens_per_s.per_s == pytest.approx(2 * 16 / 4)


def test_summarize_open_loop_latencies_are_hand_computed() -> None:
    first, second = record(0.1, 0.12, 0.16, sent_s=0.0), record(1.3, 1.4, sent_s=1.0)
    found = summarize_load(open_run(first, second), SLO)
    assert found.itl_ms is not None
    assert found.e2e_ms is not None
    assert (found.itl_ms.num_items, found.itl_ms.p50, found.itl_ms.mean) == pytest.approx((3, 40, 160 / 3))
    assert (found.e2e_ms.p50, found.e2e_ms.highest) == pytest.approx((280, 400))
    assert found.lag_ms is not None
    assert found.lag_ms.highest == 0


def test_summarize_undecided_requests_never_raise_goodput() -> None:
    good = record(0.1, 0.12, sent_s=0.0)
    cut_off = record(3.9, sent_s=3.8, error=ErrorKind.CUT_OFF)
    found = summarize_load(open_run(good, cut_off), SLO)
    assert (found.num_requests, found.num_undecided, found.attainment) == (1, 1, 1.0)
    assert found.goodput_requests_per_s.per_s == pytest.approx(1 / 4)
