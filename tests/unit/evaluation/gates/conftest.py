"""Builders of records, handed out as fixtures since test modules cannot import this file."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lightship.evaluation.record import EvaluationRecord, Subject
from lightship.evaluation.tasks.results import ItemResult, TaskRun
from lightship.ports.measurements import Interval, Measurement, Metric, Target

TARGET = Target("openvino", "1", "CPU", "avx512", 2)


class Builder:
    """Makes small records whose statistics can be checked by hand."""

    def run(
        self, scores: Sequence[float], *, task: str = "arc", is_binary: bool = True, per_cluster: int = 1
    ) -> TaskRun:
        """A run with one metric, `acc`."""
        items = tuple(
            ItemResult(
                item_id=f"{task}-{number}",
                item_hash=f"i{number}",
                prompt_hash=f"p{number}",
                target_hash=f"t{number}",
                cluster=f"{task}-{number // per_cluster}",
                scores={"acc": score},
                prompt="",
                target="",
                answer="",
            )
            for number, score in enumerate(scores)
        )
        return TaskRun(task, "multiple_choice", f"{task}/1", ("acc",), ("acc",) if is_binary else (), 0, items)

    def runs(self, num_lost: int, num_gained: int, num_items: int, *, task: str = "arc") -> tuple[TaskRun, TaskRun]:
        """Baseline and candidate with so many flips; the rest is right in both."""
        rest = num_items - num_lost - num_gained
        baseline = [1.0] * num_lost + [0.0] * num_gained + [1.0] * rest
        candidate = [0.0] * num_lost + [1.0] * num_gained + [1.0] * rest
        return self.run(baseline, task=task), self.run(candidate, task=task)

    def figure(
        self,
        metric: Metric,
        value: float,
        bounds: tuple[float, float] | None = None,
        *,
        level: float = 0.95,
        concurrency: int = 0,
        protocol: str = "p/1",
        machine: str = "m1",
        reference_digest: str | None = None,
        measured_unix_s: float = 0.0,
    ) -> Measurement:
        """A measurement of 50 items."""
        return Measurement(
            metric=metric,
            value=value,
            variant_digest="sha256:v",
            target=TARGET,
            protocol=protocol,
            num_items=50,
            interval=bounds and Interval(*bounds, level),
            measured_unix_s=measured_unix_s,
            machine=machine,
            concurrency=concurrency,
            reference_digest=reference_digest,
        )

    def record(
        self,
        name: str,
        *,
        tasks: Sequence[TaskRun] = (),
        figures: Sequence[Measurement] = (),
        digest: str | None = "sha256:base",
    ) -> EvaluationRecord:
        """A record of one subject."""
        return EvaluationRecord(Subject(name, "tales", digest), "m1", 0.0, tuple(tasks), tuple(figures))


@pytest.fixture
def build() -> Builder:
    """The builder."""
    return Builder()
