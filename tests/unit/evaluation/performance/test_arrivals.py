"""Patterns of arrivals against what their definitions say."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.performance.arrivals import (
    Arrivals,
    BurstArrivals,
    ConstantArrivals,
    PoissonArrivals,
    RampArrivals,
)


def gaps(offsets_s: tuple[float, ...]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(offsets_s)]


def test_constant_arrivals_are_hand_computed() -> None:
    assert ConstantArrivals(2.0).offsets_s(duration_s=2.0, seed=0) == (0.25, 0.75, 1.25, 1.75)


def test_burst_arrivals_are_hand_computed() -> None:
    found = BurstArrivals(num_requests=2, every_s=3.0).offsets_s(duration_s=9.0, seed=0)
    assert found == (1.5, 1.5, 4.5, 4.5, 7.5, 7.5)


def test_poisson_arrivals_have_the_rate_and_exponential_gaps() -> None:
    found = PoissonArrivals(50).offsets_s(duration_s=400, seed=1)
    assert len(found) == pytest.approx(20_000, abs=4 * 20_000**0.5)
    between = gaps(found)
    assert stdev(between) / fmean(between) == pytest.approx(1.0, abs=0.03)  # of an exponential distribution
    # P(gap > mean) = 1 / e
    assert sum(gap > 1 / 50 for gap in between) / len(between) == pytest.approx(math.exp(-1), abs=0.015)


@pytest.mark.parametrize("burstiness", [0.25, 4.0])
def test_gamma_arrivals_have_the_stated_variation(burstiness: float) -> None:
    between = gaps(PoissonArrivals(50, burstiness=burstiness).offsets_s(duration_s=400, seed=2))
    assert fmean(between) == pytest.approx(1 / 50, rel=0.05)
    assert stdev(between) / fmean(between) == pytest.approx(burstiness**-0.5, rel=0.06)


@pytest.mark.parametrize(("first", "last"), [(0, 100), (100, 0), (20, 80), (50, 50)])
def test_ramp_arrivals_follow_the_line(first: float, last: float) -> None:
    duration_s = 100.0
    found = RampArrivals(first, last).offsets_s(duration_s=duration_s, seed=3)
    # the expected count up to t is the area under the line, with Poisson's spread
    for t in (25.0, 50.0, 100.0):
        expected = first * t + (last - first) * t * t / (2 * duration_s)
        assert sum(offset < t for offset in found) == pytest.approx(expected, abs=4.5 * expected**0.5)


PATTERNS: list[Arrivals] = [
    ConstantArrivals(7.3),
    PoissonArrivals(7.3),
    PoissonArrivals(7.3, burstiness=0.5),
    BurstArrivals(3, 0.4),
    RampArrivals(1.5, 9.0),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
@given(seed=st.integers(0, 2**32), duration_s=st.floats(3.0, 50.0))
def test_arrivals_ascend_within_the_run_and_follow_the_seed(pattern: Arrivals, seed: int, duration_s: float) -> None:
    found = pattern.offsets_s(duration_s=duration_s, seed=seed)
    assert list(found) == sorted(found)
    assert found[0] >= 0
    assert found[-1] < duration_s
    assert found == pattern.offsets_s(duration_s=duration_s, seed=seed)


def test_arrivals_of_another_seed_differ() -> None:
    for pattern in (PoissonArrivals(9), PoissonArrivals(9, 0.5), RampArrivals(3, 9)):
        assert pattern.offsets_s(duration_s=9, seed=1) != pattern.offsets_s(duration_s=9, seed=2)


def test_arrivals_names_say_what_they_are() -> None:
    names = [pattern.name for pattern in PATTERNS]
    assert names == ["constant/r7.3", "poisson/r7.3", "gamma0.5/r7.3", "burst3/r7.5", "ramp/r1.5-9"]


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_arrivals_senseless_rates_and_durations_are_refused(bad: float) -> None:
    for make in (ConstantArrivals, PoissonArrivals, lambda value: BurstArrivals(1, value)):
        with pytest.raises(MeasurementError, match="above 0"):
            make(bad)
    with pytest.raises(MeasurementError, match="burstiness"):
        PoissonArrivals(1.0, burstiness=bad)
    for pattern in PATTERNS:
        with pytest.raises(MeasurementError, match="the duration must be"):
            pattern.offsets_s(duration_s=bad, seed=0)


def test_arrivals_empty_burst_and_flat_ramp_of_nothing_are_refused() -> None:
    with pytest.raises(MeasurementError, match="at least one request, got 0"):
        BurstArrivals(0, 1.0)
    with pytest.raises(MeasurementError, match="from 0 to 0"):
        RampArrivals(0, 0)
    with pytest.raises(MeasurementError, match="the rate at the end must be >= 0"):
        RampArrivals(1, -1)


def test_arrivals_too_many_are_refused_before_they_are_made() -> None:
    for pattern in (ConstantArrivals(1e9), PoissonArrivals(1e9), BurstArrivals(10**9, 1.0), RampArrivals(0, 1e9)):
        with pytest.raises(MeasurementError, match="at most 2000000"):
            pattern.offsets_s(duration_s=60.0, seed=0)


def test_arrivals_none_at_all_is_refused() -> None:
    with pytest.raises(MeasurementError, match=r"no request arrives within 0\.1 s"):
        ConstantArrivals(1.0).offsets_s(duration_s=0.1, seed=0)
