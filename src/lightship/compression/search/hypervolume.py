"""How much of (quality, bytes, goodput) a set of candidates covers: the volume that one of them or another dominates.

Exact, in three dimensions. The unit is the box between a stated reference point and the reference model, so that a
figure says something by itself: 1 is what the uncompressed reference would cover were it free of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Point:
    """One candidate: share of the reference's quality, bytes of its files, requests per second that met the promise."""

    recovery: float
    num_bytes: float
    goodput_per_s: float

    def dominates(self, other: Point) -> bool:
        """Whether it is as good on each axis and better on one."""
        pairs = (
            (self.recovery, other.recovery),
            (other.num_bytes, self.num_bytes),
            (self.goodput_per_s, other.goodput_per_s),
        )
        return self != other and all(mine >= theirs for mine, theirs in pairs)


@dataclass(frozen=True)
class VolumeFrame:
    """From where volume counts, and in which units.

    Args:
        recovery: Recovery at which quality is worth nothing.
        num_bytes: Size at which being small is worth nothing.
        unit_goodput_per_s: The reference's goodput; goodput counts from zero.
    """

    recovery: float
    num_bytes: float
    unit_goodput_per_s: float

    def gains(self, point: Point) -> Triple:
        """The point's gains over the reference point: recovery and bytes as shares of the span, goodput in units."""
        return (
            (point.recovery - self.recovery) / (1 - self.recovery),
            (self.num_bytes - point.num_bytes) / self.num_bytes,
            point.goodput_per_s / self.unit_goodput_per_s,
        )


# The reference itself must count for something, so the box begins a little above its bytes.
_ROOM_ABOVE_REFERENCE = 1.1


def volume_frame(*, quality_floor: float, reference_bytes: float, reference_goodput_per_s: float) -> VolumeFrame:
    """The frame of a search: quality counts from as far below the floor as the floor is below the reference, bytes from
    1.1 times the reference's, goodput from zero in units of the reference's.

    A reference that met no promise has no unit; goodput then counts in requests per second.

    >>> volume_frame(quality_floor=0.95, reference_bytes=1000, reference_goodput_per_s=2.0).num_bytes
    1100.0
    """
    # A floor of 1 leaves no span below the reference; a thousandth keeps the unit finite.
    span = max(2 * (1 - quality_floor), 1e-3)
    return VolumeFrame(
        recovery=1 - span,
        num_bytes=_ROOM_ABOVE_REFERENCE * reference_bytes,
        unit_goodput_per_s=reference_goodput_per_s if reference_goodput_per_s > 0 else 1.0,
    )


def hypervolume(points: Iterable[Point], frame: VolumeFrame) -> float:
    """Volume that the points dominate, in the frame's units; a point no better than the frame on an axis adds none."""
    return dominated_volume([frame.gains(point) for point in points])


def contributions(points: Sequence[Point], frame: VolumeFrame) -> list[float]:
    """What the volume would lose without each point; equals lose nothing."""
    gains = [frame.gains(point) for point in points]
    whole = dominated_volume(gains)
    return [whole - dominated_volume(gains[:i] + gains[i + 1 :]) for i in range(len(gains))]


def dominated_volume(gains: Sequence[Triple]) -> float:
    """Volume of the union of the boxes from the origin to each point; negative gains count as none.

    Sweeps the third axis from above: between two heights the section is the union of the rectangles of all points as
    high, a staircase whose area is exact.
    """
    boxes = sorted((one for one in gains if min(one) > 0), key=lambda one: -one[2])
    volume = 0.0
    section: list[tuple[float, float]] = []
    for count, (first, second, height) in enumerate(boxes):
        section.append((first, second))
        below = boxes[count + 1][2] if count + 1 < len(boxes) else 0.0
        if height > below:
            volume += _staircase_area(section) * (height - below)
    return volume


def _staircase_area(corners: Sequence[tuple[float, float]]) -> float:
    area, reached = 0.0, 0.0
    for first, second in sorted(corners, reverse=True):
        if second > reached:
            area += first * (second - reached)
            reached = second
    return area
