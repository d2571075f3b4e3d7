"""What came out of one task on one endpoint: a record per item, so that two runs can be paired. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

# Characters of prompt and answer that are kept for people to look at; the hashes cover all of it.
EXCERPT_CHARS = 2000


@dataclass(frozen=True)
class ItemResult:
    """One item, asked and scored.

    Two results belong together when `item_id` and the three hashes agree. Hashes are the first 16 hex digits of a
    SHA-256: `item_hash` over the item's record, `prompt_hash` over what was sent, `target_hash` over the right answer.
    Items that share a `cluster` (one document, one conversation) are not independent; it is the id where the item says
    nothing. `scores` maps each metric of the task to 0..1, binary or graded. `prompt`, `target` and `answer` are
    shortened to `EXCERPT_CHARS`.
    """

    item_id: str
    item_hash: str
    prompt_hash: str
    target_hash: str
    cluster: str
    scores: dict[str, float]
    prompt: str
    target: str
    answer: str


@dataclass(frozen=True)
class TaskRun:
    """One task on one endpoint.

    `protocol` names task, version, item count and everything that changes a score; two runs are compared only when it
    agrees. `metrics` lists the metrics, the deciding one first; those in `binary_metrics` take only the values 0 and 1.
    """

    task: str
    kind: str
    protocol: str
    metrics: tuple[str, ...]
    binary_metrics: tuple[str, ...]
    seed: int
    items: tuple[ItemResult, ...]
    details: dict[str, float] = field(default_factory=dict)

    def values(self, metric: str) -> list[float]:
        """The items' scores, in order.

        Raises: KeyError: the task has no such metric.
        """
        return [item.scores[metric] for item in self.items]
