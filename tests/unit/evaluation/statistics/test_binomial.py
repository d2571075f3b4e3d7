from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.statistics.binomial import binomial_lower_tail, binomial_upper_tail

scipy_stats = pytest.importorskip("scipy.stats")


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(-1, n + 1), st.just(n))), st.fractions(0, 1))
@settings(max_examples=100, deadline=None)
def test_binomial_tails_agree_with_exact_fractions(counts: tuple[int, int], probability: Fraction) -> None:
    num_successes, num_trials = counts
    chances = [
        math.comb(num_trials, k) * probability**k * (1 - probability) ** (num_trials - k) for k in range(num_trials + 1)
    ]
    upper = float(sum((chance for k, chance in enumerate(chances) if k >= num_successes), Fraction(0)))
    lower = float(sum((chance for k, chance in enumerate(chances) if k <= num_successes), Fraction(0)))
    p = float(probability)
    # a probability that no double holds differs from its fraction by a rounding, which the power of n multiplies
    assert binomial_upper_tail(num_successes, num_trials, p) == pytest.approx(upper, rel=1e-9, abs=1e-300)
    assert binomial_lower_tail(num_successes, num_trials, p) == pytest.approx(lower, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("num_trials", [1000, 1_000_000])
@pytest.mark.parametrize("probability", [1e-7, 0.003, 0.5, 0.98])
@pytest.mark.parametrize("num_deviations", [-7, -1, 0, 0.5, 3, 12])
def test_binomial_tails_of_many_trials_agree_with_scipy(
    num_trials: int, probability: float, num_deviations: float
) -> None:
    deviation = math.sqrt(num_trials * probability * (1 - probability))
    num_successes = min(num_trials, max(0, round(num_trials * probability + num_deviations * deviation)))
    upper = scipy_stats.binom.sf(num_successes - 1, num_trials, probability)
    lower = scipy_stats.binom.cdf(num_successes, num_trials, probability)
    assert binomial_upper_tail(num_successes, num_trials, probability) == pytest.approx(upper, rel=1e-8)
    assert binomial_lower_tail(num_successes, num_trials, probability) == pytest.approx(lower, rel=1e-8)


def test_binomial_lower_tail_of_a_tiny_probability_keeps_its_digits() -> None:
    # (1 - p)^n with p = 1e-12: 1 - 1e-12 as a double is off by 2e-5 of p, which would show
    assert 1 - binomial_lower_tail(0, 10, 1e-12) == pytest.approx(1e-11, rel=1e-4)


@pytest.mark.parametrize(("num_trials", "probability"), [(-1, 0.5), (3, -0.1), (3, 1.1), (3, math.nan)])
def test_binomial_tails_impossible_arguments_are_refused(num_trials: int, probability: float) -> None:
    for tail in (binomial_upper_tail, binomial_lower_tail):
        with pytest.raises(MeasurementError):
            tail(1, num_trials, probability)
