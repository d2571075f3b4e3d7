"""Differences between two runs on the same items: exact test, score interval, clustered bootstrap. Pure.

Everything here is *candidate minus reference*, in score points (0.01 is one percentage point). For right-or-wrong items
the data are two counts: items *lost* (only the reference is right) and *gained* (only the candidate is).

Not here: tests of two independent samples, which waste what pairing knows (eight times as many items, typically).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from lightship.evaluation.statistics.binomial import binomial_lower_tail, binomial_upper_tail
from lightship.evaluation.statistics.bootstrap import (
    Estimate,
    RatioBootstrap,
    ratio_bootstrap,
    require,
    resample_sums,
)
from lightship.ports.measurements import Interval

# Clusters that differ between the runs. With few, a bootstrap resamples next to nothing and is far too sure: its lower
# bound at 95 % is missed by 21 % of simulated runs with 2 that differ, 12 % with 6, 8 % with 16, 6 % with 40. Of none
# that differ it has no width at all. Source: benchmarks/interval_coverage.py, "bare bootstrap".
MIN_DIFFERING_CLUSTERS = 20
# Likeness, within a cluster, of whether items differ (intracluster correlation) that is assumed at least where too few
# differ to estimate it. Flips of a compressed variant are nearly independent; a tenth keeps a wrong pass under the 5 %
# asked for up to a true correlation of 0.2. Source: benchmarks/interval_coverage.py, "few flips".
MIN_INTRACLUSTER_CORRELATION = 0.1
# Sums of scores that differ by less are equal: no score has as many digits.
_ROUNDING = 1e-9


class Verdict(StrEnum):
    """What the data say of a claim."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class McNemar:
    """p-values of the exact test: `two_sided` of any difference, `loss` of the claim that the candidate is worse."""

    two_sided: float
    loss: float


def mcnemar_exact(num_lost: int, num_gained: int) -> McNemar:
    """The exact test that items are lost and gained equally often; 1 where none differ.

    Without a difference the lost ones of all that differ are Binomial(lost + gained, 1/2).

    Raises: MeasurementError: a negative count.
    Source: McNemar, Psychometrika 12 (1947); exact form: Agresti, "Categorical Data Analysis", 3rd ed., 11.1.2.
    """
    require(num_lost >= 0 and num_gained >= 0, f"{num_lost} lost and {num_gained} gained items")
    num_differing = num_lost + num_gained
    smaller = binomial_lower_tail(min(num_lost, num_gained), num_differing, 0.5)
    return McNemar(min(1.0, 2 * smaller), binomial_upper_tail(num_lost, num_differing, 0.5))


def tango_interval(num_lost: float, num_gained: float, num_items: float, *, confidence: float) -> Interval:
    """Score interval of the difference of two paired shares; keeps its width when nothing differs.

    The bounds are the differences at which `tango_score` is -z and z. Counts need not be whole: those of a clustered
    sample are divided by its design effect (Rao and Scott, "A simple method for the analysis of clustered binary data",
    Biometrics 48, 1992).

    Raises: MeasurementError: no items, negative counts, or more that differ than there are items.
    Source: Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
        design", Statistics in Medicine 17 (1998).
    """
    _check_counts(num_lost, num_gained, num_items)
    require(0 < confidence < 1, f"confidence must lie between 0 and 1, got {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    low = -_tango_upper_bound(num_gained, num_lost, num_items, z)
    high = _tango_upper_bound(num_lost, num_gained, num_items, z)
    return Interval(low=low, high=high, level=confidence)


def tango_score(num_lost: float, num_gained: float, num_items: float, *, difference: float) -> float:
    """Standardised distance of the observed difference from a supposed one: N(0, 1) when that is the truth.

        score = (gained - lost - n d) / sqrt(n (2 q + d (1 - d)))

    where q is the likeliest share of lost items given d, the positive root of

        2 n q^2 - (lost + gained - d (2 n - gained + lost)) q - lost d (1 - d) = 0

    At d = 0 this is McNemar's statistic. Infinite, or 0, where the supposed difference leaves no variance.

    Raises: MeasurementError: as `tango_interval`, or a difference outside -1..1.
    Source: see `tango_interval`.
    """
    _check_counts(num_lost, num_gained, num_items)
    require(-1 <= difference <= 1, f"a difference of shares cannot be {difference}")
    excess = num_gained - num_lost - num_items * difference
    variance = _tango_variance(num_lost, num_gained, num_items, difference)
    if variance > 0:
        return excess / math.sqrt(variance)
    return math.copysign(math.inf, excess) if excess else 0.0


def tango_p_value_below(num_lost: float, num_gained: float, num_items: float, *, difference: float) -> float:
    """One-sided p-value of the claim that the true difference is below `difference`; see `tango_score`."""
    return NormalDist().cdf(tango_score(num_lost, num_gained, num_items, difference=difference))


def _tango_upper_bound(num_lost: float, num_gained: float, num_items: float, z: float) -> float:
    """The difference at which the score falls to -z, to the last digit."""
    low, high = (num_gained - num_lost) / num_items, 1.0
    while low < (middle := low + (high - low) / 2) < high:
        excess = num_items * middle - (num_gained - num_lost)
        is_below = excess <= z * math.sqrt(_tango_variance(num_lost, num_gained, num_items, middle))
        low, high = (middle, high) if is_below else (low, middle)
    return high


def _tango_variance(num_lost: float, num_gained: float, num_items: float, difference: float) -> float:
    """Variance of gained - lost, in items, under a supposed difference."""
    if difference < 0:  # mirrored, so that the root below is a sum of terms of one sign
        return _tango_variance(num_gained, num_lost, num_items, -difference)
    b = num_lost + num_gained - difference * (2 * num_items - num_gained + num_lost)
    c = num_lost * difference * (1 - difference)
    root = math.sqrt(b * b + 8 * num_items * c)
    share_lost = (b + root) / (4 * num_items) if b > 0 else 2 * c / (root - b) if root > b else 0.0
    return num_items * (2 * share_lost + difference * (1 - difference))


def _check_counts(num_lost: float, num_gained: float, num_items: float) -> None:
    require(num_items > 0, "a comparison needs at least one item")
    counts = f"{num_lost} lost and {num_gained} gained of {num_items} items"
    require(num_lost >= 0 and num_gained >= 0 and num_lost + num_gained <= num_items, counts)


@dataclass(frozen=True, eq=False)
class PairedBootstrap:
    """Two runs on the same items, resampled over clusters; `paired_bootstrap` makes it.

    `columns` are sums over each cluster: the candidate's scores, the reference's, and items; `sums` are those of each
    resample; `flips` are items lost and gained in each cluster, however much. With fewer than `MIN_DIFFERING_CLUSTERS`
    that differ, intervals of what compares the two are drawn out to `tango_interval` of the *effective* counts, each
    item that differs counted as wholly lost or gained. Intervals are None for a single cluster.

    Shapes: columns (3, clusters), sums (resamples, 3), flips (2, clusters).
    """

    columns: NDArray[np.float64]
    sums: NDArray[np.float64]
    flips: NDArray[np.float64]

    @property
    def effective_counts(self) -> tuple[float, float, float]:
        """Items lost, items gained and all items, divided by the design effect of the clusters.

            design effect = 1 + (k - 1) * icc,  k = sum(cluster size^2) / sum(cluster size)

        where the intracluster correlation icc is that of gained minus lost items, from the ratio of its variance
        between clusters to that of independent items, and at least `MIN_INTRACLUSTER_CORRELATION`.

        Source: Kish, "Survey Sampling" (1965), 5.4 and 8.2; Rao and Scott, see `tango_interval`.
        """
        sizes = self.columns[2]
        num_items = float(sizes.sum())
        num_lost, num_gained = (float(count) for count in self.flips.sum(axis=1))
        typical_size = float((sizes**2).sum()) / num_items
        net = self.flips[1] - self.flips[0]
        mean = (num_gained - num_lost) / num_items
        if_independent = num_lost + num_gained - num_items * mean**2
        ratio = float(((net - mean * sizes) ** 2).sum()) / if_independent if if_independent > 0 else 1.0
        correlation = (ratio - 1) / (typical_size - 1) if typical_size > 1 else 0.0
        correlation = min(1.0, max(MIN_INTRACLUSTER_CORRELATION, correlation))
        effect = 1 + (typical_size - 1) * correlation
        return num_lost / effect, num_gained / effect, num_items / effect

    @property
    def is_sparse(self) -> bool:
        """Whether too few clusters differ for a bootstrap alone."""
        differences = np.abs(self.columns[0] - self.columns[1])
        return int((differences > _ROUNDING).sum()) < MIN_DIFFERING_CLUSTERS

    @property
    def has_single_items(self) -> bool:
        """Whether every item is a cluster of its own."""
        return bool((self.columns[2] == 1).all())

    def difference(self, confidence: float) -> Estimate:
        """Difference of the mean scores over items."""
        estimate = self._difference().estimate(confidence)
        if estimate.interval is None or not self.is_sparse:
            return estimate
        interval = _hull(estimate.interval, tango_interval(*self.effective_counts, confidence=confidence))
        return replace(estimate, interval=interval)

    def p_value_below(self, difference: float) -> float:
        """One-sided p-value of the claim that the difference is below `difference`; agrees with its interval."""
        p_value = self._difference().p_value_below(difference)
        return (
            max(p_value, tango_p_value_below(*self.effective_counts, difference=difference))
            if self.is_sparse
            else p_value
        )

    def recovery(self, confidence: float) -> Estimate | None:
        """Share of the reference's mean score that the candidate keeps; None where the reference scores nothing.

        Where few clusters differ the interval is drawn out to that of the difference over the reference's mean.
        """
        if self.columns[1].sum() == 0:
            return None
        estimate = self._ratio(0, 1).estimate(confidence)
        widest = self.difference(confidence).interval
        if estimate.interval is None or widest is None or not self.is_sparse:
            return estimate
        mean = float(self.columns[1].sum() / self.columns[2].sum())
        low, high = (max(0.0, 1 + bound / mean) for bound in (widest.low, widest.high))
        return replace(estimate, interval=_hull(estimate.interval, Interval(low, high, confidence)))

    def candidate_mean(self, confidence: float) -> Estimate:
        """The candidate's mean score; no interval where all clusters score alike, which says nothing of others."""
        return _without_zero_width(self._ratio(0, 2).estimate(confidence))

    def reference_mean(self, confidence: float) -> Estimate:
        """The reference's mean score; see `candidate_mean`."""
        return _without_zero_width(self._ratio(1, 2).estimate(confidence))

    def _ratio(self, top: int, bottom: int) -> RatioBootstrap:
        return ratio_bootstrap(self.columns[top], self.columns[bottom], self.sums[:, [top, bottom]])

    def _difference(self) -> RatioBootstrap:
        resampled = np.stack([self.sums[:, 0] - self.sums[:, 1], self.sums[:, 2]], axis=1)
        return ratio_bootstrap(self.columns[0] - self.columns[1], self.columns[2], resampled)


def paired_bootstrap(
    candidate: Sequence[float],
    reference: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    num_resamples: int,
    seed: int,
) -> PairedBootstrap:
    """Both runs' scores resampled over clusters; entry i of each argument belongs to item i.

    Raises: MeasurementError: no items, lengths differ, or a score outside 0..1.
    Source: arXiv 2411.00640 (clustered paired differences).
    """
    num_items = len(candidate)
    require(num_items >= 1, "a comparison needs at least one item")
    lengths = f"{num_items} scores stand against {len(reference)} and {len(clusters)} clusters"
    require(num_items == len(reference) == len(clusters), lengths)
    by_item = np.array([candidate, reference, [1.0] * num_items], dtype=np.float64)
    require(bool(((by_item >= 0) & (by_item <= 1)).all()), "a score lies outside 0..1")
    places = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    rows = [places[cluster] for cluster in clusters]
    columns = np.array([np.bincount(rows, weights=column) for column in by_item], dtype=np.float64)
    difference = by_item[0] - by_item[1]
    flips = np.array(
        [np.bincount(rows, weights=differs) for differs in (difference < -_ROUNDING, difference > _ROUNDING)]
    )
    return PairedBootstrap(columns, resample_sums(columns, num_resamples=num_resamples, seed=seed), flips)


def paired_difference(
    candidate: Sequence[float],
    reference: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    confidence: float,
    num_resamples: int,
    seed: int,
) -> Estimate:
    """Difference of the mean scores with a BCa bootstrap interval over clusters; see `PairedBootstrap`.

    Raises: MeasurementError: as `paired_bootstrap`.
    """
    bootstrap = paired_bootstrap(candidate, reference, clusters, num_resamples=num_resamples, seed=seed)
    return bootstrap.difference(confidence)


def _hull(one: Interval, other: Interval) -> Interval:
    return Interval(min(one.low, other.low), max(one.high, other.high), one.level)


def _without_zero_width(estimate: Estimate) -> Estimate:
    interval = estimate.interval
    return replace(estimate, interval=None) if interval and interval.high - interval.low < _ROUNDING else estimate


def non_inferiority(interval: Interval, margin: float) -> Verdict:
    """Whether a difference is shown to be no worse than -`margin` (pass), worse (fail), or neither.

    The claim is one-sided: an interval of level 0.9 passes it with an error of at most 5 %. "Not significantly worse"
    is not what is asked; a run too small to tell is undecided, never a pass.

    Raises: MeasurementError: a margin that is not positive.
    Source: ICH E9 "Statistical principles for clinical trials" (1998), 3.3.2.
    """
    require(margin > 0, f"a margin must be above 0, got {margin}")
    if interval.low >= -margin:
        return Verdict.PASS
    return Verdict.FAIL if interval.high < -margin else Verdict.UNDECIDED
