"""The mean of a few independent runs with Student's t interval. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from lightship.evaluation.statistics.bootstrap import Estimate, require
from lightship.ports.measurements import Interval

# Halvings of a bracket of width 2**12: leaves less than one part in 10**12 of any quantile asked for here.
_BISECTION_STEPS = 60
_LARGEST_QUANTILE = 4096.0


def mean_of_runs(values: Sequence[float], *, confidence: float) -> Estimate:
    """The mean of runs that were made independently, with the interval mean +- t(n-1) * s / sqrt(n).

    It spans what differs between runs (a busy neighbour, another placement of threads), which no interval from inside
    one run can see. None stands for the interval of a single run.

    Raises: MeasurementError: no values, one is not finite, or the confidence is not a share.
    """
    require(len(values) > 0, "there is no run to average")
    require(all(map(math.isfinite, values)), "the figure of a run is not finite")
    mean, num_runs = fmean(values), len(values)
    if num_runs == 1:
        return Estimate(mean, None, num_items=1)
    half = student_t_quantile(confidence, degrees=num_runs - 1) * stdev(values) / math.sqrt(num_runs)
    return Estimate(mean, Interval(mean - half, mean + half, confidence), num_items=num_runs)


def student_t_quantile(confidence: float, *, degrees: int) -> float:
    """The t with P(-t < T < t) = confidence, for Student's distribution with whole degrees of freedom.

    Raises: MeasurementError: confidence outside 0..1, or so close to 1 that the quantile passes 4096.

    >>> round(student_t_quantile(0.95, degrees=2), 3)
    4.303
    """
    require(0 < confidence < 1, f"confidence must lie between 0 and 1, got {confidence}")
    require(degrees >= 1, f"degrees of freedom must be >= 1, got {degrees}")
    low, high = 0.0, _LARGEST_QUANTILE
    require(_central_share(high, degrees) >= confidence, f"a confidence of {confidence} needs more than two runs")
    for _ in range(_BISECTION_STEPS):
        middle = (low + high) / 2
        if _central_share(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _central_share(t: float, degrees: int) -> float:
    """P(-t < T < t) as a finite sum in cos^2(theta), theta = atan(t / sqrt(degrees)).

    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 (odd) and 26.7.4 (even).
    """
    theta = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    if degrees % 2 == 0:
        term = total = 1.0
        for k in range(1, degrees // 2):
            term *= (2 * k - 1) / (2 * k) * cosine**2
            total += term
        return sine * total
    term = total = cosine
    for k in range(1, (degrees - 1) // 2):
        term *= 2 * k / (2 * k + 1) * cosine**2
        total += term
    return 2 / math.pi * (theta + (sine * total if degrees > 1 else 0.0))
