"""One evaluation: what to find out, about a candidate and perhaps a baseline, and the records that come of it.

baseline:   [its record]  or  tasks -> text quality (its scores are kept)
candidate:  [its record]  or  tasks -> text quality, paired with the baseline's scores
speed:      run 1 baseline, run 1 candidate, run 2 baseline, ... : a slow spell of the machine falls on both
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import msgspec

from lightship.artifacts.machine import Machine
from lightship.artifacts.texts import TextSet
from lightship.cli.evaluate.figures import Baseline, FigureTaker
from lightship.cli.open_subject import Reachable, SubjectOpener
from lightship.cli.prepare import Surroundings
from lightship.cli.subjects import RecordSubject, Subject
from lightship.errors import MeasurementError
from lightship.evaluation import record
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.performance.protocol import PerformanceProtocol
from lightship.evaluation.performance.records import Slo
from lightship.evaluation.performance.repeats import combine_runs
from lightship.evaluation.quality.protocol import QualityProtocol
from lightship.evaluation.quality.scoring import DocumentScores
from lightship.evaluation.quality.stored_scores import decode_scores, encode_scores
from lightship.evaluation.record import EvaluationRecord
from lightship.evaluation.record_file import read_record, write_record
from lightship.evaluation.tasks.identity import identify
from lightship.evaluation.tasks.results import TaskRun
from lightship.evaluation.tasks.run import run_task
from lightship.evaluation.tasks.task import Task
from lightship.ports.measurements import Measurement


@dataclass(frozen=True)
class SpeedPlan:
    """Speed under load; the SLO makes goodput of it."""

    protocol: PerformanceProtocol
    slo: Slo


@dataclass(frozen=True)
class EvaluationPlan:
    """What to find out about each subject; empty parts are left out.

    `texts` are scored where `quality` is given, and prompts for the speed are drawn from them.
    """

    tasks: tuple[Task, ...]
    quality: QualityProtocol | None
    speed: SpeedPlan | None
    texts: TextSet
    task_concurrency: int = 4


@dataclass(frozen=True)
class Findings:
    """A subject's record with its document scores, which later candidates are paired with; None where not taken."""

    record: EvaluationRecord
    scores: DocumentScores | None = None


class EvaluationSession:
    """Evaluates subjects under one plan.

    Args:
        plan: What to find out.
        opener: Makes subjects reachable.
        journals: Folder where finished items of tasks are kept, so that a run that broke off goes on.
        is_fresh: Ask every item again, also those that a journal has.

    Effects of its methods: starts workers, loads endpoints, writes journals.
    """

    def __init__(
        self,
        plan: EvaluationPlan,
        opener: SubjectOpener,
        *,
        machine: Machine,
        around: Surroundings,
        journals: Path,
        is_fresh: bool,
    ) -> None:
        self._plan = plan
        self._opener = opener
        self._machine = machine
        self._around = around
        self._journals = journals
        self._is_fresh = is_fresh
        self._taker = FigureTaker(machine, around)

    async def evaluate(self, candidate: Subject, baseline: Subject | None) -> tuple[Findings, Findings | None]:
        """Findings about the candidate, and about the baseline where one is given.

        Raises: MeasurementError, NetworkError, EngineError.
        """
        base = None if baseline is None else await self._quality_of(baseline, None)
        ours = await self._quality_of(candidate, base)
        sides = [(candidate, ours)] if baseline is None or base is None else [(baseline, base), (candidate, ours)]
        speeds = await self._speeds([subject for subject, _ in sides])
        done = [
            replace(found, record=replace(found.record, measurements=(*found.record.measurements, *speed)))
            for (_, found), speed in zip(sides, speeds, strict=True)
        ]
        return done[-1], done[0] if len(done) == 2 else None

    async def _quality_of(self, subject: Subject, baseline: Findings | None) -> Findings:
        if isinstance(subject, RecordSubject):
            return read_findings(subject.path)
        async with self._opener.open(subject) as reachable:
            async with aiohttp.ClientSession(headers=dict(reachable.headers)) as session:
                endpoint = CompletionEndpoint(reachable.base_url, model=reachable.model, session=session)
                about = await self._about(reachable, endpoint)
                runs = tuple([await self._task(task, reachable, endpoint) for task in self._plan.tasks])
            figures: list[Measurement] = []
            scores = None
            if self._plan.quality is not None:
                figures, scores = await self._taker.text_quality(
                    reachable, protocol=self._plan.quality, texts=self._plan.texts, baseline=_paired_with(baseline)
                )
        found = EvaluationRecord(
            subject=about,
            machine=self._machine.fingerprint,
            created_unix_s=self._around.clock.unix_s(),
            tasks=runs,
            measurements=tuple(figures),
        )
        return Findings(found, scores)

    async def _about(self, reachable: Reachable, endpoint: CompletionEndpoint) -> record.Subject:
        identity = await identify(endpoint)
        is_ours = reachable.worker is not None
        return record.Subject(
            name=reachable.name,
            model=reachable.model,
            variant_digest=reachable.variant_digest if is_ours else None,
            target=reachable.target if is_ours else None,
            served_fingerprint=identity.served_fingerprint,
            tokenizer_hash=identity.tokenizer_hash,
        )

    async def _task(self, task: Task, reachable: Reachable, endpoint: CompletionEndpoint) -> TaskRun:
        """The task's result; finished items of a run that broke off are taken over."""
        target = msgspec.json.encode(reachable.target, order="deterministic").decode()
        key = f"{reachable.variant_digest}|{target}|{self._machine.fingerprint}"
        name = hashlib.sha256(f"{key}|{task.protocol}".encode()).hexdigest()[:24]
        journal = self._journals / f"{name}.jsonl"
        if self._is_fresh:
            journal.unlink(missing_ok=True)
        with self._around.progress.task(f"{task.name} on {reachable.name}") as shown:
            run = await run_task(
                endpoint,
                task,
                subject=key,
                journal=journal,
                concurrency=self._plan.task_concurrency,
                progress_task=shown,
            )
        if reachable.worker is None:
            # what serves there may be another model tomorrow; a variant's digest never lies
            journal.unlink(missing_ok=True)
        return run

    async def _speeds(self, subjects: Sequence[Subject]) -> list[list[Measurement]]:
        """Figures of speed of each subject; none for records, which have their own."""
        speed = self._plan.speed
        runs: list[list[list[Measurement]]] = [[] for _ in subjects]
        if speed is not None:
            texts = [document.scored_text for document in self._plan.texts.documents]
            for run in range(speed.protocol.num_runs):
                for subject, of_subject in zip(subjects, runs, strict=True):
                    if isinstance(subject, RecordSubject):
                        continue
                    async with self._opener.open(subject) as reachable:
                        of_subject.append(
                            await self._taker.speed(
                                reachable, protocol=speed.protocol, slo=speed.slo, texts=texts, run=run
                            )
                        )
        return [combine_runs(of_subject) if of_subject else [] for of_subject in runs]


def _paired_with(baseline: Findings | None) -> Baseline | None:
    if baseline is None or baseline.scores is None:
        return None
    return Baseline(baseline.scores, baseline.record.subject.filed_under)


def scores_path(record_path: Path) -> Path:
    """Where the document scores of a record lie: beside it."""
    return record_path.with_suffix(".scores")


def write_findings(findings: Findings, path: Path) -> None:
    """Effects: writes the record, and beside it the document scores where there are any.

    Raises: MeasurementError: a file cannot be written.
    """
    write_record(findings.record, path)
    if findings.scores is None:
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(encode_scores(findings.scores))
        partial.replace(scores_path(path))
    except OSError as error:
        raise MeasurementError(f"the scores cannot be written: {error.strerror}", where=str(path)) from error


def read_findings(path: Path) -> Findings:
    """The record in a file, with the scores beside it where they are there.

    Raises: MeasurementError: one of them cannot be read or is damaged.
    """
    found = read_record(path)
    beside = scores_path(path)
    try:
        content = beside.read_bytes()
    except FileNotFoundError:
        return Findings(found)
    except OSError as error:
        raise MeasurementError(f"the scores cannot be read: {error.strerror}", where=str(beside)) from error
    return Findings(found, decode_scores(content))
