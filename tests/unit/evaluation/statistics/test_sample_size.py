from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.statistics.paired import tango_interval
from lightship.evaluation.statistics.sample_size import (
    detectable_margin,
    format_points,
    items_sentence,
    items_to_decide,
    paired_items_required,
    unpaired_items_required,
)


def test_paired_items_required_of_the_usual_gates() -> None:
    # (1.6449 + 0.8416)^2 = 6.1826; times 0.05 / 0.02^2 = 772.8, and 0.05 / 0.01^2 = 3091.3
    assert paired_items_required(0.05, 0.02) == 773
    assert paired_items_required(0.05, 0.01) == 3092


def test_paired_items_required_at_other_error_rates() -> None:
    # (2.3263 + 1.2816)^2 = 13.0167; times 0.1 / 0.05^2 = 520.7
    assert paired_items_required(0.1, 0.05, alpha_one_sided=0.01, power=0.9) == 521


def test_unpaired_items_required_are_eight_times_as_many() -> None:
    # 6.1826 * 2 * 0.7 * 0.3 / 0.02^2 = 6491.7
    assert unpaired_items_required(0.70, 0.02) == 6492


def test_paired_items_required_without_any_difference_is_where_the_bound_reaches_the_margin() -> None:
    needed = paired_items_required(0.0, 0.02)
    assert tango_interval(0, 0, needed, confidence=0.9).low >= -0.02
    assert tango_interval(0, 0, needed - 1, confidence=0.9).low < -0.02


def test_paired_items_required_give_the_power_they_promise() -> None:
    generator = np.random.default_rng(0)
    num_items = paired_items_required(0.05, 0.02)
    draws = generator.multinomial(num_items, [0.025, 0.025, 0.95], size=2000)[:, :2]
    kept = [tango_interval(int(lost), int(gained), num_items, confidence=0.9).low >= -0.02 for lost, gained in draws]
    # 80 % planned; the binomial spread over 2,000 studies is 0.9 points
    assert np.mean(kept) == pytest.approx(0.8, abs=0.03)


@given(st.floats(0.001, 1.0), st.floats(0.002, 0.5))
@settings(max_examples=80, deadline=None)
def test_detectable_margin_inverts_paired_items_required(disagreement: float, margin: float) -> None:
    needed = paired_items_required(disagreement, margin)
    assert detectable_margin(needed, disagreement) <= margin * (1 + 1e-9)
    if needed > 1:
        assert detectable_margin(needed - 1, disagreement) > margin * (1 - 1e-9)


def test_items_sentence_says_what_is_needed_and_what_there_is() -> None:
    assert items_sentence(300, disagreement=0.05, margin=0.02) == (
        "this gate needs 773 items to see a loss of 2 points; you have 300, enough for 3.2 points"
    )
    assert items_sentence(1000, disagreement=0.05, margin=0.02) == (
        "1,000 items are enough to see a loss of 2 points: it takes 773"
    )


def test_items_sentence_of_very_few_items_names_no_impossible_loss() -> None:
    # a loss of more than all points does not exist: 2.4865 * sqrt(0.9 / 2) > 1
    assert items_sentence(2, disagreement=0.9, margin=0.02).endswith("you have 2, too few for any")


def test_items_to_decide_scale_with_the_distance_to_the_margin() -> None:
    # standard error 1 point at 400 items, difference -1 point: 1 point from the margin of 2, so 400 * 6.1826
    figures = {"standard_error": 0.01, "margin": 0.02, "alpha_one_sided": 0.05, "power": 0.8}
    assert items_to_decide(400, difference=-0.01, **figures) == 2474
    assert items_to_decide(400, difference=-0.03, **figures) == 2474
    assert items_to_decide(400, difference=0.0, **figures) == 619
    assert items_to_decide(400, difference=-0.02, **figures) is None


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.02, "2 points"),
        (0.01, "1 point"),
        (-0.01, "-1 point"),
        (0.0321, "3.2 points"),
        (0.0004, "0.04 points"),
        (0.000001, "0.0001 points"),
        (0.125, "12.5 points"),
        (0.2, "20 points"),
        (0.0999, "10 points"),
        (1.0, "100 points"),
        (0.0, "0 points"),
    ],
)
def test_format_points_reads_well(share: float, shown: str) -> None:
    assert format_points(share) == shown


def test_sample_sizes_impossible_arguments_are_refused() -> None:
    for margin in (0.0, 1.0, -0.1):
        with pytest.raises(MeasurementError, match="margin"):
            paired_items_required(0.05, margin)
    with pytest.raises(MeasurementError, match="disagreement"):
        paired_items_required(1.5, 0.02)
    with pytest.raises(MeasurementError, match="accuracy"):
        unpaired_items_required(70, 0.02)
    with pytest.raises(MeasurementError, match="alpha"):
        paired_items_required(0.05, 0.02, alpha_one_sided=0.5)
    with pytest.raises(MeasurementError, match="power"):
        paired_items_required(0.05, 0.02, power=1.0)
    with pytest.raises(MeasurementError, match="no items"):
        detectable_margin(0, 0.05)
