"""What a run says: latency quantiles, rates and SLO attainment, each with its count and interval. Pure."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lightship.evaluation.performance.closed_loop import LoadRun
from lightship.evaluation.performance.records import ErrorKind, RequestRecord, Slo
from lightship.evaluation.statistics import wilson_interval
from lightship.ports.measurements import Interval

LEVEL = 0.95
# Slices of the window for batch means: ten is the usual compromise between few long (independent) and many short ones.
_NUM_BATCHES = 10
# Two-sided 95 % quantile of Student's t with 9 degrees of freedom.
_T_QUANTILE = 2.262


@dataclass(frozen=True)
class Quantiles:
    """Order statistics over `num_items` values; `p50_interval` is None below six values, where none exists at 95 %."""

    p50: float
    p95: float
    p99: float
    num_items: int
    p50_interval: Interval | None


@dataclass(frozen=True)
class Rate:
    """Events per second of the window with an interval from batch means."""

    per_s: float
    interval: Interval


@dataclass(frozen=True)
class LoadResult:
    """Figures of one run.

    `num_requests` counts the requests whose SLO verdict is known; `num_undecided` those the run cut off before that.
    Latencies are over answered requests only. A request counts in `goodput` in proportion to its output tokens
    delivered inside the window, which keeps short windows free of rounding to whole requests.
    """

    concurrency: int
    window_s: float
    num_requests: int
    num_good: int
    num_undecided: int
    errors: dict[str, int]
    ttft_ms: Quantiles | None
    tpot_ms: Quantiles | None
    output_tokens_per_s: Rate
    goodput_requests_per_s: Rate
    attainment: float
    attainment_interval: Interval
    mean_prompt_tokens: float
    mean_output_tokens: float
    cached_share: float
    max_lag_s: float


def summarize_load(run: LoadRun, slo: Slo) -> LoadResult:
    """The figures of `run`, judged by `slo`."""
    answered = [record for record in run.records if record.error is None]
    verdicts = [slo.is_met_by(record) for record in run.records]
    good = [record for record, is_good in zip(run.records, verdicts, strict=True) if is_good]
    num_decided = sum(verdict is not None for verdict in verdicts)
    # an open loop may end with no verdict at all; a closed one is refused before
    attained = wilson_interval(len(good), num_decided, confidence=LEVEL) if num_decided else Interval(0.0, 1.0, LEVEL)
    num_prompt_tokens = sum(record.num_prompt_tokens for record in answered)
    return LoadResult(
        concurrency=run.concurrency,
        window_s=run.window_s,
        num_requests=num_decided,
        num_good=len(good),
        num_undecided=len(verdicts) - num_decided,
        errors=_count_errors(run.records),
        ttft_ms=quantiles([ms for record in answered if (ms := record.ttft_ms) is not None]),
        tpot_ms=quantiles([ms for record in answered if (ms := record.tpot_ms) is not None]),
        output_tokens_per_s=rate(_token_deliveries((*run.warmup, *run.records)), run),
        goodput_requests_per_s=rate(_request_deliveries(good), run),
        attainment=len(good) / num_decided if num_decided else 0.0,
        attainment_interval=attained,
        mean_prompt_tokens=num_prompt_tokens / len(answered) if answered else 0.0,
        mean_output_tokens=statistics.fmean(record.num_output_tokens for record in answered) if answered else 0.0,
        cached_share=sum(record.num_cached_tokens for record in answered) / max(1, num_prompt_tokens),
        max_lag_s=max((record.lag_s for record in run.records), default=0.0),
    )


def _count_errors(records: Iterable[RequestRecord]) -> dict[str, int]:
    kinds = (record.error for record in records if record.error not in {None, ErrorKind.CUT_OFF})
    return dict(sorted(Counter(str(kind) for kind in kinds).items()))


def _token_deliveries(records: Iterable[RequestRecord]) -> Iterable[tuple[float, float]]:
    """(time, tokens) of each output event. An answer's tokens are spread evenly over its events.

    A cut-off answer has no count, so each of its events is one token; other failures deliver nothing of use.
    """
    for record in records:
        if record.error is None:
            tokens = record.num_output_tokens / len(record.token_times_s)
        elif record.error is ErrorKind.CUT_OFF:
            tokens = 1.0
        else:
            continue
        yield from ((time_s, tokens) for time_s in record.token_times_s)


def _request_deliveries(good: Iterable[RequestRecord]) -> Iterable[tuple[float, float]]:
    for record in good:
        yield from ((time_s, 1 / len(record.token_times_s)) for time_s in record.token_times_s)


def rate(deliveries: Iterable[tuple[float, float]], run: LoadRun) -> Rate:
    """Amount per second inside the window (its start excluded, its end included) with a batch-means interval."""
    batch_s = run.window_s / _NUM_BATCHES
    batches = [0.0] * _NUM_BATCHES
    for time_s, amount in deliveries:
        if run.window_start_s < time_s <= run.window_end_s:
            batches[min(_NUM_BATCHES - 1, int((time_s - run.window_start_s) / batch_s))] += amount
    mean = sum(batches) / run.window_s
    half_width = _T_QUANTILE * statistics.stdev(batches) / batch_s / math.sqrt(_NUM_BATCHES)
    return Rate(mean, Interval(max(0.0, mean - half_width), mean + half_width, LEVEL))


def quantiles(values: Sequence[float]) -> Quantiles | None:
    """Quantiles by linear interpolation between order statistics; None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    return Quantiles(
        p50=_quantile(ordered, 0.50),
        p95=_quantile(ordered, 0.95),
        p99=_quantile(ordered, 0.99),
        num_items=len(ordered),
        p50_interval=_median_interval(ordered),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = (len(ordered) - 1) * share
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _median_interval(ordered: Sequence[float]) -> Interval | None:
    """The narrowest symmetric pair of order statistics that covers the median with at least `LEVEL`.

    Distribution-free: the number of values below the median is binomial(n, 1/2).
    """
    n = len(ordered)
    limit = 2**n // round(2 / (1 - LEVEL))  # exact integers: 2**-n underflows for long runs
    term = tail = 1
    num_cut = 0
    while tail <= limit:
        num_cut += 1
        term = term * (n - num_cut + 1) // num_cut
        tail += term
    return Interval(ordered[num_cut - 1], ordered[n - num_cut], LEVEL) if num_cut else None
