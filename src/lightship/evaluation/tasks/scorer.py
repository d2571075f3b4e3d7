"""What decides whether a generated answer is right: one scorer per kind of task. The port only; see `tasks.scorers`.

A scorer is made once per task from the task file's `score:` options, and then asked per item:

    factory(options) -> Scorer      refuses options it does not know, by name
    check(item)                     before anything is sent to an endpoint
    prompt(item), target(item)      pure
    await score(item, texts)        pure, or work that must not block the event loop (running code)

Multiple choice is not one of these: it is decided by log-likelihood, without an answer in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Item:
    """One record of an items file.

    `fields` is the JSON object as it stands in the file. `line` is its 1-based line. Items of one `cluster` (one
    document, one conversation) are not independent; it is the id where the task names no field for it.
    """

    item_id: str
    fields: dict[str, Any]
    line: int
    cluster: str


class Scorer(Protocol):
    """Scores the answers of one task.

    Attributes:
        kind: The task kind it serves; its key in `tasks.scorers.SCORERS`.
        metrics: Names of what `score` returns, the deciding one first; each lies in 0..1, higher is better.
        binary_metrics: Those of them that take only the values 0 and 1.
        min_samples: Samples per item that `score` needs and gets (pass@k needs k or more); 1 for most.
        details: What else a protocol name must say because it changes scores, e.g. `"timeout_s=5"`; mostly "".
            The options themselves are part of the task's digest already.
    """

    @property
    def kind(self) -> str: ...
    @property
    def metrics(self) -> tuple[str, ...]: ...
    @property
    def binary_metrics(self) -> tuple[str, ...]: ...
    @property
    def min_samples(self) -> int: ...
    @property
    def details(self) -> str: ...

    def check(self, item: Item) -> None:
        """Returns when the item can be prompted for and scored.

        Raises: MeasurementError: it lacks a field, or holds a wrong one; names the field. The caller adds the place.
        """

    def prompt(self, item: Item) -> str | None:
        """The prompt where the scorer builds its own; None where the task's template is used."""

    def target(self, item: Item) -> str:
        """What is right, as text: hashed, so that changed answers are noticed, and shown to people."""

    async def score(self, item: Item, texts: Sequence[str]) -> dict[str, float]:
        """A value for each of `metrics`, from the `min_samples` samples generated for this item.

        A wrong, empty or unreadable answer scores 0; it is no error.

        Raises: MeasurementError: the item could not be judged at all (no interpreter to run code with).
        Concurrency: called for several items at a time.
        """


# From the `score:` options of a task file (a mapping, empty where there are none) to a scorer.
# Raises MeasurementError for an option that is unknown (naming it and the nearest known one) or has a wrong value.
ScorerFactory = Callable[[Mapping[str, Any]], Scorer]
