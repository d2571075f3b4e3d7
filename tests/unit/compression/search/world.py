"""A world that a search can be tried in: what would come out, were the actions done. Numbers instead of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from lightship.compression.feasibility.verdicts import feasible, refused
from lightship.compression.search.records import (
    Action,
    ActionFailed,
    ActionKind,
    Budget,
    Built,
    Candidate,
    CostEstimates,
    Outcome,
    Proposal,
    QualityFigures,
    QualityMeasured,
    Rules,
    SearchSetup,
    SearchState,
    Share,
    SpeedFigures,
    SpeedMeasured,
    TaskFigures,
    TasksEvaluated,
    Tier,
)
from lightship.compression.search.search import next_actions, record, start
from lightship.ports.variants import Recipe, RecipeStep

REFERENCE = "fp16@openvino"


@dataclass(frozen=True)
class Truth:
    """What would be found out about a candidate; recoveries have an interval of `spread` to both sides."""

    num_bytes: int = 1000
    recovery: float = 1.0
    goodput: float = 1.0
    kl: float = 0.0
    top1: float = 1.0
    spread: float = 0.0
    task_recovery: float | None = None
    fails_at: ActionKind | None = None
    overrun: float = 1.0


def share(value: float, spread: float = 0.0) -> Share:
    return Share(value, value - spread, value + spread)


def proposal(
    name: str,
    *,
    tier: Tier = Tier.DATA_FREE,
    grows_from: Sequence[str] = (),
    steps: Sequence[tuple[str, float]] = (),
    measure_s: float = 1.0,
    refusal: str | None = None,
) -> Proposal:
    """A candidate `recipe@engine`; `steps` are names and seconds, one step of a second by default."""
    steps = steps or ((name, 1.0),)
    recipe = Recipe(name.partition("@")[0], tuple(RecipeStep("quantize", {"scheme": word}) for word, _ in steps))
    return Proposal(
        candidate=Candidate(
            name=name,
            recipe=recipe,
            engine=name.partition("@")[2].partition(" ")[0] or "openvino",
            tier=tier,
            grows_from=tuple(grows_from),
        ),
        feasibility=feasible() if refusal is None else refused(refusal),
        costs=CostEstimates(
            steps_s=tuple(seconds for _, seconds in steps), quality_s=measure_s, speed_s=measure_s, tasks_s=measure_s
        ),
    )


def setup(
    proposals: Sequence[Proposal],
    *,
    floor: float = 0.97,
    time_s: float = 1e6,
    max_bytes: int | None = None,
    rate_per_s: float | None = None,
    has_tasks: bool = False,
    keep_share: float = 0.5,
    most_finalists: int = 6,
) -> SearchSetup:
    return SearchSetup(
        budget=Budget(quality_floor=floor, time_budget_s=time_s, max_bytes=max_bytes, rate_per_s=rate_per_s),
        reference=REFERENCE,
        proposals=tuple(proposals),
        rules=Rules(has_tasks=has_tasks, keep_share=keep_share, most_finalists=most_finalists),
        model="fairytales",
        machine="a machine",
    )


def outcome_of(action: Action, truths: Mapping[str, Truth]) -> Outcome:
    """What doing this action gives."""
    name, truth = action.candidate, truths.get(action.candidate, Truth())
    took_s = action.estimate_s * truth.overrun
    if truth.fails_at is action.kind:
        return ActionFailed(candidate=name, duration_s=took_s, kind=action.kind, reason="it broke")
    match action.kind:
        case ActionKind.BUILD:
            return Built(candidate=name, duration_s=took_s, num_bytes=truth.num_bytes, digest=f"sha256:{name}")
        case ActionKind.MEASURE_QUALITY:
            figures = QualityFigures(
                recovery=share(truth.recovery, truth.spread),
                kl_nats=truth.kl,
                top1_agreement=truth.top1,
                nats_per_token=2.0,
                num_documents=10,
            )
            return QualityMeasured(candidate=name, duration_s=took_s, figures=figures)
        case ActionKind.MEASURE_SPEED:
            speed = SpeedFigures(goodput_per_s=share(truth.goodput), ttft_ms=10.0, tpot_ms=5.0)
            return SpeedMeasured(candidate=name, duration_s=took_s, figures=speed)
        case ActionKind.EVALUATE_TASKS:
            value = truth.recovery if truth.task_recovery is None else truth.task_recovery
            tasks = TaskFigures(recovery=share(value, truth.spread), num_items=100)
            return TasksEvaluated(candidate=name, duration_s=took_s, figures=tasks)
        case _:
            raise AssertionError(action)


def drive(
    what: SearchSetup | SearchState,
    truths: Mapping[str, Truth],
    *,
    pick: Callable[[Sequence[Action]], Action] = lambda actions: actions[0],
    watch: Callable[[SearchState, Action], None] = lambda state, action: None,
) -> SearchState:
    """The state at the end, when each time one of the open actions is picked and done."""
    state = what if isinstance(what, SearchState) else start(what)
    while True:
        actions = next_actions(state)
        if actions[0].kind is ActionKind.STOP:
            return state
        action = pick(actions)
        watch(state, action)
        state = record(state, outcome_of(action, truths))


@st.composite
def worlds(draw: st.DrawFn, *, is_timely: bool = False) -> tuple[SearchSetup, dict[str, Truth]]:
    """A search of up to a dozen candidates, and the truth about them.

    Args:
        is_timely: Whether time suffices for everything, so that nothing depends on the order of actions.
    """
    num_cheap = draw(st.integers(0, 5))
    names = [f"cheap{count}@openvino" for count in range(num_cheap)]
    seconds = st.floats(0, 50)
    steps = {name: [("fp16", draw(seconds)), (name, draw(seconds))] for name in names}
    proposals = [proposal(REFERENCE, steps=[("fp16", draw(seconds))], measure_s=draw(seconds))]
    for name in names:
        refusal = draw(st.sampled_from([None, None, None, "it has no kernel"]))
        proposals.append(proposal(name, steps=steps[name], measure_s=draw(seconds), refusal=refusal))
    for count in range(draw(st.integers(0, 5))):
        tier = draw(st.sampled_from([tier for tier in Tier if tier is not Tier.DATA_FREE]))
        before = [one.candidate.name for one in proposals if one.candidate.tier < tier]
        parents = draw(st.lists(st.sampled_from(before), max_size=2, unique=True))
        name = f"dear{count}@openvino"
        is_variation = tier in {Tier.SETTINGS, Tier.LATE_SETTINGS} and parents and parents[0] in steps
        own = steps[parents[0]] if is_variation else [(name, draw(seconds))]
        steps[name] = own
        proposals.append(proposal(name, tier=tier, grows_from=parents, steps=own, measure_s=draw(seconds)))
    kinds = [None, None, None, *(kind for kind in ActionKind if kind is not ActionKind.STOP)]
    truths = {
        one.candidate.name: Truth(
            num_bytes=draw(st.integers(100, 2000)),
            recovery=draw(st.floats(0.8, 1.05)),
            goodput=draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0])),
            kl=draw(st.sampled_from([0.0, 0.05, 5.0])),
            spread=draw(st.sampled_from([0.0, 0.01])),
            task_recovery=draw(st.sampled_from([None, 0.9, 0.99])),
            fails_at=draw(st.sampled_from(kinds)),
            overrun=1.0 if is_timely else draw(st.sampled_from([0.0, 0.5, 1.0, 1.0, 3.0])),
        )
        for one in proposals
    }
    made = setup(
        proposals,
        time_s=1e9 if is_timely else draw(st.floats(1, 1500)),
        max_bytes=draw(st.sampled_from([None, 1500])),
        has_tasks=draw(st.booleans()),
        keep_share=draw(st.sampled_from([0.3, 0.5, 1.0])),
        most_finalists=draw(st.integers(1, 3)),
    )
    return made, truths
