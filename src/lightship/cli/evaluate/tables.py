"""An evaluation as tables: figures, tasks, comparisons and gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightship.cli.tables import print_table
from lightship.evaluation.comparison import TaskComparison
from lightship.evaluation.gates.results import GateReport
from lightship.evaluation.record import EvaluationRecord
from lightship.evaluation.report.wording import format_figure
from lightship.evaluation.statistics.bootstrap import Estimate
from lightship.evaluation.statistics.paired import Verdict
from lightship.ports.measurements import Interval, Measurement, Metric

_STYLES = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.UNDECIDED: "yellow"}


def print_evaluation(
    console: Console,
    candidate: EvaluationRecord,
    baseline: EvaluationRecord | None,
    comparisons: Sequence[TaskComparison],
    gates: GateReport | None,
) -> None:
    """Prints what there is; intervals are those of 95 %, the gates' claims one-sided at the file's confidence."""
    if comparisons:
        print_table(_comparison_table(comparisons), console)
    elif candidate.tasks:
        print_table(_task_table(candidate), console)
    if candidate.measurements:
        print_table(_figure_table(candidate, baseline), console)
    if gates is not None:
        print_table(_gate_table(gates), console)
        verdict = (gates.verdict.upper(), f"bold {_STYLES[gates.verdict]}")
        console.print(Text.assemble(f"{gates.candidate_name} against {gates.baseline_name}: ", verdict))


def _comparison_table(comparisons: Sequence[TaskComparison]) -> Table:
    first = comparisons[0]
    table = Table(title=f"{first.candidate_name} against {first.reference_name}", title_justify="left")
    for name in ("task", "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("items", "baseline", "candidate", "difference", "recovery", "lost", "gained", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in comparisons:
        table.add_row(
            one.task,
            one.metric,
            f"{one.num_items:,}",
            _share(one.reference),
            _share(one.candidate),
            _points(one.difference),
            "-" if one.recovery is None else _share(one.recovery),
            str(one.num_lost),
            str(one.num_gained),
            "-" if one.p_value is None else f"{one.p_value:.3g}",
        )
    return table


def _task_table(record: EvaluationRecord) -> Table:
    table = Table(title=record.subject.name, title_justify="left")
    for name in ("task", "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("items", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in record.tasks:
        for metric in run.metrics:
            values = run.values(metric)
            table.add_row(run.task, metric, f"{len(values):,}", f"{sum(values) / len(values):.2%}")
    return table


def _figure_table(candidate: EvaluationRecord, baseline: EvaluationRecord | None) -> Table:
    table = Table(title=f"Figures of {candidate.subject.name}", title_justify="left")
    table.add_column("figure", no_wrap=True)
    table.add_column("at a time", justify="right", no_wrap=True)
    names = ["candidate"] if baseline is None else ["baseline", "candidate"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    theirs = {} if baseline is None else {_key(one): one for one in baseline.measurements}
    for one in candidate.measurements:
        cells = [] if baseline is None else [_figure(theirs.get(_key(one)))]
        table.add_row(one.metric.value, str(one.concurrency or "-"), *cells, _figure(one))
    return table


def _gate_table(report: GateReport) -> Table:
    table = Table(title="Gates", title_justify="left")
    for name in ("verdict", "gate", "asked"):
        table.add_column(name, no_wrap=True)
    table.add_column("what was found", overflow="fold", max_width=100)
    for result in report.results:
        verdict = f"[{_STYLES[result.verdict]}]{result.verdict.upper()}[/]"
        table.add_row(verdict, result.name, result.requirement, result.sentence)
    return table


def _key(one: Measurement) -> tuple[Metric, int, str]:
    return (one.metric, one.concurrency, one.protocol)


def _figure(one: Measurement | None) -> str:
    if one is None:
        return "-"
    value = format_figure(one.metric, one.value)
    return f"{value} {_bounds(one.interval, lambda bound: format_figure(one.metric, bound))}".rstrip()


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.2%} {_bounds(estimate.interval, '{:.2%}'.format)}".rstrip()


def _points(estimate: Estimate) -> str:
    return f"{estimate.value * 100:+.2f} {_bounds(estimate.interval, lambda bound: f'{bound * 100:+.2f}')} points"


def _bounds(interval: Interval | None, words: Callable[[float], str]) -> str:
    if interval is None:
        return ""
    return f"({words(interval.low)} to {words(interval.high)})"
