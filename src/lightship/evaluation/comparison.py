"""Two runs of one task, item by item: what changed, by how much, and how sure that is.

    two TaskRuns -> the same items, asked the same? -> difference with interval, recovery, exact test, flips

Not a ranking and not a verdict: what a difference means for a release is said by `gates`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lightship.errors import MeasurementError
from lightship.evaluation.statistics.bootstrap import Estimate
from lightship.evaluation.statistics.paired import (
    PairedBootstrap,
    mcnemar_exact,
    paired_bootstrap,
    tango_interval,
    tango_p_value_below,
)
from lightship.evaluation.statistics.shares import wilson_interval
from lightship.evaluation.tasks.results import ItemResult, TaskRun

# Resamples of a bootstrap: the bounds of a 90 % interval then move by about 1 % of its width from seed to seed.
DEFAULT_RESAMPLES = 10_000
_SAME_ITEMS_HINT = "Compare runs of the same items, asked with the same prompts."


@dataclass(frozen=True)
class Flip:
    """One item on which the two runs differ; a loss where the candidate's score is the lower one."""

    item_id: str
    prompt: str
    target: str
    reference_answer: str
    candidate_answer: str
    reference_score: float
    candidate_score: float


@dataclass(frozen=True)
class TaskComparison:
    """A candidate against a reference on the same items of one task, for one metric.

    `difference` is candidate minus reference, in score points (0.01 is one percentage point). `recovery` is the ratio
    of the means; None where the reference scores nothing. `p_value` is two-sided: exact McNemar for binary metrics
    without clusters, None otherwise. `method` names the procedure of the interval of `difference`. `flips` lists
    losses first.
    """

    task: str
    metric: str
    protocol: str
    reference_name: str
    candidate_name: str
    num_items: int
    num_clusters: int
    reference: Estimate
    candidate: Estimate
    difference: Estimate
    recovery: Estimate | None
    num_lost: int
    num_gained: int
    p_value: float | None
    method: str
    flips: tuple[Flip, ...]


def compare_task_runs(
    reference: TaskRun,
    candidate: TaskRun,
    *,
    metric: str | None = None,
    reference_name: str,
    candidate_name: str,
    confidence: float = 0.95,
    num_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    max_flips: int = 50,
) -> TaskComparison:
    """What the candidate loses and gains on the items of the reference, with intervals of level `confidence`.

    Right-or-wrong items that are independent get Tango's score interval and McNemar's exact test; graded scores and
    clustered items get a paired bootstrap over clusters, drawn out where few of them differ.

    Args:
        metric: Which of the task's scores; None for the first, which decides.
        confidence: Two-sided level of every interval. For a one-sided claim at 95 % ask for 0.9.
        max_flips: Most items to list, losses first and the largest of them first; the counts are over all.

    Raises: MeasurementError: the runs cannot be paired: another task, protocol, item, order, prompt or target, a score
        that is missing or impossible. Names the first item that differs.
    """
    pairs = _pair(reference, candidate, metric)
    bootstrap = paired_bootstrap(*pairs.columns, num_resamples=num_resamples, seed=seed)
    means, difference, method = _counted(pairs, confidence) if pairs.is_counted else _resampled(bootstrap, confidence)
    return TaskComparison(
        task=reference.task,
        metric=pairs.metric,
        protocol=reference.protocol,
        reference_name=reference_name,
        candidate_name=candidate_name,
        num_items=len(pairs.clusters),
        num_clusters=pairs.num_clusters,
        reference=means[0],
        candidate=means[1],
        difference=difference,
        recovery=bootstrap.recovery(confidence),
        num_lost=pairs.num_lost,
        num_gained=pairs.num_gained,
        p_value=mcnemar_exact(pairs.num_lost, pairs.num_gained).two_sided if pairs.is_counted else None,
        method=method,
        flips=_flips(reference, candidate, pairs)[:max_flips],
    )


def p_value_of_loss(
    reference: TaskRun,
    candidate: TaskRun,
    *,
    margin: float,
    metric: str | None = None,
    num_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> float:
    """One-sided p-value of the claim that the candidate loses more than `margin`, by the method of the comparison.

    Raises: MeasurementError: as `compare_task_runs`.
    """
    pairs = _pair(reference, candidate, metric)
    if pairs.is_counted:
        return tango_p_value_below(pairs.num_lost, pairs.num_gained, len(pairs.clusters), difference=-margin)
    return paired_bootstrap(*pairs.columns, num_resamples=num_resamples, seed=seed).p_value_below(-margin)


@dataclass(frozen=True)
class _Pairs:
    """Scores of both runs on the same items in one order. `is_counted`: right or wrong, and independent."""

    metric: str
    reference: list[float]
    candidate: list[float]
    clusters: list[str]
    is_binary: bool

    @property
    def columns(self) -> tuple[list[float], list[float], list[str]]:
        return self.candidate, self.reference, self.clusters

    @property
    def num_clusters(self) -> int:
        return len(set(self.clusters))

    @property
    def is_counted(self) -> bool:
        return self.is_binary and self.num_clusters == len(self.clusters)

    @property
    def num_lost(self) -> int:
        return sum(ours < theirs for ours, theirs in zip(self.candidate, self.reference, strict=True))

    @property
    def num_gained(self) -> int:
        return sum(ours > theirs for ours, theirs in zip(self.candidate, self.reference, strict=True))


def _pair(reference: TaskRun, candidate: TaskRun, metric: str | None) -> _Pairs:
    """The scores item by item.

    Raises: MeasurementError: the runs cannot be paired.
    """
    for what, ours, theirs in (
        ("tasks", candidate.task, reference.task),
        ("protocols", candidate.protocol, reference.protocol),
    ):
        if ours != theirs:
            hint = "Run both under the same protocol."
            message = f"the runs are of different {what}: {theirs!r} (reference) and {ours!r} (candidate)"
            raise MeasurementError(message, where=f"task {reference.task}", hint=hint)
    _refuse_other_items(reference, candidate)
    chosen = _metric_of(reference, candidate, metric)
    is_binary = chosen in reference.binary_metrics
    scores = [[_score(run, item, chosen, is_binary) for item in run.items] for run in (reference, candidate)]
    clusters = [item.cluster for item in reference.items]
    return _Pairs(chosen, scores[0], scores[1], clusters, is_binary)


def _metric_of(reference: TaskRun, candidate: TaskRun, metric: str | None) -> str:
    where = f"task {reference.task}"
    if not reference.metrics:
        raise MeasurementError("the reference's run has no metric", where=where)
    chosen = reference.metrics[0] if metric is None else metric
    for name, run in (("reference", reference), ("candidate", candidate)):
        if chosen not in run.metrics:
            hint = f"It has: {', '.join(run.metrics) or 'none'}."
            raise MeasurementError(f"the {name}'s run has no metric {chosen!r}", where=where, hint=hint)
    if (chosen in reference.binary_metrics) != (chosen in candidate.binary_metrics):
        raise MeasurementError(f"{chosen} is right-or-wrong in one run and graded in the other", where=where)
    return chosen


def _refuse_other_items(reference: TaskRun, candidate: TaskRun) -> None:
    """Raises: MeasurementError: names the first item that is not the same in both runs, or is there twice."""
    where = f"task {reference.task}"
    ids = {"reference": _item_ids(reference), "candidate": _item_ids(candidate)}
    for name, run_ids in ids.items():
        if not run_ids:
            raise MeasurementError(f"the {name}'s run has no items", where=where)
        if (twice := next((one for one, count in Counter(run_ids).items() if count > 1), None)) is not None:
            raise MeasurementError(f"item {twice!r} is there twice in the {name}'s run", where=where)
    for owner, other in (("reference", "candidate"), ("candidate", "reference")):
        known = frozenset(ids[other])
        if (alone := next((one for one in ids[owner] if one not in known), None)) is not None:
            counts = f"{len(ids['reference'])} items (reference) and {len(ids['candidate'])} (candidate)"
            message = f"item {alone!r} is only in the {owner}'s run; the runs have {counts}"
            raise MeasurementError(message, where=where, hint=_SAME_ITEMS_HINT)
    for place, (theirs, ours) in enumerate(zip(reference.items, candidate.items, strict=True), start=1):
        if theirs.item_id != ours.item_id:
            message = f"the runs are ordered differently: item {place} is {theirs.item_id!r} and {ours.item_id!r}"
            raise MeasurementError(message, where=where, hint=_SAME_ITEMS_HINT)
        if (what := _first_other_part(theirs, ours)) is not None:
            message = f"item {theirs.item_id!r} has another {what} in the candidate's run than in the reference's"
            raise MeasurementError(message, where=where, hint=_SAME_ITEMS_HINT)


def _item_ids(run: TaskRun) -> list[str]:
    return [item.item_id for item in run.items]


def _first_other_part(theirs: ItemResult, ours: ItemResult) -> str | None:
    parts = (
        ("record (item_hash)", theirs.item_hash, ours.item_hash),
        ("prompt (prompt_hash)", theirs.prompt_hash, ours.prompt_hash),
        ("target (target_hash)", theirs.target_hash, ours.target_hash),
        ("cluster", theirs.cluster, ours.cluster),
    )
    return next((what for what, expected, found in parts if expected != found), None)


def _score(run: TaskRun, item: ItemResult, metric: str, is_binary: bool) -> float:
    where = f"task {run.task}"
    score = item.scores.get(metric)
    if score is None:
        raise MeasurementError(f"item {item.item_id!r} has no score {metric!r}", where=where)
    if not 0 <= score <= 1 or (is_binary and score not in {0.0, 1.0}):
        expected = "0 or 1" if is_binary else "a score in 0..1"
        raise MeasurementError(f"{metric} of item {item.item_id!r} is {score}, not {expected}", where=where)
    return float(score)


_Figures = tuple[tuple[Estimate, Estimate], Estimate, str]  # means of reference and candidate, difference, its method


def _counted(pairs: _Pairs, confidence: float) -> _Figures:
    """Figures of independent items that are right or wrong."""
    num_items = len(pairs.clusters)
    means = [
        Estimate(num_right / num_items, wilson_interval(num_right, num_items, confidence=confidence), num_items)
        for num_right in (round(sum(pairs.reference)), round(sum(pairs.candidate)))
    ]
    interval = tango_interval(pairs.num_lost, pairs.num_gained, num_items, confidence=confidence)
    difference = Estimate((pairs.num_gained - pairs.num_lost) / num_items, interval, num_items)
    return (means[0], means[1]), difference, "Tango score"


def _resampled(bootstrap: PairedBootstrap, confidence: float) -> _Figures:
    """Figures of graded scores, or of items in clusters."""
    means = bootstrap.reference_mean(confidence), bootstrap.candidate_mean(confidence)
    method = f"paired BCa bootstrap over {'items' if bootstrap.has_single_items else 'clusters'}"
    if bootstrap.is_sparse:
        method += ", widened by Tango score: few differ"
    return means, bootstrap.difference(confidence), method


def _flips(reference: TaskRun, candidate: TaskRun, pairs: _Pairs) -> tuple[Flip, ...]:
    """Items that differ: losses first, the larger change before the smaller, then in order."""
    flips = [
        Flip(theirs.item_id, theirs.prompt, theirs.target, theirs.answer, ours.answer, before, after)
        for theirs, ours, before, after in zip(
            reference.items, candidate.items, pairs.reference, pairs.candidate, strict=True
        )
        if before != after
    ]
    largest_first = sorted(flips, key=lambda flip: -abs(flip.candidate_score - flip.reference_score))
    return tuple(sorted(largest_first, key=lambda flip: flip.candidate_score > flip.reference_score))
