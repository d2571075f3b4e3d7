"""What a driver calls: start, what to do next, what came out, what was decided. All pure.

The loop of a driver, `journal` being the outcomes of an earlier run, or ():

    state, known = advance(start(setup), journal)
    while (action := next_actions(state)[0]).kind is not ActionKind.STOP:
        state, known = advance(record(state, do(action)), known)
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from lightship.compression.search.batches import Batch, Key
from lightship.compression.search.hypervolume import Point, VolumeFrame, hypervolume, volume_frame
from lightship.compression.search.judging import Known
from lightship.compression.search.records import (
    Action,
    ActionKind,
    Decision,
    Fate,
    Outcome,
    Proposal,
    SearchSetup,
    SearchState,
    Stage,
    kind_of,
)
from lightship.compression.search.walk import Search
from lightship.errors import UsageError
from lightship.units import format_duration


@dataclass(frozen=True)
class Standing:
    """Where a search stands.

    Args:
        stage: Of the actions that are open; None when it is over.
        actions: Open ones, or one `stop`.
        decisions: Of candidates whose fate is known, by name.
        known: What was measured so far, by name.
        spent_s: What all outcomes took.
        left_s: Of the time budget.
    """

    stage: Stage | None
    actions: tuple[Action, ...]
    decisions: dict[str, Decision]
    known: dict[str, Known]
    spent_s: float
    left_s: float

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.stage is None

    @property
    def kept(self) -> tuple[str, ...]:
        """Names on the frontier, once the search is over."""
        return tuple(name for name, one in self.decisions.items() if one.fate is Fate.KEPT)


def start(setup: SearchSetup) -> SearchState:
    """A search that nothing was done for yet."""
    return SearchState(setup=setup)


def standing(state: SearchState) -> Standing:
    """Everything that follows from the setup and the outcomes so far. The same for the same state, always."""
    outcomes: dict[Key, Outcome] = {(kind_of(one), one.candidate): one for one in state.journal}
    left_s = state.setup.budget.time_budget_s - state.spent_s
    search = Search(state.setup, outcomes)
    batch: Batch | None = None
    actions: tuple[Action, ...] = ()
    for batch in search.run():
        if actions := batch.open_actions(outcomes, left_s=left_s):
            break
    is_over = not actions
    return Standing(
        stage=None if is_over or batch is None else batch.stage,
        actions=actions or (Action(kind=ActionKind.STOP, reason=_why_over(state, search.decisions)),),
        decisions=search.decisions,
        known=search.known,
        spent_s=state.spent_s,
        left_s=left_s,
    )


def next_actions(state: SearchState) -> list[Action]:
    """What to do next, the most wanted first; one `stop` when the search is over.

    They do not depend on each other: any of them may be done first, and all may be done before asking again as long as
    each takes what was estimated. Together they fit into the time budget.
    """
    return list(standing(state).actions)


def record(state: SearchState, outcome: Outcome) -> SearchState:
    """The state with one more outcome.

    Raises: UsageError: nobody asked for this outcome, or it is there already; ValueError: a duration that is no time.
    """
    wanted = {(action.kind, action.candidate) for action in standing(state).actions}
    key = (kind_of(outcome), outcome.candidate)
    if key not in wanted:
        names = ", ".join(f"{kind} {name}".strip() for kind, name in sorted(wanted))
        raise UsageError(
            f"the search did not ask for {key[0]} of {key[1]!r}", where="search", hint=f"Open now: {names}."
        )
    if not 0 <= outcome.duration_s < float("inf"):
        raise ValueError(f"a duration must be finite and at least 0 s, got {outcome.duration_s}")
    return SearchState(setup=state.setup, journal=(*state.journal, outcome))


def dump_state(state: SearchState) -> bytes:
    """The state as JSON."""
    return msgspec.json.encode(state)


def load_state(content: bytes) -> SearchState:
    """The state that JSON holds.

    Raises: UsageError: it is none, or one of another version.
    """
    try:
        return msgspec.json.decode(content, type=SearchState)
    except (msgspec.DecodeError, ValueError) as error:
        raise UsageError(
            f"this is no search that can be continued: {error}",
            where="search",
            hint="Start it anew; what was built is found in the store.",
        ) from error


def dump_outcome(outcome: Outcome) -> bytes:
    """One outcome as a line of JSON, for a journal that is appended to."""
    return msgspec.json.encode(outcome)


def load_outcome(line: bytes) -> Outcome:
    """The outcome in a line of JSON. Raises: UsageError: it is none."""
    try:
        outcome: Outcome = msgspec.json.decode(line, type=Outcome)
    except (msgspec.DecodeError, ValueError) as error:
        raise UsageError(f"this is no outcome of a search: {error}", where="search journal") from error
    return outcome


def advance(state: SearchState, known: tuple[Outcome, ...]) -> tuple[SearchState, tuple[Outcome, ...]]:
    """The state after as many already known outcomes as it asks for, and those it does not ask for yet.

    With the setup of the journal that they come from, all of them are taken, and the state is the one of that journal.
    When it changed (more time, another floor), stages may ask for more before they go on: keep what is left over, and
    call this again after each new outcome. Nothing is measured twice.
    """
    left = list(known)
    while True:
        wanted = {(action.kind, action.candidate) for action in next_actions(state)}
        found = next((one for one in left if (kind_of(one), one.candidate) in wanted), None)
        if found is None:
            return state, tuple(left)
        left.remove(found)
        state = record(state, found)


@dataclass(frozen=True)
class VolumeComparison:
    """The frontier's volume beside that of the best single candidate.

    Args:
        frontier: Of everything that was kept.
        best_single: Of the single accepted candidate with the largest volume; None where nothing was accepted.
        best_name: Its name.
        frame: Reference point and units.
    """

    frontier: float
    best_single: float
    best_name: str | None
    frame: VolumeFrame


def compare_volumes(state: SearchState, *, among: frozenset[str] | None = None) -> VolumeComparison | None:
    """How much more the frontier covers than the best single candidate; None before the reference is measured.

    Args:
        among: Names of candidates to take for the single one (presets with default settings, say); all that reached
            the floor by default.
    """
    now = standing(state)
    reference = now.known[state.setup.reference].point
    if reference is None:
        return None
    frame = volume_frame(
        quality_floor=state.setup.budget.quality_floor,
        reference_bytes=reference.num_bytes,
        reference_goodput_per_s=reference.goodput_per_s,
    )
    accepted = [name for name, one in now.decisions.items() if one.stage is Stage.FRONTIER]
    singles = {name: hypervolume([_point(now, name)], frame) for name in accepted if among is None or name in among}
    best = max(singles, key=lambda name: singles[name], default=None)
    return VolumeComparison(
        frontier=hypervolume([_point(now, name) for name in now.kept], frame),
        best_single=singles[best] if best is not None else 0.0,
        best_name=best,
        frame=frame,
    )


def _point(now: Standing, name: str) -> Point:
    point = now.known[name].point
    if point is None:
        raise AssertionError(f"{name} was accepted without figures")
    return point


def proposal_of(setup: SearchSetup, name: str) -> Proposal:
    """The proposal of a candidate.

    Raises: KeyError: there is none of this name.
    """
    return {one.candidate.name: one for one in setup.proposals}[name]


def _why_over(state: SearchState, decisions: dict[str, Decision]) -> str:
    fates = [one.fate for one in decisions.values()]
    counts = ", ".join(f"{fates.count(fate)} {fate}" for fate in Fate)
    return f"Every candidate is decided: {counts}, after {format_duration(state.spent_s)}."
