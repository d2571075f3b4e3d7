"""Does what a search asks for: builds a candidate, measures it on its engine, and tells what came out."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lightship.artifacts.machine import Machine
from lightship.artifacts.measurements import MeasurementStore
from lightship.cli.measure import Measurer
from lightship.cli.optimize.task_evaluation import TaskEvaluator, task_figures
from lightship.cli.prepare import BuiltVariants, ResolvedModel, Surroundings
from lightship.cli.worker_setup import worker_setup
from lightship.compression.build import BuildContext, build_variant
from lightship.compression.search.records import (
    Action,
    ActionFailed,
    ActionKind,
    Built,
    Candidate,
    Outcome,
    QualityFigures,
    QualityMeasured,
    SettingValue,
    Share,
    SpeedFigures,
    SpeedMeasured,
    TaskFigures,
    TasksEvaluated,
)
from lightship.errors import LightshipError, MeasurementError, StorageFullError
from lightship.ports.measurements import Measurement, Metric, Target
from lightship.ports.variants import Variant
from lightship.spec.document import Spec

# A start of these takes so long that speed is measured at once with quality, before it is asked for.
_SLOW_STARTERS = frozenset({"vllm"})


def spec_with_settings(spec: Spec, engine: str, settings: Mapping[str, SettingValue]) -> Spec:
    """The spec whose engine runs with these settings."""
    if not settings:
        return spec
    section = getattr(spec.engines, engine).model_copy(update=dict(settings))
    return spec.model_copy(update={"engines": spec.engines.model_copy(update={engine: section})})


@dataclass
class Workbench:
    """Variants of one search and their figures.

    Args:
        spec: Model, promise, measurement and engines.
        reference: The candidate that the others are measured against.
        evaluator: Of the tasks that decide on finalists.

    Effects of its methods: jobs, workers, records in the stores.
    """

    spec: Spec
    model: ResolvedModel
    context: BuildContext
    reference: Candidate
    store: MeasurementStore
    machine: Machine
    around: Surroundings
    evaluator: TaskEvaluator
    variants: dict[str, Variant] = field(default_factory=dict)

    def perform(self, action: Action, candidate: Candidate) -> Outcome:
        """What came of the action; a failure is an outcome, too.

        Raises: StorageFullError: the disk is full, which no other candidate would mend.
        """
        started_s = self.around.clock.monotonic_s()

        def took_s() -> float:
            return self.around.clock.monotonic_s() - started_s

        try:
            match action.kind:
                case ActionKind.BUILD:
                    variant = self.variant(candidate)
                    manifest = variant.manifest
                    return Built(
                        candidate=candidate.name,
                        duration_s=took_s(),
                        num_bytes=manifest.num_bytes,
                        digest=manifest.digest,
                    )
                case ActionKind.MEASURE_QUALITY:
                    self._measure(candidate, with_quality=True, with_speed=candidate.engine in _SLOW_STARTERS)
                    quality = self._quality(candidate)
                    return QualityMeasured(candidate=candidate.name, duration_s=took_s(), figures=quality)
                case ActionKind.MEASURE_SPEED:
                    self._measure(candidate, with_quality=False, with_speed=True)
                    self._refuse_bad_draft(candidate)
                    speed = self._speed(candidate)
                    return SpeedMeasured(candidate=candidate.name, duration_s=took_s(), figures=speed)
                case ActionKind.EVALUATE_TASKS:
                    tasks = self._tasks(candidate)
                    return TasksEvaluated(candidate=candidate.name, duration_s=took_s(), figures=tasks)
        except StorageFullError:
            raise
        except LightshipError as error:
            return ActionFailed(
                candidate=candidate.name, duration_s=took_s(), kind=action.kind, reason=_first_line(error.what)
            )
        raise AssertionError(f"nothing is to be done for {action.kind}")

    def variant(self, candidate: Candidate) -> Variant:
        """The candidate's variant: found or made."""
        if candidate.name not in self.variants:
            self.variants[candidate.name] = build_variant(
                candidate.recipe, self.model.checkpoint, self.context, model_name=self.spec.model.name
            )
        return self.variants[candidate.name]

    def measurer(self, candidate: Candidate) -> Measurer:
        """The measurer of the candidate, with its settings."""
        reference, variant = self.variant(self.reference), self.variant(candidate)
        unique = {one.manifest.digest: one for one in (reference, variant)}
        built = BuiltVariants(tuple(unique.values()), reference)
        spec = spec_with_settings(self.spec, candidate.engine, candidate.settings)
        return Measurer(
            spec, built, self.store, self.machine, self.around, reference_target=self._reference_target(reference)
        )

    def _reference_target(self, reference: Variant) -> Target:
        spec = spec_with_settings(self.spec, self.reference.engine, self.reference.settings)
        return worker_setup(spec, reference, self.around).target

    def _measure(self, candidate: Candidate, *, with_quality: bool, with_speed: bool) -> None:
        variant = self.variant(candidate)
        work = self.measurer(candidate).measure_missing(only=variant, with_quality=with_quality, with_speed=with_speed)
        asyncio.run(work)

    def _tasks(self, candidate: Candidate) -> TaskFigures:
        ours, theirs = (
            self.evaluator.runs(self.variant(one), spec_with_settings(self.spec, one.engine, one.settings))
            for one in (candidate, self.reference)
        )
        return task_figures(theirs, ours)

    def _refuse_bad_draft(self, candidate: Candidate) -> None:
        """Raises: MeasurementError: it has a draft that changes what is generated, or is not faster."""
        if (reason := self.measurer(candidate).draft_refusal(self.variant(candidate))) is not None:
            raise MeasurementError(reason.removesuffix("."))

    def _figures(self, candidate: Candidate) -> dict[tuple[Metric, int], Measurement]:
        known = self.measurer(candidate).known(self.variant(candidate))
        return {(one.metric, one.concurrency): one for one in sorted(known, key=lambda one: one.measured_unix_s)}

    def _quality(self, candidate: Candidate) -> QualityFigures:
        figures = self._figures(candidate)
        perplexity = figures[Metric.PERPLEXITY, 0]
        nats, num_documents = math.log(perplexity.value), perplexity.num_items
        if candidate.name == self.reference.name:
            whole = Share(1.0, 1.0, 1.0)
            return QualityFigures(recovery=whole, nats_per_token=nats, num_documents=num_documents)
        return QualityFigures(
            recovery=_share(figures[Metric.QUALITY_RECOVERY, 0]),
            kl_nats=figures[Metric.KL_NATS, 0].value,
            top1_agreement=figures[Metric.TOP1_AGREEMENT, 0].value,
            nats_per_token=nats,
            num_documents=num_documents,
        )

    def _speed(self, candidate: Candidate) -> SpeedFigures:
        figures, users = self._figures(candidate), self.spec.measurement.target_concurrency

        def value(metric: Metric, concurrency: int = users) -> float | None:
            found = figures.get((metric, concurrency))
            return None if found is None else found.value

        memory = value(Metric.PEAK_RSS_BYTES, 0)
        return SpeedFigures(
            goodput_per_s=_share(figures[Metric.GOODPUT_REQUESTS_PER_S, users]),
            ttft_ms=value(Metric.TTFT_MS),
            tpot_ms=value(Metric.TPOT_MS),
            tokens_per_s=value(Metric.DECODE_TOKENS_PER_S),
            memory_bytes=None if memory is None else round(memory),
        )


def _share(figure: Measurement) -> Share:
    low, high = (figure.interval.low, figure.interval.high) if figure.interval else (figure.value, figure.value)
    return Share(figure.value, min(low, figure.value), max(high, figure.value))


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else "it failed without a word"
