from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.statistics.correction import holm_adjusted

multitest = pytest.importorskip("statsmodels.stats.multitest")

P_VALUES = st.dictionaries(st.text(max_size=4), st.floats(0, 1), min_size=1, max_size=12)


def test_holm_adjusted_by_hand() -> None:
    # sorted 0.01, 0.02, 0.04: times 3, 2, 1 = 0.03, 0.04, 0.04
    adjusted = holm_adjusted({"b": 0.02, "c": 0.04, "a": 0.01})
    assert adjusted == pytest.approx({"b": 0.04, "c": 0.04, "a": 0.03})
    assert list(adjusted) == ["b", "c", "a"]


@pytest.mark.parametrize(
    "p_values", [[0.3], [0.01, 0.01, 0.01], [0.04, 0.001, 0.5, 0.02, 0.9, 0.02], [0.0, 1.0, 0.2]], ids=str
)
def test_holm_adjusted_agrees_with_statsmodels(p_values: list[float]) -> None:
    oracle = multitest.multipletests(p_values, method="holm")[1]
    ours = holm_adjusted({f"task {place}": p_value for place, p_value in enumerate(p_values)})
    assert list(ours.values()) == pytest.approx(list(oracle), abs=1e-12)


@given(P_VALUES)
@settings(max_examples=80, deadline=None)
def test_holm_adjusted_raises_every_value_and_keeps_their_order(p_values: dict[str, float]) -> None:
    adjusted = holm_adjusted(p_values)
    by_size = sorted(p_values, key=lambda name: p_values[name])
    assert all(p_values[name] <= adjusted[name] <= 1 for name in p_values)
    assert sorted(adjusted[name] for name in by_size) == [adjusted[name] for name in by_size]


def test_holm_adjusted_of_nothing_is_nothing() -> None:
    assert holm_adjusted({}) == {}


@pytest.mark.parametrize("p_value", [-0.01, 1.01, math.nan])
def test_holm_adjusted_what_is_no_p_value_is_refused(p_value: float) -> None:
    with pytest.raises(MeasurementError, match="p-value of arc"):
        holm_adjusted({"arc": p_value})
