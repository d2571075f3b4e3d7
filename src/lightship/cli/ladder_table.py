"""The measured variants as a table: rungs first, then what was left out and why."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lightship.cli.assess import Assessment
from lightship.cli.prepare import BuiltVariants
from lightship.cli.tables import print_table
from lightship.evaluation.report.data import VariantEntry
from lightship.ports.measurements import Measurement, Metric
from lightship.units import format_bytes, format_duration


def ladder_table(assessment: Assessment) -> Table:
    """One line per variant. Speeds are at each measured concurrency; latency and goodput at the target's."""
    header = assessment.report.header
    users = assessment.report.concurrencies
    speeds = "/".join(f"x{count}" for count in users)
    table = Table(title=f"{header.model_name} on {header.machine}", title_justify="left")
    for name, justify in (("rung", "right"), ("variant", "left")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name in (
        "recovery",
        "bits/byte",
        f"tok/s {speeds}",
        f"TTFT p50 x{header.concurrency}",
        f"goodput x{header.concurrency}",
        "peak RSS",
        "size",
        "start",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    kept = [entry for entry in assessment.report.variants if entry.rung is not None]
    for entry in sorted(kept, key=lambda e: e.rung or 0):
        table.add_row(str(entry.rung), entry.name, *_cells(entry, users, header.concurrency))
    table.add_section()
    for entry in assessment.report.variants:
        if entry.rung is None:
            table.add_row("-", entry.name, *_cells(entry, users, header.concurrency), style="dim")
    return table


def ladder_notes(assessment: Assessment, built: BuiltVariants) -> list[str]:
    """Sentences for below the table: what was left out and why, and what quality is relative to."""
    reasons = {decision.candidate.name: decision.reason for decision in assessment.ladder.decisions}
    left_out = [entry for entry in assessment.report.variants if entry.rung is None]
    notes = [assessment.ladder.note]
    notes += [f"{entry.name}: {reasons.get(entry.name, entry.frontier_reason)}" for entry in left_out]
    notes += assessment.notes
    notes.append(f"Recovery is relative to {built.reference.manifest.name}.")
    return [note for note in notes if note]


def print_ladder(console: Console, assessment: Assessment, built: BuiltVariants) -> None:
    """Prints table and notes; a terminal that is too narrow wraps lines rather than losing figures."""
    print_table(ladder_table(assessment), console)
    for note in ladder_notes(assessment, built):
        console.print(note, style="dim", highlight=False, markup=False, soft_wrap=True)


def _cells(entry: VariantEntry, users: Sequence[int], concurrency: int) -> list[str]:
    speeds = "/".join(_number(entry.figure(Metric.DECODE_TOKENS_PER_S, count), "{:.0f}") for count in users)
    recovery = f"{entry.candidate.quality_recovery:.1%}" if entry.candidate else "-"
    memory = entry.figure(Metric.PEAK_RSS_BYTES)
    startup = entry.figure(Metric.STARTUP_S)
    return [
        recovery,
        _number(entry.figure(Metric.BITS_PER_BYTE), "{:.3f}"),
        speeds,
        _number(entry.figure(Metric.TTFT_MS, concurrency), "{:.0f} ms"),
        _number(entry.figure(Metric.GOODPUT_REQUESTS_PER_S, concurrency), "{:.1f}/s"),
        format_bytes(memory.value) if memory else "-",
        format_bytes(entry.size_bytes),
        format_duration(startup.value) if startup else "-",
    ]


def _number(figure: Measurement | None, form: str) -> str:
    return "-" if figure is None else form.format(figure.value)
