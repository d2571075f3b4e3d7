"""Chooses a format for each group of layers, so that the model loses least within a budget of bytes. Pure.

A multiple-choice knapsack, solved by dynamic programming over byte counts. Layers of a model share a few shapes, so
sums of their bytes coincide and the table stays small.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lightship.errors import SpecError
from lightship.units import format_bytes

# States kept between two groups. Beyond, the best state of each of so many equal intervals of bytes is kept: that keeps
# the budget and may miss the optimum by what such an interval is worth. 36 layers of four shapes stay below.
MAX_STATES = 20_000


@dataclass(frozen=True)
class Choice:
    """One format that a group can have.

    Args:
        format: Name.
        num_bytes: What the group takes in it.
        divergence: What the model's output loses when only this group has it, in nats per token.
    """

    format: str
    num_bytes: int
    divergence: float


@dataclass(frozen=True)
class Group:
    """Layers that have one format, and which it can be."""

    name: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Allocation:
    """A choice for each group.

    Args:
        reasons: For people, by group.
        num_bytes: Sum over groups; within the budget.
        divergence: Sum over groups, which is least among all that keep the budget. Losses of groups do not quite add
            up, so it is a prediction.
    """

    choices: Mapping[str, Choice]
    reasons: Mapping[str, str]
    num_bytes: int
    divergence: float


@dataclass(frozen=True)
class _State:
    num_bytes: int
    divergence: float
    choice: Choice | None
    previous: _State | None


def allocate(groups: Sequence[Group], budget_bytes: int) -> Allocation:
    """The choices with the least sum of divergences whose bytes keep the budget; among equals the one of fewer bytes.

    Raises: SpecError: not even the smallest formats keep it, or a group is named twice or has no choice.
    """
    _check(groups, budget_bytes)
    # What the groups that are still to come take at least, so that a state that cannot keep the budget is never made.
    rest = sum(min(choice.num_bytes for choice in group.choices) for group in groups)
    states = [_State(0, 0.0, None, None)]
    for group in groups:
        rest -= min(choice.num_bytes for choice in group.choices)
        states = _undominated(
            _State(state.num_bytes + choice.num_bytes, state.divergence + choice.divergence, choice, state)
            for state in states
            for choice in group.choices
            if state.num_bytes + choice.num_bytes + rest <= budget_bytes
        )
        if len(states) > MAX_STATES:
            states = _thinned(states)
    best = states[-1]  # the frontier goes from few bytes to little divergence
    chosen = _chosen(best)
    return Allocation(
        choices={group.name: choice for group, choice in zip(groups, chosen, strict=True)},
        reasons={group.name: _reason(group, choice) for group, choice in zip(groups, chosen, strict=True)},
        num_bytes=best.num_bytes,
        divergence=best.divergence,
    )


def _check(groups: Sequence[Group], budget_bytes: int) -> None:
    names = [group.name for group in groups]
    if len(names) != len(set(names)):
        raise SpecError("a group of layers is named twice", where="allocation")
    if empty := [group.name for group in groups if not group.choices]:
        raise SpecError(f"group {empty[0]} has no format to choose from", where="allocation")
    least = sum(min(choice.num_bytes for choice in group.choices) for group in groups)
    if least > budget_bytes:
        raise SpecError(
            f"a budget of {format_bytes(budget_bytes)} is less than the smallest formats take, {format_bytes(least)}",
            where="allocation",
            hint="Give a larger budget, or prune the model first.",
        )


def _undominated(candidates: Iterable[_State]) -> list[_State]:
    """States that no other beats in both bytes and divergence, by bytes."""
    frontier: list[_State] = []
    for state in sorted(candidates, key=lambda s: (s.num_bytes, s.divergence)):
        if not frontier or state.divergence < frontier[-1].divergence:
            frontier.append(state)
    return frontier


def _thinned(states: list[_State]) -> list[_State]:
    """At most `MAX_STATES` of a frontier: the last, and so the best, of each interval of bytes."""
    smallest, largest = states[0].num_bytes, states[-1].num_bytes
    bytes_at = [state.num_bytes for state in states]
    kept: dict[int, _State] = {smallest: states[0]}
    for index in range(1, MAX_STATES):
        limit = smallest + (largest - smallest) * index // (MAX_STATES - 1)
        state = states[bisect_right(bytes_at, limit) - 1]
        kept[state.num_bytes] = state
    return list(kept.values())


def _chosen(state: _State) -> list[Choice]:
    chosen: list[Choice] = []
    while state.previous is not None and state.choice is not None:
        chosen.append(state.choice)
        state = state.previous
    return chosen[::-1]


def _reason(group: Group, chosen: Choice) -> str:
    """Why not smaller, and why not larger."""
    smaller = max((c for c in group.choices if c.num_bytes < chosen.num_bytes), key=lambda c: c.num_bytes, default=None)
    larger = min((c for c in group.choices if c.num_bytes > chosen.num_bytes), key=lambda c: c.num_bytes, default=None)
    parts = []
    if smaller is not None:
        freed, lost = chosen.num_bytes - smaller.num_bytes, smaller.divergence - chosen.divergence
        parts.append(f"{smaller.format} would free {format_bytes(freed)} and cost {lost:.2g} nats more")
    if larger is not None:
        taken, gained = larger.num_bytes - chosen.num_bytes, chosen.divergence - larger.divergence
        parts.append(f"{larger.format} would take {format_bytes(taken)} more and gain {gained:.2g} nats")
    return f"{chosen.format}: {'; '.join(parts)}" if parts else f"{chosen.format}: the only format there is"
