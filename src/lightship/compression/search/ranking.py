"""Puts measured candidates in order: first those that none beats on every axis, then by what each adds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightship.compression.search.hypervolume import Point, VolumeFrame, contributions
from lightship.units import format_bytes


def rank(points: Mapping[str, Point], frame: VolumeFrame) -> list[str]:
    """Names, the best first.

    Layers as in non-dominated sorting: the frontier, then the frontier of the rest, and so on; within a layer by the
    volume that would be lost without it. Equals stay in the order given.
    """
    left = dict(points)
    ordered: list[str] = []
    while left:
        layer = frontier(left)
        volumes = dict(zip(layer, contributions([left[name] for name in layer], frame), strict=True))
        ordered += sorted(layer, key=lambda name: -volumes[name])
        left = {name: point for name, point in left.items() if name not in volumes}
    return ordered


def frontier(points: Mapping[str, Point]) -> list[str]:
    """Names that none other dominates, in the order given."""
    return [name for name, point in points.items() if not any(other.dominates(point) for other in points.values())]


def dominator(name: str, points: Mapping[str, Point], among: Sequence[str]) -> str | None:
    """The first of `among` that dominates `name`."""
    return next((other for other in among if points[other].dominates(points[name])), None)


def domination_words(winner: Point, loser: Point) -> str:
    """The figures of both, side by side."""
    pairs = (
        f"recovery {winner.recovery:.3%} against {loser.recovery:.3%}",
        f"{format_bytes(winner.num_bytes)} against {format_bytes(loser.num_bytes)}",
        f"{winner.goodput_per_s:.3g} good requests/s against {loser.goodput_per_s:.3g}",
    )
    return ", ".join(pairs)
