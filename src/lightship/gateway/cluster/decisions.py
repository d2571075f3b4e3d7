"""What was decided, why, and what came of it."""

from __future__ import annotations

from collections import Counter, deque
from enum import StrEnum

import msgspec

_MOST_RECORDS = 200


class Effect(StrEnum):
    """What came of a decision."""

    NONE = "none"  # it is as decided already
    SCALED = "scaled"
    FROZEN = "frozen"  # something is missing from the picture
    LEFT_TO_OTHERS = "left-to-others"  # an autoscaler writes to the same Deployment
    OVERTAKEN = "overtaken"  # somebody else changed it, or leads now: decided anew
    FAILED = "failed"  # the API server did not do it


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One decision on one rung.

    Args:
        unix_s: When.
        served_model: The name clients send.
        rung: Its place on that ladder.
        deployment: What was decided about.
        replicas_before: What it asked for; None where that was not known.
        replicas: What it is to ask for.
        reason: A word of `ScaleReason`.
        detail: Why, in words and numbers.
        effect: What came of it.
        problem: What stood in the way; "" where nothing did.
    """

    unix_s: float
    served_model: str
    rung: int
    deployment: str
    replicas_before: int | None
    replicas: int
    reason: str
    detail: str
    effect: Effect
    problem: str = ""


class DecisionLog:
    """The last decisions that said something new, and totals of those that changed something."""

    def __init__(self) -> None:
        self._records: deque[DecisionRecord] = deque(maxlen=_MOST_RECORDS)
        self._last: dict[str, DecisionRecord] = {}
        self.num_scalings: Counter[tuple[str, int, str]] = Counter()

    def note(self, record: DecisionRecord) -> bool:
        """Effects: keeps a decision, unless it says what the one before it about the same Deployment said.

        Whether it was kept.
        """
        before = self._last.get(record.deployment)
        self._last[record.deployment] = record
        if record.effect is Effect.SCALED:
            self.num_scalings[record.served_model, record.rung, record.reason] += 1
        elif before is not None and _gist(before) == _gist(record):
            return False
        self._records.append(record)
        return True

    def last(self, deployment: str) -> DecisionRecord | None:
        """The last decision about a Deployment, kept or not."""
        return self._last.get(deployment)

    def recent(self) -> tuple[DecisionRecord, ...]:
        """The kept ones, the oldest first."""
        return tuple(self._records)


def _gist(record: DecisionRecord) -> tuple[object, ...]:
    return (record.replicas, record.reason, record.effect)
