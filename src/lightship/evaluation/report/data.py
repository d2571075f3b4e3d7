"""What the report says, as records: built from measurements, manifests and decisions, rendered elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from lightship.evaluation.candidates import Candidate, CandidateSet, PairFigures, collect_pairs
from lightship.evaluation.frontier import Frontier
from lightship.evaluation.ladder import Ladder
from lightship.ports.measurements import Measurement, Metric, Target
from lightship.ports.variants import Manifest

# Changes when a consumer of the JSON would have to change.
SCHEMA = "lightship-report-1"


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


@dataclass(frozen=True)
class VariantEntry:
    """One measured pair: what it is, its newest figures and its place. `candidate` is None where it cannot compete."""

    name: str
    digest: str
    recipe: str
    weight_format: str
    size_bytes: int
    num_parameters: int
    target: Target
    figures: tuple[Measurement, ...]
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
    speed_basis: str
    speed_unit: str
    note: str
    rungs: tuple[RungEntry, ...]
    rejected: tuple[RejectedEntry, ...]
    variants: tuple[VariantEntry, ...]
    protocols: tuple[ProtocolEntry, ...]
    measured_from_unix_s: float
    measured_to_unix_s: float

    @property
    def concurrencies(self) -> tuple[int, ...]:
        """Loads that speed was measured at, ascending."""
        return tuple(sorted({one.concurrency for variant in self.variants for one in variant.figures} - {0}))


def report_data(
    header: ReportHeader,
    *,
    manifests: Iterable[Manifest],
    measurements: Iterable[Measurement],
    candidates: CandidateSet,
    frontier: Frontier,
    ladder: Ladder,
) -> ReportData:
    """The report's content; `candidates`, `frontier` and `ladder` must come from the same measurements."""
    pairs = collect_pairs(manifests, measurements)
    figures = [one for pair in pairs for one in pair.newest.values()]
    positions = {rung.candidate.name: rung.position for rung in ladder.rungs}
    ranked = {one.name: one for one in candidates.candidates}
    reasons = {one.candidate.name: one.reason for one in frontier.excluded}
    unranked = {one.name: one.reason for one in candidates.unranked}
    variants = [
        _variant_entry(
            pair,
            candidate=ranked.get(pair.name),
            frontier_reason=reasons.get(pair.name) or unranked.get(pair.name, ""),
            rung=positions.get(pair.name),
        )
        for pair in pairs
    ]
    times = [one.measured_unix_s for one in figures] or [header.created_unix_s]
    return ReportData(
        header=header,
        quality_floor=ladder.quality_floor,
        min_speedup=ladder.min_speedup,
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
        measured_from_unix_s=min(times),
        measured_to_unix_s=max(times),
    )


def _variant_entry(
    pair: PairFigures, *, candidate: Candidate | None, frontier_reason: str, rung: int | None
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
        target=pair.target,
        figures=tuple(pair.newest[key] for key in sorted(pair.newest)),
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


def report_json(data: ReportData) -> bytes:
    """The report's content as indented JSON, figures unrounded; `schema` names its version."""
    document = {"schema": SCHEMA, **msgspec.to_builtins(data)}
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
