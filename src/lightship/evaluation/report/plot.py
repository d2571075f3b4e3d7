"""A scatter plot as SVG text: points with error bars, the frontier as a step line, labels that do not overlap.

Drawn here rather than by a plotting library: the page must carry no script, and its colours follow the reader's theme,
so every element has a CSS class instead of a colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from lightship.evaluation.report.labels import Box, LabelRequest, place_labels

# Pixels: a character of the 12 px label font, generous so that no system font overflows its box.
_CHAR_WIDTH = 7.0
_LABEL_HEIGHT = 16.0
# Longer names are shortened; the table and the tooltip have them whole.
_MAX_LABEL_CHARS = 30
_RUNG_RADIUS = 10.0
_POINT_RADIUS = 5.5
_BAR_CAP = 4.0


@dataclass(frozen=True)
class Point:
    """One labelled point; ranges are for error bars."""

    label: str
    x: float
    y: float
    x_range: tuple[float, float] | None
    y_range: tuple[float, float] | None
    rung: int | None
    is_on_frontier: bool
    hover: str


@dataclass(frozen=True)
class Axes:
    """Titles, number formats and direction. `y_rule` is a dashed horizontal line with its label."""

    title: str
    x_title: str
    y_title: str
    x_format: Callable[[float], str]
    y_format: Callable[[float], str]
    is_more_x_better: bool
    y_rule: tuple[float, str] | None = None


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start_px: float
    end_px: float

    def px(self, value: float) -> float:
        return self.start_px + (value - self.low) / (self.high - self.low) * (self.end_px - self.start_px)


def render_scatter(points: Sequence[Point], axes: Axes, *, width: int, height: int) -> str:
    """The plot as one `<svg>` element that scales with its container; `width` decides how much fits."""
    x_scale, y_scale = _scales(points, axes, width=width, height=height)
    parts = [
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(_summary(points, axes))}">',
        *_grid(axes, x_scale, y_scale, width=width, height=height),
        *_rule(axes, x_scale, y_scale),
        _frontier_line(points, axes, x_scale, y_scale),
    ]
    marks = [_mark_box(point, x_scale, y_scale) for point in points]
    bars = [box for point in points for box in _bar_boxes(point, x_scale, y_scale)]
    parts += [_error_bars(point, x_scale, y_scale) for point in points]
    # hollow points lowest, rungs on top, the first rung uppermost
    for point in sorted(points, key=lambda one: (one.rung is not None, one.is_on_frontier, -(one.rung or 0))):
        parts.append(_marker(point, x_scale, y_scale))
    parts += _labels(points, x_scale, y_scale, marks=marks, bars=bars)
    return "".join([*parts, "</svg>"])


def _summary(points: Sequence[Point], axes: Axes) -> str:
    return f"{axes.title}. " + " ".join(f"{point.hover}." for point in points)


def _scales(points: Sequence[Point], axes: Axes, *, width: int, height: int) -> tuple[_Scale, _Scale]:
    x_high = max((max(point.x, *(point.x_range or (point.x,))) for point in points), default=1.0) or 1.0
    y_values = [value for point in points for value in (point.y, *(point.y_range or ()))]
    y_values += [axes.y_rule[0]] if axes.y_rule else []
    y_low, y_high = min(y_values, default=0.0), max(y_values, default=1.0)
    margin = (y_high - y_low) * 0.09 or abs(y_high) * 0.01 or 1.0
    return (
        _Scale(0.0, x_high * 1.08, 62, width - 16),
        _Scale(y_low - margin, y_high + margin, height - 50, 12),
    )


def ticks(low: float, high: float, *, max_ticks: int) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) inside [low, high], at most `max_ticks`.

    >>> ticks(0, 10, max_ticks=6)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    rough = (high - low) / max_ticks
    magnitude = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = factor * magnitude
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= max_ticks:
            break
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(index * step, digits) for index in range(first, last + 1)]


def _grid(axes: Axes, x_scale: _Scale, y_scale: _Scale, *, width: int, height: int) -> list[str]:
    left, right, bottom, top = x_scale.start_px, x_scale.end_px, y_scale.start_px, y_scale.end_px
    parts = []
    for value in ticks(x_scale.low, x_scale.high, max_ticks=max(4, width // 90)):
        x = x_scale.px(value)
        parts.append(_line("grid", x, top, x, bottom))
        parts.append(_text("tick", x, bottom + 17, axes.x_format(value), anchor="middle"))
    for value in ticks(y_scale.low, y_scale.high, max_ticks=6):
        y = y_scale.px(value)
        parts.append(_line("grid", left, y, right, y))
        parts.append(_text("tick", left - 7, y + 4, axes.y_format(value), anchor="end"))
    parts.append(_line("axis", left, bottom, right, bottom))
    parts.append(_text("axis-title", (left + right) / 2, height - 8, axes.x_title, anchor="middle"))
    middle = (top + bottom) / 2
    parts.append(
        f'<text class="axis-title" transform="translate(13 {middle:.1f}) rotate(-90)" text-anchor="middle">'
        f"{escape(axes.y_title)}</text>"
    )
    return parts


def _rule(axes: Axes, x_scale: _Scale, y_scale: _Scale) -> list[str]:
    if axes.y_rule is None:
        return []
    y = y_scale.px(axes.y_rule[0])
    return [
        _line("rule", x_scale.start_px, y, x_scale.end_px, y),
        _text("rule-label", x_scale.start_px + 5, y - 5, axes.y_rule[1], anchor="start"),
    ]


def _frontier_line(points: Sequence[Point], axes: Axes, x_scale: _Scale, y_scale: _Scale) -> str:
    """Steps through the points that none beats on these two axes."""
    direction = 1 if axes.is_more_x_better else -1
    best: list[Point] = []
    for point in sorted(points, key=lambda one: (-direction * one.x, -one.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    if len(best) < 2:
        return ""
    path = f"M{x_scale.px(best[0].x):.1f} {y_scale.px(best[0].y):.1f}"
    for point in best[1:]:
        # between two points one may only have the worse of both: first across at the lower quality, then up
        path += f"H{x_scale.px(point.x):.1f}V{y_scale.px(point.y):.1f}"
    return f'<path class="frontier" d="{path}"/>'


def _mark_box(point: Point, x_scale: _Scale, y_scale: _Scale) -> Box:
    radius = (_RUNG_RADIUS if point.rung is not None else _POINT_RADIUS) + 1
    x, y = x_scale.px(point.x), y_scale.px(point.y)
    return Box(x - radius, y - radius, x + radius, y + radius)


def _bar_boxes(point: Point, x_scale: _Scale, y_scale: _Scale) -> list[Box]:
    x, y = x_scale.px(point.x), y_scale.px(point.y)
    boxes = []
    if point.x_range:
        boxes.append(Box(x_scale.px(point.x_range[0]), y - _BAR_CAP, x_scale.px(point.x_range[1]), y + _BAR_CAP))
    if point.y_range:
        boxes.append(Box(x - _BAR_CAP, y_scale.px(point.y_range[1]), x + _BAR_CAP, y_scale.px(point.y_range[0])))
    return boxes


def _error_bars(point: Point, x_scale: _Scale, y_scale: _Scale) -> str:
    x, y = x_scale.px(point.x), y_scale.px(point.y)
    path = ""
    if point.x_range:
        low, high = (x_scale.px(value) for value in point.x_range)
        path += f"M{low:.1f} {y:.1f}H{high:.1f}"
        path += "".join(f"M{end:.1f} {y - _BAR_CAP:.1f}v{2 * _BAR_CAP:.1f}" for end in (low, high))
    if point.y_range:
        low, high = (y_scale.px(value) for value in point.y_range)
        path += f"M{x:.1f} {low:.1f}V{high:.1f}"
        path += "".join(f"M{x - _BAR_CAP:.1f} {end:.1f}h{2 * _BAR_CAP:.1f}" for end in (low, high))
    return f'<path class="bar" d="{path}"/>' if path else ""


def _marker(point: Point, x_scale: _Scale, y_scale: _Scale) -> str:
    x, y = x_scale.px(point.x), y_scale.px(point.y)
    title = f"<title>{escape(point.hover)}</title>"
    if point.rung is not None:
        return (
            f'<g>{title}<circle class="rung" cx="{x:.1f}" cy="{y:.1f}" r="{_RUNG_RADIUS}"/>'
            f"{_text('rung-number', x, y + 4, str(point.rung), anchor='middle')}</g>"
        )
    kind = "kept" if point.is_on_frontier else "beaten"
    return f'<g>{title}<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{_POINT_RADIUS}"/></g>'


def _labels(
    points: Sequence[Point], x_scale: _Scale, y_scale: _Scale, *, marks: Sequence[Box], bars: Sequence[Box]
) -> list[str]:
    max_chars = min(_MAX_LABEL_CHARS, max(8, int((x_scale.end_px - x_scale.start_px) * 0.4 / _CHAR_WIDTH)))
    texts = [shortened(point.label, max_chars) for point in points]
    area = Box(x_scale.start_px + 2, y_scale.end_px, x_scale.end_px, y_scale.start_px - 2)
    requests = [
        LabelRequest(x_scale.px(point.x), y_scale.px(point.y), len(text) * _CHAR_WIDTH + 2, _LABEL_HEIGHT)
        for point, text in zip(points, texts, strict=True)
    ]
    boxes = place_labels(requests, area=area, solid=marks, soft=bars)
    parts = []
    for request, text, box in zip(requests, texts, boxes, strict=True):
        parts.append(_leader(request, box))
        parts.append(_text("label", (box.left + box.right) / 2, box.bottom - 4, text, anchor="middle"))
    return parts


def _leader(request: LabelRequest, box: Box) -> str:
    near_x = min(max(request.x, box.left), box.right)
    near_y = min(max(request.y, box.top + 2), box.bottom - 2)
    length = math.hypot(near_x - request.x, near_y - request.y)
    if length < 22:
        return ""
    skip = _RUNG_RADIUS / length
    start_x, start_y = request.x + (near_x - request.x) * skip, request.y + (near_y - request.y) * skip
    return _line("leader", start_x, start_y, near_x, near_y)


def shortened(text: str, max_chars: int) -> str:
    """`text`, with its middle left out where it is too long: both ends of a variant's name tell it apart.

    >>> shortened("a-very-long-name@openvino", 11)
    'a-ver…nvino'
    """
    if len(text) <= max_chars:
        return text
    half = (max_chars - 1) // 2
    return f"{text[: max_chars - 1 - half]}…{text[-half:]}"


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(kind: str, x: float, y: float, text: str, *, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
