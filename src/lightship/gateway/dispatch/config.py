"""What the dispatcher knows of each ladder: the measured facts of its rungs, and the policy by which they are used."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import msgspec

from lightship.ports.engine import Degrade

DEFAULT_PRIORITY = "default"
# Concurrent requests where nothing was measured: what a small engine takes without its queue growing.
UNMEASURED_CONCURRENCY = 32


class RungFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rung as it was measured.

    Args:
        variant_name: For headers and metrics.
        variant_digest: Of what it serves; "" where unknown.
        device: Rungs on one device share its capacity.
        quality_loss: Share of the reference's quality that is lost; None where it was not measured.
        quality_loss_low: Lower end of its confidence interval.
        quality_loss_high: Upper end; decisions go by it.
        goodput_requests_per_s: Measured at `concurrency` under the SLO; 0 where it was not.
        concurrency: At which it was measured; 0 where it was not.
        is_spill: Elsewhere and paid for: used only when this device is full.
        usd_per_1m_input_tokens: Price of a spill rung.
        usd_per_1m_output_tokens: The same.
    """

    variant_name: str
    variant_digest: str = ""
    device: str = "local"
    quality_loss: float | None = 0.0
    quality_loss_low: float | None = None
    quality_loss_high: float | None = None
    goodput_requests_per_s: float = 0.0
    concurrency: int = 0
    is_spill: bool = False
    usd_per_1m_input_tokens: float = 0.0
    usd_per_1m_output_tokens: float = 0.0

    @property
    def cautious_loss(self) -> float:
        """The loss to decide by: the interval's upper end, or all of the quality where nothing was measured."""
        if self.quality_loss_high is not None:
            return self.quality_loss_high
        return 1.0 if self.quality_loss is None else self.quality_loss


class PriorityClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one class of requests is treated at peak load.

    Args:
        importance: The class with the highest number is served first and shed last.
        degrade: Whether a lower rung may answer.
        min_quality: Least share of the reference's quality.
        trimmed_output_tokens: What `max_tokens` is cut to at peak load; None leaves it alone.
        max_wait_s: Longest time in the queue; None: as long as the promised time to first token allows.
    """

    importance: int = 0
    degrade: Degrade = Degrade.ALLOWED
    min_quality: float = 0.0
    trimmed_output_tokens: int | None = None
    max_wait_s: float | None = None


class QualityBudgetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much may be degraded in one window; see `quality_budget`.

    Args:
        degraded_share: Degraded answers among all.
        mean_loss: Quality lost on average over all answers, as a share of the reference's; None sets no bound.
        window_s: Length of the window.
        expected_requests: Requests a window is taken to have before that many have come.
    """

    degraded_share: float = 1.0
    mean_loss: float | None = None
    window_s: float = 86_400.0
    expected_requests: int = 1000


class LadderPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When to step down and up: down fast, up slowly.

    Args:
        down_wait_share: Waiting this share of the promised time to first token is an overload.
        down_dwell_s: How long an overload lasts before a step down, and between two.
        up_load_share: Arrivals below this share of those at which the step above was left are clearly fewer.
        up_dwell_s: Least time on a step before the way up.
        trial_s: A step down so soon after one up says that it was too early.
        most_patience_s: Longest time between two trials.
        mix_load_share: Below this use of the device a request still gets the rung above the level.
    """

    down_wait_share: float = 0.25
    down_dwell_s: float = 0.25
    up_load_share: float = 0.8
    up_dwell_s: float = 5.0
    trial_s: float = 60.0
    most_patience_s: float = 300.0
    mix_load_share: float = 0.15


class LadderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model's rungs from the top down, its promise and its policy."""

    rungs: tuple[RungFacts, ...]
    ttft_s: float = 10.0
    tpot_s: float = 1.0
    attainment: float = 0.95
    policy: LadderPolicy = LadderPolicy()
    budget: QualityBudgetConfig | None = None
    spill_usd_per_hour: float = 0.0


class DispatchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything about admission in one gateway process.

    Args:
        ladders: By served model.
        priorities: Classes by name. A request that names none gets `default`, which needs no entry.
        max_queued: Requests that may wait; the least important ones are shed first.
        max_concurrency: Requests under way on one rung, whatever is learned.
        default_output_tokens: What a request that sets no bound is taken to ask for.
        capacity_share: Share of every device that this process may use: 1 / number of processes.
        private_tags: Requests with one of these tags never leave for a spill rung.
    """

    ladders: dict[str, LadderConfig] = {}
    priorities: dict[str, PriorityClass] = {}
    max_queued: int = 1024
    max_concurrency: int = 4096
    default_output_tokens: int = 512
    capacity_share: float = 1.0
    private_tags: frozenset[str] = frozenset()

    def priority(self, name: str) -> PriorityClass | None:
        """The class of that name; `default` always exists."""
        found = self.priorities.get(name)
        return PriorityClass() if found is None and name == DEFAULT_PRIORITY else found


def dispatch_problems(config: DispatchConfig) -> Iterable[str]:
    """What is wrong with the section, each as `key: what was expected, what it is`."""
    for key in ("max_queued", "max_concurrency", "default_output_tokens"):
        if getattr(config, key) < (0 if key == "max_queued" else 1):
            yield f"{key}: is too small, got {getattr(config, key)}"
    if not 0 < config.capacity_share <= 1:
        yield f"capacity_share: must be above 0 and at most 1, got {config.capacity_share:g}"
    for name, one in config.priorities.items():
        yield from (f"priorities.{name}.{problem}" for problem in _priority_problems(one))
    for name, ladder in config.ladders.items():
        yield from (f"ladders.{name}.{problem}" for problem in _ladder_problems(ladder))


def _priority_problems(one: PriorityClass) -> Iterable[str]:
    if not 0 <= one.min_quality <= 1:
        yield f"min_quality: must be a share from 0 to 1, got {one.min_quality:g}"
    if one.trimmed_output_tokens is not None and one.trimmed_output_tokens < 1:
        yield f"trimmed_output_tokens: must be at least 1, got {one.trimmed_output_tokens}"
    if one.max_wait_s is not None and not 0 <= one.max_wait_s < math.inf:
        yield f"max_wait_s: must be at least 0 and finite, got {one.max_wait_s:g}"


def _ladder_problems(ladder: LadderConfig) -> Iterable[str]:
    if not ladder.rungs:
        yield "rungs: must name at least one rung"
    for key in ("ttft_s", "tpot_s"):
        if not getattr(ladder, key) > 0:
            yield f"{key}: must be above 0, got {getattr(ladder, key):g}"
    if not 0 < ladder.attainment <= 1:
        yield f"attainment: must be above 0 and at most 1, got {ladder.attainment:g}"
    for position, rung in enumerate(ladder.rungs):
        yield from (f"rungs[{position}].{problem}" for problem in _rung_problems(rung))
    for above, below in pairwise(ladder.rungs):
        if above.is_spill and not below.is_spill:
            yield f"rungs: the spill rung {above.variant_name!r} must stand below all others"
    yield from (f"policy.{problem}" for problem in _policy_problems(ladder.policy))
    if ladder.budget is not None:
        yield from (f"budget.{problem}" for problem in _budget_problems(ladder.budget))


def _rung_problems(rung: RungFacts) -> Iterable[str]:
    for key in ("quality_loss", "quality_loss_low", "quality_loss_high"):
        value = getattr(rung, key)
        if value is not None and not -1 <= value <= 1:
            yield f"{key}: must be a share, got {value:g}"
    if not 0 <= rung.goodput_requests_per_s < math.inf:
        yield f"goodput_requests_per_s: must be at least 0 and finite, got {rung.goodput_requests_per_s:g}"
    if rung.concurrency < 0:
        yield f"concurrency: must be at least 0, got {rung.concurrency}"


def _policy_problems(policy: LadderPolicy) -> Iterable[str]:
    for key in ("down_wait_share", "up_load_share", "mix_load_share"):
        if not 0 < getattr(policy, key) <= 1:
            yield f"{key}: must be above 0 and at most 1, got {getattr(policy, key):g}"
    for key in ("down_dwell_s", "up_dwell_s", "trial_s", "most_patience_s"):
        if not 0 <= getattr(policy, key) < math.inf:
            yield f"{key}: must be at least 0 and finite, got {getattr(policy, key):g}"


def _budget_problems(budget: QualityBudgetConfig) -> Iterable[str]:
    if not 0 <= budget.degraded_share <= 1:
        yield f"degraded_share: must be a share from 0 to 1, got {budget.degraded_share:g}"
    if budget.mean_loss is not None and not 0 <= budget.mean_loss <= 1:
        yield f"mean_loss: must be a share from 0 to 1, got {budget.mean_loss:g}"
    if not 1 <= budget.window_s < math.inf:
        yield f"window_s: must be at least 1 and finite, got {budget.window_s:g}"
    if budget.expected_requests < 0:
        yield f"expected_requests: must be at least 0, got {budget.expected_requests}"
