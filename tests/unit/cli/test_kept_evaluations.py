from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lightship.cli.kept_evaluations import KeptEvaluations, compare_with_reference
from lightship.evaluation.record import EvaluationRecord, Subject
from lightship.evaluation.tasks.results import ItemResult, TaskRun
from lightship.ports.measurements import Target

TARGET = Target("openvino", "1", "CPU", "avx2", 2)


def run(task: str, *scores: float, protocol: str | None = None) -> TaskRun:
    items = tuple(
        ItemResult(f"i{n}", "h", "p", "t", f"i{n}", {"acc": score}, "Q", "right", "said")
        for n, score in enumerate(scores)
    )
    return TaskRun(task, "multiple_choice", protocol or f"task-1/{task}", ("acc",), ("acc",), 0, items)


def record(*runs: TaskRun, digest: str | None = "sha256:a", machine: str = "here") -> EvaluationRecord:
    return EvaluationRecord(Subject("int8@openvino", "m", digest, TARGET), machine, 1.0, runs)


@pytest.fixture
def kept(tmp_path: Path) -> KeptEvaluations:
    return KeptEvaluations(tmp_path / "evaluations", "here")


def test_add_runs_of_other_tasks_join_and_of_the_same_task_replace(kept: KeptEvaluations) -> None:
    kept.add(record(run("one", 1.0), run("two", 1.0)))
    newer = run("one", 0.0, protocol="task-1/one/longer")
    kept.add(record(newer))
    assert kept.runs("sha256:a", TARGET) == (newer, run("two", 1.0))


def test_runs_of_another_variant_target_or_machine_are_not_found(kept: KeptEvaluations) -> None:
    kept.add(record(run("one", 1.0)))
    assert kept.runs("sha256:b", TARGET) == ()
    assert kept.runs("sha256:a", replace(TARGET, num_threads=4)) == ()
    assert KeptEvaluations(kept.folder, "elsewhere").runs("sha256:a", TARGET) == ()


def test_add_what_must_not_be_kept_leaves_nothing(kept: KeptEvaluations) -> None:
    for unkept in (
        record(run("one", 1.0), digest=None),
        record(),
        record(run("one", 1.0), machine="elsewhere"),
    ):
        kept.add(unkept)
    assert not kept.folder.exists()


def test_runs_damaged_file_counts_as_none_and_is_replaced(kept: KeptEvaluations) -> None:
    kept.add(record(run("one", 1.0)))
    [path] = kept.folder.iterdir()
    path.write_text("{")
    assert kept.runs("sha256:a", TARGET) == ()
    kept.add(record(run("two", 1.0)))
    assert kept.runs("sha256:a", TARGET) == (run("two", 1.0),)


def test_compare_with_reference_pairs_runs_of_one_protocol() -> None:
    runs = {
        "fp16": (run("one", 1.0, 1.0, 0.0), run("two", 1.0)),
        "int8": (run("one", 1.0, 0.0, 0.0), run("two", 1.0, protocol="task-1/two/longer"), run("three", 1.0)),
        "int4": (),
    }
    [found] = compare_with_reference(runs, reference="fp16")
    assert (found.task, found.reference_name, found.candidate_name) == ("one", "fp16", "int8")
    assert (found.num_lost, found.num_gained) == (1, 0)


def test_compare_with_reference_that_was_not_asked_gives_nothing() -> None:
    assert compare_with_reference({"int8": (run("one", 1.0),)}, reference="fp16") == ()
