"""How the replicas of one rung stand together. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from lightship.engines.supervisor.messages import ReplicaStatus
from lightship.ports.replica_control import ReplicaPhase, RungStatus

# Whichever comes first says what the whole rung is.
_ORDER = (
    ReplicaPhase.READY,
    ReplicaPhase.STARTING,
    ReplicaPhase.DRAINING,
    ReplicaPhase.SLEEPING,
    ReplicaPhase.FAILED,
)


def rung_status(replicas: Iterable[ReplicaStatus]) -> RungStatus:
    """The status of a rung with these replicas; UNKNOWN where it has none.

    A rung whose only other replicas sleep is failed while the one that should run is: spare ones are no hope by
    themselves, for they would be started from the same files.
    """
    replicas = list(replicas)
    if not replicas:
        return RungStatus(phase=ReplicaPhase.UNKNOWN, can_wake=False)
    phases = {one.phase for one in replicas}
    phase = next(one for one in _ORDER if one in phases)
    if phase is ReplicaPhase.SLEEPING and ReplicaPhase.FAILED in phases:
        phase = ReplicaPhase.FAILED
    in_phase = [one for one in replicas if one.phase is phase]
    waits_s = [one.start_remaining_s for one in in_phase]
    return RungStatus(
        phase=phase,
        num_ready=sum(one.phase is ReplicaPhase.READY for one in replicas),
        num_starting=sum(one.phase is ReplicaPhase.STARTING for one in replicas),
        start_remaining_s=0.0 if phase is ReplicaPhase.READY else min(waits_s),
        can_wake=all(one.can_wake for one in in_phase),
        detail=next((one.detail for one in in_phase if one.detail), ""),
    )
