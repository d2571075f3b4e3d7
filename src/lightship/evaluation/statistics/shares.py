"""Intervals of a share of independent trials. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from lightship.evaluation.statistics.binomial import binomial_lower_tail, binomial_upper_tail
from lightship.evaluation.statistics.bootstrap import require
from lightship.ports.measurements import Interval


def wilson_interval(num_successes: int, num_trials: int, *, confidence: float) -> Interval:
    """Interval of a share of independent trials, honest at 0 and 1 too.

        centre = (p + z^2 / 2n) / (1 + z^2 / n)
        half = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2)

    Raises: MeasurementError: no trials, or successes outside 0..trials.
    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    _check_share(num_successes, num_trials, confidence)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = num_successes / num_trials
    shrink = 1 + z * z / num_trials
    centre = (share + z * z / (2 * num_trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / num_trials + z * z / (4 * num_trials**2))
    # At the ends the formula is exact in mathematics and off by one rounding in floating point.
    low = 0.0 if num_successes == 0 else max(0.0, centre - half)
    high = 1.0 if num_successes == num_trials else min(1.0, centre + half)
    return Interval(low=low, high=high, level=confidence)


def clopper_pearson_interval(num_successes: int, num_trials: int, *, confidence: float) -> Interval:
    """Exact interval of a share of independent trials: it covers the share at least as often as promised, always.

    The bounds are the shares under which so many successes, or so few, have a chance of (1 - confidence) / 2. The price
    of the guarantee is width; use `wilson_interval` unless the guarantee itself is needed.

    Raises: MeasurementError: no trials, or successes outside 0..trials.
    Source: Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26 (1934).
    """
    _check_share(num_successes, num_trials, confidence)
    tail = (1 - confidence) / 2
    low, high = 0.0, 1.0
    if num_successes > 0:
        low = _bisect_share(lambda share: binomial_upper_tail(num_successes, num_trials, share) <= tail)
    if num_successes < num_trials:
        high = _bisect_share(lambda share: binomial_lower_tail(num_successes, num_trials, share) >= tail)
    return Interval(low=low, high=high, level=confidence)


def _bisect_share(is_below: Callable[[float], bool]) -> float:
    """The share at which `is_below` turns false, to the last digit."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return low


def _check_share(num_successes: int, num_trials: int, confidence: float) -> None:
    require(num_trials >= 1, "a share needs at least one trial")
    require(0 <= num_successes <= num_trials, f"{num_successes} successes of {num_trials} trials")
    require(0 < confidence < 1, f"confidence must lie between 0 and 1, got {confidence}")
