"""The controller of one region in virtual time: `scale` decides for each fleet, as in `gateway.cluster`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from lightship.ports.replica_control import ReplicaPhase
from lightship.scaling.decide import scale
from lightship.scaling.records import ScaleLoad
from lightship.simulation.attempts import Attempts
from lightship.simulation.gateway import MODEL, Gateway
from lightship.simulation.recording import Decision, DecisionList
from lightship.simulation.replicas import Fleet

# Seconds. See `gateway.cluster.controller`: a wake that led to nothing for so long is forgotten.
_WAKE_LASTS_S = 30.0


class Controller:
    """The numbers of machines of one region.

    Args:
        name: Of the region.
        fleets: With the rungs that each serves.
        gateway: Whose requests they serve.
        attempts: What is under way.
        decisions: Where changes are noted.
    """

    def __init__(
        self,
        name: str,
        fleets: Mapping[Fleet, Sequence[int]],
        *,
        gateway: Gateway,
        attempts: Attempts,
        decisions: DecisionList,
    ) -> None:
        self._name = name
        self._fleets = fleets
        self._gateway = gateway
        self._attempts = attempts
        self._decisions = decisions
        self._busy_s = float("-inf")
        self.num_decisions = 0

    def look(self, now_s: float) -> None:
        """Effects: every fleet is brought to the number of machines that is decided now."""
        queued = self._gateway.dispatcher.num_waiting_by_rung()
        held = self._gateway.num_held_by_rung()
        attempts = self._attempts
        for rung, woken_s in list(attempts.woken.items()):
            if now_s - woken_s > _WAKE_LASTS_S:
                del attempts.woken[rung]
        is_busy = any(attempts.in_flight) or self._gateway.dispatcher.num_waiting or sum(held.values())
        if is_busy or attempts.woken:
            self._busy_s = now_s
        for fleet, rungs in self._fleets.items():
            num_queued = sum(queued[MODEL, rung] + held[rung] for rung in rungs)
            num_queued = max(num_queued, int(any(rung in attempts.woken for rung in rungs)))
            shares = [self._gateway.dispatcher.attainment(MODEL, rung, now_s) for rung in rungs]
            load = ScaleLoad(
                now_s=now_s,
                num_queued=num_queued,
                num_in_flight=sum(attempts.in_flight[rung] for rung in rungs),
                num_degraded=sum(self._gateway.dispatcher.degraded_demand(MODEL, rung) for rung in rungs),
                num_ready=fleet.num_ready,
                num_starting=fleet.num_starting,
                attainment=min((round(share, 2) for share in shares if share is not None), default=None),
            )
            self._step(fleet, rungs, load, now_s)

    def _step(self, fleet: Fleet, rungs: Sequence[int], load: ScaleLoad, now_s: float) -> None:
        policy = fleet.spec.policy
        least = min(max(policy.min_replicas, int(self._has_companion(fleet, now_s))), policy.max_replicas)
        if least != policy.min_replicas:
            policy = msgspec.structs.replace(policy, min_replicas=least)
        before = fleet.history.replicas
        decision = scale(load, fleet.history, policy)
        self.num_decisions += 1
        fleet.history = decision.history
        if decision.replicas:
            for rung in rungs:
                self._attempts.woken.pop(rung, None)
        if decision.replicas != before:
            reason = decision.reason.value
            noted = Decision(now_s, self._name, fleet.spec.name, before, decision.replicas, reason, decision.detail)
            self._decisions.note(noted)
        fleet.set_target(decision.replicas, now_s)

    def _has_companion(self, fleet: Fleet, now_s: float) -> bool:
        """Whether another rung of its ladder serves: then this one runs, too, or there would be no step to go down."""
        if now_s - self._busy_s >= fleet.spec.policy.idle_after_s:
            return False
        return any(other.status_phase is ReplicaPhase.READY for other in self._fleets if other is not fleet)
