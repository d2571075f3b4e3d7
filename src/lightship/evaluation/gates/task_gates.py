"""Gates on tasks: has the candidate shown that it loses less than the margin, item by item? Pure.

*Pass*: the one-sided lower bound of candidate minus baseline reaches -margin. This holds at any number of items; a set
that is too small has a bound far below and passes nothing.

*Fail*: the loss is shown to be larger than the margin, and still is when the p-values of that claim are Holm-adjusted
over the task gates of the file: among many tasks one looks bad by chance.

What the bounds are worth at a confidence of 95 %: of candidates whose true loss is the margin, 5 % pass and 5 to 7 %
fail; where items are only ever lost, and few of them, 6 % and 8 %. See benchmarks/interval_coverage.py.

A release passes when every gate does. Such an intersection-union test keeps its level without a correction, since each
of the claims must hold: a bad candidate passes all with no more chance than it passes the one that shows it.

*Undecided* otherwise, with the number of items that would decide.

Source: R. L. Berger, "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24 (1982).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist

from lightship.errors import MeasurementError
from lightship.evaluation.comparison import TaskComparison, compare_task_runs, p_value_of_loss
from lightship.evaluation.gates.gate_file import GateFile, TaskGate
from lightship.evaluation.gates.plan import plan_task_gate
from lightship.evaluation.gates.results import GateKind, GateResult
from lightship.evaluation.record import EvaluationRecord
from lightship.evaluation.statistics.correction import holm_adjusted
from lightship.evaluation.statistics.paired import Verdict, non_inferiority
from lightship.evaluation.statistics.sample_size import format_points, items_to_decide, paired_items_required
from lightship.evaluation.tasks.results import TaskRun
from lightship.ports.measurements import Interval

# Items beyond which nobody evaluates: the largest public sets have some ten thousand.
_MOST_ITEMS = 1_000_000


@dataclass(frozen=True)
class _Compared:
    """A gate with its data: a comparison, or the reason why there is none."""

    gate: TaskGate
    comparison: TaskComparison | None
    p_value: float | None
    problem: str = ""


def judge_task_gates(
    gates: GateFile,
    *,
    baseline: EvaluationRecord,
    candidate: EvaluationRecord,
    num_resamples: int,
    seed: int,
) -> dict[str, GateResult]:
    """The results of the task gates by name. Data that are missing or cannot be paired leave a gate undecided."""
    compared = [
        _compare(gate, gates, baseline, candidate, num_resamples=num_resamples, seed=seed) for gate in gates.task_gates
    ]
    adjusted = holm_adjusted({one.gate.name: one.p_value for one in compared if one.p_value is not None})
    return {one.gate.name: _judge(one, gates, adjusted) for one in compared}


def _compare(
    gate: TaskGate,
    gates: GateFile,
    baseline: EvaluationRecord,
    candidate: EvaluationRecord,
    *,
    num_resamples: int,
    seed: int,
) -> _Compared:
    try:
        reference, ours = (_run_of(record, gate.task) for record in (baseline, candidate))
        comparison = compare_task_runs(
            reference,
            ours,
            metric=gate.metric,
            reference_name=baseline.subject.name,
            candidate_name=candidate.subject.name,
            confidence=gates.two_sided_level,
            num_resamples=num_resamples,
            seed=seed,
        )
        p_value = p_value_of_loss(
            reference, ours, margin=gate.margin, metric=gate.metric, num_resamples=num_resamples, seed=seed
        )
    except MeasurementError as error:
        return _Compared(gate, None, None, str(error))
    return _Compared(gate, comparison, p_value if comparison.difference.interval is not None else None)


def _run_of(record: EvaluationRecord, task: str) -> TaskRun:
    """The record's one run of a task.

    Raises: MeasurementError: there is none, or more than one.
    """
    runs = [run for run in record.tasks if run.task == task]
    if len(runs) == 1:
        return runs[0]
    there = ", ".join(dict.fromkeys(run.task for run in record.tasks)) or "none"
    what = f"{record.subject.name} has {len(runs) or 'no'} run{'s' * (len(runs) > 1)} of the task {task!r}"
    raise MeasurementError(what, hint=f"Tasks in its record: {there}.")


def _judge(one: _Compared, gates: GateFile, adjusted: Mapping[str, float]) -> GateResult:
    gate, comparison = one.gate, one.comparison
    result = GateResult(
        gate.name, GateKind.TASK, Verdict.UNDECIDED, f"loses at most {format_points(gate.margin)}", one.problem
    )
    if comparison is None:
        return result
    result = replace(
        result,
        num_items=comparison.num_items,
        value=comparison.difference.value,
        interval=comparison.difference.interval,
        p_value=adjusted.get(gate.name),
        comparison=comparison,
    )
    interval = comparison.difference.interval
    if interval is None or result.p_value is None:
        sentence = f"{_found(comparison)}; all items belong to one cluster, so nothing says how sure this is"
        return replace(result, sentence=sentence)
    verdict = non_inferiority(interval, gate.margin)
    if verdict is Verdict.PASS:
        at_most = "there is no loss" if interval.low >= 0 else f"the loss is at most {-interval.low * 100:.2f} points"
        sentence = f"{_found(comparison)}; at {gates.confidence * 100:g} % confidence {at_most}"
        return replace(result, verdict=verdict, sentence=sentence)
    if verdict is Verdict.FAIL and result.p_value <= gates.alpha:
        reason = f"the loss is shown to be more than {format_points(gate.margin)} ({_p(result.p_value)}"
        reason += f", Holm-adjusted over {len(adjusted)} task gates)" if len(adjusted) > 1 else ")"
        return replace(result, verdict=verdict, sentence=_joined(_found(comparison), reason, _shortage(one, gates)))
    reasons = [_why_undecided(one, gates, interval, verdict, len(adjusted)), _shortage(one, gates)]
    return replace(result, sentence=_joined(_found(comparison), *reasons))


def _found(comparison: TaskComparison) -> str:
    """What the two scored and by how much they differ."""
    means = f"{comparison.candidate.value:.2%} against {comparison.reference.value:.2%}".replace("%", " %")
    counts = f"{comparison.num_lost:,} lost and {comparison.num_gained:,} gained of {comparison.num_items:,} items"
    return f"{means}, {signed_points(comparison.difference.value, comparison.difference.interval)}; {counts}"


def signed_points(value: float, interval: Interval | None) -> str:
    """A difference in points with its interval.

    >>> signed_points(-0.0123, Interval(-0.025, 0.001, 0.9))
    '-1.23 points (-2.50 to +0.10)'
    """
    shown = f"{value * 100:+.2f} points"
    return shown if interval is None else f"{shown} ({interval.low * 100:+.2f} to {interval.high * 100:+.2f})"


def _why_undecided(one: _Compared, gates: GateFile, interval: Interval, verdict: Verdict, num_gates: int) -> str:
    if verdict is Verdict.FAIL:
        return (
            f"by itself this looks like a loss of more than {format_points(one.gate.margin)}, but among {num_gates} "
            f"task gates it may be chance; {_would_decide(one, gates, interval, gates.alpha / num_gates)}"
        )
    keeps = f"neither kept nor broken is the margin of {format_points(one.gate.margin)}"
    return f"{keeps}; {_would_decide(one, gates, interval, gates.alpha)}"


def _would_decide(one: _Compared, gates: GateFile, interval: Interval, alpha: float) -> str:
    """How many items would decide, at what was observed; `alpha` may be stricter than the interval's."""
    assert one.comparison is not None
    num_items, difference = one.comparison.num_items, one.comparison.difference.value
    z = NormalDist().inv_cdf((1 + interval.level) / 2)
    needed = items_to_decide(
        num_items,
        difference=difference,
        standard_error=(interval.high - interval.low) / (2 * z),
        margin=one.gate.margin,
        alpha_one_sided=alpha,
        power=gates.power,
    )
    if one.comparison.num_lost + one.comparison.num_gained == 0:
        needed = paired_items_required(0.0, one.gate.margin, alpha_one_sided=alpha, power=gates.power)
        return f"{needed:,} items without a difference would show it kept"
    if needed is None or needed > _MOST_ITEMS:
        return "the difference lies so near to the margin that no practical number of items decides"
    side = "kept" if difference > -one.gate.margin else "broken"
    return f"if it stays like this, about {_rounded(max(needed, num_items + 1)):,} items would show it {side}"


def _rounded(num_items: int) -> int:
    """Two significant digits: an estimate from noisy data has no more."""
    digits = len(str(num_items)) - 2
    return -(-num_items // 10**digits) * 10**digits if digits > 0 else num_items


def _shortage(one: _Compared, gates: GateFile) -> str:
    """The sentence of the plan where there were too few items from the start."""
    assert one.comparison is not None
    plan = plan_task_gate(one.gate, gates, one.comparison.num_items)
    return "" if plan.is_enough else plan.sentence


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _p(p_value: float) -> str:
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.4f}"
