"""Volume over (quality, bytes, goodput), against hand-counted boxes and against random points."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.compression.search.hypervolume import (
    Point,
    Triple,
    contributions,
    dominated_volume,
    hypervolume,
    volume_frame,
)

SIDES = st.floats(-0.2, 2.0)
TRIPLES = st.lists(st.tuples(SIDES, SIDES, SIDES), max_size=8)


@pytest.mark.parametrize(
    ("gains", "volume"),
    [
        ([], 0.0),
        ([(1, 2, 3)], 6.0),
        ([(1, 2, 3), (1, 2, 3)], 6.0),
        ([(2, 2, 2), (1, 1, 1)], 8.0),
        # two boxes of 2 that share a unit cube
        ([(2, 1, 1), (1, 2, 1)], 3.0),
        # three of 2 along the axes, all sharing one unit cube: 3 x 2 - 2 x 1
        ([(2, 1, 1), (1, 2, 1), (1, 1, 2)], 4.0),
        # a tall thin box on a wide flat one: 1 x 1 x 3 + 3 x 3 x 1 - 1
        ([(1, 1, 3), (3, 3, 1)], 11.0),
        ([(-1, 5, 5), (0, 5, 5), (1, 1, 1)], 1.0),
    ],
)
def test_dominated_volume_of_boxes_is_what_is_counted_by_hand(gains: list[Triple], volume: float) -> None:
    assert dominated_volume(gains) == pytest.approx(volume)


def test_dominated_volume_agrees_with_the_share_of_random_points_inside() -> None:
    chance = random.Random(7)
    gains = [tuple(chance.random() for _ in range(3)) for _ in range(12)]
    num_points = 40_000
    hits = 0
    for _ in range(num_points):
        x, y, z = (chance.random() for _ in range(3))
        hits += any(x <= a and y <= b and z <= c for a, b, c in gains)
    # Standard error of a share: at most 0.5 / sqrt(n).
    assert dominated_volume(gains) == pytest.approx(hits / num_points, abs=4 * 0.5 / num_points**0.5)  # type: ignore[arg-type]


@given(TRIPLES)
def test_dominated_volume_is_that_of_inclusion_and_exclusion(gains: list[Triple]) -> None:
    boxes = [one for one in gains if min(one) > 0]
    expected = 0.0
    for mask in range(1, 2 ** len(boxes)):
        chosen = [box for count, box in enumerate(boxes) if mask >> count & 1]
        corner = [min(axis) for axis in zip(*chosen, strict=True)]
        expected += (-1) ** (len(chosen) + 1) * corner[0] * corner[1] * corner[2]
    assert dominated_volume(gains) == pytest.approx(expected, abs=1e-9)


@given(TRIPLES, st.tuples(SIDES, SIDES, SIDES), st.randoms(use_true_random=False))
def test_dominated_volume_grows_with_points_whatever_their_order(
    gains: list[Triple], more: Triple, chance: random.Random
) -> None:
    shuffled = [*gains, more]
    chance.shuffle(shuffled)
    assert dominated_volume(shuffled) >= dominated_volume(gains) - 1e-12
    assert dominated_volume(shuffled) == pytest.approx(dominated_volume([*gains, more]), abs=1e-12)


def test_volume_frame_counts_from_twice_the_allowed_loss_and_a_tenth_over_the_reference() -> None:
    frame = volume_frame(quality_floor=0.95, reference_bytes=1000, reference_goodput_per_s=4.0)
    assert frame.gains(Point(recovery=1.0, num_bytes=550, goodput_per_s=8.0)) == pytest.approx((1.0, 0.5, 2.0))
    assert frame.gains(Point(recovery=0.95, num_bytes=1100, goodput_per_s=4.0)) == pytest.approx((0.5, 0.0, 1.0))
    assert hypervolume([Point(1.0, 550, 8.0)], frame) == pytest.approx(1.0)
    assert hypervolume([Point(0.89, 550, 8.0)], frame) == 0.0


def test_volume_frame_of_a_floor_of_one_and_no_goodput_still_has_units() -> None:
    frame = volume_frame(quality_floor=1.0, reference_bytes=1000, reference_goodput_per_s=0.0)
    assert frame.gains(Point(1.0, 550, 3.0)) == pytest.approx((1.0, 0.5, 3.0))


def test_contributions_are_what_is_lost_without_each_point() -> None:
    frame = volume_frame(quality_floor=0.5, reference_bytes=100 / 1.1, reference_goodput_per_s=1.0)
    points = [Point(1.0, 50, 1.0), Point(0.5, 0, 1.0), Point(0.5, 50, 1.0)]
    assert contributions(points, frame) == pytest.approx([0.25, 0.25, 0.0])


def test_point_dominates_only_what_it_beats_somewhere_and_nowhere_loses_to() -> None:
    point = Point(0.98, 500, 2.0)
    assert point.dominates(Point(0.98, 501, 2.0))
    assert not point.dominates(point)
    assert not point.dominates(Point(0.97, 499, 1.0))
