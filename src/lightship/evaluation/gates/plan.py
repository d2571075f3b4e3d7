"""What a gate's items can show, told before time is spent on a run. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from lightship.evaluation.gates.gate_file import GateFile, TaskGate
from lightship.evaluation.gates.results import GatePlan
from lightship.evaluation.statistics.sample_size import detectable_margin, items_sentence, paired_items_required


def plan_gates(gates: GateFile, num_items: Mapping[str, int]) -> tuple[GatePlan, ...]:
    """A plan for each task gate, in order; those that are not `is_enough` will hardly be decided.

    Args:
        num_items: Items of each task that would be run, by the task's name.
    """
    return tuple(plan_task_gate(gate, gates, num_items.get(gate.task)) for gate in gates.task_gates)


def plan_task_gate(gate: TaskGate, gates: GateFile, num_items: int | None) -> GatePlan:
    """The plan of one gate; None for `num_items` where the task is not known."""
    needed = paired_items_required(
        gate.expected_disagreement, gate.margin, alpha_one_sided=gates.alpha, power=gates.power
    )
    seen, sentence = None, f"there is no task {gate.task!r}; this gate needs {needed:,} items of it"
    if num_items == 0:
        sentence = f"the task {gate.task!r} has no items; this gate needs {needed:,}"
    elif num_items is not None:
        figures = {"alpha_one_sided": gates.alpha, "power": gates.power}
        seen = detectable_margin(num_items, gate.expected_disagreement, **figures)
        sentence = items_sentence(num_items, disagreement=gate.expected_disagreement, margin=gate.margin, **figures)
    return GatePlan(gate.name, gate.task, gate.margin, num_items, needed, seen, sentence)
