"""One search from start to end, and each way a candidate can end."""

from __future__ import annotations

import math

import pytest
from tests.unit.compression.search.world import REFERENCE, Truth, drive, outcome_of, proposal, setup

from lightship.compression.search.records import (
    ActionKind,
    Budget,
    Built,
    Fate,
    Remedy,
    SearchSetup,
    Stage,
    Tier,
    kind_of,
)
from lightship.compression.search.search import (
    advance,
    compare_volumes,
    dump_outcome,
    load_outcome,
    load_state,
    next_actions,
    record,
    standing,
    start,
)
from lightship.errors import UsageError

FP16 = ("fp16", 10.0)
INT8, INT4, AWQ, KV8, BROKEN, TINY = (
    "int8@openvino",
    "int4@openvino",
    "int4-awq@openvino",
    "int8@openvino (kv=u8)",
    "broken@openvino",
    "int2@openvino",
)
PROPOSALS = (
    proposal(REFERENCE, steps=[FP16]),
    proposal(INT8, steps=[FP16, ("int8", 5.0)]),
    proposal(INT4, steps=[FP16, ("int4", 5.0)]),
    proposal(TINY, steps=[FP16, ("int2", 5.0)]),
    proposal(BROKEN, steps=[FP16, ("broken", 5.0)]),
    proposal("w4a16@vllm", refusal="vLLM has no kernel for it"),
    proposal(KV8, tier=Tier.SETTINGS, grows_from=[INT8], steps=[FP16, ("int8", 5.0)]),
    proposal(AWQ, tier=Tier.CALIBRATED, grows_from=[INT4], steps=[FP16, ("int4-awq", 60.0)]),
    proposal("int2-awq@openvino", tier=Tier.CALIBRATED, grows_from=[TINY], steps=[FP16, ("int2-awq", 60.0)]),
)
TRUTHS = {
    REFERENCE: Truth(num_bytes=1000, goodput=2.0),
    INT8: Truth(num_bytes=520, recovery=0.999, goodput=1.8, kl=0.001),
    INT4: Truth(num_bytes=300, recovery=0.96, goodput=2.2, kl=0.1),
    TINY: Truth(num_bytes=160, recovery=0.5, goodput=2.2, kl=3.0),
    BROKEN: Truth(fails_at=ActionKind.BUILD),
    KV8: Truth(num_bytes=520, recovery=0.998, goodput=1.7, kl=0.001),
    AWQ: Truth(num_bytes=300, recovery=0.98, goodput=2.2, kl=0.04),
}


def test_search_of_seven_candidates_keeps_the_frontier_and_says_why_the_others_died() -> None:
    now = standing(drive(setup(PROPOSALS, keep_share=0.7), TRUTHS))
    ends = {name: (one.fate, one.stage) for name, one in now.decisions.items()}
    assert ends == {
        REFERENCE: (Fate.KEPT, Stage.FRONTIER),
        INT8: (Fate.KEPT, Stage.FRONTIER),
        AWQ: (Fate.KEPT, Stage.FRONTIER),
        INT4: (Fate.REJECTED, Stage.FINALISTS),
        KV8: (Fate.REJECTED, Stage.FRONTIER),
        TINY: (Fate.REJECTED, Stage.QUALITY),
        BROKEN: (Fate.REJECTED, Stage.BUILD),
        "w4a16@vllm": (Fate.REJECTED, Stage.FEASIBILITY),
        "int2-awq@openvino": (Fate.NOT_REACHED, Stage.HALVING),
    }
    reasons = {name: one.reason for name, one in now.decisions.items()}
    assert reasons[BROKEN] == "Could not be built: It broke."
    assert reasons[INT4] == "Keeps 96.00% on text, and the floor is 97.00%."
    assert reasons[KV8].startswith(f"Dominated by {INT8}: recovery 99.900% against 99.800%, 520 B against 520 B")
    assert reasons["int2-awq@openvino"].startswith(f"Its cheaper relative {TINY} did not get so far. Diverges")


def test_search_asks_for_the_reference_first_and_then_for_cheap_builds_together() -> None:
    state = start(setup(PROPOSALS))
    for kind in (ActionKind.BUILD, ActionKind.MEASURE_QUALITY, ActionKind.MEASURE_SPEED):
        actions = next_actions(state)
        assert [(one.kind, one.candidate) for one in actions] == [(kind, REFERENCE)]
        state = record(state, outcome_of(actions[0], TRUTHS))
    # The conversion is made; each of these pays for its own last step.
    builds = [(one.kind, one.candidate, one.estimate_s) for one in next_actions(state)]
    assert builds == [(ActionKind.BUILD, name, 5.0) for name in (INT8, INT4, TINY, BROKEN)]


def test_search_settings_of_a_variant_that_exists_are_measured_without_a_build() -> None:
    state = drive(setup(PROPOSALS, keep_share=0.7), TRUTHS)
    built = [one.candidate for one in state.journal if isinstance(one, Built)]
    assert INT8 in built
    assert KV8 not in built
    assert standing(state).known[KV8].num_bytes == 520


def test_search_halving_goes_on_with_the_better_half_by_what_calibration_may_win() -> None:
    # Below the floor, but four times less loss is well above it; the larger one has nothing to offer over it.
    worse = "int6@openvino"
    proposals = (
        *PROPOSALS[:3],
        proposal(worse, steps=[FP16, ("int6", 5.0)]),
        PROPOSALS[7],
        proposal("int6-awq@openvino", tier=Tier.CALIBRATED, grows_from=[worse], steps=[FP16, ("int6-awq", 60.0)]),
    )
    now = standing(drive(setup(proposals), {**TRUTHS, worse: Truth(num_bytes=400, recovery=0.958, goodput=2.0)}))
    assert now.decisions[AWQ].fate is Fate.KEPT
    assert (now.decisions["int6-awq@openvino"].fate, now.decisions["int6-awq@openvino"].stage) == (
        Fate.NOT_REACHED,
        Stage.HALVING,
    )
    assert now.decisions["int6-awq@openvino"].reason == (
        f"Its cheaper relative {worse} came in place 2 of 2 that have dearer ones (recovery 95.80% on text, 400 B, "
        "2 good requests/s), and work went on with the first 1."
    )


def test_search_variant_over_the_byte_budget_is_rejected_after_its_build_and_never_measured() -> None:
    state = drive(setup(PROPOSALS, max_bytes=400), TRUTHS)
    now = standing(state)
    assert now.decisions[INT8].reason == "It has 520 B, and the budget is 400 B."
    assert now.known[INT8].quality is None
    assert now.decisions[REFERENCE].fate is Fate.REJECTED
    assert "exceed the budget of 400 B" in now.decisions[REFERENCE].reason


def test_search_candidate_that_meets_no_promise_is_rejected_for_speed() -> None:
    now = standing(drive(setup(PROPOSALS), {**TRUTHS, INT8: Truth(num_bytes=520, goodput=0.0)}))
    assert now.decisions[INT8].stage is Stage.SPEED
    assert now.decisions[INT8].reason == "No request met the promise at 32 at once."


@pytest.mark.parametrize("kind", [ActionKind.BUILD, ActionKind.MEASURE_QUALITY, ActionKind.MEASURE_SPEED])
def test_search_without_figures_of_the_reference_ends_at_once(kind: ActionKind) -> None:
    state = drive(setup(PROPOSALS), {REFERENCE: Truth(fails_at=kind)})
    now = standing(state)
    assert len(state.journal) <= 3
    assert now.decisions[REFERENCE].fate is Fate.REJECTED
    assert now.decisions[INT8].fate is Fate.NOT_REACHED
    assert "nothing to measure against" in now.decisions[INT8].reason
    assert compare_volumes(state) is None


def test_search_without_time_for_the_reference_does_nothing() -> None:
    state = drive(setup(PROPOSALS, time_s=5.0), TRUTHS)
    assert state.journal == ()
    assert standing(state).decisions[REFERENCE].reason == "It would take about 12.0 s, and 5.0 s were left."


def test_search_out_of_time_keeps_what_it_has_and_names_what_it_did_not_reach() -> None:
    # 12 s for the reference, 7 for the first cheap one; nothing else fits.
    state = drive(setup(PROPOSALS, time_s=20.0), TRUTHS)
    now = standing(state)
    assert set(now.kept) == {REFERENCE, INT8}
    assert now.decisions[INT4].fate is Fate.NOT_REACHED
    assert now.decisions[INT4].remedy is Remedy.TIME
    assert state.spent_s == 19.0


def test_search_more_time_later_goes_on_from_the_same_journal() -> None:
    short = drive(setup(PROPOSALS, time_s=20.0), TRUTHS)
    state, known = advance(start(setup(PROPOSALS, keep_share=0.7)), short.journal)
    assert state.spent_s == 17.0  # quality and speed of the first one wait for the other builds
    done = []
    while (action := next_actions(state)[0]).kind is not ActionKind.STOP:
        done.append((action.kind, action.candidate))
        state, known = advance(record(state, outcome_of(action, TRUTHS)), known)
    assert known == ()
    assert set(standing(state).kept) == {REFERENCE, INT8, AWQ}
    assert not {(kind_of(one), one.candidate) for one in short.journal} & set(done)


def test_search_tasks_decide_where_there_are_any_and_text_is_not_enough() -> None:
    truths = {**TRUTHS, INT8: Truth(num_bytes=520, recovery=0.999, task_recovery=0.95, goodput=1.8)}
    state = drive(setup(PROPOSALS, has_tasks=True, keep_share=0.7), truths)
    now = standing(state)
    evaluated = [one.candidate for one in state.journal if one.__class__.__name__ == "TasksEvaluated"]
    assert evaluated[0] == REFERENCE
    assert now.decisions[INT8].reason == "Keeps 95.00% on tasks: below the floor of 97.00%."
    assert now.decisions[AWQ].fate is Fate.KEPT


def test_search_lower_bound_below_the_floor_is_not_enough_and_says_what_would_decide() -> None:
    truths = {**TRUTHS, INT8: Truth(num_bytes=520, recovery=0.975, spread=0.01, goodput=1.8)}
    now = standing(drive(setup(PROPOSALS), truths))
    assert (now.decisions[INT8].stage, now.decisions[INT8].remedy) == (Stage.ACCEPTANCE, Remedy.ITEMS)
    assert "97.50% (96.50% to 98.50%)" in now.decisions[INT8].reason


def test_search_finalists_beyond_the_most_are_dominated_or_not_reached() -> None:
    now = standing(drive(setup(PROPOSALS, has_tasks=True, most_finalists=1, keep_share=0.7), TRUTHS))
    stages = {name: one.stage for name, one in now.decisions.items()}
    assert stages[KV8] is Stage.FINALISTS
    assert sum(one.stage in {Stage.ACCEPTANCE, Stage.FRONTIER} for one in now.decisions.values()) == 2


def test_search_tasks_of_the_reference_failing_leaves_finalists_open() -> None:
    truths = {**TRUTHS, REFERENCE: Truth(num_bytes=1000, goodput=2.0, fails_at=ActionKind.EVALUATE_TASKS)}
    now = standing(drive(setup(PROPOSALS, has_tasks=True), truths))
    assert now.kept == (REFERENCE,)
    assert now.decisions[INT8].fate is Fate.NOT_REACHED
    assert now.decisions[INT8].reason.endswith("were not evaluated. It broke.")


def test_search_frontier_covers_more_than_the_best_single_candidate() -> None:
    volumes = compare_volumes(drive(setup(PROPOSALS, keep_share=0.7), TRUTHS))
    assert volumes is not None
    # Gains over recovery 0.94, 1100 bytes, 0 requests/s, in units of 0.06, 1100 bytes and 2 requests/s.
    reference = (1.0, 100 / 1100, 1.0)
    int8 = (0.059 / 0.06, 580 / 1100, 0.9)
    awq = (0.04 / 0.06, 800 / 1100, 1.1)

    def box(*gains: tuple[float, float, float]) -> float:
        return math.prod(min(one[axis] for one in gains) for axis in range(3))

    union = box(reference) + box(int8) + box(awq) - box(reference, int8) - box(reference, awq) - box(int8, awq)
    assert volumes.best_name == AWQ
    assert volumes.best_single == pytest.approx(box(awq))
    assert volumes.frontier == pytest.approx(union + box(reference, int8, awq))


def test_record_outcome_that_nobody_asked_for_is_refused() -> None:
    state = start(setup(PROPOSALS))
    with pytest.raises(UsageError, match="did not ask for build of 'int8@openvino'") as caught:
        record(state, Built(candidate=INT8, duration_s=1.0, num_bytes=5))
    assert caught.value.hint == f"Open now: build {REFERENCE}."


def test_record_outcome_with_a_negative_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0 s"):
        record(start(setup(PROPOSALS)), Built(candidate=REFERENCE, duration_s=-1.0, num_bytes=5))


def test_outcome_as_a_line_of_json_comes_back() -> None:
    for outcome in drive(setup(PROPOSALS, has_tasks=True), TRUTHS).journal:
        assert load_outcome(dump_outcome(outcome)) == outcome


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"setup": 1}', b"\xff"])
def test_load_state_of_something_else_is_refused(content: bytes) -> None:
    with pytest.raises(UsageError, match="no search that can be continued"):
        load_state(content)


@pytest.mark.parametrize(
    "limits",
    [{"quality_floor": 0.0}, {"quality_floor": 1.01}, {"time_budget_s": 0.0}, {"max_bytes": 0}, {"tpot_ms": -1.0}],
)
def test_budget_that_makes_no_sense_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Budget(**{"quality_floor": 0.97, "time_budget_s": 60.0, **limits})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("proposals", "words"),
    [
        ((PROPOSALS[0], PROPOSALS[0]), "share a name"),
        ((PROPOSALS[1],), "no candidate"),
        ((PROPOSALS[0], PROPOSALS[6]), "grow from"),
        ((PROPOSALS[0], proposal(INT8, grows_from=[REFERENCE])), "no earlier"),
    ],
)
def test_setup_with_names_that_do_not_fit_is_refused(proposals: tuple[object, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SearchSetup(
            budget=Budget(quality_floor=0.97, time_budget_s=1.0),
            reference=REFERENCE,
            proposals=proposals,  # type: ignore[arg-type]
        )
