"""Tails of the binomial distribution, from the first principles of its incomplete beta function. Pure, stdlib only.

Not a library of distributions: exact tests and exact intervals of shares need one tail, and scipy is too large for it.
"""

from __future__ import annotations

import math

from lightship.evaluation.statistics.bootstrap import require

# Terms of the continued fraction: it needs about sqrt(trials) at worst, so these are enough for a billion trials.
_MAX_TERMS = 100_000
# Relative change of the fraction at which it stands; a little above the spacing of doubles.
_TOLERANCE = 1e-15
# Stands in for a zero in the recurrence, where one would be divided by.
_TINY = 1e-300


def binomial_upper_tail(num_successes: int, num_trials: int, probability: float) -> float:
    """P(X >= num_successes) for X ~ Binomial(num_trials, probability), however small, to eight digits.

    The tail is the regularised incomplete beta function I_p(k, n - k + 1). What limits the digits is the logarithm of
    factorials: nine are left at a million trials, seven at ten million.

    Raises: MeasurementError: a negative number of trials, or a probability outside 0..1.
    Source: DLMF 8.17.5 (tail) and 8.17.22 (continued fraction).
    """
    _check(num_trials, probability)
    return _upper_tail(num_successes, num_trials, probability, 1 - probability)


def binomial_lower_tail(num_successes: int, num_trials: int, probability: float) -> float:
    """P(X <= num_successes), which is the upper tail of the failures; see `binomial_upper_tail`."""
    _check(num_trials, probability)
    return _upper_tail(num_trials - num_successes, num_trials, 1 - probability, probability)


def _check(num_trials: int, probability: float) -> None:
    require(num_trials >= 0, f"a number of trials cannot be {num_trials}")
    require(0 <= probability <= 1, f"a probability cannot be {probability}")


def _upper_tail(num_successes: int, num_trials: int, probability: float, complement: float) -> float:
    """The tail from a probability and its complement, of which the smaller one is exact."""
    if num_successes <= 0:
        return 1.0
    if num_successes > num_trials or probability == 0:
        return 0.0
    if complement == 0:
        return 1.0
    above, below = num_successes, num_trials - num_successes + 1
    if probability < (above + 1) / (above + below + 2):
        return _incomplete_beta(above, below, probability, complement)
    return 1 - _incomplete_beta(below, above, complement, probability)


def _incomplete_beta(a: int, b: int, x: float, complement: float) -> float:
    """I_x(a, b) where x is left of the bulk, so that the fraction converges; `complement` is 1 - x."""
    log_x, log_complement = (
        (math.log(x), math.log1p(-x)) if x < complement else (math.log1p(-complement), math.log(complement))
    )
    log_front = math.lgamma(a + b) - math.lgamma(a + 1) - math.lgamma(b) + a * log_x + b * log_complement
    return min(1.0, math.exp(log_front) * _beta_fraction(a, b, x))


def _beta_fraction(a: int, b: int, x: float) -> float:
    """1 / (1 + d1 / (1 + d2 / (1 + ...))) with the coefficients of DLMF 8.17.23, by Lentz's method."""
    numerator, denominator = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1))
    fraction = denominator
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = 1.0
        for coefficient in (even, odd):
            denominator = 1 / _nonzero(1 + coefficient * denominator)
            numerator = _nonzero(1 + coefficient / numerator)
            change = denominator * numerator
            fraction *= change
        if abs(change - 1) < _TOLERANCE:
            return fraction
    raise AssertionError(f"the continued fraction of I_{x}({a}, {b}) did not converge")


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
