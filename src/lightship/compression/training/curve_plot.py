"""The curve of a distillation as an SVG document; needs the standard library alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 48, 52
_COLOURS = ("#2563eb", "#c2410c", "#15803d", "#7e22ce")
_GRID, _TEXT = "#e5e7eb", "#374151"

Curve = tuple[str, Sequence[tuple[float, float]]]


def draw_curves(
    curves: Sequence[Curve], *, x_title: str, y_title: str, levels: Sequence[tuple[str, float]] = ()
) -> str:
    """The document: one line per curve, named in a legend with its last value, and level lines with their names.

    Args:
        curves: Name and points; points that are not finite are left out.
        levels: Values to draw across, such as the teacher's.

    Raises: ValueError: there is no finite point.
    """
    drawn = [(name, [point for point in points if all(map(math.isfinite, point))]) for name, points in curves]
    values = [y for _, points in drawn for _, y in points]
    if not values:
        raise ValueError("a curve without finite points cannot be drawn")
    most = max(x for _, points in drawn for x, _ in points) or 1.0
    y_ticks = _ticks(min([*values, *(y for _, y in levels)]), max([*values, *(y for _, y in levels)]))
    low, high = y_ticks[0], y_ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + x / most * (WIDTH - _RIGHT - _LEFT)
        return across, _TOP + (high - y) / (high - low) * (HEIGHT - _BOTTOM - _TOP)

    parts = _frame(x_title, y_title)
    for tick in y_ticks:
        y = at(0, tick)[1]
        parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{_TEXT}">{tick:.4g}</text>')
    for tick in (tick for tick in _ticks(0.0, most) if tick <= most):
        x = at(tick, low)[0]
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 20}" text-anchor="middle" fill="{_TEXT}">{tick:g}</text>'
        )
    for name, value in levels:
        y = at(0, value)[1]
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_TEXT}" '
            'stroke-dasharray="6 4"/>'
        )
        parts.append(f'<text x="{_LEFT + 8}" y="{y - 6:.1f}" fill="{_TEXT}">{escape(name)}: {value:.3f}</text>')
    for number, (name, points) in enumerate(drawn):
        colour = _COLOURS[number % len(_COLOURS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        label = f"{name}: {points[-1][1]:.3f}" if points else name
        parts.append(
            f'<text x="{WIDTH - _RIGHT - 8}" y="{_TOP + 18 + 20 * number}" text-anchor="end" fill="{colour}">'
            f"{escape(label)}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def _frame(x_title: str, y_title: str) -> list[str]:
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(y_title)} over {escape(x_title)}" font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle" fill="#111827">{escape(x_title)}</text>',
        f'<text x="{_LEFT}" y="{_TOP - 20}" fill="#111827">{escape(y_title)}</text>',
    ]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that reach from below `low` to above `high`, four to about ten of them."""
    span = high - low if high > low else max(abs(high), 1.0) * 0.1
    size = 10.0 ** math.floor(math.log10(span))
    step = next(size * share for share in (0.1, 0.2, 0.5, 1.0) if span / (size * share) <= 10)
    first, last = math.floor(low / step), math.ceil((low + span) / step)
    return [round(number * step, 10) for number in range(first, last + 1)]
