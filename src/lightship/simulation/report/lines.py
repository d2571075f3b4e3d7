"""Figures over time as SVG text: one line per series on the frame of the report's other plots, without marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lightship.evaluation.report.axes import Axes, draw_grid, draw_rules, fit_frame
from lightship.evaluation.report.svg import NUM_STYLES

# Points of a drawn line: more are not seen on any screen.
_MOST_POINTS = 300


@dataclass(frozen=True)
class Line:
    """One series; None leaves a gap. `style` decides the colour."""

    name: str
    style: int
    points: tuple[tuple[float, float | None], ...]
    is_dashed: bool = False


def render_lines(lines: Sequence[Line], axes: Axes, *, width: int, height: int, kind: str = "") -> str:
    """The plot as one `<svg>` element that scales with its container."""
    known = [(x, y) for line in lines for x, y in line.points if y is not None]
    frame = fit_frame(axes, [x for x, _ in known], [y for _, y in known], width=width, height=height)
    rules, _ = draw_rules(frame)
    parts = [
        f'<svg class="plot{" " if kind else ""}{kind}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(_summary(lines, axes))}">',
        *draw_grid(frame),
        *rules,
    ]
    for line in reversed(lines):  # the first one is drawn last, uppermost
        path, is_down = "", False
        for x, y in _thinned(line.points):
            if y is None:
                is_down = False
                continue
            path += f"{'L' if is_down else 'M'}{frame.x.px(x):.1f} {frame.y.px(y):.1f}"
            is_down = True
        dashed = " dashed" if line.is_dashed else ""
        parts.append(f'<path class="curve s{line.style % NUM_STYLES}{dashed}" d="{path}"/>')
    return "".join([*parts, "</svg>"])


def _thinned(points: Sequence[tuple[float, float | None]]) -> Sequence[tuple[float, float | None]]:
    every = -(-len(points) // _MOST_POINTS)
    return points[::every]


def _summary(lines: Sequence[Line], axes: Axes) -> str:
    words = []
    for line in lines:
        values = [y for _, y in line.points if y is not None]
        if values:
            words.append(f"{line.name}: {axes.y.format(min(values))} to {axes.y.format(max(values))}.")
    return f"{axes.title}. " + " ".join(words)
