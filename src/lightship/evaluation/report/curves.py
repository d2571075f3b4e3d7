"""A line plot as SVG text: one line per series with markers, error bars and small labels at its points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lightship.evaluation.report.axes import Axes, Frame, draw_grid, draw_rules, fit_frame
from lightship.evaluation.report.labels import Box, LabelRequest, along, place_labels
from lightship.evaluation.report.svg import NUM_STYLES, error_bars, marker, text

_RADIUS = 4.5
# Pixels of the 11 px font that labels points.
_LABEL_CHAR_WIDTH, _LABEL_HEIGHT = 6.4, 13.0
# Pixels from a point; a label further off would be taken for another point's.
_LABEL_DISTANCES = (6.0, 10.0, 15.0)


@dataclass(frozen=True)
class CurvePoint:
    """One figure pair of a series; ranges are for error bars, `label` stands beside it, `hover` is the tooltip."""

    x: float
    y: float
    x_range: tuple[float, float] | None
    y_range: tuple[float, float] | None
    label: str
    hover: str


@dataclass(frozen=True)
class Curve:
    """One line, its points in the order in which they are joined. `style` decides colour and marker."""

    name: str
    style: int
    is_dashed: bool
    points: tuple[CurvePoint, ...]


def render_curves(curves: Sequence[Curve], axes: Axes, *, width: int, height: int, kind: str = "") -> str:
    """The plot as one `<svg>` element that scales with its container."""
    points = [point for curve in curves for point in curve.points]
    frame = fit_frame(
        axes,
        (value for one in points for value in (one.x, *(one.x_range or ()))),
        (value for one in points for value in (one.y, *(one.y_range or ()))),
        width=width,
        height=height,
    )
    marks = [_mark_box(frame.x.px(point.x), frame.y.px(point.y)) for point in points]
    bars = [box for one in points for box in frame.bar_boxes(one.x, one.y, x_range=one.x_range, y_range=one.y_range)]
    lines = [box for curve in curves for box in along(_places(curve, frame))]
    rules, rule_labels = draw_rules(frame, avoid=[*marks, *lines, *bars])
    parts = [
        f'<svg class="plot{" " if kind else ""}{kind}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(_summary(curves, axes))}">',
        *draw_grid(frame),
        *rules,
    ]
    # the first series is drawn last, uppermost
    for curve in reversed(curves):
        parts += _curve(curve, frame)
    return "".join([*parts, *_labels(points, frame, marks=[*marks, *rule_labels], lines=lines), "</svg>"])


def _summary(curves: Sequence[Curve], axes: Axes) -> str:
    rule = f" {axes.y_rule[1]}." if axes.y_rule else ""
    return f"{axes.title}.{rule} " + " ".join(point.hover + "." for curve in curves for point in curve.points)


def _places(curve: Curve, frame: Frame) -> list[tuple[float, float]]:
    return [(frame.x.px(point.x), frame.y.px(point.y)) for point in curve.points]


def _mark_box(x: float, y: float) -> Box:
    reach = _RADIUS + 1
    return Box(x - reach, y - reach, x + reach, y + reach)


def _curve(curve: Curve, frame: Frame) -> list[str]:
    style = curve.style % NUM_STYLES
    places = _places(curve, frame)
    parts = []
    if len(places) > 1:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="curve s{style}{" dashed" if curve.is_dashed else ""}" d="{path}"/>')
    for point, (x, y) in zip(curve.points, places, strict=True):
        bars = error_bars(
            x, y, x_range=frame.x.span(point.x_range), y_range=frame.y.span(point.y_range), kind=f"bar s{style}"
        )
        mark = marker(style, x, y, radius=_RADIUS)
        parts.append(f"<g><title>{escape(point.hover)}</title>{bars}{mark}</g>")
    return parts


def _labels(points: Sequence[CurvePoint], frame: Frame, *, marks: Sequence[Box], lines: Sequence[Box]) -> list[str]:
    """The points' labels, as far as there is room: one that would cover a mark or another label is left out."""
    area = Box(frame.x.start_px + 2, frame.y.end_px - 8, frame.x.end_px + 12, frame.y.start_px - 1)
    named = [point for point in points if point.label]
    requests = [
        LabelRequest(frame.x.px(point.x), frame.y.px(point.y), len(point.label) * _LABEL_CHAR_WIDTH + 2, _LABEL_HEIGHT)
        for point in named
    ]
    boxes = place_labels(requests, area=area, solid=marks, soft=lines, distances=_LABEL_DISTANCES)
    parts: list[str] = []
    kept = list(marks)
    for point, box in zip(named, boxes, strict=True):
        if not any(box.overlap(other) for other in kept):
            kept.append(box)
            parts.append(text("mini", (box.left + box.right) / 2, box.bottom - 3, point.label, anchor="middle"))
    return parts
