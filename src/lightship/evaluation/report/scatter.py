"""A scatter plot as SVG text: points with error bars, the frontier as a step line, labels that do not overlap.

Drawn here rather than by a plotting library: the page must carry no script, and its colours follow the reader's theme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lightship.evaluation.report.axes import Axes, Frame, draw_grid, draw_rules, fit_frame
from lightship.evaluation.report.labels import Box, LabelRequest, along, place_labels
from lightship.evaluation.report.svg import CHAR_WIDTH, error_bars, line, shortened, text

_LABEL_HEIGHT = 16.0
# Longer names are shortened; the table and the tooltip have them whole.
_MAX_LABEL_CHARS = 30
_RUNG_RADIUS = 10.0
_POINT_RADIUS = 5.5


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


def render_scatter(
    points: Sequence[Point], axes: Axes, *, width: int, height: int, kind: str = "", labels_rungs: bool = True
) -> str:
    """The plot as one `<svg>` element that scales with its container; `width` decides how much fits.

    Args:
        points: What is drawn.
        axes: Titles, formats, directions and the rule.
        width: Pixels.
        height: Pixels.
        kind: Further CSS class of the element.
        labels_rungs: Whether rungs are named beside their number; small plots leave it to the key.
    """
    frame = fit_frame(
        axes,
        (value for one in points for value in (one.x, *(one.x_range or ()))),
        (value for one in points for value in (one.y, *(one.y_range or ()))),
        width=width,
        height=height,
    )
    marks = [_mark_box(point, frame) for point in points]
    bars = [box for one in points for box in frame.bar_boxes(one.x, one.y, x_range=one.x_range, y_range=one.y_range)]
    steps = _frontier_steps(points, frame)
    summary = f"{axes.title}. " + " ".join(f"{point.hover}." for point in points)
    rules, rule_labels = draw_rules(frame, avoid=[*marks, *bars])
    parts = [
        f'<svg class="plot{" " if kind else ""}{kind}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(summary)}">',
        *draw_grid(frame),
        *rules,
        f'<path class="frontier" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in steps)}"/>' if steps else "",
    ]
    parts += [
        error_bars(
            frame.x.px(one.x), frame.y.px(one.y), x_range=frame.x.span(one.x_range), y_range=frame.y.span(one.y_range)
        )
        for one in points
    ]
    # hollow points lowest, rungs on top, the first rung uppermost
    for point in sorted(points, key=lambda one: (one.rung is not None, one.is_on_frontier, -(one.rung or 0))):
        parts.append(_marker(point, frame))
    named = [one for one in points if labels_rungs or one.rung is None]
    parts += _labels(named, frame, marks=[*marks, *rule_labels], soft=[*bars, *along(steps)])
    return "".join([*parts, "</svg>"])


def best_of_two(points: Sequence[Point], axes: Axes) -> list[Point]:
    """The points that none beats on these two axes, from the best x to the best y."""
    x_sign, y_sign = (1 if axis.is_more_better else -1 for axis in (axes.x, axes.y))
    best: list[Point] = []
    for point in sorted(points, key=lambda one: (-x_sign * one.x, -y_sign * one.y)):
        if not best or y_sign * point.y > y_sign * best[-1].y:
            best.append(point)
    return best


def _frontier_steps(points: Sequence[Point], frame: Frame) -> list[tuple[float, float]]:
    """Corners of the step line; none where fewer than two points lie on it."""
    best = [(frame.x.px(one.x), frame.y.px(one.y)) for one in best_of_two(points, frame.axes)]
    steps = best[:1]
    for x, y in best[1:]:
        # between two points one may only have the worse of both: first across at the worse y, then on to the better
        steps += [(x, steps[-1][1]), (x, y)]
    return steps if len(best) > 1 else []


def _mark_box(point: Point, frame: Frame) -> Box:
    radius = (_RUNG_RADIUS if point.rung is not None else _POINT_RADIUS) + 1
    x, y = frame.x.px(point.x), frame.y.px(point.y)
    return Box(x - radius, y - radius, x + radius, y + radius)


def _marker(point: Point, frame: Frame) -> str:
    x, y = frame.x.px(point.x), frame.y.px(point.y)
    title = f"<title>{escape(point.hover)}</title>"
    if point.rung is not None:
        return (
            f'<g>{title}<circle class="rung" cx="{x:.1f}" cy="{y:.1f}" r="{_RUNG_RADIUS}"/>'
            f"{text('rung-number', x, y + 4, str(point.rung), anchor='middle')}</g>"
        )
    kind = "kept" if point.is_on_frontier else "beaten"
    return f'<g>{title}<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{_POINT_RADIUS}"/></g>'


def _labels(points: Sequence[Point], frame: Frame, *, marks: Sequence[Box], soft: Sequence[Box]) -> list[str]:
    room = frame.x.end_px - frame.x.start_px
    max_chars = min(_MAX_LABEL_CHARS, max(8, int(room * 0.4 / CHAR_WIDTH)))
    texts = [shortened(point.label, max_chars) for point in points]
    area = Box(frame.x.start_px + 2, frame.y.end_px, frame.x.end_px, frame.y.start_px - 2)
    requests = [
        LabelRequest(frame.x.px(point.x), frame.y.px(point.y), len(words) * CHAR_WIDTH + 2, _LABEL_HEIGHT)
        for point, words in zip(points, texts, strict=True)
    ]
    boxes = place_labels(requests, area=area, solid=marks, soft=soft)
    parts = []
    for request, words, box in zip(requests, texts, boxes, strict=True):
        parts.append(_leader(request, box))
        parts.append(text("label", (box.left + box.right) / 2, box.bottom - 4, words, anchor="middle"))
    return parts


def _leader(request: LabelRequest, box: Box) -> str:
    near_x = min(max(request.x, box.left), box.right)
    near_y = min(max(request.y, box.top + 2), box.bottom - 2)
    length = math.hypot(near_x - request.x, near_y - request.y)
    if length < 22:
        return ""
    skip = _RUNG_RADIUS / length
    start_x, start_y = request.x + (near_x - request.x) * skip, request.y + (near_y - request.y) * skip
    return line("leader", start_x, start_y, near_x, near_y)
