from __future__ import annotations

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.statistics.student import mean_of_runs, student_t_quantile

# Two-sided quantiles as printed in the tables at the end of statistics textbooks (Fisher and Yates, table III).
TABLE = {
    (0.95, 1): 12.706,
    (0.95, 2): 4.303,
    (0.95, 3): 3.182,
    (0.95, 4): 2.776,
    (0.95, 9): 2.262,
    (0.95, 10): 2.228,
    (0.95, 30): 2.042,
    (0.95, 120): 1.980,
    (0.99, 1): 63.657,
    (0.99, 5): 4.032,
    (0.90, 7): 1.895,
    (0.50, 2): 0.816,
}


@pytest.mark.parametrize(("confidence", "degrees"), TABLE)
def test_student_t_quantile_equals_the_printed_table(confidence: float, degrees: int) -> None:
    assert student_t_quantile(confidence, degrees=degrees) == pytest.approx(TABLE[confidence, degrees], abs=6e-4)


def test_mean_of_runs_three_values_by_hand() -> None:
    """Mean 12, standard deviation 2, so half a width of 4.3027 * 2 / sqrt(3) = 4.968."""
    estimate = mean_of_runs([10.0, 12.0, 14.0], confidence=0.95)
    assert (estimate.value, estimate.num_items) == (12.0, 3)
    assert estimate.interval is not None
    assert estimate.interval.low == pytest.approx(12 - 4.968, abs=1e-3)
    assert estimate.interval.high == pytest.approx(12 + 4.968, abs=1e-3)


def test_mean_of_runs_one_value_has_no_interval() -> None:
    assert mean_of_runs([3.0], confidence=0.95).interval is None


@pytest.mark.parametrize(
    ("values", "confidence"), [([], 0.95), ([1.0, float("nan")], 0.95), ([1.0, 2.0], 1.0), ([1.0, 2.0], 0.9999)]
)
def test_mean_of_runs_without_an_honest_interval_is_refused(values: list[float], confidence: float) -> None:
    with pytest.raises(MeasurementError):
        mean_of_runs(values, confidence=confidence)
