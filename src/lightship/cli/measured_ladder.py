"""From a spec to a measured ladder that can be served: builds what is missing, measures what is unmeasured."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from lightship.artifacts.home import measurement_path, report_folder
from lightship.artifacts.machine import this_machine
from lightship.artifacts.measurements import MeasurementStore
from lightship.cli.assess import Assessment, assess, write_report
from lightship.cli.gateway_config import measured_rungs
from lightship.cli.local_replicas import RungToServe
from lightship.cli.measure import Measurer
from lightship.cli.prepare import BuiltVariants, Surroundings, build_variants, resolve_model
from lightship.cli.resources import resource_figures
from lightship.ports.measurements import Metric
from lightship.spec.document import Spec


@dataclass(frozen=True)
class Prepared:
    """A measured ladder, ready to serve."""

    spec: Spec
    built: BuiltVariants
    assessment: Assessment
    report_path: Path

    @property
    def rungs(self) -> list[RungToServe]:
        """Rungs with their variants, top first."""
        by_digest = {variant.manifest.digest: variant for variant in self.built.variants}
        ladder = self.assessment.ladder
        variants = [by_digest[rung.candidate.variant_digest] for rung in ladder.rungs]
        facts = measured_rungs(ladder, concurrency=self.spec.measurement.target_concurrency)
        entries = {entry.name: entry for entry in self.assessment.report.variants}
        startups = [entries[rung.candidate.name].figure(Metric.STARTUP_S) for rung in ladder.rungs]
        return [
            RungToServe(
                position,
                variant,
                measured,
                memory_bytes=int(rung.candidate.memory_bytes or 0),
                startup_s=0.0 if startup is None else startup.value,
            )
            for position, (variant, measured, rung, startup) in enumerate(
                zip(variants, facts, ladder.rungs, startups, strict=True)
            )
        ]


def prepare(spec: Spec, around: Surroundings, *, is_forced: bool = False) -> Prepared:
    """Builds and measures what is missing, then assesses all of it.

    Not a coroutine: an event loop would only note a Ctrl-C that comes while a build holds it, which may be for hours.

    Args:
        spec: What is wanted.
        around: Where it happens.
        is_forced: Measure everything again.

    Raises: LightshipError: of whatever step failed.
    Effects: as building and measuring have; writes the report.
    """
    machine = this_machine()
    # a price that is not in the list is told now, not after minutes of measuring
    resource_figures(spec.cost, [], [], machine=machine, now_unix_s=around.clock.unix_s())
    model = resolve_model(spec, around)
    built = build_variants(spec, model, around)
    store = MeasurementStore(measurement_path(around.home))
    measurer = Measurer(spec, built, store, machine, around)
    asyncio.run(measurer.measure_missing(is_forced=is_forced))
    assessment = assess(spec, built, measurer, machine, around)
    return Prepared(spec, built, assessment, write_report(assessment, report_folder(around.home, spec.model.name)))
