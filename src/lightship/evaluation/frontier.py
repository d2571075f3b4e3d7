"""The frontier: pairs that no other pair beats on quality, goodput, memory, size and cost together. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lightship.evaluation.candidates import Candidate


class Axis(StrEnum):
    """What candidates are compared on. Quality and goodput are better when higher, the others when lower."""

    QUALITY = "quality"
    GOODPUT = "goodput"
    MEMORY = "memory"
    SIZE = "size"
    COST = "cost"


DEFAULT_AXES = (Axis.QUALITY, Axis.GOODPUT, Axis.MEMORY, Axis.SIZE)


@dataclass(frozen=True)
class Exclusion:
    """A candidate off the frontier, one on it that beats it, and a sentence saying so."""

    candidate: Candidate
    dominated_by: str
    reason: str


@dataclass(frozen=True)
class Frontier:
    """Candidates on the frontier, best quality first, and the others with their reasons."""

    axes: tuple[Axis, ...]
    kept: tuple[Candidate, ...]
    excluded: tuple[Exclusion, ...]


def pareto_frontier(candidates: Iterable[Candidate], axes: Sequence[Axis] = DEFAULT_AXES) -> Frontier:
    """The candidates that none other dominates: none is at least as good on every axis and better on one.

    Candidates equal on every axis are all kept. The result does not depend on the order of the input. Intervals play no
    part here: the frontier shows what was measured, the ladder decides with the bounds.

    Raises: ValueError: two candidates share a name, or there is no axis.
    """
    ordered = sorted(candidates, key=lambda one: (-one.quality_recovery, -one.goodput_requests_per_s, one.name))
    if len({one.name for one in ordered}) < len(ordered):
        raise ValueError("candidates must have different names")
    if not axes:
        raise ValueError("a frontier needs at least one axis")
    scores = {one.name: _scores(one, axes) for one in ordered}
    kept = [one for one in ordered if not any(_dominates(scores[other.name], scores[one.name]) for other in ordered)]
    names_kept = {one.name for one in kept}
    excluded = []
    for one in ordered:
        if one.name not in names_kept:
            # a dominated candidate is also dominated by one on the frontier: domination is transitive
            winner = next(other for other in kept if _dominates(scores[other.name], scores[one.name]))
            excluded.append(Exclusion(one, winner.name, _reason(winner, one, axes, scores)))
    return Frontier(tuple(axes), tuple(kept), tuple(excluded))


def _scores(candidate: Candidate, axes: Sequence[Axis]) -> tuple[float, ...]:
    """Higher is better on each axis; what is not known is the worst."""

    def score(axis: Axis) -> float:
        match axis:
            case Axis.QUALITY:
                return candidate.quality_recovery
            case Axis.GOODPUT:
                return candidate.goodput_requests_per_s
            case Axis.MEMORY:
                return -math.inf if candidate.memory_bytes is None else -candidate.memory_bytes
            case Axis.SIZE:
                return -float(candidate.size_bytes)
            case Axis.COST:
                return -math.inf if candidate.cost_usd_per_1m_tokens is None else -candidate.cost_usd_per_1m_tokens

    return tuple(score(axis) for axis in axes)


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(mine >= yours for mine, yours in zip(one, other, strict=True))


def _reason(winner: Candidate, loser: Candidate, axes: Sequence[Axis], scores: dict[str, tuple[float, ...]]) -> str:
    pairs = list(zip(axes, scores[winner.name], scores[loser.name], strict=True))
    better = " and ".join(axis for axis, mine, yours in pairs if mine > yours)
    equal = " and ".join(axis for axis, mine, yours in pairs if mine == yours)
    return f"Dominated by {winner.name}: better {better}" + (f", equal {equal}." if equal else ", worse in nothing.")
