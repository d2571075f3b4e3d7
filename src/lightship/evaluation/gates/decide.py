"""Whether a candidate may replace a baseline: every gate judged, one verdict over all. Pure."""

from __future__ import annotations

from lightship.evaluation.comparison import DEFAULT_RESAMPLES
from lightship.evaluation.gates.figure_gates import judge_figure_gate
from lightship.evaluation.gates.gate_file import FigureGate, GateFile
from lightship.evaluation.gates.results import GateReport
from lightship.evaluation.gates.task_gates import judge_task_gates
from lightship.evaluation.record import EvaluationRecord


def judge_gates(
    gates: GateFile,
    *,
    baseline: EvaluationRecord,
    candidate: EvaluationRecord,
    num_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> GateReport:
    """A result for each gate, in the order of the file; see `task_gates` and `figure_gates` for the rules.

    Data that are missing, or that cannot be compared, leave a gate undecided with the reason: never a pass.
    """
    on_tasks = judge_task_gates(gates, baseline=baseline, candidate=candidate, num_resamples=num_resamples, seed=seed)
    results = tuple(
        judge_figure_gate(gate, gates, baseline=baseline, candidate=candidate)
        if isinstance(gate, FigureGate)
        else on_tasks[gate.name]
        for gate in gates.gates
    )
    return GateReport(baseline.subject.name, candidate.subject.name, gates.confidence, results)
