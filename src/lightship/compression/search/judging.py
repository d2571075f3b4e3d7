"""What measured figures say of a candidate: too slow, a finalist, accepted, on the frontier. Pure; each with words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightship.compression.search.hypervolume import Point
from lightship.compression.search.ranking import domination_words, dominator, frontier
from lightship.compression.search.records import (
    Budget,
    Decision,
    Fate,
    QualityFigures,
    Share,
    SpeedFigures,
    Stage,
    TaskFigures,
)
from lightship.units import format_bytes


@dataclass
class Known:
    """What was measured of one candidate so far."""

    num_bytes: int | None = None
    digest: str = ""
    quality: QualityFigures | None = None
    speed: SpeedFigures | None = None
    tasks: TaskFigures | None = None

    @property
    def recovery(self) -> Share | None:
        """On tasks, or on text where those were not evaluated."""
        if self.tasks is not None:
            return self.tasks.recovery
        return self.quality.recovery if self.quality is not None else None

    @property
    def point(self) -> Point | None:
        """Its place among the others; None until all three axes are measured."""
        recovery = self.recovery
        if self.num_bytes is None or recovery is None or self.speed is None:
            return None
        return Point(recovery.value, self.num_bytes, self.speed.goodput_per_s.value)

    @property
    def words(self) -> str:
        """The figures of its three axes."""
        parts = []
        if (recovery := self.recovery) is not None:
            parts.append(f"recovery {share_words(recovery)} on {'tasks' if self.tasks is not None else 'text'}")
        if self.num_bytes is not None:
            parts.append(format_bytes(self.num_bytes))
        if self.speed is not None:
            parts.append(f"{self.speed.goodput_per_s.value:.3g} good requests/s")
        return ", ".join(parts) or "nothing measured"


def share_words(share: Share) -> str:
    """A share with its interval, as percentages."""
    if share.low == share.high:
        return f"{share.value:.2%}"
    return f"{share.value:.2%} ({share.low:.2%} to {share.high:.2%})"


def speed_rejection(figures: SpeedFigures, budget: Budget) -> str | None:
    """Why the speed rules a candidate out: no request met the promise."""
    if figures.goodput_per_s.value > 0:
        return None
    promises = [
        f"{word} {'not known' if had is None else f'{had:.3g} ms'} against {promise:g} ms"
        for word, had, promise in (
            ("time to first token", figures.ttft_ms, budget.ttft_ms),
            ("time per output token", figures.tpot_ms, budget.tpot_ms),
        )
        if promise is not None
    ]
    return f"No request met the promise at {budget.concurrency} at once" + (
        f": {', '.join(promises)}" if promises else ""
    )


def below_floor(figures: QualityFigures, quality_floor: float) -> str | None:
    """Why text alone rules a finalist out: not even the upper bound of its recovery reaches the floor."""
    if figures.recovery.high >= quality_floor:
        return None
    return f"Keeps {share_words(figures.recovery)} on text, and the floor is {quality_floor:.2%}."


def acceptance(recovery: Share, quality_floor: float, *, basis: str) -> tuple[bool, str]:
    """Whether a candidate keeps enough: the lower bound of its recovery must reach the floor. With a sentence."""
    words = f"Keeps {share_words(recovery)} on {basis}"
    if recovery.low >= quality_floor:
        return True, f"{words}: even the lower bound reaches the floor of {quality_floor:.2%}."
    if recovery.value >= quality_floor:
        return False, (
            f"{words}: the estimate reaches the floor of {quality_floor:.2%}, the lower bound does not; more items "
            "would decide it."
        )
    return False, f"{words}: below the floor of {quality_floor:.2%}."


def not_finalists(ranked: Sequence[str], points: Mapping[str, Point], *, most: int) -> list[Decision]:
    """Decisions on those behind the first `most` of the order."""
    finalists, rest = ranked[:most], ranked[most:]
    decisions = []
    for name in rest:
        winner = dominator(name, points, finalists)
        if winner is not None:
            words = f"Dominated by {winner}: {domination_words(points[winner], points[name])}."
            decisions.append(Decision(name, Fate.REJECTED, Stage.FINALISTS, words))
        else:
            place = ranked.index(name) + 1
            words = f"Came in place {place} of {len(ranked)} by what was measured; tasks are evaluated of {most}."
            decisions.append(Decision(name, Fate.NOT_REACHED, Stage.FINALISTS, words))
    return decisions


def frontier_decisions(points: Mapping[str, Point], reasons: Mapping[str, str]) -> list[Decision]:
    """Kept or dominated, for each accepted candidate.

    Args:
        reasons: The sentence of each one's acceptance.
    """
    kept = frontier(points)
    decisions = []
    for name, point in points.items():
        winner = dominator(name, points, kept)
        if winner is None:
            words = f"{reasons[name]} None beats it on quality, bytes and goodput together."
            decisions.append(Decision(name, Fate.KEPT, Stage.FRONTIER, words))
        else:
            words = f"Dominated by {winner}: {domination_words(points[winner], point)}."
            decisions.append(Decision(name, Fate.REJECTED, Stage.FRONTIER, words))
    return decisions


def reference_words(known: Known, budget: Budget) -> tuple[bool, str]:
    """Whether the reference itself may be served, with a sentence."""
    most = budget.max_bytes
    if most is not None and known.num_bytes is not None and known.num_bytes > most:
        size = format_bytes(known.num_bytes)
        return False, f"Only what others are measured against: its {size} exceed the budget of {format_bytes(most)}."
    if known.speed is not None and (reason := speed_rejection(known.speed, budget)):
        return False, f"Only what others are measured against. {reason}."
    return True, "The reference: its recovery is 100 % by definition."
