"""Bootstrap intervals over clusters. Pure; randomness comes from the seed.

Every bootstrap here resamples *clusters* (documents, conversations, runs), because tokens of one document are not
independent. Both statistics needed are ratios of sums over clusters: bits/byte is nats over bytes, a paired recovery is
the reference's nats over the candidate's, and a plain mean is a sum over a count.

Not a general statistics library: scipy offers these and more, but it is large and needed only as the tests' oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightship.errors import MeasurementError
from lightship.ports.measurements import Interval

_MAX_CELLS_PER_CHUNK = 2**20  # resampled indices held at once: 8 MiB, whatever the number of documents
# Drawing how often instead of which pays when each set of values occurs this often, on average.
_MIN_REPEATS_TO_COUNT = 8
# Clusters from which one resample at a time is faster than a chunk: its counts fit into the processor's cache.
_MIN_CLUSTERS_TO_WEIGH = 1000


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; `interval` is None when fewer than two clusters leave nothing to resample."""

    value: float
    interval: Interval | None
    num_items: int

    def mapped(self, increasing: Callable[[float], float]) -> Estimate:
        """The estimate of an increasing function of the figure; quantiles carry over unchanged."""
        interval = self.interval and Interval(
            low=increasing(self.interval.low), high=increasing(self.interval.high), level=self.interval.level
        )
        return Estimate(value=increasing(self.value), interval=interval, num_items=self.num_items)


@dataclass(frozen=True, eq=False)
class RatioBootstrap:
    """Resampled values of a ratio of sums, from which intervals and p-values are read; `resample_ratio` makes it.

    `resampled` is None when nothing can be resampled: fewer than two clusters, or draws in which the lower sum is zero.
    BCa corrects quantiles for bias z0 and acceleration a:

        z0 = Phi^-1(share of resampled values below the estimate, ties half)
        a = sum(d^3) / (6 * sum(d^2)^1.5),  d = mean(jackknife values) - jackknife value i
        bound(q) = quantile at Phi(z0 + (z0 + z_q) / (1 - a * (z0 + z_q)))

    Where z0 is not finite (nearly all resamples on one side) `is_corrected` is false and quantiles are taken plainly.
    """

    value: float
    num_clusters: int
    resampled: NDArray[np.float64] | None
    is_corrected: bool = False
    bias: float = 0.0
    acceleration: float = 0.0

    def estimate(self, confidence: float) -> Estimate:
        """The ratio with its two-sided interval."""
        require(0 < confidence < 1, f"confidence must lie between 0 and 1, got {confidence}")
        if self.resampled is None:
            return Estimate(value=self.value, interval=None, num_items=self.num_clusters)
        tail = (1 - confidence) / 2
        low, high = np.quantile(self.resampled, [self._share(tail), self._share(1 - tail)])
        interval = Interval(low=float(low), high=float(high), level=confidence)
        return Estimate(self.value, interval, num_items=self.num_clusters)

    def p_value_below(self, threshold: float) -> float:
        """One-sided p-value of the claim that the ratio is below `threshold`: where the BCa upper bound meets it.

        Never below 1 / (resamples + 1), which is as far as resampling can see; 1 where nothing can be resampled.
        """
        if self.resampled is None:
            return 1.0
        num_resamples = len(self.resampled)
        num_below = float((self.resampled < threshold).sum() + (self.resampled <= threshold).sum()) / 2
        share = min(max(num_below, 1.0), float(num_resamples)) / (num_resamples + 1)
        normal = NormalDist()
        shifted = normal.inv_cdf(share) - self.bias
        if not self.is_corrected or 1 + self.acceleration * shifted <= 0:
            return 1 - share
        quantile = shifted / (1 + self.acceleration * shifted) - self.bias
        return max(normal.cdf(-quantile), 1 / (num_resamples + 1))

    def _share(self, share: float) -> float:
        """The share at which to read the resampled values so that the quantile is the corrected one."""
        if not self.is_corrected:
            return share
        normal = NormalDist()
        shifted = self.bias + normal.inv_cdf(share)
        if 1 - self.acceleration * shifted <= 0:  # beyond the pole of the correction the order of quantiles would flip
            return share
        return normal.cdf(self.bias + shifted / (1 - self.acceleration * shifted))


def bootstrap_ratio_of_sums(
    numerators: Sequence[float] | NDArray[np.float64],
    denominators: Sequence[float] | NDArray[np.float64],
    *,
    confidence: float,
    num_resamples: int,
    seed: int,
) -> Estimate:
    """sum(numerators) / sum(denominators) with a BCa bootstrap interval; entry i of both belongs to cluster i.

    Raises: MeasurementError: nothing to resample, lengths differ, a value is not finite, a denominator is not positive.
    Source: see `resample_ratio`.
    """
    top, bottom = _paired_columns(numerators, denominators)
    require(bool((bottom > 0).all()), "every denominator must be positive")
    return resample_ratio(top, bottom, num_resamples=num_resamples, seed=seed).estimate(confidence)


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.float64], *, confidence: float, num_resamples: int, seed: int
) -> Estimate:
    """The mean over clusters with a BCa bootstrap interval; see `bootstrap_ratio_of_sums`."""
    return bootstrap_ratio_of_sums(
        values, np.ones(len(values)), confidence=confidence, num_resamples=num_resamples, seed=seed
    )


def resample_ratio(
    numerators: Sequence[float] | NDArray[np.float64],
    denominators: Sequence[float] | NDArray[np.float64],
    *,
    num_resamples: int,
    seed: int,
) -> RatioBootstrap:
    """The bootstrap of sum(numerators) / sum(denominators); entry i of both belongs to cluster i.

    Clusters are drawn with replacement, so a pair stays together: for paired data this is the paired bootstrap. Single
    denominators may be zero, their sum may not.

    Raises: MeasurementError: nothing to resample, lengths differ, a value is not finite, a denominator is negative, or
        all are zero.
    Source: Efron, "Better bootstrap confidence intervals", JASA 82 (1987); clustering: arXiv 2411.00640.
    """
    top, bottom = _paired_columns(numerators, denominators)
    return ratio_bootstrap(top, bottom, resample_sums(np.stack([top, bottom]), num_resamples=num_resamples, seed=seed))


def ratio_bootstrap(top: NDArray[np.float64], bottom: NDArray[np.float64], sums: NDArray[np.float64]) -> RatioBootstrap:
    """The bootstrap of sum(top) / sum(bottom) whose resampled sums are there already, as rows of (top, bottom).

    Raises: MeasurementError: a denominator is negative, or all are zero.
    """
    require(bool((bottom >= 0).all()) and bottom.sum() > 0, "denominators must be zero or more, and not all zero")
    value = float(top.sum() / bottom.sum())
    jackknife_bottom = bottom.sum() - bottom
    if len(top) < 2 or not (jackknife_bottom > 0).all() or not (sums[:, 1] > 0).all():
        return RatioBootstrap(value, len(top), None)
    resampled = sums[:, 0] / sums[:, 1]
    jackknife = (top.sum() - top) / jackknife_bottom
    below = float(np.mean(resampled < value) + np.mean(resampled <= value)) / 2
    spread = jackknife.mean() - jackknife
    sum_of_squares = float((spread**2).sum())
    if not 0 < below < 1 or sum_of_squares == 0:
        return RatioBootstrap(value, len(top), resampled)
    acceleration = float((spread**3).sum()) / (6 * sum_of_squares**1.5)
    return RatioBootstrap(value, len(top), resampled, True, NormalDist().inv_cdf(below), acceleration)


def resample_sums(columns: NDArray[np.float64], *, num_resamples: int, seed: int) -> NDArray[np.float64]:
    """Sums of each column over clusters drawn with replacement, the same draw for all columns.

    Shapes: columns is (columns, clusters); the result (num_resamples, columns).
    Raises: MeasurementError: fewer than one resample.
    """
    require(num_resamples >= 1, f"num_resamples must be >= 1, got {num_resamples}")
    generator = np.random.default_rng(seed)
    num_clusters = columns.shape[1]
    kinds, counts = np.unique(columns, axis=1, return_counts=True)
    if len(counts) * _MIN_REPEATS_TO_COUNT <= num_clusters:
        # Scores of right and wrong make a handful of different columns: how often each is drawn is all that matters.
        repeats = generator.multinomial(num_clusters, counts / num_clusters, size=num_resamples)
        return np.asarray(repeats @ kinds.T)
    sums = np.empty((num_resamples, len(columns)))
    if num_clusters >= _MIN_CLUSTERS_TO_WEIGH:
        for row in range(num_resamples):
            weights = np.bincount(generator.integers(num_clusters, size=num_clusters), minlength=num_clusters)
            sums[row] = columns @ weights
        return sums
    rows_per_chunk = max(1, _MAX_CELLS_PER_CHUNK // num_clusters)
    for start in range(0, num_resamples, rows_per_chunk):
        rows = slice(start, min(start + rows_per_chunk, num_resamples))
        members = generator.integers(num_clusters, size=(rows.stop - rows.start, num_clusters))
        for place, column in enumerate(columns):
            sums[rows, place] = column[members].sum(axis=1)
    return sums


def _paired_columns(numerators: ArrayLike, denominators: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    require(top.shape == bottom.shape, f"{top.size} numerators stand against {bottom.size} denominators")
    require(top.size > 0, "there is nothing to average")
    require(bool(np.isfinite(top).all() and np.isfinite(bottom).all()), "a value is not finite")
    return top, bottom


def require(is_met: bool, message: str) -> None:
    if not is_met:
        raise MeasurementError(message)
