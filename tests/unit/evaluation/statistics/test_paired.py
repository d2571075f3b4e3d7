from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.statistics.paired import (
    MIN_DIFFERING_CLUSTERS,
    Verdict,
    mcnemar_exact,
    non_inferiority,
    paired_bootstrap,
    paired_difference,
    tango_interval,
    tango_p_value_below,
    tango_score,
)
from lightship.ports.measurements import Interval

scipy_stats = pytest.importorskip("scipy.stats")
scipy_optimize = pytest.importorskip("scipy.optimize")
contingency_tables = pytest.importorskip("statsmodels.stats.contingency_tables")


@dataclass(frozen=True)
class Published:
    """An interval of gained minus lost that others have printed, to the digits given."""

    source: str
    num_lost: int
    num_gained: int
    num_items: int
    level: float
    low: float | None
    high: float | None
    digits: int


PUBLISHED = [
    Published("Tango 1998, 6.2: sleeping difficulties", 3, 9, 32, 0.95, -0.027, 0.390, 3),
    Published("Tango 1998, 6.1: soft contact lenses", 1, 0, 44, 0.90, -0.096, None, 3),
    Published("R PropCIs 0.3-0, scoreci.mp(25, 28, 618)", 25, 28, 618, 0.90, -0.0148, 0.0247, 4),
]


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case.source)
def test_tango_interval_agrees_with_published_examples(case: Published) -> None:
    ours = tango_interval(case.num_lost, case.num_gained, case.num_items, confidence=case.level)
    for found, expected in ((ours.low, case.low), (ours.high, case.high)):
        assert expected is None or round(found, case.digits) == expected


def test_tango_score_agrees_with_the_published_equivalence_test() -> None:
    # Tango 1998, 6.1: one of 44 lost, none gained, margin 0.1: Z = 1.709
    assert tango_score(1, 0, 44, difference=-0.1) == pytest.approx(1.709, abs=0.0005)


def _score_by_search(num_lost: int, num_gained: int, num_items: int, difference: float) -> float:
    """The score with the nuisance share found by maximising the likelihood numerically: no formula in common."""

    def surprise(share_lost: float) -> float:
        shares = (share_lost, share_lost + difference, 1 - 2 * share_lost - difference)
        counts = (num_lost, num_gained, num_items - num_lost - num_gained)
        return -sum(count * math.log(max(share, 1e-300)) for count, share in zip(counts, shares, strict=True) if count)

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    share_lost = scipy_optimize.minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = num_items * (2 * share_lost + difference - difference**2)
    return float((num_gained - num_lost - num_items * difference) / math.sqrt(variance))


@pytest.mark.parametrize("counts", [(3, 9, 32), (1, 7, 21), (40, 20, 160), (12, 3, 773), (5, 5, 10), (0, 4, 50)])
@pytest.mark.parametrize("level", [0.9, 0.99])
def test_tango_interval_bounds_are_where_a_searched_likelihood_puts_them(
    counts: tuple[int, int, int], level: float
) -> None:
    ours = tango_interval(*counts, confidence=level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    assert _score_by_search(*counts, ours.low) == pytest.approx(z, abs=1e-4)
    assert _score_by_search(*counts, ours.high) == pytest.approx(-z, abs=1e-4)


@pytest.mark.parametrize("num_items", [20, 300, 10_000])
def test_tango_interval_of_no_difference_keeps_its_width(num_items: int) -> None:
    # With nothing lost or gained the score is -n d / sqrt(n d (1 - d)), which is z at d = z^2 / (n + z^2).
    z_squared = 1.6448536269514722**2
    ours = tango_interval(0, 0, num_items, confidence=0.9)
    bound = z_squared / (num_items + z_squared)
    assert (ours.low, ours.high) == pytest.approx((-bound, bound), rel=1e-12)


def test_tango_interval_of_all_lost_ends_at_minus_one() -> None:
    ours = tango_interval(20, 0, 20, confidence=0.9)
    assert ours.low == -1.0
    assert _score_by_search(20, 0, 20, ours.high) == pytest.approx(-1.6448536, abs=1e-4)


@given(
    st.integers(1, 5000).flatmap(
        lambda n: st.integers(0, n).flatmap(lambda lost: st.tuples(st.just(lost), st.integers(0, n - lost), st.just(n)))
    ),
    st.floats(0.5, 0.999),
)
@settings(max_examples=150, deadline=None)
def test_tango_interval_holds_the_estimate_and_mirrors(counts: tuple[int, int, int], level: float) -> None:
    num_lost, num_gained, num_items = counts
    ours = tango_interval(num_lost, num_gained, num_items, confidence=level)
    assert -1 <= ours.low <= (num_gained - num_lost) / num_items <= ours.high <= 1
    assert ours.low < ours.high
    mirrored = tango_interval(num_gained, num_lost, num_items, confidence=level)
    assert (mirrored.low, mirrored.high) == (-ours.high, -ours.low)


@given(st.integers(0, 200), st.integers(0, 200), st.floats(-0.9, 0.9))
@settings(max_examples=100, deadline=None)
def test_tango_p_value_and_interval_tell_the_same(num_lost: int, num_gained: int, difference: float) -> None:
    interval = tango_interval(num_lost, num_gained, 400, confidence=0.9)
    p_value = tango_p_value_below(num_lost, num_gained, 400, difference=difference)
    if abs(difference - interval.high) > 1e-9:
        assert (p_value < 0.05) == (interval.high < difference)


@pytest.mark.parametrize(
    "counts", [(0, 0), (1, 0), (0, 6), (5, 5), (12, 25), (59, 121), (3000, 3200), (500_000, 500_900)]
)
def test_mcnemar_exact_agrees_with_statsmodels_and_the_binomial(counts: tuple[int, int]) -> None:
    num_lost, num_gained = counts
    ours = mcnemar_exact(num_lost, num_gained)
    oracle = contingency_tables.mcnemar([[10, num_lost], [num_gained, 7]], exact=True)
    assert ours.two_sided == pytest.approx(min(1.0, oracle.pvalue), rel=1e-7)
    loss = scipy_stats.binom.sf(num_lost - 1, num_lost + num_gained, 0.5)
    assert ours.loss == pytest.approx(loss, rel=1e-7)


def test_mcnemar_exact_of_agrestis_approval_ratings() -> None:
    # Agresti, "Categorical Data Analysis": 150 and 86 changed their minds, z^2 = 17.36, p = 3e-5
    assert mcnemar_exact(150, 86).two_sided == pytest.approx(3.7e-5, abs=0.4e-5)


def test_mcnemar_exact_small_counts_by_hand() -> None:
    # 1 of 8 lost: P(X <= 1) = 9 / 256, doubled; P(X >= 1) = 255 / 256
    ours = mcnemar_exact(1, 7)
    assert (ours.two_sided, ours.loss) == pytest.approx((18 / 256, 255 / 256), rel=1e-12)


@pytest.mark.parametrize("counts", [(-1, 0, 3), (0, -1, 3), (2, 2, 3), (0, 0, 0)])
def test_tango_interval_impossible_counts_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(MeasurementError):
        tango_interval(*counts, confidence=0.9)
    if counts[0] < 0 or counts[1] < 0:
        with pytest.raises(MeasurementError):
            mcnemar_exact(counts[0], counts[1])


def _graded(seed: int, num_clusters: int, per_cluster: int) -> tuple[list[float], list[float], list[str]]:
    """Scores of items in documents that share their luck; the candidate is 0.05 worse."""
    generator = np.random.default_rng(seed)
    reference = np.clip(np.repeat(generator.normal(0.6, 0.1, num_clusters), per_cluster), 0, 1)
    change = np.repeat(generator.normal(-0.05, 0.05, num_clusters), per_cluster)
    candidate = np.clip(reference + change + generator.normal(0, 0.02, len(change)), 0, 1)
    clusters = [f"document {place // per_cluster}" for place in range(len(change))]
    return candidate.tolist(), reference.tolist(), clusters


def test_paired_difference_agrees_with_scipy_bca_over_clusters() -> None:
    candidate, reference, clusters = _graded(seed=1, num_clusters=50, per_cluster=4)
    ours = paired_difference(candidate, reference, clusters, confidence=0.9, num_resamples=20_000, seed=3)
    by_cluster = (np.array(candidate) - np.array(reference)).reshape(50, 4).mean(axis=1)
    oracle = scipy_stats.bootstrap(
        (by_cluster,), np.mean, n_resamples=20_000, confidence_level=0.9, method="BCa", rng=np.random.default_rng(4)
    ).confidence_interval
    width = oracle.high - oracle.low
    assert ours.value == pytest.approx(by_cluster.mean(), abs=1e-12)
    assert ours.interval is not None
    assert (ours.interval.low, ours.interval.high) == pytest.approx((oracle.low, oracle.high), abs=0.03 * width)
    assert ours.num_items == 50


def test_paired_difference_items_of_one_cluster_are_not_independent() -> None:
    candidate, reference, clusters = _graded(seed=2, num_clusters=40, per_cluster=9)
    grouped, alone = (
        paired_difference(candidate, reference, ids, confidence=0.9, num_resamples=4000, seed=0).interval
        for ids in (clusters, list(range(len(clusters))))
    )
    assert grouped is not None
    assert alone is not None
    # Nine items that share their luck are worth little more than one: nearly sqrt(9) times as wide.
    assert 2 < (grouped.high - grouped.low) / (alone.high - alone.low) < 3.2


def test_paired_difference_of_uneven_clusters_weighs_items_not_clusters() -> None:
    # one document of three items, all lost, and one of a single item, gained: (-3 + 1) / 4
    ours = paired_difference(
        [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0], list("aaab"), confidence=0.9, num_resamples=50, seed=0
    )
    assert ours.value == -0.5


def test_paired_difference_clusters_need_not_be_neighbours() -> None:
    apart = paired_difference(
        [0.5, 0.2, 0.9, 0.1], [0.6, 0.2, 0.5, 0.3], list("abab"), confidence=0.9, num_resamples=200, seed=1
    )
    together = paired_difference(
        [0.5, 0.9, 0.2, 0.1], [0.6, 0.5, 0.2, 0.3], list("aabb"), confidence=0.9, num_resamples=200, seed=1
    )
    assert apart.interval is not None
    assert together.interval is not None
    assert (apart.interval.low, apart.interval.high) == pytest.approx((together.interval.low, together.interval.high))


def test_paired_difference_where_nothing_differs_is_as_wide_as_so_few_items_allow() -> None:
    scores = [0.25, 0.5, 1.0, 0.0] * 5
    ours = paired_difference(scores, scores, range(20), confidence=0.9, num_resamples=500, seed=0)
    bound = 2.705543454 / 22.705543454
    assert ours.value == 0
    assert ours.interval is not None
    assert (ours.interval.low, ours.interval.high) == pytest.approx((-bound, bound), rel=1e-8)


def test_paired_difference_few_differing_clusters_draw_the_interval_out() -> None:
    reference = [1.0] * 100
    few, many = (
        paired_difference(
            [0.5] * num_worse + [1.0] * (100 - num_worse),
            reference,
            range(100),
            confidence=0.9,
            num_resamples=2000,
            seed=0,
        ).interval
        for num_worse in (MIN_DIFFERING_CLUSTERS - 1, MIN_DIFFERING_CLUSTERS)
    )
    assert few is not None
    assert many is not None
    # 19 of 100 counted as wholly lost reach below -0.25; 20 halves do not reach -0.15
    assert few.low == pytest.approx(tango_interval(19, 0, 100, confidence=0.9).low)
    assert few.low < -0.25
    assert many.low > -0.15


def test_paired_difference_of_one_cluster_has_no_interval() -> None:
    ours = paired_difference([0.0, 1.0], [1.0, 1.0], ["a", "a"], confidence=0.9, num_resamples=50, seed=0)
    assert (ours.value, ours.interval) == (-0.5, None)
    bootstrap = paired_bootstrap([0.0, 1.0], [1.0, 1.0], ["a", "a"], num_resamples=50, seed=0)
    assert bootstrap.p_value_below(-0.1) == 1.0
    assert bootstrap.candidate_mean(0.9).interval is None


@pytest.mark.parametrize("num_clusters", [15, 60])
def test_paired_bootstrap_p_value_agrees_with_the_bound_of_the_interval(num_clusters: int) -> None:
    bootstrap = paired_bootstrap(*_graded(seed=5, num_clusters=num_clusters, per_cluster=3), num_resamples=4000, seed=6)
    assert bootstrap.is_sparse == (num_clusters < 20)
    interval = bootstrap.difference(0.9).interval
    assert interval is not None
    assert bootstrap.p_value_below(interval.high) == pytest.approx(0.05, abs=0.002)
    assert bootstrap.p_value_below(interval.high - 0.01) > 0.05


@pytest.mark.parametrize(
    ("candidate", "reference", "clusters", "says"),
    [
        ([], [], [], "at least one item"),
        ([0.5], [0.5, 0.5], ["a"], "1 scores stand against 2"),
        ([0.5], [0.5], ["a", "b"], "and 2 clusters"),
        ([1.5], [0.5], ["a"], "outside 0..1"),
        ([math.nan], [0.5], ["a"], "outside 0..1"),
    ],
)
def test_paired_difference_bad_columns_are_refused(
    candidate: list[float], reference: list[float], clusters: list[str], says: str
) -> None:
    with pytest.raises(MeasurementError, match=says):
        paired_difference(candidate, reference, clusters, confidence=0.9, num_resamples=10, seed=0)


def test_paired_bootstrap_recovery_is_the_ratio_of_means_and_none_where_there_is_nothing_to_keep() -> None:
    candidate, reference, clusters = _graded(seed=7, num_clusters=60, per_cluster=2)
    ours = paired_bootstrap(candidate, reference, clusters, num_resamples=2000, seed=1).recovery(0.9)
    assert ours is not None
    assert ours.value == pytest.approx(sum(candidate) / sum(reference))
    assert ours.interval is not None
    assert ours.interval.low < ours.value < ours.interval.high
    nothing = paired_bootstrap(candidate, [0.0] * len(reference), clusters, num_resamples=50, seed=1)
    assert nothing.recovery(0.9) is None


def test_paired_bootstrap_recovery_where_nothing_differs_is_not_certain() -> None:
    # 20 items, half of them right in both: the difference is known to 0.1192, the mean is 0.5
    scores = [0.0, 1.0] * 10
    ours = paired_bootstrap(scores, scores, range(20), num_resamples=200, seed=1).recovery(0.9)
    assert ours is not None
    assert ours.value == 1
    assert ours.interval is not None
    assert (ours.interval.low, ours.interval.high) == pytest.approx((1 - 0.2383, 1 + 0.2383), abs=1e-4)


def test_paired_bootstrap_means_agree_with_the_plain_bootstrap_and_have_no_interval_without_spread() -> None:
    candidate, reference, _ = _graded(seed=8, num_clusters=80, per_cluster=1)
    ours = paired_bootstrap(candidate, reference, range(80), num_resamples=4000, seed=1)
    for mean, scores in ((ours.candidate_mean(0.9), candidate), (ours.reference_mean(0.9), reference)):
        half = 1.6449 * float(np.std(scores, ddof=1)) / math.sqrt(80)
        assert mean.value == pytest.approx(np.mean(scores))
        assert mean.interval is not None
        assert (mean.interval.low, mean.interval.high) == pytest.approx(
            (mean.value - half, mean.value + half), abs=0.15 * half
        )
    alike = paired_bootstrap([0.3] * 40, [0.3] * 40, range(40), num_resamples=50, seed=0)
    assert alike.candidate_mean(0.9).interval is None


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.01, 0.03, Verdict.PASS),
        (-0.02, 0.03, Verdict.PASS),
        (-0.0201, 0.03, Verdict.UNDECIDED),
        (-0.05, -0.02, Verdict.UNDECIDED),
        (-0.05, -0.0201, Verdict.FAIL),
    ],
)
def test_non_inferiority_looks_at_the_bounds_only(low: float, high: float, verdict: Verdict) -> None:
    assert non_inferiority(Interval(low, high, 0.9), 0.02) is verdict


def test_non_inferiority_a_margin_of_nothing_is_refused() -> None:
    with pytest.raises(MeasurementError, match="above 0"):
        non_inferiority(Interval(-0.1, 0.1, 0.9), 0.0)


def test_paired_bootstrap_effective_counts_by_hand() -> None:
    """Two clusters of 2 and one of 4; k = (4 + 4 + 16) / 8 = 3. Lost: both items of the first, one of the last.

    Net -2, 0, -1, mean -3/8 per item; between clusters (-1.25)^2 + 0.75^2 + 0.5^2 = 2.375; as if independent
    3 - 9/8 = 1.875. So icc = (2.375 / 1.875 - 1) / 2 = 0.1333 and the design effect 1 + 2 * 0.1333 = 1.2667.
    """
    candidate, reference = [0, 0, 1, 1, 1, 1, 0, 1], [1] * 8
    bootstrap = paired_bootstrap(candidate, reference, list("aabbcccc"), num_resamples=100, seed=0)
    assert bootstrap.effective_counts == pytest.approx((3 / 1.26667, 0.0, 8 / 1.26667), rel=1e-5)


def test_paired_bootstrap_scattered_flips_are_assumed_to_be_a_little_alike() -> None:
    """One item of each of two clusters of five lost: no more alike than chance, so a tenth: 1 + 4 * 0.1 = 1.4."""
    candidate = [0, 1, 1, 1, 1] * 2 + [1] * 40
    clusters = [place // 5 for place in range(50)]
    bootstrap = paired_bootstrap(candidate, [1] * 50, clusters, num_resamples=100, seed=0)
    assert bootstrap.effective_counts == pytest.approx((2 / 1.4, 0.0, 50 / 1.4))


def test_paired_bootstrap_items_alone_count_whole() -> None:
    bootstrap = paired_bootstrap([0, 1, 1, 0.5], [1, 1, 0, 1], [1, 2, 3, 4], num_resamples=100, seed=0)
    assert bootstrap.effective_counts == (2.0, 1.0, 4.0)
