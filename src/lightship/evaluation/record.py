"""Everything an evaluation found out about one subject: what gates, reports and later runs read. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightship.evaluation.tasks.results import TaskRun
from lightship.ports.measurements import Measurement, Target


@dataclass(frozen=True)
class Subject:
    """What was evaluated: a variant on a target, or a model behind an endpoint that is not ours.

    `name` is for people (`int8@openvino`, or the model's name). `variant_digest` and `target` are None for an endpoint
    that is not ours; what can be known of it are `served_fingerprint` (its own word on the variant, from a header or
    `system_fingerprint`, or "") and `tokenizer_hash` (SHA-256 over the token ids of a fixed text, or "" where the
    endpoint shows no ids). `settings` holds what else changes scores, such as the chat template's hash.
    """

    name: str
    model: str
    variant_digest: str | None = None
    target: Target | None = None
    served_fingerprint: str = ""
    tokenizer_hash: str = ""
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def filed_under(self) -> str:
        """What its measurements give as their variant, and figures paired with it as their reference."""
        return self.variant_digest or self.name


@dataclass(frozen=True)
class EvaluationRecord:
    """The figures of one subject: task runs with their items, and measurements (quality, speed, memory, cost)."""

    subject: Subject
    machine: str
    created_unix_s: float
    tasks: tuple[TaskRun, ...] = ()
    measurements: tuple[Measurement, ...] = ()
