"""From task runs of a candidate and the reference to the share that decides."""

from __future__ import annotations

import pytest

from lightship.cli.optimize.task_evaluation import task_figures
from lightship.errors import MeasurementError
from lightship.evaluation.tasks.results import ItemResult, TaskRun


def run(task: str, scores: list[float]) -> TaskRun:
    items = tuple(
        ItemResult(f"{i}", "item", "prompt", "target", f"{i}", {"accuracy": score}, "p", "t", "a")
        for i, score in enumerate(scores)
    )
    return TaskRun(task, "choice", f"{task}/v1", ("accuracy",), ("accuracy",), 0, items)


def test_task_figures_recovery_is_the_ratio_of_right_answers() -> None:
    reference, candidate = run("a", [1, 1, 1, 1, 0] * 20), run("a", [1, 1, 1, 0, 0] * 20)
    figures = task_figures((reference,), (candidate,))
    assert figures.recovery.value == pytest.approx(60 / 80)
    assert figures.recovery.low < 0.75 < figures.recovery.high
    assert figures.num_items == 100


def test_task_figures_of_the_reference_itself_are_whole() -> None:
    reference = run("a", [1, 0, 1, 1])
    figures = task_figures((reference,), (reference,))
    assert figures.recovery.value == 1.0


def test_task_figures_of_several_tasks_the_least_certain_recovery_decides() -> None:
    same, worse = run("a", [1, 1, 0, 1] * 25), run("b", [1, 1, 0, 1] * 25)
    figures = task_figures((same, worse), (same, run("b", [1, 0, 0, 1] * 25)))
    assert figures.recovery.value == pytest.approx(50 / 75)
    assert figures.num_items == 200


def test_task_figures_reference_without_a_right_answer_says_what_to_do() -> None:
    nothing = run("a", [0, 0, 0, 0])
    with pytest.raises(MeasurementError, match=r"task a: the reference answers nothing right.*Take a task"):
        task_figures((nothing,), (nothing,))


def test_task_figures_runs_of_other_protocols_are_not_paired() -> None:
    with pytest.raises(MeasurementError, match="different tasks"):
        task_figures((run("a", [1, 0]),), (run("b", [1, 0]),))
