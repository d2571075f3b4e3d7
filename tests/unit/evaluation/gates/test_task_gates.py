from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lightship.evaluation.gates.decide import judge_gates
from lightship.evaluation.gates.gate_file import GateFile, TaskGate, parse_gates
from lightship.evaluation.gates.results import GateResult
from lightship.evaluation.statistics.paired import Verdict
from lightship.evaluation.tasks.results import TaskRun

contingency_tables = pytest.importorskip("statsmodels.stats.contingency_tables")


def gate(task: str = "arc", *, margin: float = 0.02) -> TaskGate:
    return TaskGate(task, task, None, margin, 0.05)


def judge(
    build: Any, *pairs: tuple[TaskRun, TaskRun], gates: tuple[TaskGate, ...] | None = None
) -> tuple[GateResult, ...]:
    file = GateFile(0.95, 0.8, gates or tuple(gate(pair[0].task) for pair in pairs))
    baseline = build.record("base", tasks=[pair[0] for pair in pairs])
    candidate = build.record("int4", tasks=[pair[1] for pair in pairs])
    results: tuple[GateResult, ...] = judge_gates(
        file, baseline=baseline, candidate=candidate, num_resamples=1000
    ).results
    return results


def test_task_gate_a_loss_shown_to_be_small_passes(build: Any) -> None:
    # 1,000 items, 20 lost and 20 gained: the standard error is 0.63 points, the normal bound -1.04; given a loss, more
    # items must be lost than were seen, so the score bound lies a little lower
    (result,) = judge(build, build.runs(20, 20, 1000))
    assert result.verdict is Verdict.PASS
    assert (result.value, result.num_items) == (0.0, 1000)
    assert result.interval is not None
    assert result.interval.low == pytest.approx(-0.0107, abs=0.0001)
    assert result.interval.level == 0.9
    assert result.requirement == "loses at most 2 points"
    assert result.sentence == (
        "98.00 % against 98.00 %, +0.00 points (-1.07 to +1.07); 20 lost and 20 gained of 1,000 items; "
        "at 95 % confidence the loss is at most 1.07 points"
    )


def test_task_gate_a_gain_that_is_shown_is_no_loss(build: Any) -> None:
    (result,) = judge(build, build.runs(5, 60, 1000))
    assert result.verdict is Verdict.PASS
    assert result.sentence.endswith("at 95 % confidence there is no loss")


def test_task_gate_a_loss_shown_to_be_large_fails(build: Any) -> None:
    # 80 lost and 10 gained of 1,000: -7 points with a standard error of 0.92
    (result,) = judge(build, build.runs(80, 10, 1000))
    assert result.verdict is Verdict.FAIL
    assert result.value == pytest.approx(-0.07)
    assert result.p_value is not None
    assert result.p_value < 1e-6
    assert "the loss is shown to be more than 2 points (p < 0.0001)" in result.sentence


def test_task_gate_twenty_equal_items_are_no_evidence(build: Any) -> None:
    # Nothing differs, and still a loss of 2.7 / 22.7 = 12 points cannot be ruled out.
    (result,) = judge(build, build.runs(0, 0, 20))
    assert result.verdict is Verdict.UNDECIDED
    assert result.interval is not None
    assert result.interval.low == pytest.approx(-0.1192, abs=0.0001)
    # 2.7055 * (1 / 0.02 - 1) = 132.6
    assert "133 items without a difference would show it kept" in result.sentence
    assert "this gate needs 773 items to see a loss of 2 points; you have 20" in result.sentence


def test_task_gate_a_bound_that_clears_the_margin_counts_however_few_the_items(build: Any) -> None:
    (result,) = judge(build, build.runs(0, 0, 133))
    assert result.verdict is Verdict.PASS


def test_task_gate_not_significantly_worse_is_not_a_pass(build: Any) -> None:
    # 12 lost, 6 gained of 300: p = 0.24 for any difference, which proves nothing; the bound is about -4.5 points
    (result,) = judge(build, build.runs(12, 6, 300))
    assert result.verdict is Verdict.UNDECIDED
    assert result.comparison is not None
    assert result.comparison.p_value == pytest.approx(contingency_tables.mcnemar([[0, 12], [6, 0]]).pvalue)
    assert "neither kept nor broken is the margin of 2 points" in result.sentence
    assert "you have 300, enough for 3.2 points" in result.sentence


def test_task_gate_undecided_tells_how_many_items_would_decide(build: Any) -> None:
    # 20 lost, 8 gained of 800: difference -1.5 points, 0.5 from the margin, disagreement 3.5 %. By the normal formula
    # 6.1826 * (0.035 - 0.015^2) / 0.005^2 = 8,600; the score interval is 4 % wider than the normal one, so 8 % more
    (result,) = judge(build, build.runs(20, 8, 800))
    assert result.verdict is Verdict.UNDECIDED
    assert "if it stays like this, about 9,300 items would show it kept" in result.sentence
    assert "this gate needs" not in result.sentence


def test_task_gate_undecided_on_the_wrong_side_says_so(build: Any) -> None:
    (result,) = judge(build, build.runs(26, 4, 800))
    assert result.verdict is Verdict.UNDECIDED
    assert "items would show it broken" in result.sentence


def test_task_gate_on_the_margin_itself_promises_no_number_of_items(build: Any) -> None:
    (result,) = judge(build, build.runs(12, 6, 300))
    assert "no practical number of items decides" in result.sentence


def test_task_gate_one_bad_look_among_many_tasks_is_not_a_failure(build: Any) -> None:
    # 38 lost and 4 gained of 1,000: by itself p = 0.013 that the loss is beyond 2 points; ten such looks make it 0.13
    suspect = build.runs(38, 4, 1000, task="suspect")
    (alone,) = judge(build, suspect)
    assert alone.verdict is Verdict.FAIL
    assert alone.p_value is not None
    others = [build.runs(20, 20, 1000, task=f"fine-{number}") for number in range(9)]
    among = judge(build, suspect, *others)[0]
    assert among.p_value == pytest.approx(10 * alone.p_value)
    assert among.verdict is Verdict.UNDECIDED
    assert "among 10 task gates it may be chance" in among.sentence


def test_task_gates_a_clear_failure_stays_one_among_many(build: Any) -> None:
    others = [build.runs(20, 20, 1000, task=f"fine-{number}") for number in range(9)]
    results = judge(build, build.runs(80, 10, 1000), *others)
    assert [result.verdict for result in results] == [Verdict.FAIL, *[Verdict.PASS] * 9]
    assert "Holm-adjusted over 10 task gates" in results[0].sentence


def test_task_gate_clusters_are_judged_as_clusters(build: Any) -> None:
    # ten documents of 100 items each: a thousand items, but only ten independent pieces of evidence
    baseline = build.run([1.0] * 1000, per_cluster=100)
    candidate = build.run([0.0 if number % 50 == 0 else 1.0 for number in range(1000)], per_cluster=100)
    (result,) = judge(build, (baseline, candidate), gates=(gate(margin=0.03),))
    assert result.verdict is Verdict.UNDECIDED
    assert result.comparison is not None
    assert result.comparison.num_clusters == 10


def test_task_gate_of_a_single_cluster_says_why_nothing_is_known(build: Any) -> None:
    pair = [build.run(scores, per_cluster=100) for scores in ([1.0, 1.0, 0.0], [1.0, 0.0, 0.0])]
    (result,) = judge(build, (pair[0], pair[1]))
    assert (result.verdict, result.interval, result.p_value) == (Verdict.UNDECIDED, None, None)
    assert "all items belong to one cluster" in result.sentence


def test_task_gate_graded_scores_are_judged_too(build: Any) -> None:
    reference = [0.5 + 0.0001 * number for number in range(400)]
    candidate = [score - 0.001 * (number % 5) for number, score in enumerate(reference)]
    pair = (build.run(reference, is_binary=False), build.run(candidate, is_binary=False))
    (result,) = judge(build, pair)
    assert result.verdict is Verdict.PASS
    assert result.value == pytest.approx(-0.002)


def test_task_gate_missing_run_is_undecided_and_says_what_there_is(build: Any) -> None:
    reference, candidate = build.runs(1, 1, 500)
    (result,) = judge(build, (reference, candidate), gates=(gate("gsm8k"),))
    assert (result.verdict, result.value, result.num_items) == (Verdict.UNDECIDED, None, None)
    assert result.sentence == "base has no run of the task 'gsm8k'. Tasks in its record: arc."


def test_task_gate_run_that_is_there_twice_is_undecided(build: Any) -> None:
    reference, candidate = build.runs(1, 1, 500)
    baseline = build.record("base", tasks=[reference, reference])
    report = judge_gates(
        GateFile(0.95, 0.8, (gate(),)), baseline=baseline, candidate=build.record("int4", tasks=[candidate])
    )
    assert report.verdict is Verdict.UNDECIDED
    assert "base has 2 runs of the task 'arc'" in report.results[0].sentence


def test_task_gate_other_items_are_undecided_never_a_pass(build: Any) -> None:
    reference, candidate = build.runs(0, 0, 1000)
    other = replace(candidate.items[17], prompt_hash="changed")
    changed = replace(candidate, items=(*candidate.items[:17], other, *candidate.items[18:]))
    (result,) = judge(build, (reference, changed))
    assert result.verdict is Verdict.UNDECIDED
    assert "item 'arc-17' has another prompt" in result.sentence


def test_task_gate_that_cannot_be_judged_does_not_weaken_the_others(build: Any) -> None:
    reference, candidate = build.runs(38, 4, 1000)
    results = judge(build, (reference, candidate), gates=(gate(), gate("missing")))
    assert [result.verdict for result in results] == [Verdict.FAIL, Verdict.UNDECIDED]


def test_task_gate_named_metric_is_the_one_judged(build: Any) -> None:
    reference, candidate = build.runs(0, 0, 1000)
    file = parse_gates("version: 1\ngates:\n  - {task: arc, metric: acc_norm, margin: 0.02}\n")
    report = judge_gates(
        file, baseline=build.record("base", tasks=[reference]), candidate=build.record("int4", tasks=[candidate])
    )
    assert report.results[0].name == "arc/acc_norm"
    assert "no metric 'acc_norm'. It has: acc" in report.results[0].sentence
