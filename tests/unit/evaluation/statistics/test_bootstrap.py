from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.statistics.bootstrap import (
    bootstrap_mean,
    bootstrap_ratio_of_sums,
    resample_ratio,
    resample_sums,
)
from lightship.ports.measurements import Interval

scipy_stats = pytest.importorskip("scipy.stats")


def _skewed_documents(seed: int, num_documents: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes per document, and nats that grow with them at 0.9 nats per byte on average."""
    generator = np.random.default_rng(seed)
    num_bytes = generator.integers(200, 2000, num_documents).astype(float)
    return num_bytes * generator.gamma(9.0, 0.1, num_documents), num_bytes


def test_bootstrap_ratio_of_sums_agrees_with_scipy_bca() -> None:
    nats, num_bytes = _skewed_documents(seed=3, num_documents=40)
    ours = bootstrap_ratio_of_sums(nats, num_bytes, confidence=0.95, num_resamples=20_000, seed=1)
    oracle = scipy_stats.bootstrap(
        (nats, num_bytes),
        lambda top, bottom, axis: top.sum(axis=axis) / bottom.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        confidence_level=0.95,
        method="BCa",
        rng=np.random.default_rng(2),
    ).confidence_interval
    width = oracle.high - oracle.low
    assert ours.value == pytest.approx(math.fsum(nats) / math.fsum(num_bytes))
    assert ours.interval is not None
    assert (ours.interval.low, ours.interval.high) == pytest.approx((oracle.low, oracle.high), abs=0.03 * width)


def test_bootstrap_mean_of_many_values_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(5).normal(10.0, 2.0, 4000)
    ours = bootstrap_mean(values, confidence=0.9, num_resamples=4000, seed=0)
    half = 1.6449 * values.std(ddof=1) / math.sqrt(4000)
    assert ours.interval is not None
    assert (ours.interval.low, ours.interval.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.1 * half
    )


def test_bootstrap_ratio_of_sums_interval_covers_the_truth_as_often_as_promised() -> None:
    num_studies, truth = 400, 0.9
    covered = 0
    for study in range(num_studies):
        nats, num_bytes = _skewed_documents(seed=study, num_documents=30)
        interval = bootstrap_ratio_of_sums(nats, num_bytes, confidence=0.9, num_resamples=500, seed=study).interval
        assert interval is not None
        covered += interval.low <= truth <= interval.high
    # 90 % promised; binomial spread over 400 studies is 1.5 points, and 30 clusters cost the bootstrap about two more
    assert 0.84 <= covered / num_studies <= 0.95


def test_bootstrap_ratio_of_sums_pairs_stay_together() -> None:
    reference, _ = _skewed_documents(seed=8, num_documents=12)
    paired = bootstrap_ratio_of_sums(reference, reference * 1.25, confidence=0.95, num_resamples=300, seed=0)
    assert paired.interval is not None
    assert (paired.value, paired.interval.low, paired.interval.high) == pytest.approx((0.8, 0.8, 0.8), abs=1e-12)


def test_bootstrap_ratio_of_sums_same_seed_repeats_and_other_seed_differs() -> None:
    nats, num_bytes = _skewed_documents(seed=4, num_documents=20)
    runs = [
        bootstrap_ratio_of_sums(nats, num_bytes, confidence=0.95, num_resamples=200, seed=seed) for seed in (7, 7, 8)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_bootstrap_ratio_of_sums_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    nats, num_bytes = _skewed_documents(seed=4, num_documents=20)
    whole = bootstrap_ratio_of_sums(nats, num_bytes, confidence=0.95, num_resamples=100, seed=7)
    monkeypatch.setattr("lightship.evaluation.statistics.bootstrap._MAX_CELLS_PER_CHUNK", 60)
    assert bootstrap_ratio_of_sums(nats, num_bytes, confidence=0.95, num_resamples=100, seed=7) == whole


def test_bootstrap_mean_of_one_document_has_no_interval() -> None:
    estimate = bootstrap_mean([2.5], confidence=0.95, num_resamples=100, seed=0)
    assert (estimate.value, estimate.interval, estimate.num_items) == (2.5, None, 1)


def test_estimate_mapped_carries_the_bounds() -> None:
    mapped = bootstrap_mean([1.0, 1.0, 1.0], confidence=0.95, num_resamples=10, seed=0).mapped(math.exp)
    assert mapped.value == math.e
    assert mapped.interval == Interval(low=math.e, high=math.e, level=0.95)


@dataclass(frozen=True)
class Refusal:
    numerators: list[float]
    denominators: list[float]
    says: str


REFUSALS = [
    Refusal([], [], "nothing to average"),
    Refusal([1.0], [1.0, 2.0], "1 numerators stand against 2 denominators"),
    Refusal([1.0, math.nan], [1.0, 1.0], "not finite"),
    Refusal([1.0, 1.0], [1.0, 0.0], "must be positive"),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.says)
def test_bootstrap_ratio_of_sums_bad_columns_are_refused(case: Refusal) -> None:
    with pytest.raises(MeasurementError, match=case.says):
        bootstrap_ratio_of_sums(case.numerators, case.denominators, confidence=0.95, num_resamples=10, seed=0)


def test_resample_ratio_repeated_pairs_are_counted_and_spread_as_if_drawn_by_index() -> None:
    # 300 right-or-wrong items: two kinds of value, so counts are drawn; the spread is that of a binomial share.
    values = np.array([1.0] * 240 + [0.0] * 60)
    resampled = resample_ratio(values, np.ones(300), num_resamples=20_000, seed=2).resampled
    assert resampled is not None
    assert resampled.mean() == pytest.approx(0.8, abs=0.001)
    assert resampled.std() == pytest.approx(math.sqrt(0.8 * 0.2 / 300), rel=0.03)


def test_resample_sums_ways_to_draw_agree_in_mean_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(3).random((2, 60))
    drawn_by_index = resample_sums(columns, num_resamples=4000, seed=1)
    monkeypatch.setattr("lightship.evaluation.statistics.bootstrap._MIN_CLUSTERS_TO_WEIGH", 1)
    drawn_by_weight = resample_sums(columns, num_resamples=4000, seed=1)
    # The same stream of random numbers, so the same draws; only the order of summing differs.
    assert drawn_by_weight == pytest.approx(drawn_by_index, rel=1e-12)
    assert drawn_by_index.mean(axis=0) == pytest.approx(columns.sum(axis=1), rel=0.01)
    assert drawn_by_index.std(axis=0) == pytest.approx(columns.std(axis=1) * math.sqrt(60), rel=0.05)


def test_resample_ratio_p_value_agrees_with_the_interval_that_just_reaches_the_threshold() -> None:
    nats, num_bytes = _skewed_documents(seed=3, num_documents=40)
    bootstrap = resample_ratio(nats, num_bytes, num_resamples=20_000, seed=1)
    for confidence in (0.8, 0.9, 0.98):
        interval = bootstrap.estimate(confidence).interval
        assert interval is not None
        assert bootstrap.p_value_below(interval.high) == pytest.approx((1 - confidence) / 2, abs=0.001)
        assert bootstrap.p_value_below(interval.low) == pytest.approx((1 + confidence) / 2, abs=0.001)


def test_resample_ratio_p_value_never_claims_more_than_the_resamples_show() -> None:
    bootstrap = resample_ratio([0.4, 0.5, 0.6, 0.7], [1.0] * 4, num_resamples=999, seed=0)
    assert bootstrap.p_value_below(100.0) == pytest.approx(1 / 1000, rel=0.2)
    assert bootstrap.p_value_below(100.0) >= 1 / 1000
    assert bootstrap.p_value_below(-100.0) == pytest.approx(1.0, abs=0.01)


def test_resample_ratio_zero_denominators_are_allowed_until_a_draw_can_be_all_zero() -> None:
    generator = np.random.default_rng(1)
    bottom = (generator.random(200) < 0.7).astype(float)
    assert resample_ratio(bottom * 0.5, bottom, num_resamples=100, seed=0).estimate(0.9).interval is not None
    assert resample_ratio([1.0, 1.0], [1.0, 0.0], num_resamples=100, seed=0).estimate(0.9).interval is None
    with pytest.raises(MeasurementError, match="not all zero"):
        resample_ratio([1.0, 1.0], [0.0, 0.0], num_resamples=100, seed=0)


@pytest.mark.parametrize("module", ["statistics", "quality.protocol"])
def test_statistics_without_numpy_says_what_to_install(module: str) -> None:
    program = (
        "import sys; sys.modules['numpy'] = None\n"
        f"try:\n    import lightship.evaluation.{module}\n"
        "except Exception as error: print(error)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert "pip install 'lightship[local]'" in shown.stdout
