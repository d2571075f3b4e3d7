"""The whole search, top to bottom: `Search.run` is it. Pure; it is replayed from the journal each time it is asked.

    feasibility -> roofline -> reference -> cheap candidates -> (halving -> dearer ones) x 4 -> finalists -> frontier
                               `----------- build, quality, speed of each ----------'

`run` is written as if measuring were a call: it yields a *batch* of actions and goes on when their outcomes are there.
It is replayed with the journal up to the first batch that is not complete; what that batch lacks is what to do next.
Nothing else is remembered, so a search that was interrupted goes on where it was, and a replay cannot differ.

An action starts only if it fits: what all outcomes took, its own estimate and that of what its success leads to must
stay within the time budget, less what is kept back for the evaluation of finalists. What does not fit then never will,
because the time spent only grows; so a batch that time cut short stays cut short in every replay.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace

from lightship.compression.search.batches import ROUNDING_S, Batch, Builds, Key
from lightship.compression.search.hypervolume import Point, VolumeFrame, volume_frame
from lightship.compression.search.judging import (
    Known,
    acceptance,
    below_floor,
    frontier_decisions,
    not_finalists,
    reference_words,
    speed_rejection,
)
from lightship.compression.search.ranking import rank
from lightship.compression.search.records import (
    Action,
    ActionFailed,
    ActionKind,
    Built,
    Candidate,
    CostEstimates,
    Decision,
    Fate,
    Outcome,
    QualityFigures,
    QualityMeasured,
    Remedy,
    SearchSetup,
    SpeedMeasured,
    Stage,
    TasksEvaluated,
    Tier,
)
from lightship.compression.search.rejecting import DIVERGENCE_SLACK, divergence_rejection, roofline_rejection
from lightship.units import format_bytes, format_duration

# Of the time left once the reference is measured, at most this share is kept back for the evaluation of finalists: a
# search that finds little to evaluate is worth as little as one that evaluates nothing.
_MOST_KEPT_BACK = 0.5

# How often `keep_share` is applied for each tier, in the order in which they are tried. Settings are many and each is
# worth little where the recipe itself is not among the best.
_HALVINGS = {Tier.SETTINGS: 2, Tier.CALIBRATED: 1, Tier.TRAINED: 1, Tier.LATE_SETTINGS: 2}

Batches = Generator[Batch, None, None]


class Search:
    """One replay: `run` yields the batches in order; `known` and `decisions` fill as it goes."""

    def __init__(self, setup: SearchSetup, outcomes: Mapping[Key, Outcome]) -> None:
        self._setup, self._budget, self._outcomes = setup, setup.budget, outcomes
        self._proposals = {one.candidate.name: one for one in setup.proposals}
        self._builds = Builds({name: one.costs.steps_s for name, one in self._proposals.items()}, outcomes)
        self._spent_s = 0.0
        self._kept_back_s = 0.0
        self.known = {name: Known() for name in self._proposals}
        self.decisions: dict[str, Decision] = {}

    def run(self) -> Batches:
        """Everything, in order."""
        self._drop_infeasible()
        self._drop_by_roofline()
        if not (yield from self._measure_reference()):
            return
        self._keep_back_time()
        yield from self._try([one for one in self._rivals() if one.tier is Tier.DATA_FREE])
        for tier in _HALVINGS:
            yield from self._try(self._promoted(tier))
        finalists = self._finalists()
        if self._setup.rules.has_tasks:
            finalists = yield from self._evaluate(finalists)
        self._accept(finalists)

    # ------------------------------------------------------------------------------------------- before anything runs

    def _drop_infeasible(self) -> None:
        for name, proposal in self._proposals.items():
            check = proposal.feasibility
            if not check.is_feasible:
                words = f"{_sentence(check.reason)} {check.nearest or ''}".strip()
                self._decide(Decision(name, Fate.REJECTED, Stage.FEASIBILITY, words))

    def _drop_by_roofline(self) -> None:
        """The reference is never dropped: the others are measured against it, whatever it is like."""
        rivals = [self._proposals[one.name] for one in self._undecided()]
        for proposal in rivals:
            name = proposal.candidate.name
            reason = roofline_rejection(proposal, rivals, self._budget)
            if reason is not None and name != self._setup.reference:
                self._decide(Decision(name, Fate.REJECTED, Stage.ROOFLINE, _sentence(f"Not built: {reason}")))

    def _measure_reference(self) -> Generator[Batch, None, bool]:
        """Whether there is something to measure against. If not, the search is over."""
        name = self._setup.reference
        if name not in self.decisions:
            yield from self._try([self._proposals[name].candidate])
        if name not in self.decisions:
            return True
        words = f"There is nothing to measure against: {name} has no figures. {self.decisions[name].reason}"
        for one in self._undecided():
            self._decide(Decision(one.name, Fate.NOT_REACHED, Stage.BUILD, words))
        return False

    def _keep_back_time(self) -> None:
        """Sets aside what the finalists' tasks will take."""
        if self._setup.rules.has_tasks:
            estimates = sorted((self._costs(one.name).tasks_s for one in self._undecided()), reverse=True)
            wanted_s = math.fsum(estimates[: self._setup.rules.most_finalists + 1])
            self._kept_back_s = min(wanted_s, _MOST_KEPT_BACK * max(0.0, self._budget.time_budget_s - self._spent_s))

    # ------------------------------------------------------------------------------------------- build and measure

    def _try(self, candidates: list[Candidate]) -> Batches:
        """Build, text quality, speed; each only of what the one before left."""
        yield from self._build(self._affordable(candidates))
        candidates = [one for one in candidates if one.name not in self.decisions]
        yield from self._measure_quality(candidates)
        yield from self._measure_speed([one for one in candidates if one.name not in self.decisions])

    def _affordable(self, candidates: list[Candidate]) -> list[Candidate]:
        """Those that fit into the time left, in order; the others are decided."""
        left_s = self._budget.time_budget_s - self._spent_s - self._kept_back_s
        taken: list[Candidate] = []
        for one in candidates:
            costs = self._costs(one.name)
            build_s = self._builds.estimates_s([*taken, one])[-1]
            needed_s = build_s + costs.quality_s + costs.speed_s
            if needed_s <= left_s + ROUNDING_S:
                left_s -= needed_s
                taken.append(one)
            else:
                needed, left = format_duration(needed_s), format_duration(max(0.0, left_s))
                words = f"It would take about {needed}, and {left} were left."
                self._decide(Decision(one.name, Fate.NOT_REACHED, Stage.HALVING, words, Remedy.TIME))
        return taken

    def _build(self, candidates: list[Candidate]) -> Batches:
        """One build for all candidates that are served from the same variant."""
        actions = tuple(
            Action(kind=ActionKind.BUILD, candidate=one.name, estimate_s=estimate_s)
            for one, estimate_s in self._builds.plan(candidates)
        )
        leads_to_s: dict[str, float] = {}
        for one in candidates:
            builder, costs = self._builds.builder_of(one), self._costs(one.name)
            leads_to_s[builder] = leads_to_s.get(builder, 0.0) + costs.quality_s + costs.speed_s
        yield from self._run_batch(Batch(Stage.BUILD, actions, leads_to_s, self._kept_back_s))
        for one in candidates:
            outcome = self._builds.outcome_of(one)
            if not isinstance(outcome, Built):
                self._decide_without(one.name, outcome, Stage.BUILD, "built")
                continue
            known, most = self.known[one.name], self._budget.max_bytes
            known.num_bytes, known.digest = outcome.num_bytes, outcome.digest
            if most is not None and outcome.num_bytes > most and one.name != self._setup.reference:
                words = f"It has {format_bytes(outcome.num_bytes)}, and the budget is {format_bytes(most)}."
                self._decide(Decision(one.name, Fate.REJECTED, Stage.BUILD, words))

    def _measure_quality(self, candidates: list[Candidate]) -> Batches:
        kind = ActionKind.MEASURE_QUALITY
        costs = {one.name: self._costs(one.name) for one in candidates}
        actions = tuple(Action(kind=kind, candidate=name, estimate_s=cost.quality_s) for name, cost in costs.items())
        leads_to_s = {name: cost.speed_s for name, cost in costs.items()}
        yield from self._run_batch(Batch(Stage.QUALITY, actions, leads_to_s, self._kept_back_s))
        for name in costs:
            outcome = self._outcomes.get((kind, name))
            if isinstance(outcome, QualityMeasured):
                self.known[name].quality = outcome.figures
                self._reject_by_divergence(name, outcome.figures)
            else:
                self._decide_without(name, outcome, Stage.QUALITY, "measured on text")

    def _reject_by_divergence(self, name: str, figures: QualityFigures) -> None:
        reference = self.known[self._setup.reference].quality
        if reference is None or name == self._setup.reference:
            return
        if (reason := divergence_rejection(figures, reference, self._budget.quality_floor)) is not None:
            self._decide(Decision(name, Fate.REJECTED, Stage.QUALITY, _sentence(reason)))

    def _measure_speed(self, candidates: list[Candidate]) -> Batches:
        kind = ActionKind.MEASURE_SPEED
        actions = tuple(
            Action(kind=kind, candidate=one.name, estimate_s=self._costs(one.name).speed_s) for one in candidates
        )
        yield from self._run_batch(Batch(Stage.SPEED, actions, kept_back_s=self._kept_back_s))
        for one in candidates:
            outcome = self._outcomes.get((kind, one.name))
            if not isinstance(outcome, SpeedMeasured):
                self._decide_without(one.name, outcome, Stage.SPEED, "measured under load")
                continue
            self.known[one.name].speed = outcome.figures
            reason = speed_rejection(outcome.figures, self._budget)
            if reason is not None and one.name != self._setup.reference:
                self._decide(Decision(one.name, Fate.REJECTED, Stage.SPEED, _sentence(reason)))

    # ------------------------------------------------------------------------------------------- what goes on

    def _promoted(self, tier: Tier) -> list[Candidate]:
        """Candidates of this tier that stand for themselves, or that grow from the best of those that others grow from.

        The others of the tier are decided.
        """
        waiting = [one for one in self._rivals() if one.tier is tier]
        parents = {name for one in waiting for name in one.grows_from} - self.decisions.keys()
        points = self._points(name for name in self._proposals if name in parents)
        ranked = rank({name: _potential(point, tier) for name, point in points.items()}, self._frame())
        best = ranked[: math.ceil(self._setup.rules.keep_share ** _HALVINGS[tier] * len(ranked))]
        going_on = []
        for one in waiting:
            if not one.grows_from or set(best) & set(one.grows_from):
                going_on.append(one)
            else:
                words = self._why_not_promoted(one, ranked, num_best=len(best))
                self._decide(Decision(one.name, Fate.NOT_REACHED, Stage.HALVING, words))
        places = {name: place for place, name in enumerate(ranked, start=1)}
        return sorted(going_on, key=lambda one: min((places.get(name, math.inf) for name in one.grows_from), default=0))

    def _why_not_promoted(self, one: Candidate, ranked: list[str], *, num_best: int) -> str:
        measured = [name for name in ranked if name in one.grows_from]
        if measured:
            place = ranked.index(measured[0]) + 1
            return (
                f"Its cheaper relative {measured[0]} came in place {place} of {len(ranked)} that have dearer ones "
                f"({self.known[measured[0]].words}), and work went on with the first {num_best}."
            )
        parent = self.decisions[one.grows_from[0]]
        why = f" {parent.reason}" if parent.fate is Fate.REJECTED else ""
        return f"Its cheaper relative {parent.candidate} did not get so far.{why}"

    # ------------------------------------------------------------------------------------------- finalists

    def _finalists(self) -> list[str]:
        """Names worth the evaluation of their tasks, the best first; the reference apart."""
        for one in self._rivals():
            quality = self.known[one.name].quality
            if quality is not None and (reason := below_floor(quality, self._budget.quality_floor)) is not None:
                self._decide(Decision(one.name, Fate.REJECTED, Stage.FINALISTS, reason))
        points = self._points(one.name for one in self._undecided())
        ranked = [name for name in rank(points, self._frame()) if name != self._setup.reference]
        if not self._setup.rules.has_tasks:
            return ranked  # nothing more is to be paid for
        most = self._setup.rules.most_finalists
        for decision in not_finalists(ranked, points, most=most):
            self._decide(decision)
        return ranked[:most]

    def _evaluate(self, finalists: list[str]) -> Generator[Batch, None, list[str]]:
        """Those whose tasks were evaluated, in the same order; the reference is evaluated before them."""
        kind, reference = ActionKind.EVALUATE_TASKS, self._setup.reference
        if not finalists:
            return []
        for names in ([reference], finalists):
            actions = tuple(Action(kind=kind, candidate=name, estimate_s=self._costs(name).tasks_s) for name in names)
            yield from self._run_batch(Batch(Stage.ACCEPTANCE, actions))
            if not isinstance(self._outcomes.get((kind, reference)), TasksEvaluated):
                return self._without_baseline(finalists, self._outcomes.get((kind, reference)))
        evaluated = []
        for name in finalists:
            outcome = self._outcomes.get((kind, name))
            if isinstance(outcome, TasksEvaluated):
                self.known[name].tasks = outcome.figures
                evaluated.append(name)
            else:
                self._decide_without(name, outcome, Stage.ACCEPTANCE, "evaluated on tasks")
        return evaluated

    def _without_baseline(self, finalists: list[str], outcome: Outcome | None) -> list[str]:
        """Leaves the finalists undecided on: pairs need the reference's answers."""
        why, remedy = "The time budget ran out before.", Remedy.TIME
        if isinstance(outcome, ActionFailed):
            why, remedy = _sentence(outcome.reason), Remedy.NONE
        for name in finalists:
            words = f"The tasks of the reference, with which its own are paired, were not evaluated. {why}"
            self._decide(Decision(name, Fate.NOT_REACHED, Stage.ACCEPTANCE, words, remedy))
        return []

    def _accept(self, finalists: Sequence[str]) -> None:
        """Decides on the finalists and the reference: the floor first, then the frontier of what reached it."""
        is_served, words = reference_words(self.known[self._setup.reference], self._budget)
        reasons = {self._setup.reference: words} if is_served else {}
        if not is_served:
            self._decide(Decision(self._setup.reference, Fate.REJECTED, Stage.ACCEPTANCE, words))
        for name in finalists:
            recovery = self.known[name].recovery
            assert recovery is not None
            basis = "tasks" if self.known[name].tasks is not None else "text"
            is_accepted, words = acceptance(recovery, self._budget.quality_floor, basis=basis)
            if is_accepted:
                reasons[name] = words
            else:
                remedy = Remedy.ITEMS if recovery.value >= self._budget.quality_floor else Remedy.NONE
                self._decide(Decision(name, Fate.REJECTED, Stage.ACCEPTANCE, words, remedy))
        for decision in frontier_decisions(self._points(reasons), reasons):
            self._decide(decision)

    # ------------------------------------------------------------------------------------------- small parts

    def _run_batch(self, batch: Batch) -> Batches:
        if batch.actions:
            yield batch
        done = (self._outcomes.get((action.kind, action.candidate)) for action in batch.actions)
        self._spent_s += math.fsum(outcome.duration_s for outcome in done if outcome is not None)

    def _undecided(self) -> list[Candidate]:
        return [one.candidate for name, one in self._proposals.items() if name not in self.decisions]

    def _rivals(self) -> list[Candidate]:
        return [one for one in self._undecided() if one.name != self._setup.reference]

    def _costs(self, name: str) -> CostEstimates:
        return self._proposals[name].costs

    def _points(self, names: Iterable[str]) -> dict[str, Point]:
        found = ((name, self.known[name].point) for name in names)
        return {name: point for name, point in found if point is not None}

    def _frame(self) -> VolumeFrame:
        point = self.known[self._setup.reference].point
        assert point is not None
        return volume_frame(
            quality_floor=self._budget.quality_floor,
            reference_bytes=point.num_bytes,
            reference_goodput_per_s=point.goodput_per_s,
        )

    def _decide(self, decision: Decision) -> None:
        if decision.candidate in self.decisions:
            raise AssertionError(f"{decision.candidate} is decided already: {self.decisions[decision.candidate]}")
        self.decisions[decision.candidate] = decision

    def _decide_without(self, name: str, outcome: Outcome | None, stage: Stage, verb: str) -> None:
        """Decides on a candidate whose action failed, or that time did not suffice for."""
        if isinstance(outcome, ActionFailed):
            words = f"Could not be {verb}: {_sentence(outcome.reason)}"
            self._decide(Decision(name, Fate.REJECTED, stage, words))
        else:
            words = f"The time budget of {format_duration(self._budget.time_budget_s)} ran out before it was {verb}."
            self._decide(Decision(name, Fate.NOT_REACHED, stage, words, Remedy.TIME))


def _potential(point: Point, tier: Tier) -> Point:
    """What a dearer relative may make of these figures: calibration and training win back most of a loss."""
    if tier not in {Tier.CALIBRATED, Tier.TRAINED} or point.recovery >= 1:
        return point
    return replace(point, recovery=1 - (1 - point.recovery) / DIVERGENCE_SLACK)


def _sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    stripped = text.strip().rstrip(".")
    return f"{stripped[:1].upper()}{stripped[1:]}."
