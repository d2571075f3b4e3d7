from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.comparison import TaskComparison, compare_task_runs, p_value_of_loss
from lightship.evaluation.tasks.results import ItemResult, TaskRun

scipy_stats = pytest.importorskip("scipy.stats")


def item(number: int, score: float, *, metric: str = "acc", cluster: str = "") -> ItemResult:
    name = f"item-{number}"
    return ItemResult(
        item_id=name,
        item_hash=f"i{number}",
        prompt_hash=f"p{number}",
        target_hash=f"t{number}",
        cluster=cluster or name,
        scores={metric: score},
        prompt=f"question {number}",
        target="B",
        answer="B" if score else "A",
    )


def run(scores: Sequence[float], *, is_binary: bool = True, clusters: Sequence[str] = ()) -> TaskRun:
    return TaskRun(
        task="arc",
        kind="multiple_choice",
        protocol="arc/1/n=all",
        metrics=("acc",),
        binary_metrics=("acc",) if is_binary else (),
        seed=0,
        items=tuple(
            item(number, score, cluster=clusters[number] if clusters else "") for number, score in enumerate(scores)
        ),
    )


def compare(reference: TaskRun, candidate: TaskRun, *, max_flips: int = 50) -> TaskComparison:
    return compare_task_runs(
        reference,
        candidate,
        reference_name="base",
        candidate_name="int4",
        confidence=0.9,
        num_resamples=500,
        max_flips=max_flips,
    )


# 40 items: 25 right in both, 6 lost, 2 gained, 7 wrong in both
REFERENCE = [1.0] * 31 + [0.0] * 9
CANDIDATE = [1.0] * 25 + [0.0] * 6 + [1.0] * 2 + [0.0] * 7


def test_compare_task_runs_right_or_wrong_items_get_score_interval_and_exact_test() -> None:
    ours = compare(run(REFERENCE), run(CANDIDATE))
    assert (ours.num_items, ours.num_clusters, ours.num_lost, ours.num_gained) == (40, 40, 6, 2)
    assert (ours.reference.value, ours.candidate.value) == (31 / 40, 27 / 40)
    assert ours.difference.value == pytest.approx(-4 / 40)
    assert ours.p_value == pytest.approx(scipy_stats.binomtest(6, 8).pvalue)
    assert ours.method == "Tango score"
    oracle = scipy_stats.binomtest(31, 40).proportion_ci(0.9, method="wilson")
    assert ours.reference.interval is not None
    assert (ours.reference.interval.low, ours.reference.interval.high) == pytest.approx((oracle.low, oracle.high))
    assert ours.recovery is not None
    assert ours.recovery.value == pytest.approx(27 / 31)
    assert ours.recovery.interval is not None
    assert ours.recovery.interval.low < 27 / 31 < ours.recovery.interval.high
    assert (ours.task, ours.metric, ours.protocol) == ("arc", "acc", "arc/1/n=all")
    assert (ours.reference_name, ours.candidate_name) == ("base", "int4")


def test_compare_task_runs_pairing_sees_what_two_separate_intervals_cannot() -> None:
    # 1,000 items, 30 lost and 10 gained: means of 70 % and 68 % whose own intervals overlap widely
    reference = [1.0] * 700 + [0.0] * 300
    candidate = [1.0] * 670 + [0.0] * 30 + [1.0] * 10 + [0.0] * 290
    ours = compare(run(reference), run(candidate))
    assert ours.reference.interval is not None
    assert ours.candidate.interval is not None
    assert ours.difference.interval is not None
    assert ours.candidate.interval.high > ours.reference.interval.low
    assert ours.difference.interval.high < 0
    assert ours.p_value == pytest.approx(scipy_stats.binomtest(10, 40).pvalue)


def test_compare_task_runs_items_that_share_a_cluster_are_resampled_together() -> None:
    clusters = [f"document {number // 4}" for number in range(40)]
    ours = compare(run(REFERENCE, clusters=clusters), run(CANDIDATE, clusters=clusters))
    assert (ours.num_items, ours.num_clusters, ours.p_value) == (40, 10, None)
    assert ours.method == "paired BCa bootstrap over clusters, widened by Tango score: few differ"
    assert ours.difference.value == pytest.approx(-4 / 40)


def test_compare_task_runs_graded_scores_are_resampled_over_items() -> None:
    reference = [0.2 + 0.01 * number for number in range(60)]
    candidate = [score - 0.05 - 0.01 * (number % 3) for number, score in enumerate(reference)]
    ours = compare(run(reference, is_binary=False), run(candidate, is_binary=False))
    assert ours.method == "paired BCa bootstrap over items"
    assert (ours.num_lost, ours.num_gained, ours.p_value) == (60, 0, None)
    assert ours.difference.value == pytest.approx(-0.06)
    assert ours.difference.interval is not None
    assert -0.07 < ours.difference.interval.low < -0.06 < ours.difference.interval.high < -0.05


def test_compare_task_runs_flips_list_losses_first_and_no_more_than_asked() -> None:
    reference, candidate = [0.5, 0.5, 0.5, 0.5, 0.5], [0.6, 0.4, 0.5, 0.1, 1.0]
    ours = compare(run(reference, is_binary=False), run(candidate, is_binary=False))
    assert [flip.item_id for flip in ours.flips] == ["item-3", "item-1", "item-4", "item-0"]
    assert (ours.flips[0].reference_score, ours.flips[0].candidate_score) == (0.5, 0.1)
    assert (ours.flips[0].prompt, ours.flips[0].target) == ("question 3", "B")
    few = compare(run(reference, is_binary=False), run(candidate, is_binary=False), max_flips=1)
    assert [flip.item_id for flip in few.flips] == ["item-3"]
    assert (few.num_lost, few.num_gained) == (2, 2)


def test_compare_task_runs_reference_that_scores_nothing_has_no_recovery() -> None:
    ours = compare(run([0.0, 0.0, 0.0]), run([1.0, 0.0, 0.0]))
    assert ours.recovery is None
    assert ours.difference.value == pytest.approx(1 / 3)


def test_compare_task_runs_another_metric_than_the_first_may_be_asked_for() -> None:
    both = replace(
        run([1.0, 0.0]),
        metrics=("acc", "f1"),
        items=tuple(replace(one, scores={**one.scores, "f1": 0.5}) for one in run([1.0, 0.0]).items),
    )
    ours = compare_task_runs(both, both, metric="f1", reference_name="a", candidate_name="b", num_resamples=50)
    assert (ours.metric, ours.reference.value, ours.p_value) == ("f1", 0.5, None)
    assert ours.reference.interval is None


def test_p_value_of_loss_is_small_where_the_margin_is_clearly_broken() -> None:
    # 30 of 100 lost, none gained. Given a loss of 0.1 the likeliest share of lost items q maximises
    # 30 ln q + 70 ln(1.1 - 2 q), so q = 0.165 and 0.065 are gained: variance 100 (0.23 - 0.01), score -20 / sqrt(22)
    reference, candidate = run([1.0] * 100), run([0.0] * 30 + [1.0] * 70)
    expected = scipy_stats.norm.cdf(-20 / 22**0.5)
    assert p_value_of_loss(reference, candidate, margin=0.1) == pytest.approx(expected, rel=1e-9)
    assert p_value_of_loss(reference, candidate, margin=0.5) > 0.99


Change = Callable[[TaskRun], TaskRun]


def _with_item(place: int, change: Callable[[ItemResult], ItemResult]) -> Change:
    return lambda one: replace(
        one, items=tuple(change(entry) if number == place else entry for number, entry in enumerate(one.items))
    )


REFUSED: dict[str, tuple[Change, str]] = {
    "task": (lambda one: replace(one, task="hellaswag"), "different tasks: 'arc' .* and 'hellaswag'"),
    "protocol": (lambda one: replace(one, protocol="arc/2"), "different protocols: 'arc/1/n=all' .* and 'arc/2'"),
    "fewer": (lambda one: replace(one, items=one.items[:-1]), "'item-4' is only in the reference's run; .* 5 .* 4"),
    "more": (lambda one: replace(one, items=(*one.items, item(7, 1.0))), "'item-7' is only in the candidate's run"),
    "none": (lambda one: replace(one, items=()), "the candidate's run has no items"),
    "twice": (lambda one: replace(one, items=(*one.items, one.items[1])), "'item-1' is there twice in the candidate's"),
    "order": (lambda one: replace(one, items=one.items[::-1]), "ordered differently: item 1 is 'item-0' and 'item-4'"),
    "record": (_with_item(3, lambda one: replace(one, item_hash="x")), "'item-3' has another record"),
    "prompt": (_with_item(2, lambda one: replace(one, prompt_hash="x")), "'item-2' has another prompt"),
    "target": (_with_item(1, lambda one: replace(one, target_hash="x")), "'item-1' has another target"),
    "cluster": (_with_item(1, lambda one: replace(one, cluster="x")), "'item-1' has another cluster"),
    "metric": (lambda one: replace(one, metrics=("f1",)), "the candidate's run has no metric 'acc'. It has: f1"),
    "kind": (lambda one: replace(one, binary_metrics=()), "right-or-wrong in one run and graded"),
    "missing score": (_with_item(2, lambda one: replace(one, scores={})), "'item-2' has no score 'acc'"),
    "half right": (
        _with_item(2, lambda one: replace(one, scores={"acc": 0.5})),
        "acc of item 'item-2' is 0.5, not 0 or 1",
    ),
    "nan": (_with_item(2, lambda one: replace(one, scores={"acc": float("nan")})), "'item-2' is nan"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_compare_task_runs_what_cannot_be_paired_is_refused_naming_it(name: str) -> None:
    change, says = REFUSED[name]
    reference = run([1.0, 0.0, 1.0, 1.0, 0.0])
    with pytest.raises(MeasurementError, match=says) as refused:
        compare(reference, change(reference))
    assert refused.value.where == "task arc"
    with pytest.raises(MeasurementError):
        p_value_of_loss(reference, change(reference), margin=0.02)


def test_compare_task_runs_unknown_metric_lists_those_there_are() -> None:
    one = run([1.0, 0.0])
    with pytest.raises(MeasurementError, match=r"the reference's run has no metric 'acc_norm'\. It has: acc"):
        compare_task_runs(one, one, metric="acc_norm", reference_name="a", candidate_name="b")
