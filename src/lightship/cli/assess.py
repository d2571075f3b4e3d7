"""From stored figures to the ladder and the report: the same for `up` and `report`."""

from __future__ import annotations

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
from lightship.spec.document import Spec


@dataclass(frozen=True)
class Assessment:
    """What the figures say; `notes` tell what memory and cost there are no figures of, and why."""

    candidates: CandidateSet
    ladder: Ladder
    report: ReportData
    notes: tuple[str, ...] = ()


def assess(spec: Spec, built: BuiltVariants, measurer: Measurer, machine: Machine, around: Surroundings) -> Assessment:
    """Candidates, ladder and report from what is stored.

    Raises: MeasurementError: figures that must not be compared, or no variant reaches the quality floor.
    """
    manifests = [variant.manifest for variant in built.variants]
    figures = [m for variant in built.variants for m in measurer.known(variant)]
    figures += latest_workload(
        (m for variant in built.variants for m in measurer.on_this_machine(variant)),
        Slo(ttft_ms=spec.slo.ttft_ms, tpot_ms=spec.slo.tpot_ms),
    )
    # not stored: they follow from figures and spec, so that a new price needs no new measurement
    resources = resource_figures(
        spec.cost,
        [(variant, measurer.target(variant)) for variant in built.variants],
        figures,
        machine=machine,
        now_unix_s=around.clock.unix_s(),
    )
    figures += resources.measurements
    reference_digest = built.reference.manifest.digest
    concurrency = spec.measurement.target_concurrency
    candidates = build_candidates(manifests, figures, reference_digest=reference_digest, concurrency=concurrency)
    explicit = None if spec.ladder == "auto" else [f"{rung.variant}@{rung.engine}" for rung in spec.ladder]
    ladder = choose_ladder(candidates.candidates, quality_floor=spec.quality.floor, explicit=explicit)
    header = ReportHeader(
        model_name=spec.model.name,
        source=str(spec.model.source),
        machine=machine.description,
        command="lightship up",
        created_unix_s=around.clock.unix_s(),
        reference_digest=reference_digest,
        concurrency=concurrency,
        slo_ttft_ms=spec.slo.ttft_ms,
        slo_tpot_ms=spec.slo.tpot_ms,
        slo_attainment=spec.slo.attainment,
        resource_notes=resources.notes,
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
        comparisons=_task_comparisons(built, measurer, machine, around),
    )
    return Assessment(candidates, ladder, data, resources.notes)


def _task_comparisons(
    built: BuiltVariants, measurer: Measurer, machine: Machine, around: Surroundings
) -> tuple[TaskComparison, ...]:
    """Of the task runs that `lightship evaluate` kept for these variants on their targets."""
    kept = KeptEvaluations(evaluations_folder(around.home), machine.fingerprint)
    names = {
        variant.manifest.digest: f"{variant.manifest.name}@{measurer.target(variant).engine}"
        for variant in built.variants
    }
    runs = {
        names[variant.manifest.digest]: kept.runs(variant.manifest.digest, measurer.target(variant))
        for variant in built.variants
    }
    return compare_with_reference(runs, reference=names[built.reference.manifest.digest])


def write_report(assessment: Assessment, spec: Spec, around: Surroundings) -> Path:
    """Writes `report.html` and `report.json`; the path of the page.

    Effects: replaces the files of an earlier run of this model.
    """
    folder = around.home / "reports" / spec.model.name
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("report.html", render_report(assessment.report).encode()),
        ("report.json", report_json(assessment.report)),
    ):
        partial = folder / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(folder / name)
    return folder / "report.html"
