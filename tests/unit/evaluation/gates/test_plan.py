from __future__ import annotations

import pytest

from lightship.evaluation.gates.gate_file import parse_gates
from lightship.evaluation.gates.plan import plan_gates

GATES = parse_gates(
    """\
version: 1
gates:
  - {task: arc, margin: 0.02}
  - {task: gsm, margin: 0.01}
  - {figure: ttft_ms, at_most: 200}
"""
)


def test_plan_gates_tells_which_tasks_have_too_few_items() -> None:
    arc, gsm = plan_gates(GATES, {"arc": 773, "gsm": 300})
    assert (arc.is_enough, arc.num_items_required) == (True, 773)
    assert arc.sentence == "773 items are enough to see a loss of 2 points: it takes 773"
    assert (gsm.is_enough, gsm.num_items_required) == (False, 3092)
    assert gsm.detectable_margin == pytest.approx(0.0321, abs=0.0001)
    assert gsm.sentence == "this gate needs 3,092 items to see a loss of 1 point; you have 300, enough for 3.2 points"


def test_plan_gates_unknown_or_empty_task_is_not_enough() -> None:
    arc, gsm = plan_gates(GATES, {"arc": 0})
    assert (arc.is_enough, arc.detectable_margin) == (False, None)
    assert arc.sentence == "the task 'arc' has no items; this gate needs 773"
    assert (gsm.is_enough, gsm.num_items) == (False, None)
    assert gsm.sentence == "there is no task 'gsm'; this gate needs 3,092 items of it"
