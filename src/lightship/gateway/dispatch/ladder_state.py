"""What is known of one ladder while it serves: its rungs' room and speed, its level, its budget. No clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from lightship.gateway.dispatch.capacity import Device
from lightship.gateway.dispatch.config import UNMEASURED_CONCURRENCY, DispatchConfig, LadderConfig, RungFacts
from lightship.gateway.dispatch.ladder import LadderLoad, Level, RungView, next_level
from lightship.gateway.dispatch.prediction import DecayingRate, DecayingShare, LearnedLine
from lightship.gateway.dispatch.quality_budget import QualityBudget

# Seconds over which arrivals are averaged: long enough that chance alone seldom takes them below `up_load_share`.
_RATE_S = 10.0
# Seconds over which the share of kept promises is averaged: about as long as a replica takes to start.
_KEPT_S = 30.0
# Seconds. A shed request counts as overload for so long: less than an overload has to last, so that one alone is none.
_OVERLOAD_MEMORY_S = 0.2


class RungPlace:
    """One rung's room and speed. Requests under way on it keep hold of it, whatever the configuration becomes."""

    def __init__(self, facts: RungFacts, device: Device) -> None:
        self.facts = facts
        self.device = device
        self.loss_words = loss_words(facts)
        self.base_limit = 1.0
        """Requests it could have under way at the device's scale 1."""
        self.most = 1
        """Of requests under way, whatever the scale."""
        self.token_weight = 1.0
        """What it takes for a prompt token, in relation to the top rung."""
        self.ttft = LearnedLine()
        """Seconds to first byte over (weighted) prompt tokens that had to be computed until then."""
        self.tpot = LearnedLine()
        """Seconds per output token over requests under way on the device."""
        self.kept = DecayingShare(time_constant_s=_KEPT_S)
        """Answers that kept the promise, whatever of it is the engine's part."""
        self.num_in_flight = 0
        self.num_started = 0
        self.num_degraded_from: Counter[int] = Counter()
        """Requests under way here that asked for a rung further up and got this one for want of room there, by that."""

    @property
    def limit(self) -> float:
        """Requests that may be under way if it has the device to itself."""
        return max(1.0, min(self.base_limit * self.device.scale, self.most))

    @property
    def share(self) -> float:
        """Share of the device that one more request uses."""
        return 1.0 / self.limit

    def predicted_ttft_s(self, num_prompt_tokens: int) -> float:
        """For a request that starts now; 0 while nothing is known."""
        return self.ttft.predict(self.device.tokens_ahead + num_prompt_tokens * self.token_weight)

    def predicted_tpot_s(self) -> float:
        """For a request that starts now; 0 while nothing is known."""
        return self.tpot.predict(self.device.num_in_flight + 1)


class LadderState:
    """One served model.

    Args:
        config: Its rungs and its policy.
        devices: By name; shared with other ladders.
        dispatch: Bounds.
        can_trim: Whether any class of requests lets its answers be cut.
        before: The state under the last configuration, whose knowledge is kept where the rung is the same.
    """

    def __init__(
        self,
        config: LadderConfig,
        devices: Mapping[str, Device],
        *,
        dispatch: DispatchConfig,
        can_trim: bool,
        before: LadderState | None = None,
    ) -> None:
        known = {place.facts: place for place in before.places} if before else {}
        self.config = config
        self.places: list[RungPlace] = []
        for facts in config.rungs:
            speedup = _speedup(facts, config.rungs[0])
            place = known.get(facts) or RungPlace(facts, devices[facts.device])
            place.base_limit = (config.rungs[0].concurrency or UNMEASURED_CONCURRENCY) * speedup
            place.token_weight = 1 / speedup
            place.most = dispatch.max_concurrency
            self.places.append(place)
        self.num_local = sum(not facts.is_spill for facts in config.rungs) or len(config.rungs)
        self.can_trim = can_trim
        self.level: Level = before.level if before else Level()
        self.arrivals: DecayingRate = before.arrivals if before else DecayingRate(time_constant_s=_RATE_S)
        self.budget: QualityBudget | None = None
        if before is not None and before.config.budget == config.budget:
            self.budget = before.budget
        elif config.budget is not None:
            self.budget = QualityBudget(config.budget)
        self._overloaded_until_s = 0.0
        if self.level.step > self.last_step:
            self.level = replace(self.level, step=self.last_step)

    @property
    def last_step(self) -> int:
        """The lowest step of the level: trimming counts as one, every rung below the top as another."""
        return self.num_local - 1 + self.can_trim

    @property
    def is_trimming(self) -> bool:
        """Whether answers that may be cut are cut."""
        return self.can_trim and self.level.step >= 1

    @property
    def level_rung(self) -> int:
        """Where new requests are sent."""
        return max(0, self.level.step - self.can_trim)

    @property
    def home_device(self) -> str:
        """The device whose queue its requests wait in: that of the top rung."""
        return self.config.rungs[0].device

    def note_overload(self, now_s: float) -> None:
        """A request was shed, or could not start in time."""
        self._overloaded_until_s = now_s + _OVERLOAD_MEMORY_S

    def update_level(self, now_s: float, *, oldest_wait_s: float) -> None:
        """Moves the level as the load says."""
        is_late = oldest_wait_s > self.config.policy.down_wait_share * self.config.ttft_s
        is_overloaded = is_late or now_s < self._overloaded_until_s
        if not is_overloaded and self.level.step == 0 and self.level.overloaded_since_s is None:
            return  # nowhere to go
        arrivals_per_s, here = self.arrivals.per_s(now_s), self.level_rung
        load = LadderLoad(
            is_overloaded=is_overloaded,
            arrivals_per_s=arrivals_per_s / self.places[here].device.num_replicas,
            arrivals_above_per_s=arrivals_per_s / self.places[max(0, here - 1)].device.num_replicas,
        )
        self.level = next_level(self.level, load, self.config.policy, lowest=self.last_step, now_s=now_s)

    def degraded_demand(self, rung: int) -> float:
        """Requests under way further down for want of room on a rung, in requests of that rung's own speed.

        By Little's law a rung that takes so many times as long has so many times as many of them under way. What runs
        on the same device does not count: more replicas above would share it, and add nothing.
        """
        asked = self.places[rung]
        below = (place for place in self.places[rung + 1 : self.num_local] if place.device is not asked.device)
        return sum(place.num_degraded_from[rung] * asked.token_weight / place.token_weight for place in below)

    def views(self, now_s: float, *, is_up: list[bool], is_mixing: bool = True) -> list[RungView]:
        """The local rungs as a choice sees them; with `is_mixing` a rung above the level is taken where it has room."""
        return [
            RungView(
                place.facts,
                is_up=up,
                has_room_to_mix=is_mixing and place.device.has_room(place.share, up_to=self._mix_share(place)),
                may_degrade=self.budget is None or self.budget.may_spend(place.facts.cautious_loss, now_s),
            )
            for place, up in zip(self.places[: self.num_local], is_up, strict=True)
        ]

    def _mix_share(self, place: RungPlace) -> float:
        """Use of its device up to which a rung above the level still gets requests. What it serves on a device of its
        own takes nothing from the rungs below, which are there for what it cannot serve."""
        is_shared = sum(other.device is place.device for other in self.places) > 1
        return self.config.policy.mix_load_share if is_shared else 1.0


def _speedup(facts: RungFacts, top: RungFacts) -> float:
    """How much faster than the top rung, as measured; 1 where either was not."""
    if not facts.goodput_requests_per_s or not top.goodput_requests_per_s:
        return 1.0
    return facts.goodput_requests_per_s / top.goodput_requests_per_s


def loss_words(facts: RungFacts) -> str:
    """What `x-quality-loss` says of answers on a rung: the share of the reference's quality, and its interval.

    >>> loss_words(RungFacts(variant_name="int4", quality_loss=0.013, quality_loss_low=0.01, quality_loss_high=0.0162))
    '0.0130 (0.0100..0.0162)'
    """
    if facts.quality_loss is None:
        return "not-measured"
    words = f"{facts.quality_loss:.4f}"
    if facts.quality_loss_low is None or facts.quality_loss_high is None:
        return words
    return f"{words} ({facts.quality_loss_low:.4f}..{facts.quality_loss_high:.4f})"
