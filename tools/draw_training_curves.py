"""Draws the validation curves of the built-in model and its student as one SVG file for the model card.

python tools/draw_training_curves.py docs/training-curves.svg
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from html import escape
from pathlib import Path

from lightship.artifacts.sources.builtin import builtin_checkpoint, builtin_students

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 40, 52
COLOURS = ("#2563eb", "#c2410c")


@dataclass(frozen=True)
class Curve:
    """Validation bits per byte over millions of tokens."""

    title: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Axis:
    """One linear axis between two pixel positions, with its ticks."""

    low: float
    high: float
    pixel_low: float
    pixel_high: float
    ticks: tuple[float, ...]

    def pixel(self, value: float) -> float:
        """Where `value` is drawn."""
        share = (value - self.low) / (self.high - self.low)
        return self.pixel_low + share * (self.pixel_high - self.pixel_low)


def read_curve(title: str, folder: Path) -> Curve:
    """The curve a training run left in its checkpoint folder."""
    rows = [json.loads(line) for line in (folder / "training_curve.jsonl").read_text("utf-8").splitlines()]
    return Curve(title, tuple((row["num_tokens"] / 1e6, row["valid_bits_per_byte"]) for row in rows))


def axes(curves: tuple[Curve, ...]) -> tuple[Axis, Axis]:
    """Axes that hold every point."""
    most_tokens = max(x for curve in curves for x, _ in curve.points)
    lowest = min(y for curve in curves for _, y in curve.points)
    highest = min(2.0, max(y for curve in curves for _, y in curve.points))
    y_low, y_high = int(lowest * 10) / 10, (int(highest * 10) + 1) / 10
    x_step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200) if most_tokens / step <= 12 or step == 200)
    x_ticks = tuple(float(x) for x in range(0, int(most_tokens) + 1, x_step))
    y_ticks = tuple(round(y_low + 0.1 * i, 1) for i in range(round((y_high - y_low) * 10) + 1))
    x_axis = Axis(0, most_tokens, LEFT, WIDTH - RIGHT, x_ticks)
    return x_axis, Axis(y_low, y_high, HEIGHT - BOTTOM, TOP, y_ticks)


def draw(curves: tuple[Curve, ...]) -> str:
    """The SVG document."""
    x_axis, y_axis = axes(curves)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Validation bits per byte over training tokens" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for tick in y_axis.ticks:
        y = y_axis.pixel(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#374151">{tick:.1f}</text>')
    for tick in x_axis.ticks:
        x = x_axis.pixel(tick)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle" fill="#374151">{tick:g}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle" fill="#111827">million tokens</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 16}" fill="#111827">validation bits per byte (lower is better)</text>')
    for number, (curve, colour) in enumerate(zip(curves, COLOURS, strict=False)):
        inside = [(x, y) for x, y in curve.points if y <= y_axis.high]
        path = " ".join(f"{x_axis.pixel(x):.1f},{y_axis.pixel(y):.1f}" for x, y in inside)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        label_y = TOP + 18 + 20 * number
        last = f"{curve.title}: {curve.points[-1][1]:.3f}"
        parts.append(
            f'<text x="{WIDTH - RIGHT - 8}" y="{label_y}" text-anchor="end" fill="{colour}">{escape(last)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description="Draw the training curves of the built-in model.")
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    students = builtin_students("fairytales")
    curves = (
        read_curve("teacher, 8 layers", builtin_checkpoint("fairytales")),
        *(read_curve("student, 2 layers, distilled", folder) for folder in students.values()),
    )
    args.output.write_text(draw(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
