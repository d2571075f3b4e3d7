"""Gates on figures: is a measurement, or its ratio to the baseline's, on the right side of a bound? Pure.

With an interval the whole of it must lie on one side, right (pass) or wrong (fail); an interval of a lower level than
the file asks for decides nothing. Without one the value decides, and the sentence says so. There is no correction over
figures: a failure is a claim about one figure, each at the interval's own level.

A ratio is taken only of figures from the same protocol, load and machine. Its interval combines the two:

    ratio / exp(sqrt(ln(c / c_low)^2 + ln(b_high / b)^2))  to  ratio * exp(sqrt(ln(c_high / c)^2 + ln(b / b_low)^2))

Source: Zou and Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 27 (2008), on
    logarithms; it takes the two for independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lightship.errors import MeasurementError
from lightship.evaluation.gates.gate_file import PAIRED_FIGURES, FigureGate, GateFile
from lightship.evaluation.gates.results import GateKind, GateResult
from lightship.evaluation.record import EvaluationRecord
from lightship.evaluation.statistics.paired import Verdict
from lightship.ports.measurements import Interval, Measurement

# Levels are sums of decimal fractions; a difference below this is rounding.
_LEVEL_TOLERANCE = 1e-9
# Natural logarithm of the largest ratio that is told apart from an infinite one; doubles end at 709.
_LARGEST_LOG = 700.0


@dataclass(frozen=True)
class _Figure:
    """What is held against the bound."""

    value: float
    interval: Interval | None
    num_items: int
    shown: str


def judge_figure_gate(
    gate: FigureGate, gates: GateFile, *, baseline: EvaluationRecord, candidate: EvaluationRecord
) -> GateResult:
    """The gate's result. A figure that is missing or cannot be compared leaves it undecided."""
    result = GateResult(gate.name, GateKind.FIGURE, Verdict.UNDECIDED, _requirement(gate), "")
    try:
        figure = _figure(gate, baseline, candidate)
    except MeasurementError as error:
        return replace(result, sentence=str(error))
    result = replace(result, value=figure.value, interval=figure.interval, num_items=figure.num_items)
    verdict, reason = _judge(figure, gate, gates)
    return replace(result, verdict=verdict, sentence=f"{figure.shown}; {reason}")


def _requirement(gate: FigureGate) -> str:
    words = "at least" if gate.kind.is_lower else "at most"
    return f"{words} {gate.bound:g} {'times the baseline' if gate.kind.is_ratio else ''}".rstrip()


def _judge(figure: _Figure, gate: FigureGate, gates: GateFile) -> tuple[Verdict, str]:
    asked = _requirement(gate)
    interval = figure.interval
    if interval is None:
        is_met = figure.value >= gate.bound if gate.kind.is_lower else figure.value <= gate.bound
        verdict = Verdict.PASS if is_met else Verdict.FAIL
        return verdict, f"{asked} is asked; the figure has no interval, so its noise is not accounted for"
    if interval.level < gates.two_sided_level - _LEVEL_TOLERANCE:
        levels = f"its interval is of {interval.level:.4g}, and {gates.two_sided_level:.4g} is needed"
        return Verdict.UNDECIDED, f"{levels} for a one-sided confidence of {gates.confidence:.4g}"
    worst, best = (interval.low, interval.high) if gate.kind.is_lower else (-interval.high, -interval.low)
    bound = gate.bound if gate.kind.is_lower else -gate.bound
    if worst >= bound:
        return Verdict.PASS, f"all of the interval is {asked}"
    if best < bound:
        return Verdict.FAIL, f"all of the interval misses the bound: {asked} is asked"
    return Verdict.UNDECIDED, f"{asked} is asked and lies within the interval; measure longer, or more items"


def _figure(gate: FigureGate, baseline: EvaluationRecord, candidate: EvaluationRecord) -> _Figure:
    """The figure or the ratio that the gate judges.

    Raises: MeasurementError: it is missing, ambiguous, not finite, or not comparable.
    """
    ours = _measurement(gate, candidate)
    if not gate.kind.is_ratio:
        if gate.metric in PAIRED_FIGURES:
            _refuse_other_reference(ours, baseline, candidate)
        return _Figure(ours.value, ours.interval, ours.num_items, _shown(gate.metric, ours.value, ours.interval))
    theirs = _measurement(replace(gate, concurrency=ours.concurrency, protocol=ours.protocol), baseline)
    if ours.machine != theirs.machine:
        raise MeasurementError(
            f"{gate.metric} was measured on machine {theirs.machine} for {baseline.subject.name} and on {ours.machine} "
            f"for {candidate.subject.name}",
            hint="Measure both on one machine.",
        )
    if ours.value < 0 or theirs.value <= 0:
        raise MeasurementError(f"there is no ratio of {ours.value:g} to {theirs.value:g}", where=str(gate.metric))
    ratio = ours.value / theirs.value
    interval = ratio_interval(ours, theirs)
    shown = f"{_shown('ratio', ratio, interval)} of {ours.value:.4g} to {theirs.value:.4g}"
    return _Figure(ratio, interval, min(ours.num_items, theirs.num_items), shown)


def _measurement(gate: FigureGate, record: EvaluationRecord) -> Measurement:
    """The newest measurement that the gate means.

    Raises: MeasurementError: there is none, more than one kind of it, or it is not finite.
    """
    name = record.subject.name
    of_metric = [one for one in record.measurements if one.metric is gate.metric]
    found = [
        one
        for one in of_metric
        if gate.concurrency in {None, one.concurrency} and gate.protocol in {None, one.protocol}
    ]
    if not found:
        wanted = [f"at concurrency {gate.concurrency}"] if gate.concurrency is not None else []
        wanted += [f"under protocol {gate.protocol}"] if gate.protocol is not None else []
        hint = f"There is: {_kinds(of_metric)}." if of_metric else "Measure it."
        raise MeasurementError(" ".join([f"{name} has no {gate.metric}", *wanted]), hint=hint)
    if len({(one.concurrency, one.protocol) for one in found}) > 1:
        hint = "Say in the gate which `concurrency` or `protocol` is meant."
        raise MeasurementError(f"{name} has more than one {gate.metric}: {_kinds(found)}", hint=hint)
    newest = max(found, key=lambda one: one.measured_unix_s)
    bounds = [newest.interval.low, newest.interval.high] if newest.interval else []
    if not all(math.isfinite(value) for value in (newest.value, *bounds)):
        raise MeasurementError(f"{gate.metric} of {name} is not finite", hint="Measure it again.")
    return newest


def _kinds(measurements: list[Measurement]) -> str:
    kinds = dict.fromkeys((one.concurrency, one.protocol) for one in measurements)
    return ", ".join(f"concurrency {concurrency} under {protocol}" for concurrency, protocol in kinds)


def _refuse_other_reference(ours: Measurement, baseline: EvaluationRecord, candidate: EvaluationRecord) -> None:
    """Raises: MeasurementError: a paired figure was measured against something else than the baseline."""
    known_as = baseline.subject.filed_under
    if ours.reference_digest is not None and ours.reference_digest != known_as:
        raise MeasurementError(
            f"{ours.metric} of {candidate.subject.name} was measured against {ours.reference_digest}, not against "
            f"{baseline.subject.name}, whose figures are filed under {known_as}",
            hint="Measure it against this baseline.",
        )


def ratio_interval(ours: Measurement, theirs: Measurement) -> Interval | None:
    """Interval of the ratio of two independent figures, at the lower of their levels; None where one has none."""
    one, other = ours.interval, theirs.interval
    if one is None or other is None:
        return None
    level = min(one.level, other.level)
    if ours.value <= 0:  # a rate of nothing has no logarithm; the quotient of the bounds is wide enough
        return Interval(0.0, one.high / other.low if other.low > 0 else math.inf, level)
    ratio = ours.value / theirs.value
    fall = math.hypot(_log_ratio(ours.value, one.low), _log_ratio(other.high, theirs.value))
    rise = math.hypot(_log_ratio(one.high, ours.value), _log_ratio(theirs.value, other.low))
    return Interval(ratio * math.exp(-fall), ratio * math.exp(rise) if rise < _LARGEST_LOG else math.inf, level)


def _log_ratio(above: float, below: float) -> float:
    """ln(above / below), infinite where `below` is not positive."""
    return math.log(above) - math.log(below) if below > 0 else math.inf


def _shown(what: str, value: float, interval: Interval | None) -> str:
    bounds = f" ({interval.low:.4g} to {interval.high:.4g})" if interval else ""
    return f"{what} {value:.4g}{bounds}"
