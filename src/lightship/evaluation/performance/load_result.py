"""What a run says: latency quantiles, rates and SLO attainment, each with its count and interval. Pure."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightship.evaluation.performance.closed_loop import LoadRun
from lightship.evaluation.performance.records import ErrorKind, RequestRecord, Slo
from lightship.evaluation.statistics.shares import wilson_interval
from lightship.ports.measurements import Interval, Metric

LEVEL = 0.95
# Slices of the window for batch means: ten is the usual compromise between few long (independent) and many short ones.
_NUM_BATCHES = 10
# Two-sided 95 % quantile of Student's t with 9 degrees of freedom.
_T_QUANTILE = 2.262
# Values up to which the interval of a median is computed with whole numbers of as many bits.
_MAX_EXACT_VALUES = 2000


@dataclass(frozen=True)
class Quantiles:
    """Order statistics over `num_items` values; `p50_interval` is None below six values, where none exists at 95 %.

    It is None, too, where values are not independent (gaps between the tokens of one answer). `std` is of these values,
    not an estimate for others (divided by n).
    """

    mean: float
    std: float
    p50: float
    p90: float
    p95: float
    p99: float
    highest: float
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
    Latencies are over answered requests only.

    In a closed loop (`concurrency` above 0) a request counts in `goodput` in proportion to its output tokens delivered
    inside the window, which keeps short windows free of rounding to whole requests. In an open loop (`concurrency` 0)
    the requests *scheduled* in the window count, whenever their answers came: the schedule is given, so goodput is the
    offered rate times the attainment, and the interval is the attainment's. `offered_requests_per_s` is None in a
    closed loop, where the server decides how much is offered; so is the lag.

    Intervals of shares take requests as independent. Under a load near the limit they are not, because one queue
    delays many; repeated runs show what that adds.
    """

    concurrency: int
    window_s: float
    num_requests: int
    num_good: int
    num_undecided: int
    num_answered: int
    errors: dict[str, int]
    ttft_ms: Quantiles | None
    tpot_ms: Quantiles | None
    itl_ms: Quantiles | None
    e2e_ms: Quantiles | None
    offered_requests_per_s: float | None
    answered_requests_per_s: Rate
    input_tokens_per_s: Rate
    output_tokens_per_s: Rate
    goodput_requests_per_s: Rate
    attainment: float
    attainment_interval: Interval
    mean_prompt_tokens: float
    mean_output_tokens: float
    cached_share: float
    lag_ms: Quantiles | None


def summarize_load(run: LoadRun, slo: Slo) -> LoadResult:
    """The figures of `run`, judged by `slo`."""
    everything = (*run.warmup, *run.records)
    answered = [record for record in run.records if record.error is None]
    verdicts = [slo.is_met_by(record) for record in run.records]
    good = [record for record, is_good in zip(run.records, verdicts, strict=True) if is_good]
    num_decided = sum(verdict is not None for verdict in verdicts)
    # an open loop may end with no verdict at all; a closed one is refused before
    attained = wilson_interval(len(good), num_decided, confidence=LEVEL) if num_decided else Interval(0.0, 1.0, LEVEL)
    is_open = run.concurrency == 0
    num_prompt_tokens = sum(record.num_prompt_tokens for record in answered)
    return LoadResult(
        concurrency=run.concurrency,
        window_s=run.window_s,
        num_requests=num_decided,
        num_good=len(good),
        num_undecided=len(verdicts) - num_decided,
        num_answered=len(answered),
        errors=_count_errors(run.records),
        ttft_ms=quantiles([ms for record in answered if (ms := record.ttft_ms) is not None]),
        tpot_ms=quantiles([ms for record in answered if (ms := record.tpot_ms) is not None]),
        itl_ms=quantiles([ms for record in answered for ms in record.itl_ms], are_independent=False),
        e2e_ms=quantiles([ms for record in answered if (ms := record.e2e_ms) is not None]),
        offered_requests_per_s=len(run.records) / run.window_s if is_open else None,
        answered_requests_per_s=rate(((one.ended_s, 1.0) for one in everything if one.error is None), run),
        input_tokens_per_s=rate(_prompt_deliveries(everything), run),
        output_tokens_per_s=rate(_token_deliveries(everything), run),
        goodput_requests_per_s=_open_goodput(len(good), num_decided, attained, run)
        if is_open
        else rate(_request_deliveries(good), run),
        attainment=len(good) / num_decided if num_decided else 0.0,
        attainment_interval=attained,
        mean_prompt_tokens=num_prompt_tokens / len(answered) if answered else 0.0,
        mean_output_tokens=statistics.fmean(record.num_output_tokens for record in answered) if answered else 0.0,
        cached_share=sum(record.num_cached_tokens for record in answered) / max(1, num_prompt_tokens),
        lag_ms=quantiles([record.lag_s * 1000 for record in run.records]) if is_open else None,
    )


def _open_goodput(num_good: int, num_decided: int, attained: Interval, run: LoadRun) -> Rate:
    """Good requests per second of schedule. Undecided ones count as not good, so it never says too much."""
    decided_per_s = num_decided / run.window_s
    return Rate(
        num_good / run.window_s, Interval(attained.low * decided_per_s, attained.high * decided_per_s, attained.level)
    )


def _count_errors(records: Iterable[RequestRecord]) -> dict[str, int]:
    kinds = (record.error for record in records if record.error not in {None, ErrorKind.CUT_OFF})
    return dict(sorted(Counter(str(kind) for kind in kinds).items()))


def _token_deliveries(records: Iterable[RequestRecord]) -> Iterator[tuple[float, float]]:
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


def _prompt_deliveries(records: Iterable[RequestRecord]) -> Iterator[tuple[float, float]]:
    """A prompt has been worked off when the first token of its answer comes."""
    yield from ((one.token_times_s[0], float(one.num_prompt_tokens)) for one in records if one.error is None)


def _request_deliveries(good: Iterable[RequestRecord]) -> Iterator[tuple[float, float]]:
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


def quantiles(values: Sequence[float], *, are_independent: bool = True) -> Quantiles | None:
    """Quantiles by linear interpolation between order statistics; None for no values."""
    if not values:
        return None
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    p50, p90, p95, p99 = (float(value) for value in np.quantile(ordered, (0.5, 0.9, 0.95, 0.99)))
    return Quantiles(
        mean=float(ordered.mean()),
        std=float(ordered.std()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        highest=float(ordered[-1]),
        num_items=len(ordered),
        p50_interval=_median_interval(ordered) if are_independent else None,
    )


def _median_interval(ordered: NDArray[np.float64]) -> Interval | None:
    """The narrowest symmetric pair of order statistics that covers the median with at least `LEVEL`.

    Distribution-free: the number of values below the median is binomial(n, 1/2).
    """
    n = len(ordered)
    num_cut = _num_cut_exactly(n) if n <= _MAX_EXACT_VALUES else _num_cut_for_many(n)
    return Interval(float(ordered[num_cut - 1]), float(ordered[n - num_cut]), LEVEL) if num_cut else None


def _num_cut_exactly(n: int) -> int:
    """The largest k with P(binomial(n, 1/2) < k) <= (1 - LEVEL) / 2."""
    limit = 2**n // round(2 / (1 - LEVEL))  # exact integers: 2**-n underflows for long runs
    term = tail = 1
    num_cut = 0
    while tail <= limit:
        num_cut += 1
        term = term * (n - num_cut + 1) // num_cut
        tail += term
    return num_cut


def _num_cut_for_many(n: int) -> int:
    """The same from the normal distribution, with its continuity correction, rounded down."""
    z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)
    return math.floor((n + 1) / 2 - z * math.sqrt(n) / 2 - 0.5)


@dataclass(frozen=True)
class LoadFigure:
    """One figure of a load, as measurements name it."""

    metric: Metric
    value: float
    interval: Interval | None
    num_items: int
    details: dict[str, float] = field(default_factory=dict)


def load_figures(load: LoadResult) -> Iterator[LoadFigure]:
    """What is stored of a load: rates and attainment, and medians of latencies with their tails in `details`."""
    tokens, goodput, n = load.output_tokens_per_s, load.goodput_requests_per_s, load.num_requests
    yield LoadFigure(Metric.DECODE_TOKENS_PER_S, tokens.per_s, tokens.interval, n)
    yield LoadFigure(Metric.GOODPUT_REQUESTS_PER_S, goodput.per_s, goodput.interval, n)
    yield LoadFigure(Metric.SLO_ATTAINMENT, load.attainment, load.attainment_interval, n)
    for metric, latency in ((Metric.TTFT_MS, load.ttft_ms), (Metric.TPOT_MS, load.tpot_ms)):
        if latency is not None:
            tail = {"p95": latency.p95, "p99": latency.p99}
            yield LoadFigure(metric, latency.p50, latency.p50_interval, latency.num_items, tail)
