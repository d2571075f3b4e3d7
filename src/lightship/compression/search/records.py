"""What a search is told and tells: budget, candidates, actions, outcomes, decisions. Values, JSON-serialisable.

Figures are plain numbers here, whoever measured them: this package knows no evaluation.
"""

from __future__ import annotations

import json
import math
from enum import IntEnum, StrEnum

import msgspec

from lightship.artifacts.roofline import Roofline
from lightship.compression.feasibility.verdicts import Feasibility
from lightship.errors import UsageError
from lightship.ports.variants import Recipe

SettingValue = str | int | float | bool


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the result must keep, and what finding it may take.

    Args:
        max_bytes: Most bytes of a variant's files; None for no limit.
        quality_floor: Least recovery, as a share of the reference's quality; its lower bound must reach it.
        ttft_ms: The promise on the time to the first token; None for none.
        tpot_ms: The promise on the time per further token; None for none.
        rate_per_s: Requests per second that the deployment must carry; None where goodput alone counts.
        concurrency: Requests at once under which speed is compared.
        time_budget_s: What all actions may take together.
    """

    quality_floor: float
    time_budget_s: float
    max_bytes: int | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    rate_per_s: float | None = None
    concurrency: int = 32

    def __post_init__(self) -> None:
        """Raises: UsageError: a limit that makes no sense."""
        if not 0 < self.quality_floor <= 1:
            raise UsageError(f"the quality floor must be over 0 and at most 1, got {self.quality_floor}", where="floor")
        if not (math.isfinite(self.time_budget_s) and self.time_budget_s > 0):
            raise UsageError(f"the time budget must be over 0 s, got {self.time_budget_s}", where="time budget")
        for name in ("max_bytes", "ttft_ms", "tpot_ms", "rate_per_s", "concurrency"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} must be over 0, got {value}", where="budget")


class Tier(IntEnum):
    """What a candidate costs to make, the cheapest first; the search climbs them.

    Settings of what is rounded only are tried early, those of what is dear to make last: a candidate's tier is above
    those of the candidates that it grows from.
    """

    DATA_FREE = 0
    SETTINGS = 1
    CALIBRATED = 2
    TRAINED = 3
    LATE_SETTINGS = 4


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A recipe, the engine that serves it and that engine's settings.

    Args:
        name: Unique in a search: `int4@openvino`, `int4@openvino (kv_cache_precision=u8)`.
        grows_from: Cheaper candidates of the same kind: this one is tried when one of them did well. Empty for one that
            stands for itself.
    """

    name: str
    recipe: Recipe
    engine: str
    settings: dict[str, SettingValue] = {}
    tier: Tier = Tier.DATA_FREE
    grows_from: tuple[str, ...] = ()

    @property
    def build_key(self) -> str:
        """Equal for candidates that are served from the same variant."""
        steps = [[step.kind, step.options] for step in self.recipe.steps]
        return json.dumps(steps, sort_keys=True)


class CostEstimates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Seconds that finding out about one candidate is expected to take.

    Args:
        steps_s: Of each step of its recipe; 0 for one that is in the store already.
        quality_s: Text quality and divergence.
        speed_s: Start of a worker and speed under load, all rounds.
        tasks_s: Paired tasks.
    """

    steps_s: tuple[float, ...]
    quality_s: float
    speed_s: float
    tasks_s: float = 0.0

    def __post_init__(self) -> None:
        """Raises: ValueError: an estimate that is no time."""
        for value in (*self.steps_s, self.quality_s, self.speed_s, self.tasks_s):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"an estimate must be finite and at least 0 s, got {value}")


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A candidate with what is known before anything runs.

    Args:
        roofline: Under the budget's load; None where the shape is not known beforehand, and nothing is concluded.
        alone: The same for one request alone.
        nominal_bits: Bits of a weight by the recipe's scheme, 16 and more counting as 16; None where the recipe changes
            the shape as well, and bits alone say nothing of its quality.
    """

    candidate: Candidate
    feasibility: Feasibility
    costs: CostEstimates
    roofline: Roofline | None = None
    alone: Roofline | None = None
    nominal_bits: float | None = None


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the search goes about it.

    Args:
        keep_share: Of the candidates that have dearer relatives, the share whose relatives are tried; squared for
            variations of settings.
        most_finalists: Most candidates whose tasks are evaluated.
        has_tasks: Whether tasks decide; otherwise the recovery on text does.
    """

    keep_share: float = 0.5
    most_finalists: int = 6
    has_tasks: bool = True

    def __post_init__(self) -> None:
        """Raises: UsageError: a rule that keeps nothing."""
        if not 0 < self.keep_share <= 1 or self.most_finalists < 1:
            raise UsageError("keep_share must be over 0 and at most 1, most_finalists at least 1", where="search")


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An estimate with its interval, as measured; `low` and `high` equal `value` where there is none."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        """Raises: ValueError: not finite, or the value outside its interval."""
        if not (all(map(math.isfinite, (self.value, self.low, self.high))) and self.low <= self.value <= self.high):
            raise ValueError(f"{self.value} [{self.low}, {self.high}] is no estimate with an interval")


class QualityFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Quality on held-out text, measured on the engine that serves.

    Args:
        recovery: The reference's bits per byte over the candidate's.
        kl_nats: Mean divergence from the reference, per token. For the reference itself: from another run of itself (or
            of the source in full precision), which is the noise below which nothing can be told.
        top1_agreement: Share of positions where the most likely token is the reference's; of the reference as above.
        nats_per_token: Cross-entropy of the text.
        num_documents: What the interval is over.
    """

    recovery: Share
    kl_nats: float | None = None
    top1_agreement: float | None = None
    nats_per_token: float | None = None
    num_documents: int = 0


class SpeedFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Speed under load at the budget's concurrency: requests per second that met the promise, and what they met."""

    goodput_per_s: Share
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    tokens_per_s: float | None = None
    memory_bytes: int | None = None


class TaskFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Recovery on tasks, paired with the reference item by item."""

    recovery: Share
    num_items: int


class ActionKind(StrEnum):
    """What a driver can be asked to do."""

    BUILD = "build"
    MEASURE_QUALITY = "measure-quality"
    MEASURE_SPEED = "measure-speed"
    EVALUATE_TASKS = "evaluate-tasks"
    STOP = "stop"


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing to do for one candidate; `stop` has none, and `reason` says why it is over.

    Actions that are handed out together do not depend on each other: any order will do, and speed may be measured in
    rounds over all of them.
    """

    kind: ActionKind
    candidate: str = ""
    estimate_s: float = 0.0
    reason: str = ""


class Built(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="built"):
    """A variant was made, or found in the store; `digest` is its content's."""

    candidate: str
    duration_s: float
    num_bytes: int
    digest: str = ""


class QualityMeasured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="quality"):
    """Text quality is known."""

    candidate: str
    duration_s: float
    figures: QualityFigures


class SpeedMeasured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="speed"):
    """Speed is known."""

    candidate: str
    duration_s: float
    figures: SpeedFigures


class TasksEvaluated(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="tasks"):
    """Tasks are evaluated; of the reference, the recovery is 1."""

    candidate: str
    duration_s: float
    figures: TaskFigures


class ActionFailed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="failed"):
    """It did not work: a job that failed, an engine that did not start, a figure that could not be had."""

    candidate: str
    duration_s: float
    kind: ActionKind
    reason: str


Outcome = Built | QualityMeasured | SpeedMeasured | TasksEvaluated | ActionFailed

_KINDS: dict[type, ActionKind] = {
    Built: ActionKind.BUILD,
    QualityMeasured: ActionKind.MEASURE_QUALITY,
    SpeedMeasured: ActionKind.MEASURE_SPEED,
    TasksEvaluated: ActionKind.EVALUATE_TASKS,
}


def kind_of(outcome: Outcome) -> ActionKind:
    """The kind of action that an outcome answers."""
    return outcome.kind if isinstance(outcome, ActionFailed) else _KINDS[type(outcome)]


class Stage(StrEnum):
    """Where a candidate's fate is decided, in the order of the search."""

    FEASIBILITY = "feasibility"
    ROOFLINE = "roofline"
    HALVING = "halving"
    BUILD = "build"
    QUALITY = "quality"
    SPEED = "speed"
    FINALISTS = "finalists"
    ACCEPTANCE = "acceptance"
    FRONTIER = "frontier"


class Fate(StrEnum):
    """How a candidate ends."""

    KEPT = "kept"
    REJECTED = "rejected"
    NOT_REACHED = "not reached"


class Remedy(StrEnum):
    """What another search would need to decide otherwise."""

    NONE = "none"
    TIME = "time"
    ITEMS = "items"


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A candidate's end: where, and a sentence with the figures."""

    candidate: str
    fate: Fate
    stage: Stage
    reason: str
    remedy: Remedy = Remedy.NONE


class SearchSetup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything a search starts from.

    Args:
        reference: Name of the candidate that the others are measured against; always built and measured first.
        proposals: In the order in which equals are preferred.
        machine: For people: what was measured on.
        model: For people: what was compressed.
    """

    budget: Budget
    reference: str
    proposals: tuple[Proposal, ...]
    rules: Rules = Rules()
    model: str = ""
    machine: str = ""

    def __post_init__(self) -> None:
        """Raises: UsageError: names that are not unique, no such reference, or parents that do not come before."""
        names = [one.candidate.name for one in self.proposals]
        if len(set(names)) < len(names):
            raise UsageError("two candidates of a search share a name", where="search")
        if self.reference not in names:
            raise UsageError(f"the reference {self.reference!r} is no candidate of the search", where="search")
        unknown = {parent for one in self.proposals for parent in one.candidate.grows_from} - set(names)
        if unknown:
            raise UsageError(f"candidates grow from {sorted(unknown)[0]!r}, which is none", where="search")
        tiers = {one.candidate.name: one.candidate.tier for one in self.proposals}
        for one in self.proposals:
            if any(tiers[parent] >= one.candidate.tier for parent in one.candidate.grows_from):
                raise UsageError(f"{one.candidate.name!r} grows from what is tried no earlier", where="search")


class SearchState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A search under way: its setup, and what came out so far, in order. Nothing else; all the rest follows from it."""

    setup: SearchSetup
    journal: tuple[Outcome, ...] = ()

    @property
    def spent_s(self) -> float:
        """What all outcomes took together."""
        return math.fsum(outcome.duration_s for outcome in self.journal)
