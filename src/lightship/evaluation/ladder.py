"""The choice of the ladder from measured candidates, with a reason for every candidate. Pure.

The rules, in order:

1. A rung's quality recovery must reach the floor with its *lower* bound. The reference is 1 by definition.
2. The top rung is the reference. Where a candidate is faster by `min_speedup` or more and its lower bound shows that it
   keeps the reference's quality within `EQUAL_QUALITY_MARGIN`, the fastest such candidate takes the top instead.
3. Then downwards in quality: a candidate becomes the next rung when its quality is lower than that of the rung above
   and its speed at the target concurrency is at least `min_speedup` times as high. A lower rung that is not faster
   would deepen the overload it is there to relieve.

Speed is goodput (good requests/s). When no candidate has a single good request, the SLO is out of this machine's reach;
the ladder then goes by tokens/s and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from lightship.errors import MeasurementError, SpecError
from lightship.evaluation.candidates import Candidate

# Share of the reference's quality: half a point, the spread that 8-bit variants usually stay within.
EQUAL_QUALITY_MARGIN = 0.005


class SpeedBasis(StrEnum):
    """What rungs are ordered by."""

    GOODPUT = "goodput"
    TOKENS = "tokens"

    @property
    def unit(self) -> str:
        """Unit for sentences and axes."""
        return "requests/s" if self is SpeedBasis.GOODPUT else "tokens/s"

    def speed_of(self, candidate: Candidate) -> float:
        """The candidate's figure."""
        return candidate.goodput_requests_per_s if self is SpeedBasis.GOODPUT else candidate.tokens_per_s


@dataclass(frozen=True)
class Rung:
    """One rung, 1 being the top. `speedup` is over the rung above; None at the top, and where that has no speed."""

    position: int
    candidate: Candidate
    speed: float
    speedup: float | None


@dataclass(frozen=True)
class Decision:
    """What became of a candidate. `warnings` name the rules that an explicit ladder breaks."""

    candidate: Candidate
    is_kept: bool
    reason: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ladder:
    """Rungs from best quality to highest speed, a decision for every candidate, and a note on it all, or ""."""

    rungs: tuple[Rung, ...]
    decisions: tuple[Decision, ...]
    speed_basis: SpeedBasis
    quality_floor: float
    min_speedup: float
    note: str = ""


def choose_ladder(
    candidates: Sequence[Candidate],
    *,
    quality_floor: float,
    min_speedup: float = 1.1,
    explicit: Sequence[str] | None = None,
) -> Ladder:
    """The ladder that the rules above give, or the explicit one with warnings where it breaks them.

    Args:
        candidates: Pairs with their figures; the result does not depend on their order.
        quality_floor: Least share of the reference's quality a rung may have.
        min_speedup: Least ratio of a rung's speed to that of the rung above.
        explicit: Names of candidates from the top down; None for the automatic choice.

    Raises: MeasurementError: there is no candidate, or none reaches the floor. SpecError: an explicit name is unknown
        or repeated.
    """
    if not candidates:
        raise MeasurementError("there is no measured variant to build a ladder from", hint="Measure at least one.")
    rules = _Rules(candidates, quality_floor=quality_floor, min_speedup=min_speedup)
    if explicit is None:
        rungs, decisions = rules.automatic()
    else:
        rungs, decisions = rules.explicit(explicit)
    return Ladder(rungs, decisions, rules.basis, quality_floor, min_speedup, rules.note)


class _Rules:
    """The candidates in order of quality, and the rules as questions about them."""

    def __init__(self, candidates: Sequence[Candidate], *, quality_floor: float, min_speedup: float) -> None:
        has_goodput = any(one.goodput_requests_per_s > 0 for one in candidates)
        self.basis = SpeedBasis.GOODPUT if has_goodput else SpeedBasis.TOKENS
        self.note = (
            ""
            if has_goodput
            else "No variant had a single request within the SLO at the target concurrency on this machine, so the "
            "ladder goes by tokens/s. Relax the SLO, lower the concurrency or use a faster machine."
        )
        self._floor = quality_floor
        self._min_speedup = min_speedup
        self._ordered = sorted(candidates, key=lambda one: (-one.quality_recovery, -self.basis.speed_of(one), one.name))

    def automatic(self) -> tuple[tuple[Rung, ...], tuple[Decision, ...]]:
        """Rungs and decisions by the rules."""
        problems = {one.name: self._floor_problem(one) for one in self._ordered}
        eligible = [one for one in self._ordered if problems[one.name] is None]
        if not eligible:
            raise MeasurementError(
                f"no variant reaches the quality floor of {percent(self._floor)}: "
                + " ".join(f"{name}: {problem}" for name, problem in problems.items()),
                hint="Lower quality.floor or add a better variant.",
            )
        top, reason = self._choose_top(eligible)
        rungs = [self._rung(top, above=None)]
        decisions = {top.name: Decision(top, True, reason)}
        for one in self._ordered:
            if one.name == top.name:
                continue
            problem = problems[one.name] or self._step_problem(one, rungs[-1])
            if problem is None:
                decisions[one.name] = Decision(one, True, self._step_words(one, rungs[-1]))
                rungs.append(self._rung(one, above=rungs[-1]))
            else:
                decisions[one.name] = Decision(one, False, problem)
        return tuple(rungs), _in_report_order(rungs, decisions)

    def explicit(self, names: Sequence[str]) -> tuple[tuple[Rung, ...], tuple[Decision, ...]]:
        """Rungs in the given order; broken rules become warnings."""
        by_name = {one.name: one for one in self._ordered}
        known = ", ".join(sorted(by_name))
        rungs: list[Rung] = []
        decisions: dict[str, Decision] = {}
        for index, name in enumerate(names):
            where = f"ladder[{index}]"
            if name not in by_name:
                raise SpecError(f"there is no measured variant {name!r}", where=where, hint=f"Measured are: {known}.")
            if name in decisions:
                raise SpecError(f"{name!r} is listed twice", where=where, hint="Each rung must be another variant.")
            one, above = by_name[name], rungs[-1] if rungs else None
            found = (self._floor_problem(one), above and self._step_problem(one, above))
            decisions[name] = Decision(
                one, True, f"Rung {index + 1} of the ladder that the spec lists.", tuple(text for text in found if text)
            )
            rungs.append(self._rung(one, above=above))
        if not rungs:
            raise SpecError(
                "an explicit ladder needs at least one rung", where="ladder", hint=f"Measured are: {known}."
            )
        for one in self._ordered:
            decisions.setdefault(one.name, Decision(one, False, "Not in the ladder that the spec lists."))
        return tuple(rungs), _in_report_order(rungs, decisions)

    def _choose_top(self, eligible: Sequence[Candidate]) -> tuple[Candidate, str]:
        references = [one for one in eligible if one.is_reference]
        best = (references or eligible)[0]
        least = best.quality_recovery - EQUAL_QUALITY_MARGIN
        equals = [
            one
            for one in eligible
            if one.name != best.name and lower_bound(one) >= least and self._is_faster(one, self.basis.speed_of(best))
        ]
        kind = "The reference" if best.is_reference else "The best quality measured"
        margin = f"{EQUAL_QUALITY_MARGIN * 100:g} points"
        if not equals:
            return best, f"{kind}; no variant within {margin} of its quality is {self._min_speedup:g} times as fast."
        fastest = min(equals, key=lambda one: (-self.basis.speed_of(one), -one.quality_recovery, one.name))
        return fastest, (
            f"Keeps {quality_words(fastest)} of the quality, within {margin} of {best.name}, "
            f"at {self._comparison(fastest, self.basis.speed_of(best))}."
        )

    def _floor_problem(self, one: Candidate) -> str | None:
        if one.is_reference and one.quality_recovery >= self._floor:
            return None
        if one.quality_interval is None:
            return f"Quality {percent(one.quality_recovery)} was measured without an interval, so its bound is unknown."
        if lower_bound(one) < self._floor:
            return (
                f"Quality {quality_words(one)} does not reach the floor of {percent(self._floor)} with its lower bound."
            )
        return None

    def _step_problem(self, one: Candidate, above: Rung) -> str | None:
        if not self._is_faster(one, above.speed):
            return (
                f"Only {self._comparison(one, above.speed)} of rung {above.position}, {above.candidate.name} "
                f"({self._min_speedup:g} times are needed): stepping down to it would not relieve an overload."
            )
        if one.quality_recovery >= above.candidate.quality_recovery:
            return (
                f"Quality {quality_words(one)} is not below that of rung {above.position}, {above.candidate.name} "
                f"({percent(above.candidate.quality_recovery)}), but too uncertain to stand above it."
            )
        return None

    def _is_faster(self, one: Candidate, than: float) -> bool:
        speed = self.basis.speed_of(one)
        return speed > than and speed >= self._min_speedup * than

    def _step_words(self, one: Candidate, above: Rung) -> str:
        floor = percent(self._floor)
        speed = self._comparison(one, above.speed)
        return f"{speed} of rung {above.position}, at {quality_words(one)} of the quality (floor {floor})."

    def _comparison(self, one: Candidate, than: float) -> str:
        speed = self.basis.speed_of(one)
        figures = f"{speed:.3g} against {than:.3g} {self.basis.unit}"
        word = "goodput" if self.basis is SpeedBasis.GOODPUT else "tokens/s"
        return f"{speed / than:.2f} times the {word} ({figures})" if than > 0 else f"more {word} ({figures})"

    def _rung(self, one: Candidate, above: Rung | None) -> Rung:
        speed = self.basis.speed_of(one)
        speedup = speed / above.speed if above and above.speed > 0 else None
        return Rung(above.position + 1 if above else 1, one, speed, speedup)


def _in_report_order(rungs: Sequence[Rung], decisions: dict[str, Decision]) -> tuple[Decision, ...]:
    kept = [decisions[rung.candidate.name] for rung in rungs]
    rest = [one for one in decisions.values() if not one.is_kept]
    return (*kept, *sorted(rest, key=lambda one: (-one.candidate.quality_recovery, one.candidate.name)))


def lower_bound(candidate: Candidate) -> float:
    """The least quality recovery that the measurement supports; the reference has its value, no interval means 0."""
    if candidate.is_reference:
        return candidate.quality_recovery
    return candidate.quality_interval.low if candidate.quality_interval else 0.0


def quality_words(candidate: Candidate) -> str:
    """Recovery with its lower bound, for sentences."""
    value = percent(candidate.quality_recovery)
    return f"{value} (at least {percent(candidate.quality_interval.low)})" if candidate.quality_interval else value


def percent(share: float) -> str:
    """A share as people read it.

    >>> percent(0.97), percent(0.98765)
    ('97%', '98.77%')
    """
    return f"{share * 100:.2f}".rstrip("0").rstrip(".") + "%"
