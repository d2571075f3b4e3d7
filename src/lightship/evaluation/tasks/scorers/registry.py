"""The kinds of generation tasks: from the `kind:` of a task file to what makes its scorer, or its items.

Multiple choice is not among them; see `tasks.scorer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightship.evaluation.tasks.scorer import Item, ScorerFactory
from lightship.evaluation.tasks.scorers.code import CodeScorer
from lightship.evaluation.tasks.scorers.generation import generation_scorer
from lightship.evaluation.tasks.scorers.instructions.scorer import InstructionsScorer
from lightship.evaluation.tasks.scorers.needle import NeedleScorer, needle_items

SCORERS: Mapping[str, ScorerFactory] = {
    "code": CodeScorer,
    "generation": generation_scorer,
    "instructions": InstructionsScorer,
    "needle": NeedleScorer,
}

# From `score:` options and the task's seed to items, for kinds that can do without an items file.
ITEM_GENERATORS: Mapping[str, Callable[[Mapping[str, Any], int], list[Item]]] = {"needle": needle_items}
