from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.statistics.shares import clopper_pearson_interval, wilson_interval
from lightship.ports.measurements import Interval

scipy_stats = pytest.importorskip("scipy.stats")
proportion = pytest.importorskip("statsmodels.stats.proportion")


@dataclass(frozen=True)
class Share:
    num_successes: int
    num_trials: int
    level: float


SHARES = [
    Share(0, 7, 0.95),
    Share(7, 7, 0.95),
    Share(1, 1, 0.9),
    Share(13, 40, 0.95),
    Share(9_990, 10_000, 0.99),
    Share(1, 1_000_000, 0.95),
    Share(999_999, 1_000_000, 0.95),
    Share(500_000, 1_000_000, 0.9),
]
INTERVALS: list[Callable[..., Interval]] = [wilson_interval, clopper_pearson_interval]


@pytest.mark.parametrize("case", SHARES, ids=str)
def test_wilson_interval_agrees_with_scipy(case: Share) -> None:
    ours = wilson_interval(case.num_successes, case.num_trials, confidence=case.level)
    oracle = scipy_stats.binomtest(case.num_successes, case.num_trials).proportion_ci(case.level, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)
    assert ours.level == case.level


@pytest.mark.parametrize("case", SHARES, ids=str)
@pytest.mark.parametrize(("method", "interval_of"), [("wilson", INTERVALS[0]), ("beta", INTERVALS[1])])
def test_share_intervals_agree_with_statsmodels(case: Share, method: str, interval_of: Callable[..., Interval]) -> None:
    ours = interval_of(case.num_successes, case.num_trials, confidence=case.level)
    oracle = proportion.proportion_confint(case.num_successes, case.num_trials, alpha=1 - case.level, method=method)
    assert (ours.low, ours.high) == pytest.approx(oracle, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("case", SHARES, ids=str)
def test_clopper_pearson_interval_bounds_are_beta_quantiles(case: Share) -> None:
    ours = clopper_pearson_interval(case.num_successes, case.num_trials, confidence=case.level)
    tail, failures = (1 - case.level) / 2, case.num_trials - case.num_successes
    low = scipy_stats.beta.ppf(tail, case.num_successes, failures + 1) if case.num_successes else 0.0
    high = scipy_stats.beta.ppf(1 - tail, case.num_successes + 1, failures) if failures else 1.0
    assert (ours.low, ours.high) == pytest.approx((low, high), rel=1e-8)


def test_clopper_pearson_interval_of_no_success_is_the_rule_of_three() -> None:
    # With no success of n the one-sided bound at 95 % solves (1 - p)^n = 0.05, which is about 3 / n.
    assert clopper_pearson_interval(0, 1000, confidence=0.9).high == pytest.approx(1 - 0.05 ** (1 / 1000), rel=1e-12)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
@settings(max_examples=60, deadline=None)
def test_share_intervals_hold_the_estimate_and_the_exact_one_is_mirrored(
    counts: tuple[int, int], confidence: float
) -> None:
    num_successes, num_trials = counts
    for interval_of in INTERVALS:
        interval = interval_of(num_successes, num_trials, confidence=confidence)
        assert 0 <= interval.low <= num_successes / num_trials <= interval.high <= 1
        mirrored = interval_of(num_trials - num_successes, num_trials, confidence=confidence)
        assert (mirrored.low, mirrored.high) == pytest.approx((1 - interval.high, 1 - interval.low), abs=1e-9)


@pytest.mark.parametrize("interval_of", INTERVALS)
@pytest.mark.parametrize(
    ("successes", "trials", "confidence"), [(0, 0, 0.9), (-1, 3, 0.9), (4, 3, 0.9), (1, 3, 0), (1, 3, 1)]
)
def test_share_intervals_impossible_counts_are_refused(
    interval_of: Callable[..., Interval], successes: int, trials: int, confidence: float
) -> None:
    with pytest.raises(MeasurementError):
        interval_of(successes, trials, confidence=confidence)
