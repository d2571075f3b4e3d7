"""Batches of actions, what fits into the time left, and what builds of several candidates share. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lightship.compression.search.records import Action, ActionFailed, ActionKind, Built, Candidate, Outcome, Stage

Key = tuple[ActionKind, str]

# Sums of the same estimates in another order differ in the last digits.
ROUNDING_S = 1e-6


@dataclass(frozen=True)
class Batch:
    """Actions that do not depend on each other, the most wanted first.

    Args:
        leads_to_s: By candidate, the estimate of what its action's success leads to.
        kept_back_s: Of the time budget, not for this batch.
    """

    stage: Stage
    actions: tuple[Action, ...]
    leads_to_s: Mapping[str, float] = field(default_factory=dict)
    kept_back_s: float = 0.0

    def open_actions(self, outcomes: Mapping[Key, Outcome], *, left_s: float) -> tuple[Action, ...]:
        """Those that still lack an outcome and fit into the time left, as many as fit together.

        An action that does not fit now never will: the time left only shrinks, and what successes lead to only grows.
        """
        found_so_far = {action.candidate: outcomes.get((action.kind, action.candidate)) for action in self.actions}
        succeeded = [
            name for name, one in found_so_far.items() if one is not None and not isinstance(one, ActionFailed)
        ]
        room_s = left_s - self.kept_back_s - math.fsum(self.leads_to_s.get(name, 0.0) for name in succeeded)
        found = []
        for action in self.actions:
            needed_s = action.estimate_s + self.leads_to_s.get(action.candidate, 0.0)
            if found_so_far[action.candidate] is None and needed_s <= room_s + ROUNDING_S:
                found.append(action)
                room_s -= needed_s
        return tuple(found)


class Builds:
    """Which candidate's build serves which others, and what is left to pay for.

    Candidates with equal recipes are served from one variant, and recipes that begin alike share the steps of their
    beginning, which the store keeps.
    """

    def __init__(self, steps_s: Mapping[str, tuple[float, ...]], outcomes: Mapping[Key, Outcome]) -> None:
        self._steps_s, self._outcomes = steps_s, outcomes
        self._builders: dict[str, Candidate] = {}

    def plan(self, candidates: list[Candidate]) -> list[tuple[Candidate, float]]:
        """The candidates whose variants were not asked for before, each with the estimate of its steps.

        Effects: they count as asked for from now on.
        """
        made = self._beginnings_made()
        planned = []
        for one in candidates:
            if one.build_key not in self._builders:
                self._builders[one.build_key] = one
                planned.append((one, self._pay(one, made)))
        return planned

    def estimates_s(self, candidates: list[Candidate]) -> list[float]:
        """What each would take after those before it; nothing for one whose variant was asked for."""
        made, keys = self._beginnings_made(), set(self._builders)
        found = []
        for one in candidates:
            found.append(0.0 if one.build_key in keys else self._pay(one, made))
            keys.add(one.build_key)
        return found

    def builder_of(self, candidate: Candidate) -> str:
        """The candidate whose build makes this one's variant."""
        return self._builders[candidate.build_key].name

    def outcome_of(self, candidate: Candidate) -> Outcome | None:
        """What became of the build; None where it was never made."""
        return self._outcomes.get((ActionKind.BUILD, self.builder_of(candidate)))

    def _beginnings_made(self) -> set[str]:
        made: set[str] = set()
        for one in self._builders.values():
            if isinstance(self.outcome_of(one), Built):
                self._pay(one, made)
        return made

    def _pay(self, one: Candidate, made: set[str]) -> float:
        total_s, beginning = 0.0, ""
        for step, cost_s in zip(one.recipe.steps, self._steps_s[one.name], strict=True):
            beginning += f"{step.kind} {sorted(step.options.items())};"
            if beginning not in made:
                made.add(beginning)
                total_s += cost_s
        return total_s
