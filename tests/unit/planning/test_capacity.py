"""Replicas for a traffic, against tables of Erlang's C formula and sums by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.errors import UsageError
from lightship.planning.capacity import Traffic, degradable_at_peak, erlang_c, staff, traffic_of_users


def erlang_c_by_definition(num_places: int, offered: float) -> float:
    """The textbook's sum, with logarithms of factorials."""
    top = math.exp(num_places * math.log(offered) - math.lgamma(num_places + 1)) * num_places / (num_places - offered)
    below = sum(math.exp(k * math.log(offered) - math.lgamma(k + 1)) for k in range(num_places))
    return top / (below + top)


@pytest.mark.parametrize(
    ("num_places", "offered", "expected"),
    [
        (1, 0.5, 0.5),  # M/M/1 waits with probability rho
        (2, 1.0, 1 / 3),
        (3, 2.0, 4 / 9),
        (2, 2.0, 1.0),  # not enough
        (2, 5.0, 1.0),
    ],
)
def test_erlang_c_known_values(num_places: int, offered: float, expected: float) -> None:
    assert erlang_c(num_places, offered) == pytest.approx(expected)


@given(num_places=st.integers(1, 120), load=st.floats(0.01, 0.99))
def test_erlang_c_agrees_with_its_definition(num_places: int, load: float) -> None:
    offered = num_places * load
    assert erlang_c(num_places, offered) == pytest.approx(erlang_c_by_definition(num_places, offered), rel=1e-6)


def test_staff_is_the_least_that_keeps_the_share() -> None:
    found = staff(requests_per_s=10.0, service_s=2.0, places_per_replica=4, wait_s=0.5, attainment=0.95)

    def late(num_replicas: int) -> float:
        places = 4 * num_replicas
        return erlang_c_by_definition(places, 20.0) * math.exp(-(places - 20.0) * 0.5 / 2.0)

    assert found.offered == 20.0
    assert late(found.num_replicas) <= 0.05
    assert found.num_replicas == 6 or late(found.num_replicas - 1) > 0.05
    assert found.kept_share == pytest.approx(1 - late(found.num_replicas))


def test_staff_margin_grows_like_the_square_root_of_the_load() -> None:
    margins = [
        staff(requests_per_s=load, service_s=1.0, places_per_replica=1, wait_s=0.0, attainment=0.8).num_replicas - load
        for load in (100, 400, 1600)
    ]
    # Halfin-Whitt: a wait with probability 0.2 needs about 1.06 sqrt(load) more than the load
    for margin, load in zip(margins, (100, 400, 1600), strict=True):
        assert margin / math.sqrt(load) == pytest.approx(1.06, abs=0.1)


def test_staff_one_request_now_and_then_needs_one_replica() -> None:
    assert (
        staff(requests_per_s=0.001, service_s=1.0, places_per_replica=8, wait_s=0.1, attainment=0.99).num_replicas == 1
    )


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_traffic_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="must be finite and above 0"):
        Traffic(rate, 1.0, 2.0)
    with pytest.raises(UsageError, match="must be finite and above 0"):
        traffic_of_users(users=rate, requests_per_user_day=1, peak_factor=2, peak_hours=2)


def test_traffic_peak_below_the_mean_is_refused() -> None:
    with pytest.raises(UsageError, match="below the mean"):
        Traffic(2.0, 1.0, 2.0)


def test_staff_absurd_load_is_refused() -> None:
    with pytest.raises(UsageError, match="at a time"):
        staff(requests_per_s=1e9, service_s=1.0, places_per_replica=1, wait_s=1.0, attainment=0.9)


def test_degradable_at_peak_is_the_days_budget_over_the_peaks_requests() -> None:
    # a tenth of 1/s x 24 h is 2.4; the peak has 3/s x 2 h = 6
    assert degradable_at_peak(Traffic(1.0, 3.0, 2.0), 0.1).peak_share == pytest.approx(0.4)
    assert degradable_at_peak(Traffic(1.0, 1.0, 1.0), 0.1).peak_share == 1.0
