"""Pieces of SVG text that the plots share: lines, words, markers, error bars.

Every element has a CSS class instead of a colour, so that one drawing follows the reader's theme and prints.
"""

from __future__ import annotations

import math
from html import escape

# Pixels: a character of the plots' 12 px font, generous so that no system font overflows its box.
CHAR_WIDTH = 7.0
# Pixels: half the length of the caps of error bars.
BAR_CAP = 4.0
# One marker per style, told apart without colour; styles repeat after the last.
_MARKERS = ("circle", "square", "triangle", "diamond", "down", "pentagon", "cross", "star")
NUM_STYLES = len(_MARKERS)
# Corners and first angle of the regular ones, degrees, y downwards.
_POLYGONS = {"square": (4, 45), "triangle": (3, -90), "diamond": (4, 0), "down": (3, 90), "pentagon": (5, -90)}
# Against the circle of the same radius: a polygon of equal radius looks smaller.
_POLYGON_GROWTH = 1.25


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(kind: str, x: float, y: float, words: str, *, anchor: str) -> str:
    """Escaped words on a baseline."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def error_bars(
    x: float, y: float, *, x_range: tuple[float, float] | None, y_range: tuple[float, float] | None, kind: str = "bar"
) -> str:
    """Bars with caps through a point, all in pixels; nothing where both ranges are None."""
    path = ""
    if x_range:
        path += f"M{x_range[0]:.1f} {y:.1f}H{x_range[1]:.1f}"
        path += "".join(f"M{end:.1f} {y - BAR_CAP:.1f}v{2 * BAR_CAP:.1f}" for end in x_range)
    if y_range:
        path += f"M{x:.1f} {y_range[0]:.1f}V{y_range[1]:.1f}"
        path += "".join(f"M{x - BAR_CAP:.1f} {end:.1f}h{2 * BAR_CAP:.1f}" for end in y_range)
    return f'<path class="{kind}" d="{path}"/>' if path else ""


def marker(style: int, x: float, y: float, *, radius: float) -> str:
    """The marker of a style, in its colour."""
    shape = _MARKERS[style % NUM_STYLES]
    kind = f"mark s{style % NUM_STYLES}"
    if shape == "circle":
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'
    if shape in _POLYGONS:
        corners, first = _POLYGONS[shape]
        reach = [radius * _POLYGON_GROWTH] * corners
        turn = 360 / corners
    elif shape == "star":
        first, turn = -90, 36.0
        reach = [radius * 1.5, radius * 0.62] * 5
    else:  # the cross: a plus sign turned by half a right angle, as twelve corners
        first, turn = 0, 30.0
        reach = [radius * (0.62 if index % 3 == 0 else 1.35) for index in range(12)]
    points = " ".join(
        f"{x + size * math.cos(math.radians(first + turn * index)):.1f},"
        f"{y + size * math.sin(math.radians(first + turn * index)):.1f}"
        for index, size in enumerate(reach)
    )
    return f'<polygon class="{kind}" points="{points}"/>'


def shortened(words: str, max_chars: int) -> str:
    """`words`, with the middle left out where they are too long: both ends of a variant's name tell it apart.

    >>> shortened("a-very-long-name@openvino", 11)
    'a-ver…nvino'
    """
    if len(words) <= max_chars:
        return words
    half = (max_chars - 1) // 2
    return f"{words[: max_chars - 1 - half]}…{words[-half:]}"
