"""Places labels beside points so that they cover neither each other nor the points. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

# Pixels from a point's centre to its label's nearest edge; near ones first, far ones get a leader line.
DISTANCES = (13, 20, 32, 48, 70, 96, 130)
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
        # most pairs lie apart, and this is asked some hundred thousand times for a page
        if other.left >= self.right or self.left >= other.right or other.top >= self.bottom or self.top >= other.bottom:
            return 0.0
        width = min(self.right, other.right) - max(self.left, other.left)
        return width * (min(self.bottom, other.bottom) - max(self.top, other.top))

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
    requests: Sequence[LabelRequest],
    *,
    area: Box,
    solid: Sequence[Box] = (),
    soft: Sequence[Box] = (),
    distances: Sequence[float] = DISTANCES,
) -> list[Box]:
    """A box for each label, in order; earlier ones choose first.

    Args:
        requests: Labels and their points.
        area: Labels stay inside where they can.
        solid: Must not be covered (points).
        soft: Better not covered (error bars, lines).
        distances: Pixels from a point to its label that are tried, near ones first.
    """
    placed: list[Box] = []
    for request in requests:
        options = [_box_at(request, distance, angle) for distance in distances for angle in _ANGLES]
        reach = _around(options)
        near_solid = [box for box in chain(solid, placed) if box.overlap(reach)]
        near_soft = [box for box in soft if box.overlap(reach)]
        costs = [
            (_cost(option, area=area, solid=near_solid, soft=near_soft), rank) for rank, option in enumerate(options)
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


def _around(boxes: Sequence[Box]) -> Box:
    return Box(
        min(box.left for box in boxes),
        min(box.top for box in boxes),
        max(box.right for box in boxes),
        max(box.bottom for box in boxes),
    )


def along(path: Sequence[tuple[float, float]], *, step: float = 10.0, half_width: float = 2.0) -> list[Box]:
    """Small boxes along the straight pieces between the points, for labels to keep off a line."""
    boxes = []
    for (x1, y1), (x2, y2) in pairwise(path):
        num_steps = max(1, math.ceil(math.hypot(x2 - x1, y2 - y1) / step))
        for index in range(num_steps + 1):
            x, y = x1 + (x2 - x1) * index / num_steps, y1 + (y2 - y1) * index / num_steps
            boxes.append(Box(x - half_width, y - half_width, x + half_width, y + half_width))
    return boxes


def _cost(option: Box, *, area: Box, solid: Sequence[Box], soft: Sequence[Box]) -> float:
    outside = 0.0 if area.contains(option) else 1e6
    hard = sum(option.overlap(other) for other in solid)
    light = 0.0 if hard else sum(option.overlap(other) for other in soft)
    return outside + (1e3 + hard if hard else 0.0) + light
