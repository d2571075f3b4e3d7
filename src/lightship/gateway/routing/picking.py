"""Which replica gets an attempt: a pure decision over what is known of the replicas.

    may it serve at all?      its ladder and rung, ready, not tried yet, not full, breaker closed, not ejected
    is it far ahead in work?  then neither a session nor a prefix leads there            (load gate)
    does it know the session? a session may be twice as far ahead as a prefix
    does it know the prompt?  the longest known prefix, worth less the more work there is
    otherwise                 the least work in flight, then the longest idle, then the first by name

A prompt that nobody knows goes to the least loaded replica, whatever the prefixes are like. Breakers and ejections
choose among replicas and never take away the last one: where all are out, the least bad serves.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from lightship.gateway.routing.config import DEFAULT_ROUTING, RoutingConfig

# More attempts than any machine has under way: "no limit", as a number that compares.
UNLIMITED = 2**62


class ChoiceReason(StrEnum):
    """Why a replica was chosen, or why none was; fit for a metric label."""

    SESSION = "session"
    PREFIX = "prefix"
    LEAST_WORK = "least-work"
    ONLY_ONE_USABLE = "only-one-usable"
    LEAST_BAD = "least-bad"
    NO_SUCH_RUNG = "no-such-rung"
    NONE_READY = "none-ready"
    ALL_TRIED = "all-tried"
    ALL_FULL = "all-full"


@dataclass(slots=True, eq=False)
class DeviceLoad:
    """Work in flight on one device, in whole microseconds: replicas on one device share its capacity."""

    work_us: int = 0


@dataclass(slots=True, eq=False)
class ReplicaState:
    """What routing knows of one replica; only its pool changes it.

    Args:
        name: Of the replica.
        rung: Its place on the ladder of `served_model`.
        served_model: The name clients send for it.
        is_ready: Whether it wants requests, by its probes.
        blocked_until_s: Monotonic time until which its breaker or an ejection keeps requests away; infinite while its
            breaker waits for a probe.
        num_in_flight: Attempts under way.
        max_in_flight: The most.
        last_start: Number of the latest attempt given to it, counted over all replicas, 0 before the first.
        device: Work in flight on its device, in `work_us`.
        foreign_us: Work the engine reports that is not ours.
        weight: Its capacity in relation to its peers.
    """

    name: str
    rung: int
    served_model: str = ""
    is_ready: bool = False
    blocked_until_s: float = 0.0
    num_in_flight: int = 0
    max_in_flight: int = UNLIMITED
    last_start: int = 0
    device: DeviceLoad = field(default_factory=DeviceLoad)
    foreign_us: int = 0
    weight: float = 1.0

    @property
    def work_s(self) -> float:
        """Seconds until it has worked off what is in flight."""
        return (self.device.work_us + self.foreign_us) / (self.weight * 1e6)


class RequestFacts(msgspec.Struct, frozen=True):
    """What routing knows of one request.

    Args:
        rung: Which rung of `served_model` is to answer.
        served_model: Whose ladder.
        now_s: Monotonic time.
        excluded: Replicas tried before.
        session_replica: The replica that answered the session's last request, or "".
        known_blocks: Replicas that know the beginning of the prompt, and how many blocks of it.
        num_blocks: Blocks the prompt has.
    """

    rung: int = 0
    served_model: str = ""
    now_s: float = 0.0
    excluded: Collection[str] = ()
    session_replica: str = ""
    known_blocks: Mapping[str, int] = {}
    num_blocks: int = 0


class Choice(msgspec.Struct, frozen=True):
    """The replica to use, or None; and why."""

    replica: ReplicaState | None
    reason: ChoiceReason


def pick_replica(
    replicas: Sequence[ReplicaState], request: RequestFacts, policy: RoutingConfig = DEFAULT_ROUTING
) -> Choice:
    """The replica that is to answer the request, by the rules above.

    >>> a, b = ReplicaState("a", 0, is_ready=True), ReplicaState("b", 0, is_ready=True)
    >>> a.device.work_us = 300_000
    >>> pick_replica([a, b], RequestFacts()).replica.name
    'b'
    >>> choice = pick_replica([a, b], RequestFacts(known_blocks={"a": 9}, num_blocks=10))
    >>> choice.replica.name, choice.reason.value
    ('a', 'prefix')
    """
    usable: list[ReplicaState] = []
    blocked: list[ReplicaState] = []
    num_on_rung = num_ready = num_untried = 0
    rung, served_model, excluded, now_s = request.rung, request.served_model, request.excluded, request.now_s
    for replica in replicas:
        if replica.rung != rung or replica.served_model != served_model:
            continue
        num_on_rung += 1
        if not replica.is_ready:
            continue
        num_ready += 1
        if replica.name in excluded:
            continue
        num_untried += 1
        if replica.num_in_flight < replica.max_in_flight:
            (usable if replica.blocked_until_s <= now_s else blocked).append(replica)
    if len(usable) > 1:
        return _best(usable, request, policy)
    if usable:
        return Choice(usable[0], ChoiceReason.ONLY_ONE_USABLE)
    if blocked:
        return Choice(min(blocked, key=_badness), ChoiceReason.LEAST_BAD)
    if not num_on_rung:
        return Choice(None, ChoiceReason.NO_SUCH_RUNG)
    if not num_ready:
        return Choice(None, ChoiceReason.NONE_READY)
    return Choice(None, ChoiceReason.ALL_FULL if num_untried else ChoiceReason.ALL_TRIED)


def _best(usable: list[ReplicaState], request: RequestFacts, policy: RoutingConfig) -> Choice:
    least, least_s = usable[0], math.inf
    for replica in usable:
        work_s = replica.work_s
        if work_s < least_s or (work_s == least_s and _turn(replica) < _turn(least)):
            least, least_s = replica, work_s
    if request.session_replica or request.known_blocks:
        gate_s = max(policy.load_gate_s, least_s * (policy.load_gate_ratio - 1))
        local = _by_session(usable, request.session_replica, limit_s=least_s + 2 * gate_s)
        if local is not None:
            return Choice(local, ChoiceReason.SESSION)
        local = _by_prefix(usable, request, policy, least_s=least_s, gate_s=gate_s)
        if local is not None:
            return Choice(local, ChoiceReason.PREFIX)
    return Choice(least, ChoiceReason.LEAST_WORK)


def _by_session(usable: list[ReplicaState], name: str, *, limit_s: float) -> ReplicaState | None:
    if not name:
        return None
    return next((replica for replica in usable if replica.name == name and replica.work_s <= limit_s), None)


def _by_prefix(
    usable: list[ReplicaState], request: RequestFacts, policy: RoutingConfig, *, least_s: float, gate_s: float
) -> ReplicaState | None:
    """The replica within the load gate whose known prefix is worth the most, or None where no prefix is long enough."""
    known, enough = request.known_blocks, max(1.0, policy.min_prefix_share * request.num_blocks)
    best: ReplicaState | None = None
    best_key = (0.0, 0.0, 0, "")
    for replica in usable:
        num_known = known.get(replica.name, 0)
        ahead_s = (work_s := replica.work_s) - least_s
        if num_known < enough or ahead_s > gate_s:
            continue
        worth = num_known * (1 - policy.imbalance_discount * ahead_s / gate_s)
        key = (-worth, work_s, replica.last_start, replica.name)
        if best is None or key < best_key:
            best, best_key = replica, key
    return best


def _turn(replica: ReplicaState) -> tuple[int, str]:
    return replica.last_start, replica.name


def _badness(replica: ReplicaState) -> tuple[float, float, int, str]:
    return replica.blocked_until_s, replica.work_s, replica.last_start, replica.name
