"""What the report says, as records: built from measurements, manifests and decisions, rendered elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from lightship.evaluation.candidates import Candidate, CandidateSet, PairFigures, collect_pairs
from lightship.evaluation.comparison import Flip, TaskComparison
from lightship.evaluation.frontier import Frontier
from lightship.evaluation.ladder import Ladder
from lightship.evaluation.report.newest_figures import NewestFigures, OpenLoopEntry
from lightship.ports.measurements import Measurement, Metric, Target
from lightship.ports.variants import Manifest

# Changes when a consumer of the JSON would have to change.
SCHEMA = "lightship-report-2"


@dataclass(frozen=True)
class ReportHeader:
    """What the measurements do not know.

    Args:
        model_name: Name that clients send.
        source: Where the checkpoint came from.
        machine: Description of the machine for people.
        command: What reproduces the figures.
        created_unix_s: When the report was made.
        reference_digest: Variant that quality is measured against.
        concurrency: Load at which the ladder was chosen.
        slo_ttft_ms: Limit on time to first token.
        slo_tpot_ms: Limit on time per output token.
        slo_attainment: Share of the requests that must keep both limits; None where nothing is promised.
        resource_notes: Sentences on memory, energy and cost: where a price comes from, what could not be told and why.
    """

    model_name: str
    source: str
    machine: str
    command: str
    created_unix_s: float
    reference_digest: str
    concurrency: int
    slo_ttft_ms: float
    slo_tpot_ms: float
    slo_attainment: float | None = None
    resource_notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class GateEntry:
    """One release gate: its name, its verdict in a word, and the sentence that explains it."""

    name: str
    verdict: str
    sentence: str


@dataclass(frozen=True)
class VariantEntry:
    """One measured pair: what it is, its newest figures and its place. `candidate` is None where it cannot compete.

    `figures` are those without load and those of closed loops, `open_loop` the rest, by offered rate, ascending.
    """

    name: str
    digest: str
    recipe: str
    weight_format: str
    size_bytes: int
    num_parameters: int
    weight_bytes: int
    target: Target
    figures: tuple[Measurement, ...]
    open_loop: tuple[OpenLoopEntry, ...]
    candidate: Candidate | None
    is_on_frontier: bool
    frontier_reason: str
    rung: int | None

    def figure(self, metric: Metric, concurrency: int = 0) -> Measurement | None:
        """The newest measurement of that kind, or None."""
        found = (one for one in self.figures if (one.metric, one.concurrency) == (metric, concurrency))
        return next(found, None)


@dataclass(frozen=True)
class RungEntry:
    """One rung of the ladder and why it is there. `speedup` is over the rung above."""

    position: int
    name: str
    speed: float
    speedup: float | None
    quality_recovery: float
    reason: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class RejectedEntry:
    """A pair off the ladder and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ProtocolEntry:
    """One procedure and what came out of it."""

    name: str
    metrics: tuple[str, ...]
    min_items: int
    max_items: int


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows, in the order in which it shows it."""

    header: ReportHeader
    quality_floor: float
    min_speedup: float
    frontier_axes: tuple[str, ...]
    speed_basis: str
    speed_unit: str
    note: str
    rungs: tuple[RungEntry, ...]
    rejected: tuple[RejectedEntry, ...]
    variants: tuple[VariantEntry, ...]
    protocols: tuple[ProtocolEntry, ...]
    tasks: tuple[TaskComparison, ...]
    gates: tuple[GateEntry, ...]
    measured_from_unix_s: float
    measured_to_unix_s: float

    @property
    def concurrencies(self) -> tuple[int, ...]:
        """Closed loops that speed was measured in, ascending."""
        return tuple(sorted({one.concurrency for variant in self.variants for one in variant.figures} - {0}))

    def short_name(self, entry: VariantEntry) -> str:
        """The variant's name, without the engine where there is only one."""
        has_one_engine = len({other.target.engine for other in self.variants}) == 1
        return entry.name.removesuffix(f"@{entry.target.engine}") if has_one_engine else entry.name


def report_data(
    header: ReportHeader,
    *,
    manifests: Iterable[Manifest],
    measurements: Iterable[Measurement],
    candidates: CandidateSet,
    frontier: Frontier,
    ladder: Ladder,
    comparisons: Iterable[TaskComparison] = (),
    gates: Iterable[GateEntry] = (),
) -> ReportData:
    """The report's content; `candidates`, `frontier` and `ladder` must come from the same measurements.

    Args:
        header: What the measurements do not know.
        manifests: Variants to report on.
        measurements: All that is known of them; the newest figure of each kind and load counts.
        candidates: What competes.
        frontier: What none beats.
        ladder: The rungs.
        comparisons: Tasks, candidate against reference; shown by task, in any order here.
        gates: Verdicts, shown in this order.
    """
    known = list(measurements)
    pairs = collect_pairs(manifests, known)
    newest = NewestFigures(known)
    positions = {rung.candidate.name: rung.position for rung in ladder.rungs}
    ranked = {one.name: one for one in candidates.candidates}
    reasons = {one.candidate.name: one.reason for one in frontier.excluded}
    unranked = {one.name: one.reason for one in candidates.unranked}
    variants = [
        _variant_entry(
            pair,
            newest,
            candidate=ranked.get(pair.name),
            frontier_reason=reasons.get(pair.name) or unranked.get(pair.name, ""),
            rung=positions.get(pair.name),
        )
        for pair in pairs
    ]
    figures = [
        one for entry in variants for one in (*entry.figures, *(f for rate in entry.open_loop for f in rate.figures))
    ]
    times = [one.measured_unix_s for one in figures] or [header.created_unix_s]
    return ReportData(
        header=header,
        quality_floor=ladder.quality_floor,
        min_speedup=ladder.min_speedup,
        frontier_axes=tuple(axis.value for axis in frontier.axes),
        speed_basis=ladder.speed_basis.value,
        speed_unit=ladder.speed_basis.unit,
        note=ladder.note,
        rungs=_rung_entries(ladder),
        rejected=(
            *(RejectedEntry(one.candidate.name, one.reason) for one in ladder.decisions if not one.is_kept),
            *(RejectedEntry(one.name, one.reason) for one in candidates.unranked),
        ),
        variants=tuple(sorted(variants, key=_report_order)),
        protocols=_protocol_entries(figures),
        tasks=_task_entries(comparisons),
        gates=tuple(gates),
        measured_from_unix_s=min(times),
        measured_to_unix_s=max(times),
    )


def _variant_entry(
    pair: PairFigures, newest: NewestFigures, *, candidate: Candidate | None, frontier_reason: str, rung: int | None
) -> VariantEntry:
    manifest = pair.manifest
    steps = [
        "".join([step.kind, *(f" {key}={value}" for key, value in sorted(step.options.items()))])
        for step in manifest.recipe.steps
    ]
    return VariantEntry(
        name=pair.name,
        digest=manifest.digest,
        recipe=", ".join(steps) or manifest.recipe.name,
        weight_format=manifest.weight_format.value,
        size_bytes=manifest.num_bytes,
        num_parameters=manifest.num_parameters,
        weight_bytes=manifest.weight_bytes,
        target=pair.target,
        figures=newest.closed_loop(manifest.digest, pair.target),
        open_loop=newest.open_loop(manifest.digest, pair.target),
        candidate=candidate,
        is_on_frontier=candidate is not None and not frontier_reason,
        frontier_reason=frontier_reason,
        rung=rung,
    )


def _report_order(entry: VariantEntry) -> tuple[float, float, str]:
    quality = entry.candidate.quality_recovery if entry.candidate else 0.0
    return (entry.rung or float("inf"), -quality, entry.name)


def _rung_entries(ladder: Ladder) -> tuple[RungEntry, ...]:
    decisions = {one.candidate.name: one for one in ladder.decisions}
    return tuple(
        RungEntry(
            position=rung.position,
            name=rung.candidate.name,
            speed=rung.speed,
            speedup=rung.speedup,
            quality_recovery=rung.candidate.quality_recovery,
            reason=decisions[rung.candidate.name].reason,
            warnings=decisions[rung.candidate.name].warnings,
        )
        for rung in ladder.rungs
    )


def _protocol_entries(figures: Sequence[Measurement]) -> tuple[ProtocolEntry, ...]:
    by_name: dict[str, list[Measurement]] = {}
    for one in figures:
        by_name.setdefault(one.protocol, []).append(one)
    return tuple(
        ProtocolEntry(
            name=name,
            metrics=tuple(sorted({one.metric.value for one in found})),
            min_items=min(one.num_items for one in found),
            max_items=max(one.num_items for one in found),
        )
        for name, found in sorted(by_name.items())
    )


def _task_entries(comparisons: Iterable[TaskComparison]) -> tuple[TaskComparison, ...]:
    ordered = sorted(
        comparisons, key=lambda one: (one.task, one.metric, one.protocol, one.reference_name, one.candidate_name)
    )
    # a stable sort: losses first, else as the comparison ordered them
    return tuple(replace(one, flips=tuple(sorted(one.flips, key=is_gain))) for one in ordered)


def is_gain(flip: Flip) -> bool:
    """Whether the candidate does better on this item."""
    return flip.candidate_score > flip.reference_score


def report_json(data: ReportData) -> bytes:
    """The report's content as indented JSON, figures unrounded; `schema` names its version.

    The document of `lightship-report-2` has the fields of `ReportData` under their names:

    - `header`: model, machine, command, reference, SLO with `slo_attainment`, `resource_notes`, and when the report
      was made.
    - `quality_floor`, `min_speedup`, `frontier_axes`, `speed_basis`, `speed_unit`, `note`: how frontier and ladder
      were chosen.
    - `rungs`: `position`, `name`, `speed`, `speedup`, `quality_recovery`, `reason`, `warnings`.
    - `rejected`: `name`, `reason`. `gates`: `name`, `verdict`, `sentence`.
    - `variants`: name, digest, recipe, sizes, `target`, `candidate`, place on frontier and ladder; `figures`:
      measurements without load (`concurrency` 0) and of closed loops; `open_loop`: a list of `offered_requests_per_s`
      and `figures`. A measurement has `metric` (the unit is part of it), `value`, `interval` (`low`, `high`, `level`,
      or null), `num_items`, `protocol`, `details` and where and when it was taken.
    - `tasks`: a comparison per task, metric and candidate: `reference`, `candidate`, `difference` and `recovery` as
      estimates (`value`, `interval`, `num_items`), `num_lost`, `num_gained`, `p_value`, `num_clusters`, `method`,
      `protocol`, and `flips`, every item that changed.
    - `protocols`, `measured_from_unix_s`, `measured_to_unix_s`.

    Since version 1: `slo_attainment`, `resource_notes`, `frontier_axes`, `weight_bytes`, `open_loop`, `tasks` and
    `gates` are new; figures of open loops left `figures`.
    """
    document = {"schema": SCHEMA, **msgspec.to_builtins(data)}
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
