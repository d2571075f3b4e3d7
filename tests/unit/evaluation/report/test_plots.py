"""Plots: every point where it belongs, inside the frame, in order; hand-calculated for small cases."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.evaluation.report.axes import Axes, Axis, Frame, Scale, fit_frame, log_ticks, ticks
from lightship.evaluation.report.curves import Curve, CurvePoint, render_curves
from lightship.evaluation.report.labels import Box, LabelRequest, along, place_labels
from lightship.evaluation.report.scatter import Point, best_of_two, render_scatter
from lightship.evaluation.report.svg import NUM_STYLES, error_bars, marker, shortened

SPEED = Axis("speed", "{:g}".format, is_more_better=True)
COST = Axis("cost", "{:g}".format, is_more_better=False)
LATENCY = Axis("latency", "{:g}".format, is_more_better=False, may_be_log=True)


def point(x: float, y: float, *, name: str = "a", rung: int | None = None) -> Point:
    return Point(name, x, y, None, None, rung, is_on_frontier=True, hover=f"{name} at {x:g}, {y:g}")


def elements(svg: str, kind: str) -> list[ET.Element]:
    """Elements of a class, in drawing order; parsing also shows that the drawing is well-formed."""
    return [one for one in ET.fromstring(svg).iter() if kind in one.get("class", "").split()]


def places(svg: str, kind: str) -> list[tuple[float, float]]:
    return [(float(one.get("cx", "nan")), float(one.get("cy", "nan"))) for one in elements(svg, kind)]


def frame_box(svg: str) -> Box:
    """From the ends of the grid lines."""
    xs = [float(one.get(key, "nan")) for one in elements(svg, "grid") for key in ("x1", "x2")]
    ys = [float(one.get(key, "nan")) for one in elements(svg, "grid") for key in ("y1", "y2")]
    return Box(min(xs), min(ys), max(xs), max(ys))


def test_scale_linear_and_logarithmic_halve_where_they_should() -> None:
    assert Scale(0, 10, 100, 300).px(5) == 200
    assert Scale(10, 1000, 400, 0, is_log=True).px(100) == pytest.approx(200)
    assert Scale(10, 1000, 400, 0, is_log=True).px(0) == 400  # what it cannot show lies at its start


@pytest.mark.parametrize(
    ("low", "high", "max_ticks", "expected"),
    [
        (0.0, 54.5, 8, [0, 10, 20, 30, 40, 50]),
        (0.786, 1.014, 6, [0.8, 0.85, 0.9, 0.95, 1.0]),
        (0.9949, 1.0004, 6, [0.995, 0.996, 0.997, 0.998, 0.999, 1.0]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, max_ticks: int, expected: list[float]) -> None:
    assert ticks(low, high, max_ticks=max_ticks) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("low", "high", "max_ticks", "expected"),
    [
        (10, 100, 6, [10, 20, 50, 100]),
        (8, 2500, 5, [10, 30, 100, 300, 1000]),
        (8, 2e9, 5, [100, 1e4, 1e6, 1e8]),
    ],
)
def test_log_ticks_are_round_and_few(low: float, high: float, max_ticks: int, expected: list[float]) -> None:
    assert log_ticks(low, high, max_ticks=max_ticks) == pytest.approx(expected)


@given(st.floats(1e-3, 1e6), st.floats(1.2, 1e6), st.integers(4, 12))
def test_scale_ticks_lie_inside_and_are_at_least_two(low: float, ratio: float, max_ticks: int) -> None:
    for is_log in (False, True):
        found = Scale(low, low * ratio, 0, 100, is_log).ticks(max_ticks)
        assert 2 <= len(found) <= max_ticks + 1
        assert all(low * (1 - 1e-6) <= value <= low * ratio * (1 + 1e-6) for value in found)
        assert found == sorted(set(found))


def test_scatter_places_points_proportionally_inside_the_frame() -> None:
    points = [point(0, 0), point(50, 5, rung=1), point(100, 10)]
    svg = render_scatter(points, Axes("t", SPEED, SPEED), width=400, height=300)
    (x0, y0), (x100, y100) = places(svg, "kept")
    ((x50, y50),) = places(svg, "rung")
    assert x50 == pytest.approx((x0 + x100) / 2, abs=0.1)
    assert y50 == pytest.approx((y0 + y100) / 2, abs=0.1)
    assert (y0, y100) == (250, 31.5)  # bottom 300 - 50; top 14 + 236 * 0.08 / 1.08 = 31.48
    box = frame_box(svg)
    assert box.left == x0 < x50 < x100 < box.right == 384
    assert box.top < y100 < y50 < y0 == box.bottom


def test_scatter_step_line_joins_the_best_at_right_angles() -> None:
    points = [point(1, 9), point(5, 5), point(9, 1), point(4, 4)]
    svg = render_scatter(points, Axes("t", SPEED, SPEED), width=400, height=300)
    (path,) = elements(svg, "frontier")
    corners = [tuple(map(float, pair.split())) for pair in path.get("d", "")[1:].split("L")]
    marks = places(svg, "kept")
    assert corners[0] == marks[2]  # best x first
    assert corners[2] == marks[1]
    assert corners[4] == marks[0]
    assert corners[1] == (marks[1][0], marks[2][1])  # the worse of both between two points
    assert corners[3] == (marks[0][0], marks[1][1])


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (SPEED, SPEED, ["right", "top"]),
        (COST, SPEED, ["left", "top"]),
        (SPEED, COST, ["right", "low"]),
        (COST, COST, ["left", "low"]),
    ],
)
def test_best_of_two_follows_the_directions(x: Axis, y: Axis, expected: list[str]) -> None:
    points = [
        point(1, 5, name="left"),
        point(9, 5, name="right"),
        point(5, 9, name="top"),
        point(5, 1, name="low"),
        point(5, 5, name="middle"),
    ]
    assert [one.label for one in best_of_two(points, Axes("t", x, y))] == expected


def test_scatter_error_bars_span_the_interval() -> None:
    one = replace(point(50, 5), x_range=(40.0, 70.0))
    svg = render_scatter([one, point(100, 10), point(0, 0)], Axes("t", SPEED, SPEED), width=400, height=300)
    (bar,) = elements(svg, "bar")
    start, end = re.findall(r"^M([\d.]+) [\d.]+H([\d.]+)", bar.get("d", ""))[0]
    marks = places(svg, "kept")
    unit = (marks[1][0] - marks[2][0]) / 100
    assert float(start) == pytest.approx(marks[2][0] + 40 * unit, abs=0.1)
    assert float(end) == pytest.approx(marks[2][0] + 70 * unit, abs=0.1)


@pytest.mark.parametrize("points", [[], [point(0, 0)], [point(3, 3), point(3, 3)]], ids=["none", "zero", "equal"])
def test_scatter_degenerate_data_still_draws(points: list[Point]) -> None:
    svg = render_scatter(points, Axes("t", SPEED, Axis("q", str, True, starts_at_zero=False)), width=300, height=200)
    assert len(places(svg, "kept")) == len(points)
    assert "nan" not in svg


def test_scatter_hostile_names_are_escaped() -> None:
    svg = render_scatter([point(1, 1, name='<b>"&')], Axes('<i>"', SPEED, SPEED), width=300, height=200)
    assert ET.fromstring(svg).get("aria-label", "").startswith('<i>". <b>"& at 1, 1.')


def curve(*pairs: tuple[float, float], style: int = 0) -> Curve:
    found = [CurvePoint(x, y, None, None, f"{x:g}", hover=f"at {x:g}") for x, y in pairs]
    return Curve("c", style, is_dashed=False, points=tuple(found))


def test_curves_join_points_in_their_order() -> None:
    # beyond saturation the throughput falls again: the line must go back, not be sorted by x
    svg = render_curves([curve((10, 100), (40, 200), (30, 400))], Axes("t", SPEED, LATENCY), width=400, height=300)
    (path,) = elements(svg, "curve")
    corners = [tuple(map(float, pair.split())) for pair in path.get("d", "")[1:].split("L")]
    assert corners == places(svg, "mark")
    assert corners[0][0] < corners[2][0] < corners[1][0]
    assert corners[0][1] > corners[1][1] > corners[2][1]
    box = frame_box(svg)
    assert all(box.left <= x <= box.right and box.top <= y <= box.bottom for x, y in corners)


def test_curves_wide_range_of_latency_becomes_logarithmic() -> None:
    svg = render_curves([curve((1, 10), (2, 100), (3, 1000))], Axes("t", SPEED, LATENCY), width=400, height=300)
    (_, y10), (_, y100), (_, y1000) = places(svg, "mark")
    assert y10 - y100 == pytest.approx(y100 - y1000, abs=0.11)


def test_curves_narrow_range_of_latency_starts_at_zero() -> None:
    svg = render_curves([curve((1, 10), (2, 20))], Axes("t", SPEED, LATENCY), width=400, height=300)
    (_, y10), (_, y20) = places(svg, "mark")
    assert 250 - y20 == pytest.approx(2 * (250 - y10), abs=0.11)


def test_curves_rule_within_reach_is_drawn_at_its_value() -> None:
    axes = Axes("t", SPEED, LATENCY, y_rule=(20, "SLO 20 ms"))
    svg = render_curves([curve((1, 10), (2, 20))], axes, width=400, height=300)
    (rule,) = elements(svg, "rule")
    assert float(rule.get("y1", "nan")) == places(svg, "mark")[1][1]
    assert elements(svg, "rule-label")[0].text == "SLO 20 ms"


def test_curves_rule_far_above_is_said_in_words() -> None:
    axes = Axes("t", SPEED, LATENCY, y_rule=(400, "SLO 400 ms"))
    svg = render_curves([curve((1, 10), (2, 20))], axes, width=400, height=300)
    assert elements(svg, "rule") == []
    assert elements(svg, "rule-label")[0].text == "SLO 400 ms, above this plot ↑"


def test_curves_identity_line_is_where_both_axes_agree() -> None:
    frame: Frame = fit_frame(Axes("t", SPEED, SPEED), [0, 20], [0, 10], width=400, height=300)
    svg = render_curves([curve((20, 10))], Axes("t", SPEED, SPEED, has_identity=True), width=400, height=300)
    (identity,) = elements(svg, "identity")
    # the y axis ends at 10.8, so the line leaves the plot at its top there
    assert float(identity.get("x2", "nan")) == pytest.approx(frame.x.px(10.8), abs=0.1)
    assert float(identity.get("y2", "nan")) == pytest.approx(14, abs=0.1)


def test_curves_labels_cover_neither_marks_nor_each_other() -> None:
    many = [curve(*((x + shift, 5 + x / 9) for x in range(0, 60, 4)), style=shift) for shift in range(6)]
    svg = render_curves(many, Axes("t", SPEED, LATENCY), width=500, height=320)
    boxes = []
    for one in elements(svg, "mini"):
        width, x, bottom = len(one.text or "") * 6.4 + 2, float(one.get("x", "nan")), float(one.get("y", "nan")) + 3
        boxes.append(Box(x - width / 2, bottom - 13, x + width / 2, bottom))
    circles = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in places(svg, "mark") if math.isfinite(x)]
    assert len(boxes) > 20
    for index, box in enumerate(boxes):
        # coordinates are written with one decimal
        assert all(box.overlap(other) < 2 for other in [*circles, *boxes[:index]])


def test_marker_every_style_has_its_own_shape() -> None:
    shapes = [re.sub(r" s\d", "", marker(style, 10, 10, radius=4)) for style in range(NUM_STYLES)]
    assert len(set(shapes)) == NUM_STYLES == 8
    assert marker(NUM_STYLES, 10, 10, radius=4) == marker(0, 10, 10, radius=4)


def test_error_bars_without_ranges_draw_nothing() -> None:
    assert error_bars(1, 1, x_range=None, y_range=None) == ""


def test_shortened_keeps_both_ends() -> None:
    assert shortened("quarter-depth-int8@openvino", 11) == "quart…nvino"


@given(st.lists(st.tuples(st.floats(60, 940), st.floats(40, 400)), min_size=1, max_size=12))
def test_place_labels_stay_inside_and_apart(centres: list[tuple[float, float]]) -> None:
    area = Box(0, 0, 1000, 440)
    requests = [LabelRequest(x, y, 80, 16) for x, y in centres]
    marks = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in centres]
    boxes = place_labels(requests, area=area, solid=marks)
    for index, box in enumerate(boxes):
        assert area.contains(box)
        assert all(box.overlap(other) == 0 for other in [*marks, *boxes[:index]])


def test_along_covers_the_line_without_gaps() -> None:
    boxes = along([(0, 0), (30, 40)], step=5)
    centres = [((box.left + box.right) / 2, (box.top + box.bottom) / 2) for box in boxes]
    assert len(boxes) == 11  # 50 pixels in steps of 5
    assert centres[5] == pytest.approx((15, 20))
