"""From stored figures to the ladder and the report: the same for `up` and `report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightship.artifacts.home import evaluations_folder
from lightship.artifacts.machine import Machine
from lightship.cli.kept_evaluations import KeptEvaluations, compare_with_reference
from lightship.cli.load_history import latest_workload
from lightship.cli.measure import Measurer
from lightship.cli.prepare import BuiltVariants, Surroundings
from lightship.cli.resources import resource_figures
from lightship.evaluation.candidates import CandidateSet, build_candidates
from lightship.evaluation.comparison import TaskComparison
from lightship.evaluation.frontier import DEFAULT_AXES, Axis, pareto_frontier
from lightship.evaluation.ladder import Ladder, choose_ladder
from lightship.evaluation.performance.records import Slo
from lightship.evaluation.report.data import ReportData, ReportHeader, report_data, report_json
from lightship.evaluation.report.page import render_report
from lightship.ports.measurements import Target
from lightship.ports.variants import Variant
from lightship.spec.document import Spec


@dataclass(frozen=True)
class Assessment:
    """What the figures say; `notes` tell what memory and cost there are no figures of, and why."""

    candidates: CandidateSet
    ladder: Ladder
    report: ReportData
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MeasuredPair:
    """A variant, and the measurer that knows its figures on one target."""

    variant: Variant
    measurer: Measurer

    @property
    def target(self) -> Target:
        """Where it is measured."""
        return self.measurer.target(self.variant)


def assess(spec: Spec, built: BuiltVariants, measurer: Measurer, machine: Machine, around: Surroundings) -> Assessment:
    """Candidates, ladder and report from what is stored.

    Raises: MeasurementError: figures that must not be compared, or no variant reaches the quality floor.
    """
    pairs = [MeasuredPair(variant, measurer) for variant in built.variants]
    reference = MeasuredPair(built.reference, measurer)
    return assess_pairs(spec, pairs, reference, machine, around, command="lightship up")


def assess_pairs(
    spec: Spec,
    pairs: Sequence[MeasuredPair],
    reference: MeasuredPair,
    machine: Machine,
    around: Surroundings,
    *,
    command: str,
) -> Assessment:
    """The same for pairs that may run on several targets; one variant may occur with several settings.

    Raises: see `assess`.
    """
    manifests = list({pair.variant.manifest.digest: pair.variant.manifest for pair in pairs}.values())
    figures = [figure for pair in pairs for figure in pair.measurer.known(pair.variant)]
    figures += latest_workload(
        (figure for pair in pairs for figure in pair.measurer.on_this_machine(pair.variant)),
        Slo(ttft_ms=spec.slo.ttft_ms, tpot_ms=spec.slo.tpot_ms),
    )
    # not stored: they follow from figures and spec, so that a new price needs no new measurement
    resources = resource_figures(
        spec.cost,
        [(pair.variant, pair.target) for pair in pairs],
        figures,
        machine=machine,
        now_unix_s=around.clock.unix_s(),
    )
    figures += resources.measurements
    refusals = {
        pair.variant.manifest.digest: reason
        for pair in pairs
        if (reason := pair.measurer.draft_refusal(pair.variant)) is not None
    }
    notes = resources.notes
    if spec.ladder != "auto":  # who lists a rung has decided; what was found out is said all the same
        names = {pair.variant.manifest.digest: pair.variant.manifest.name for pair in pairs}
        notes += tuple(f"{names[digest]}: {reason}" for digest, reason in refusals.items())
        refusals = {}
    concurrency = spec.measurement.target_concurrency
    reference_digest = reference.variant.manifest.digest
    candidates = build_candidates(
        manifests,
        figures,
        reference_digest=reference_digest,
        concurrency=concurrency,
        reference_target=reference.target,
        refusals=refusals,
    )
    explicit = None if spec.ladder == "auto" else [f"{rung.variant}@{rung.engine}" for rung in spec.ladder]
    ladder = choose_ladder(candidates.candidates, quality_floor=spec.quality.floor, explicit=explicit)
    header = ReportHeader(
        model_name=spec.model.name,
        source=str(spec.model.source),
        machine=machine.description,
        command=command,
        created_unix_s=around.clock.unix_s(),
        reference_digest=reference_digest,
        concurrency=concurrency,
        slo_ttft_ms=spec.slo.ttft_ms,
        slo_tpot_ms=spec.slo.tpot_ms,
        slo_attainment=spec.slo.attainment,
        resource_notes=notes,
    )
    frontier = pareto_frontier(
        candidates.candidates, (*DEFAULT_AXES, Axis.COST) if spec.cost.has_price else DEFAULT_AXES
    )
    data = report_data(
        header,
        manifests=manifests,
        measurements=figures,
        candidates=candidates,
        frontier=frontier,
        ladder=ladder,
        comparisons=_task_comparisons(pairs, reference.variant, machine, around),
    )
    return Assessment(candidates, ladder, data, notes)


def _task_comparisons(
    pairs: Sequence[MeasuredPair], reference: Variant, machine: Machine, around: Surroundings
) -> tuple[TaskComparison, ...]:
    """Of the task runs that `lightship evaluate` kept for these variants on their targets."""
    kept = KeptEvaluations(evaluations_folder(around.home), machine.fingerprint)
    names = {pair.variant.manifest.digest: f"{pair.variant.manifest.name}@{pair.target.engine}" for pair in pairs}
    runs = {names[pair.variant.manifest.digest]: kept.runs(pair.variant.manifest.digest, pair.target) for pair in pairs}
    return compare_with_reference(runs, reference=names[reference.manifest.digest])


def write_report(assessment: Assessment, folder: Path) -> Path:
    """Writes `report.html` and `report.json` into the folder; the path of the page.

    Effects: replaces the files of an earlier run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("report.html", render_report(assessment.report).encode()),
        ("report.json", report_json(assessment.report)),
    ):
        partial = folder / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(folder / name)
    return folder / "report.html"
