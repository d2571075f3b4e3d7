"""The result of `lightship bench` as a table for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lightship.cli.tables import print_table
from lightship.evaluation.performance.load_files import LoadRecord
from lightship.evaluation.performance.load_result import Quantiles, Rate
from lightship.evaluation.performance.records import NO_SLO
from lightship.evaluation.performance.search import SearchResult
from lightship.ports.measurements import Interval

# Share of a core from which on the client itself may have been what was measured.
_BUSY_CLIENT_SHARE = 0.8
# Share by which sent lengths may differ from wanted ones before the table says so.
_LENGTH_TOLERANCE = 0.05


def print_bench(record: LoadRecord, search: SearchResult | None, console: Console | None = None) -> None:
    """Prints the figures, and below them what a reader must know to judge them."""
    console = console or Console(soft_wrap=True, highlight=False)
    if search is not None:
        _print_search(search, console)
    table = Table("figure", "value", "95 % interval", "p95", "p99", "n", title=record.protocol, title_justify="left")
    load = record.load
    if load.offered_requests_per_s is not None:
        table.add_row("offered requests/s", f"{load.offered_requests_per_s:.2f}")
    _add_rate(table, "answered requests/s", load.answered_requests_per_s, load.num_answered)
    if record.slo != NO_SLO:
        _add_rate(table, f"goodput requests/s ({record.slo.name})", load.goodput_requests_per_s, load.num_requests)
        share = _interval(load.attainment_interval, scale=100)
        table.add_row("attainment, %", f"{load.attainment * 100:.1f}", share, "", "", str(load.num_requests))
    _add_rate(table, "input tokens/s", load.input_tokens_per_s, load.num_answered)
    _add_rate(table, "output tokens/s", load.output_tokens_per_s, load.num_answered)
    for name, latency in (
        ("time to first token, ms", load.ttft_ms),
        ("time per output token, ms", load.tpot_ms),
        ("inter-token latency, ms", load.itl_ms),
        ("end to end, ms", load.e2e_ms),
        ("client lag, ms", load.lag_ms),
    ):
        if latency is not None:
            _add_latency(table, name, latency)
    print_table(table, console)
    for line in _remarks(record):
        console.print(line, markup=False)


def _print_search(search: SearchResult, console: Console) -> None:
    table = Table("load", "runs", "good", "requests", "attainment, %", "95 % interval", "verdict")
    for one in search.loads:
        runs = [trial for trial in search.trials if trial.load == one.load]
        failed = next((f"{one.verdict}: {trial.failure}" for trial in runs if trial.failure), str(one.verdict))
        share = f"{100 * one.num_good / one.num_requests:.1f}" if one.num_requests else ""
        table.add_row(
            f"{one.load:.4g}",
            str(len(runs)),
            str(one.num_good),
            str(one.num_requests),
            share,
            _interval(one.interval, scale=100),
            failed,
        )
    print_table(table, console)
    unit = "users" if search.plan.is_whole else "requests/s"
    found = "no load tried keeps the SLO" if search.best is None else f"highest load: {search.best.load:.4g} {unit}"
    console.print(f"{found} ({search.reason})", markup=False)
    for note in search.notes:
        console.print(f"note: {note}", markup=False)


def _remarks(record: LoadRecord) -> list[str]:
    load = record.load
    remarks = []
    if load.errors:
        remarks.append("errors: " + ", ".join(f"{count} {kind}" for kind, count in load.errors.items()))
    if load.num_undecided:
        remarks.append(f"cut off by the end of the run, not judged: {load.num_undecided} requests")
    for what in ("prompt", "output"):
        wanted, achieved = record.lengths[f"wanted_{what}_tokens"], record.lengths[f"achieved_{what}_tokens"]
        if wanted and abs(achieved / wanted - 1) > _LENGTH_TOLERANCE:
            remarks.append(f"mean {what} tokens: {achieved:.1f} where {wanted:.1f} were wanted")
    changes = record.settings.get("trace_changes", {})
    for key in ("num_outside_slice", "num_prompts_cut", "num_answers_cut", "num_raised_to_one_token"):
        if changes.get(key):
            remarks.append(f"trace: {key.removeprefix('num_').replace('_', ' ')}: {changes[key]}")
    if not record.has_fixed_length:
        remarks.append("the endpoint refuses ignore_eos, so answers end where the model wants")
    if record.client_cpu_share is not None and record.client_cpu_share > _BUSY_CLIENT_SHARE:
        remarks.append(f"the client took {record.client_cpu_share:.0%} of a core: latencies may be its own")
    return remarks


def _add_rate(table: Table, name: str, rate: Rate, num_items: int) -> None:
    table.add_row(name, f"{rate.per_s:.2f}", _interval(rate.interval), "", "", str(num_items))


def _add_latency(table: Table, name: str, latency: Quantiles) -> None:
    cells = (f"{value:.1f}" for value in (latency.p95, latency.p99))
    table.add_row(
        f"{name} (median)", f"{latency.p50:.1f}", _interval(latency.p50_interval), *cells, str(latency.num_items)
    )


def _interval(interval: Interval | None, *, scale: float = 1.0) -> str:
    return "" if interval is None else f"{interval.low * scale:.1f} to {interval.high * scale:.1f}"
