"""Intervals for measured figures: bootstrap over documents, Wilson for shares. Pure; randomness comes from the seed.

Every bootstrap here resamples *clusters* (documents, conversations, runs), because tokens of one document are not
independent. Both statistics needed are ratios of sums over clusters: bits/byte is nats over bytes, a paired recovery is
the reference's nats over the candidate's, and a plain mean is a sum over a count.

Not a general statistics library: scipy offers these and more, but it is large and needed only as the tests' oracle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from lightship.errors import MeasurementError
from lightship.ports.measurements import Interval

try:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray
except ImportError as error:  # pragma: no cover - shown by a test in a process without numpy
    raise MeasurementError(
        "measuring needs numpy, which is not installed", hint="Install it with: pip install 'lightship[local]'"
    ) from error

_MAX_CELLS_PER_CHUNK = 2**20  # resampled indices held at once: 8 MiB, whatever the number of documents


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


def bootstrap_ratio_of_sums(
    numerators: Sequence[float] | NDArray[np.float64],
    denominators: Sequence[float] | NDArray[np.float64],
    *,
    confidence: float,
    num_resamples: int,
    seed: int,
) -> Estimate:
    """sum(numerators) / sum(denominators) with a BCa bootstrap interval; entry i of both belongs to cluster i.

    Clusters are drawn with replacement, so a pair stays together: for paired data this is the paired bootstrap. BCa
    corrects the percentile interval for bias z0 and acceleration a:

        z0 = Phi^-1(share of resampled values below the estimate, ties half)
        a = sum(d^3) / (6 * sum(d^2)^1.5),  d = mean(jackknife values) - jackknife value i
        bound(q) = quantile at Phi(z0 + (z0 + z_q) / (1 - a * (z0 + z_q)))

    Where z0 is not finite (nearly all resamples on one side) the plain percentile interval is given.

    Raises: MeasurementError: nothing to resample, lengths differ, a value is not finite, a denominator is not positive.
    Source: Efron, "Better bootstrap confidence intervals", JASA 82 (1987); clustering: arXiv 2411.00640.
    """
    top, bottom = _paired_columns(numerators, denominators)
    _require(0 < confidence < 1, f"confidence must lie between 0 and 1, got {confidence}")
    _require(num_resamples >= 1, f"num_resamples must be >= 1, got {num_resamples}")
    value = float(top.sum() / bottom.sum())
    if len(top) < 2:
        return Estimate(value=value, interval=None, num_items=len(top))
    resampled = _resampled_ratios(top, bottom, num_resamples=num_resamples, seed=seed)
    jackknife = (top.sum() - top) / (bottom.sum() - bottom)
    tail = (1 - confidence) / 2
    shares = [_bca_share(share, value, resampled, jackknife) for share in (tail, 1 - tail)]
    low, high = np.quantile(resampled, shares)
    return Estimate(value, Interval(low=float(low), high=float(high), level=confidence), num_items=len(top))


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.float64], *, confidence: float, num_resamples: int, seed: int
) -> Estimate:
    """The mean over clusters with a BCa bootstrap interval; see `bootstrap_ratio_of_sums`."""
    return bootstrap_ratio_of_sums(
        values, np.ones(len(values)), confidence=confidence, num_resamples=num_resamples, seed=seed
    )


def wilson_interval(num_successes: int, num_trials: int, *, confidence: float) -> Interval:
    """Interval of a share of independent trials, honest at 0 and 1 too.

        centre = (p + z^2 / 2n) / (1 + z^2 / n)
        half = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2)

    Raises: MeasurementError: no trials, or successes outside 0..trials.
    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    _require(num_trials >= 1, "a share needs at least one trial")
    _require(0 <= num_successes <= num_trials, f"{num_successes} successes of {num_trials} trials")
    _require(0 < confidence < 1, f"confidence must lie between 0 and 1, got {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = num_successes / num_trials
    shrink = 1 + z * z / num_trials
    centre = (share + z * z / (2 * num_trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / num_trials + z * z / (4 * num_trials**2))
    # At the ends the formula is exact in mathematics and off by one rounding in floating point.
    low = 0.0 if num_successes == 0 else max(0.0, centre - half)
    high = 1.0 if num_successes == num_trials else min(1.0, centre + half)
    return Interval(low=low, high=high, level=confidence)


def _paired_columns(numerators: ArrayLike, denominators: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    _require(top.shape == bottom.shape, f"{top.size} numerators stand against {bottom.size} denominators")
    _require(top.size > 0, "there is nothing to average")
    _require(bool(np.isfinite(top).all() and np.isfinite(bottom).all()), "a value is not finite")
    _require(bool((bottom > 0).all()), "every denominator must be positive")
    return top, bottom


def _resampled_ratios(
    top: NDArray[np.float64], bottom: NDArray[np.float64], *, num_resamples: int, seed: int
) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    ratios = np.empty(num_resamples)
    rows_per_chunk = max(1, _MAX_CELLS_PER_CHUNK // len(top))
    for start in range(0, num_resamples, rows_per_chunk):
        num_rows = min(rows_per_chunk, num_resamples - start)
        drawn = generator.integers(len(top), size=(num_rows, len(top)))
        ratios[start : start + num_rows] = top[drawn].sum(axis=1) / bottom[drawn].sum(axis=1)
    return ratios


def _bca_share(share: float, value: float, resampled: NDArray[np.float64], jackknife: NDArray[np.float64]) -> float:
    below = float(np.mean(resampled < value) + np.mean(resampled <= value)) / 2
    spread = jackknife.mean() - jackknife
    sum_of_squares = float((spread**2).sum())
    if not 0 < below < 1 or sum_of_squares == 0:
        return share
    normal = NormalDist()
    bias = normal.inv_cdf(below)
    acceleration = float((spread**3).sum()) / (6 * sum_of_squares**1.5)
    shifted = bias + normal.inv_cdf(share)
    if 1 - acceleration * shifted <= 0:  # beyond the pole of the correction the order of quantiles would flip
        return share
    return normal.cdf(bias + shifted / (1 - acceleration * shifted))


def _require(is_met: bool, message: str) -> None:
    if not is_met:
        raise MeasurementError(message)
