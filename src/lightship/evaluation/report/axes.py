"""The frame of a plot: from figures to pixels, round tick values, grid, titles and rules. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from lightship.evaluation.report.labels import Box
from lightship.evaluation.report.svg import BAR_CAP, CHAR_WIDTH, line, text

# Pixels: a digit of the 12 px font, for the room that tick labels take.
_DIGIT_WIDTH = 6.9
_RULE_LABEL_HEIGHT = 14.0
# A limit further above the largest figure than this factor would squeeze the figures; it is said in words instead.
_MAX_RULE_FACTOR = 3.0
# Ratio of the largest figure to the smallest from which a latency axis is logarithmic.
LOG_FROM_RATIO = 12.0


@dataclass(frozen=True)
class Axis:
    """One axis: its title, how numbers are written on it, which direction is better, and how it is scaled."""

    title: str
    format: Callable[[float], str]
    is_more_better: bool
    starts_at_zero: bool = True
    may_be_log: bool = False


@dataclass(frozen=True)
class Axes:
    """Two axes, and what is drawn beside the figures.

    `y_rule` is a dashed horizontal line with its label; `has_identity` draws y = x.
    """

    title: str
    x: Axis
    y: Axis
    y_rule: tuple[float, str] | None = None
    has_identity: bool = False


@dataclass(frozen=True)
class Scale:
    """Maps a figure to a pixel; `is_log` needs `low` > 0."""

    low: float
    high: float
    start_px: float
    end_px: float
    is_log: bool = False

    def px(self, value: float) -> float:
        """Where the figure lies; what a logarithmic axis cannot show lies at its start."""
        if self.is_log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start_px + share * (self.end_px - self.start_px)

    def span(self, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        """An interval in pixels."""
        return (self.px(bounds[0]), self.px(bounds[1])) if bounds else None

    def ticks(self, max_ticks: int) -> list[float]:
        """Round values inside the scale."""
        found = log_ticks(self.low, self.high, max_ticks=max_ticks) if self.is_log else []
        return found if len(found) >= 2 else ticks(self.low, self.high, max_ticks=max_ticks)


@dataclass(frozen=True)
class Frame:
    """Both scales of a plot of some size in pixels; y grows downwards in pixels and upwards in figures."""

    axes: Axes
    x: Scale
    y: Scale
    width: int
    height: int
    y_ticks: tuple[float, ...]

    @property
    def is_rule_inside(self) -> bool:
        """Whether the rule's value lies on the y axis."""
        return self.axes.y_rule is not None and self.y.low <= self.axes.y_rule[0] <= self.y.high

    def bar_boxes(
        self, x: float, y: float, *, x_range: tuple[float, float] | None, y_range: tuple[float, float] | None
    ) -> list[Box]:
        """The room that error bars take, in pixels."""
        x_px, y_px, boxes = self.x.px(x), self.y.px(y), []
        if span := self.x.span(x_range):
            boxes.append(Box(span[0], y_px - BAR_CAP, span[1], y_px + BAR_CAP))
        if span := self.y.span(y_range):
            boxes.append(Box(x_px - BAR_CAP, span[1], x_px + BAR_CAP, span[0]))
        return boxes


def fit_frame(axes: Axes, xs: Iterable[float], ys: Iterable[float], *, width: int, height: int) -> Frame:
    """A frame in which every given figure has its place, with a margin; `xs` and `ys` include interval bounds."""
    x_low, x_high, x_is_log = _bounds(axes.x, [one for one in xs if math.isfinite(one)])
    y_values = [one for one in ys if math.isfinite(one)]
    if axes.y_rule and (not y_values or axes.y_rule[0] <= _MAX_RULE_FACTOR * max(y_values)):
        y_values.append(axes.y_rule[0])
    y_low, y_high, y_is_log = _bounds(axes.y, y_values)
    y = Scale(y_low, y_high, height - 50, 14, y_is_log)
    y_ticks = y.ticks(max(4, height // 62))
    widest = max((len(axes.y.format(value)) for value in y_ticks), default=1)
    x = Scale(x_low, x_high, 32 + widest * _DIGIT_WIDTH, width - 16, x_is_log)
    return Frame(axes, x, y, width, height, tuple(y_ticks))


def _bounds(axis: Axis, values: list[float]) -> tuple[float, float, bool]:
    if not values:
        return 0.0, 1.0, False
    low, high = min(values), max(values)
    if axis.may_be_log and low > 0 and high / low >= LOG_FROM_RATIO:
        margin = (high / low) ** 0.07
        return low / margin, high * margin, True
    if axis.starts_at_zero and low >= 0:
        return 0.0, (high or 1.0) * 1.08, False
    margin = (high - low) * 0.09 or abs(high) * 0.01 or 1.0
    return low - margin, high + margin, False


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


def log_ticks(low: float, high: float, *, max_ticks: int) -> list[float]:
    """Round numbers of even ratio inside [low, high], at most `max_ticks`: 1, 2, 5 of each decade, or fewer.

    >>> log_ticks(8, 1200, max_ticks=8)
    [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors, every in (((1, 2, 5), 1), ((1, 3), 1), *(((1,), every) for every in range(1, last - first + 2))):
        decades = range(first, last + 1, every)
        found = [factor * 10.0**decade for decade in decades for factor in factors]
        inside = [value for value in found if low <= value * (1 + 1e-12) and value <= high * (1 + 1e-12)]
        if len(inside) <= max_ticks:
            break
    return inside


def draw_grid(frame: Frame) -> list[str]:
    """Grid lines, tick labels and titles."""
    axes, left, right, bottom, top = frame.axes, frame.x.start_px, frame.x.end_px, frame.y.start_px, frame.y.end_px
    parts = []
    for value in frame.x.ticks(max(4, frame.width // 90)):
        x = frame.x.px(value)
        parts.append(line("grid", x, top, x, bottom))
        parts.append(text("tick", x, bottom + 20, axes.x.format(value), anchor="middle"))
    for value in frame.y_ticks:
        y = frame.y.px(value)
        parts.append(line("grid", left, y, right, y))
        parts.append(text("tick", left - 7, y + 4, axes.y.format(value), anchor="end"))
    parts.append(line("axis", left, bottom, right, bottom))
    x_title = f"{axes.x.title} →" if axes.x.is_more_better else f"← {axes.x.title}"
    y_title = f"{axes.y.title} →" if axes.y.is_more_better else f"← {axes.y.title}"
    # centred on the axis, but never beyond the picture
    room = frame.width - 8
    centre = min((left + right) / 2, frame.width - min(room, len(x_title) * 6.2) / 2 - 4)
    parts.append(text("axis-title", centre, frame.height - 8, x_title, anchor="middle"))
    parts.append(
        f'<text class="axis-title" transform="translate(13 {(top + bottom) / 2:.1f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_title)}</text>"
    )
    return parts


def draw_rules(frame: Frame, *, avoid: Sequence[Box] = ()) -> tuple[list[str], list[Box]]:
    """The y rule (or words where it lies above the plot) and the identity line, cut to the frame; and label boxes.

    The rule's label stands where along the rule, above or below, it covers least of `avoid`.
    """
    parts, taken = [], []
    left, right, top = frame.x.start_px, frame.x.end_px, frame.y.end_px
    if frame.axes.has_identity:
        low, high = max(frame.x.low, frame.y.low), min(frame.x.high, frame.y.high)
        if low < high:
            parts.append(line("identity", frame.x.px(low), frame.y.px(low), frame.x.px(high), frame.y.px(high)))
    if frame.axes.y_rule is not None:
        value, label = frame.axes.y_rule
        if frame.is_rule_inside:
            y = frame.y.px(value)
            parts.append(line("rule", left, y, right, y))
            box = _rule_label_box(frame, y, width=len(label) * CHAR_WIDTH, avoid=avoid)
        else:
            label += ", above this plot ↑"
            box = Box(left + 5, top, left + 5 + len(label) * CHAR_WIDTH, top + _RULE_LABEL_HEIGHT)
        parts.append(text("rule-label", box.left, box.bottom - 3, label, anchor="start"))
        taken.append(box)
    return parts, taken


def _rule_label_box(frame: Frame, y: float, *, width: float, avoid: Sequence[Box]) -> Box:
    first, last = frame.x.start_px + 5, max(frame.x.start_px + 5, frame.x.end_px - 4 - width)
    options = [
        Box(x, top, x + width, top + _RULE_LABEL_HEIGHT)
        for x in (first + (last - first) * share for share in (0, 1, 0.25, 0.5, 0.75))
        for top in (y - _RULE_LABEL_HEIGHT - 2, y + 3)
    ]
    inside = [box for box in options if frame.y.end_px - 6 <= box.top and box.bottom <= frame.y.start_px]
    return min(inside or options, key=lambda box: sum(box.overlap(other) for other in avoid))
