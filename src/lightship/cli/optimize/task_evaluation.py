"""Tasks of a search's finalists: asked on the engine that serves, paired item by item with the reference's answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from lightship.artifacts.home import evaluations_folder, journal_folder
from lightship.artifacts.machine import Machine
from lightship.cli.evaluate.session import EvaluationPlan, EvaluationSession
from lightship.cli.kept_evaluations import KeptEvaluations
from lightship.cli.open_subject import SubjectOpener
from lightship.cli.prepare import Surroundings
from lightship.cli.subjects import VariantSubject
from lightship.cli.worker_setup import worker_setup
from lightship.compression.search.records import Share, TaskFigures
from lightship.errors import MeasurementError
from lightship.evaluation.comparison import TaskComparison, compare_task_runs
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.evaluation.tasks.results import TaskRun
from lightship.evaluation.tasks.task import Task
from lightship.ports.variants import Variant
from lightship.spec.document import Spec

# A finalist is accepted by its lower bound: 5 % is what the chance of a wrong yes is held to, on one side.
_TWO_SIDED_LEVEL = 0.9


@dataclass(frozen=True)
class TaskEvaluator:
    """Evaluates tasks of variants; runs that are kept already are not made again, and `report` shows them all."""

    tasks: tuple[Task, ...]
    machine: Machine
    around: Surroundings

    @property
    def _kept(self) -> KeptEvaluations:
        return KeptEvaluations(evaluations_folder(self.around.home), self.machine.fingerprint)

    def runs(self, variant: Variant, spec: Spec) -> tuple[TaskRun, ...]:
        """One run for each task, in order, of the variant served as the spec says.

        Raises: EngineError, MeasurementError, NetworkError: it cannot be asked so.
        Effects: starts a worker if a run is not kept yet; keeps the runs.
        """
        target = worker_setup(spec, variant, self.around).target
        found = {run.protocol: run for run in self._kept.runs(variant.manifest.digest, target)}
        missing = tuple(task for task in self.tasks if task.protocol not in found)
        if missing:
            name = variant.manifest.name
            session = EvaluationSession(
                EvaluationPlan(tasks=missing, quality=None, speed=None, texts=builtin_texts()),
                SubjectOpener(spec, {name: variant}, self.around, self.machine),
                machine=self.machine,
                around=self.around,
                journals=journal_folder(self.around.home),
                is_fresh=False,
            )
            findings, _ = asyncio.run(session.evaluate(VariantSubject(name), None))
            self._kept.add(findings.record)
            found |= {run.protocol: run for run in findings.record.tasks}
        return tuple(found[task.protocol] for task in self.tasks)


def task_figures(reference: tuple[TaskRun, ...], candidate: tuple[TaskRun, ...]) -> TaskFigures:
    """The candidate's recovery on the task where the least of it is certain, by the deciding metric of each.

    Raises: MeasurementError: the runs cannot be paired, or the reference answers nothing right, so that there is
        nothing to recover.
    """
    compared = [
        compare_task_runs(
            theirs, ours, reference_name="reference", candidate_name="candidate", confidence=_TWO_SIDED_LEVEL
        )
        for theirs, ours in zip(reference, candidate, strict=True)
    ]
    worst = min((_recovery(one) for one in compared), key=lambda share: share.low)
    return TaskFigures(recovery=worst, num_items=sum(one.num_items for one in compared))


def _recovery(one: TaskComparison) -> Share:
    found = one.recovery
    if found is None:
        raise MeasurementError(
            "the reference answers nothing right, so that no share of it can be kept",
            where=f"task {one.task}",
            hint="Take a task that this model can do.",
        )
    if found.interval is None:
        return Share(found.value, found.value, found.value)
    return Share(found.value, min(found.interval.low, found.value), max(found.interval.high, found.value))
