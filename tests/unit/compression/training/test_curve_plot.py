from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from lightship.compression.training.curve_plot import HEIGHT, WIDTH, draw_curves

SVG = "{http://www.w3.org/2000/svg}"


def points_of(document: str) -> list[tuple[float, float]]:
    line = ElementTree.fromstring(document).find(f"{SVG}polyline")
    assert line is not None
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.attrib["points"].split())]


def test_draw_curves_falling_curve_falls_from_left_to_right_inside_the_frame() -> None:
    document = draw_curves([("student", [(0.0, 1.8), (1.0, 1.4), (2.0, 1.25)])], x_title="x", y_title="y")
    points = points_of(document)
    assert points == sorted(points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # down is up in SVG
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points)
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.11)
    assert "student: 1.250" in document


def test_draw_curves_level_lies_where_a_point_of_its_value_does() -> None:
    document = draw_curves([("s", [(0.0, 2.0), (1.0, 1.0)])], x_title="x", y_title="y", levels=[("teacher", 1.0)])
    dashed = re.search(r'y1="([\d.]+)" y2="\1" stroke="#374151" stroke-dasharray', document)
    assert dashed is not None
    assert float(dashed[1]) == points_of(document)[1][1]


@pytest.mark.parametrize("points", [[(0.0, 1.0)], [(0.0, 1.0), (1.0, 1.0)]], ids=["one point", "flat"])
def test_draw_curves_without_a_range_is_drawn(points: list[tuple[float, float]]) -> None:
    assert len(points_of(draw_curves([("flat", points)], x_title="x", y_title="y"))) == len(points)


def test_draw_curves_names_are_escaped() -> None:
    ElementTree.fromstring(draw_curves([("a < b & c", [(0.0, 1.0), (1.0, 2.0)])], x_title="<x>", y_title="&"))


def test_draw_curves_points_that_are_not_finite_are_left_out() -> None:
    document = draw_curves([("s", [(0.0, math.nan), (1.0, 2.0), (2.0, 1.0)])], x_title="x", y_title="y")
    assert len(points_of(document)) == 2
    with pytest.raises(ValueError, match="without finite points"):
        draw_curves([("s", [(0.0, math.inf)])], x_title="x", y_title="y")
