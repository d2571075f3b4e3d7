"""Places labels beside points so that they cover neither each other nor the points. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

# Pixels from a point's centre to its label's nearest edge; near ones first, far ones get a leader line.
_DISTANCES = (13, 20, 32, 48, 70, 96, 130)
# Right and left read best, so they come first among equals.
_ANGLES = (0, 180, -90, 90, -45, 45, -135, 135)


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Shared area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0.0

    def contains(self, other: Box) -> bool:
        """Whether `other` lies inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and other.right <= self.right
            and other.bottom <= self.bottom
        )


@dataclass(frozen=True)
class LabelRequest:
    """A label of some size that wants to be near a point."""

    x: float
    y: float
    width: float
    height: float


def place_labels(
    requests: Sequence[LabelRequest], *, area: Box, solid: Sequence[Box] = (), soft: Sequence[Box] = ()
) -> list[Box]:
    """A box for each label, in order; earlier ones choose first.

    Args:
        requests: Labels and their points.
        area: Labels stay inside where they can.
        solid: Must not be covered (points).
        soft: Better not covered (error bars).
    """
    placed: list[Box] = []
    for request in requests:
        options = [_box_at(request, distance, angle) for distance in _DISTANCES for angle in _ANGLES]
        costs = [
            (_cost(option, area=area, solid=[*solid, *placed], soft=soft), rank) for rank, option in enumerate(options)
        ]
        placed.append(options[min(costs)[1]])
    return placed


def _box_at(request: LabelRequest, distance: float, angle: float) -> Box:
    dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    centre_x = request.x + dx * (distance + request.width / 2)
    centre_y = request.y + dy * (distance + request.height / 2)
    return Box(
        centre_x - request.width / 2,
        centre_y - request.height / 2,
        centre_x + request.width / 2,
        centre_y + request.height / 2,
    )


def _cost(option: Box, *, area: Box, solid: Sequence[Box], soft: Sequence[Box]) -> float:
    outside = 0.0 if area.contains(option) else 1e6
    hard = sum(option.overlap(other) for other in solid)
    light = sum(option.overlap(other) for other in chain(soft))
    return outside + (1e3 + hard if hard else 0.0) + light
