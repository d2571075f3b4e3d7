"""A task: a set of questions with right answers, and how each is put to a model. Values only; see `loading`, `run`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from lightship.errors import MeasurementError
from lightship.evaluation.generation import GenerationParameters
from lightship.evaluation.tasks.choices import CHOICE_METRICS, ChoiceRule
from lightship.evaluation.tasks.items import content_hash
from lightship.evaluation.tasks.scorer import Item, Scorer
from lightship.evaluation.tasks.template import Template

# Raised whenever prompts or scores of an unchanged task file change.
PROCEDURE = "task-1"


@dataclass(frozen=True)
class GeneratedAnswers:
    """How a task's answers are generated and judged; `is_chat` sends the prompt as one user message."""

    scorer: Scorer
    parameters: GenerationParameters
    num_samples: int
    is_chat: bool


@dataclass(frozen=True)
class Task:
    """Items with what turns each into a prompt and judges what comes back.

    `template` is None where the scorer builds its own prompts. `examples` is the text of the few-shot examples, ending
    in a separator, or "". `method` says how answers come about. `meaning` is everything of the definition that changes
    a score, as plain data. Every item has been checked: its prompt and target exist.
    """

    name: str
    kind: str
    items: tuple[Item, ...] = field(repr=False)
    template: Template | None
    examples: str = field(repr=False)
    num_examples: int
    method: ChoiceRule | GeneratedAnswers
    seed: int
    meaning: Mapping[str, Any] = field(repr=False)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the scores of an item, the deciding one first."""
        return CHOICE_METRICS if isinstance(self.method, ChoiceRule) else self.method.scorer.metrics

    @property
    def binary_metrics(self) -> tuple[str, ...]:
        """Those of them that take only the values 0 and 1."""
        return CHOICE_METRICS if isinstance(self.method, ChoiceRule) else self.method.scorer.binary_metrics

    def first(self, limit: int | None) -> Task:
        """The same task with at most `limit` items, from the beginning of its file; None means all.

        Raises: MeasurementError: the limit is below 1.
        """
        if limit is not None and limit < 1:
            raise MeasurementError(f"a limit of {limit} items leaves nothing to measure", where=self.name)
        return self if limit is None else replace(self, items=self.items[:limit])

    def prompt(self, item: Item) -> str:
        """What the model gets for this item, without what follows as an answer.

        Raises: MeasurementError: the item cannot be prompted for; excluded for the task's own items.
        """
        if self.template is None:
            assert isinstance(self.method, GeneratedAnswers)
            return self.method.scorer.prompt(item) or ""
        shown = self.method.shown_fields(item.fields) if isinstance(self.method, ChoiceRule) else item.fields
        return self.examples + self.template.render(shown)

    def target(self, item: Item) -> str:
        """What is right for this item, as text."""
        if isinstance(self.method, ChoiceRule):
            return self.method.texts(item.fields)[self.method.answer_index(item.fields)]
        return self.method.scorer.target(item)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the definition's meaning and the items in order."""
        items = [[item.item_id, content_hash(item.fields)] for item in self.items]
        return hashlib.sha256(msgspec.json.encode([self.meaning, items], order="deterministic")).hexdigest()

    @property
    def protocol(self) -> str:
        """The procedure's name: equal exactly when scores may be compared.

        For example `task-1/arc-easy:1a2b3c4d/multiple_choice/items=300/shots=0/chat=no/seed=0`.
        """
        is_chat = isinstance(self.method, GeneratedAnswers) and self.method.is_chat
        details = self.method.scorer.details if isinstance(self.method, GeneratedAnswers) else ""
        parts = [
            PROCEDURE,
            f"{self.name}:{self.digest[:8]}",
            self.kind,
            f"items={len(self.items)}",
            f"shots={self.num_examples}",
            f"chat={'yes' if is_chat else 'no'}",
            f"seed={self.seed}",
            *([details] if details else []),
        ]
        return "/".join(parts)
