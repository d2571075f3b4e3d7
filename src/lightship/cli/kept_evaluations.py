"""Task runs of variants, kept in the data directory: `lightship evaluate` adds to them, the report compares them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from lightship.errors import MeasurementError
from lightship.evaluation.comparison import TaskComparison, compare_task_runs
from lightship.evaluation.record import EvaluationRecord
from lightship.evaluation.record_file import read_record, write_record
from lightship.evaluation.tasks.results import TaskRun
from lightship.ports.measurements import Target


@dataclass(frozen=True)
class KeptEvaluations:
    """One file for each (variant, target) and machine, below `folder`."""

    folder: Path
    machine: str

    def add(self, record: EvaluationRecord) -> None:
        """Keeps the record's task runs; one of a protocol that is kept already takes its place.

        Not kept are records of endpoints that are not ours (what serves there may be another model tomorrow) and of
        other machines.

        Effects: writes the file. Raises: MeasurementError: it cannot be written.
        """
        subject = record.subject
        is_here = record.machine == self.machine
        if subject.variant_digest is None or subject.target is None or not record.tasks or not is_here:
            return
        path = self._path(subject.variant_digest, subject.target)
        kept = {run.task: run for run in self.runs(subject.variant_digest, subject.target)}
        kept.update({run.task: run for run in record.tasks})
        write_record(replace(record, tasks=tuple(kept.values()), measurements=()), path)

    def runs(self, variant_digest: str, target: Target) -> tuple[TaskRun, ...]:
        """The kept runs of a variant on a target; a file that is damaged counts as none."""
        path = self._path(variant_digest, target)
        if not path.exists():
            return ()
        try:
            return read_record(path).tasks
        except MeasurementError:
            return ()  # the runs can be made again, and the next one replaces the file

    def _path(self, variant_digest: str, target: Target) -> Path:
        place = msgspec.json.encode([variant_digest, target, self.machine], order="deterministic")
        return self.folder / f"{hashlib.sha256(place).hexdigest()[:24]}.json"


def compare_with_reference(runs: Mapping[str, tuple[TaskRun, ...]], *, reference: str) -> tuple[TaskComparison, ...]:
    """Every run of a variant beside the reference's run of the same protocol, for each metric.

    Args:
        runs: Task runs by the variant's name.
        reference: Name of the one the others are compared with.
    """
    theirs = {run.protocol: run for run in runs.get(reference, ())}
    return tuple(
        compare_task_runs(theirs[run.protocol], run, metric=metric, reference_name=reference, candidate_name=name)
        for name, found in runs.items()
        if name != reference
        for run in found
        if run.protocol in theirs
        for metric in run.metrics
    )
