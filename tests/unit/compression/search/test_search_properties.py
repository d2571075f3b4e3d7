"""What holds of every search, whatever comes out of its actions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.compression.search.world import Truth, drive, outcome_of, worlds

from lightship.compression.search.record import record_data, render_record
from lightship.compression.search.records import Action, ActionKind, Fate, SearchSetup, SearchState, Stage
from lightship.compression.search.search import (
    advance,
    compare_volumes,
    dump_state,
    load_state,
    next_actions,
    record,
    standing,
    start,
)

World = tuple[SearchSetup, dict[str, Truth]]
# The sums of the product and of the test are made in another order.
ROUNDING_S = 1e-5


def picker(seed: int) -> Any:
    """Picks any of the open actions."""
    chance = random.Random(seed)

    def pick(actions: Sequence[Action]) -> Action:
        return chance.choice(list(actions))

    return pick


@given(worlds(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_search_any_world_ends_with_every_candidate_decided_exactly_once(world: World, seed: int) -> None:
    made, truths = world
    state = drive(made, truths, pick=picker(seed))
    now = standing(state)
    assert now.is_over
    assert set(now.decisions) == {one.candidate.name for one in made.proposals}
    assert all(name == decision.candidate for name, decision in now.decisions.items())
    assert all(len(decision.reason) > 10 and decision.reason.endswith(".") for decision in now.decisions.values())


@given(worlds(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_search_any_world_starts_no_action_that_does_not_fit_into_the_time_left(world: World, seed: int) -> None:
    made, truths = world

    def watch(state: SearchState, action: Action) -> None:
        spent_s = sum(outcome.duration_s for outcome in state.journal)
        assert spent_s + action.estimate_s <= made.budget.time_budget_s + ROUNDING_S

    state = drive(made, truths, pick=picker(seed), watch=watch)
    if all(truth.overrun <= 1 for truth in truths.values()):
        assert state.spent_s <= made.budget.time_budget_s + ROUNDING_S


@given(worlds())
@settings(max_examples=40, deadline=None)
def test_search_open_actions_together_fit_into_the_time_left(world: World) -> None:
    made, truths = world

    def watch(state: SearchState, action: Action) -> None:
        together_s = sum(one.estimate_s for one in next_actions(state))
        assert state.spent_s + together_s <= made.budget.time_budget_s + ROUNDING_S

    drive(made, truths, watch=watch)


@given(worlds(), st.integers(0, 99), st.data())
@settings(max_examples=40, deadline=None)
def test_search_interrupted_anywhere_goes_on_as_if_never_stopped(world: World, seed: int, data: st.DataObject) -> None:
    made, truths = world
    whole = drive(made, truths, pick=picker(seed))
    cut = data.draw(st.integers(0, len(whole.journal)))
    replayed = start(made)
    for outcome in whole.journal[:cut]:
        replayed = record(replayed, outcome)
    resumed = load_state(dump_state(replayed))
    for outcome in whole.journal[cut:]:
        resumed = record(resumed, outcome)
    assert resumed == whole
    assert standing(resumed) == standing(whole)
    assert advance(start(made), whole.journal) == (whole, ())


@given(worlds())
@settings(max_examples=30, deadline=None)
def test_search_decisions_once_made_never_change(world: World) -> None:
    made, truths = world
    seen: dict[str, Any] = {}

    def watch(state: SearchState, action: Action) -> None:
        decisions = standing(state).decisions
        assert action.candidate not in {name for name, one in decisions.items() if one.stage is Stage.FEASIBILITY}
        for name, decision in seen.items():
            assert decisions[name] == decision
        seen.update(decisions)

    drive(made, truths, watch=watch)


@given(worlds(is_timely=True), st.integers(0, 99), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_search_with_enough_time_decides_alike_in_any_order_of_actions(world: World, one: int, other: int) -> None:
    made, truths = world
    first, second = (standing(drive(made, truths, pick=picker(seed))) for seed in (one, other))
    assert first.decisions == second.decisions
    assert first.known == second.known


@given(worlds(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_search_what_it_keeps_reaches_the_floor_fits_and_is_dominated_by_nothing_kept(world: World, seed: int) -> None:
    made, truths = world
    state = drive(made, truths, pick=picker(seed))
    now = standing(state)
    points = {name: now.known[name].point for name in now.kept}
    for name, point in points.items():
        assert point is not None
        assert made.budget.max_bytes is None or point.num_bytes <= made.budget.max_bytes
        recovery = now.known[name].recovery
        assert recovery is not None
        assert name == made.reference or recovery.low >= made.budget.quality_floor
        assert not any(other.dominates(point) for other in points.values() if other is not None)


@given(worlds(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_search_frontier_covers_at_least_what_the_best_single_candidate_does(world: World, seed: int) -> None:
    made, truths = world
    volumes = compare_volumes(drive(made, truths, pick=picker(seed)))
    assert volumes is None or volumes.frontier >= volumes.best_single - 1e-12


@given(worlds(), st.data())
@settings(max_examples=30, deadline=None)
def test_record_of_a_search_anywhere_names_every_candidate_that_is_decided(world: World, data: st.DataObject) -> None:
    made, truths = world
    states = [start(made)]
    drive(made, truths, watch=lambda state, action: states.append(record(state, outcome_of(action, truths))))
    state = data.draw(st.sampled_from(states))
    text, now = render_record(state), standing(state)
    for name, decision in now.decisions.items():
        assert f"**{name}**" in text
        assert decision.reason in text
    fates = {one["name"]: (one["decision"] or {}).get("fate") for one in record_data(state)["candidates"]}
    assert {name for name, fate in fates.items() if fate is not None} == set(now.decisions)
    assert [name for name, fate in fates.items() if fate == Fate.KEPT] == sorted(now.kept, key=list(fates).index)


@given(worlds())
@settings(max_examples=30, deadline=None)
def test_search_stop_is_handed_out_alone_and_only_at_the_end(world: World) -> None:
    made, truths = world

    def watch(state: SearchState, action: Action) -> None:
        assert all(one.kind is not ActionKind.STOP for one in next_actions(state))
        assert not standing(state).is_over

    end = drive(made, truths, watch=watch)
    assert [one.kind for one in next_actions(end)] == [ActionKind.STOP]
