"""Pods as the replicas of a rung: how they stand together. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from lightship.gateway.cluster.config import PoolConfig
from lightship.kubernetes.pods import PodState
from lightship.ports.replica_control import ReplicaPhase, RungStatus


def rung_status(
    states: Iterable[PodState], pool: PoolConfig, *, wanted_replicas: int | None, starting_for_s: float
) -> RungStatus:
    """How the replicas of a rung stand together.

    Args:
        states: Its Pods.
        pool: The rung.
        wanted_replicas: What its Deployment asks for; None where that is not known.
        starting_for_s: How long the first of those that start has been at it.
    """
    by_phase: dict[ReplicaPhase, list[PodState]] = {}
    for state in states:
        by_phase.setdefault(state.phase, []).append(state)
    ready, starting = by_phase.get(ReplicaPhase.READY, []), by_phase.get(ReplicaPhase.STARTING, [])
    failed, draining = by_phase.get(ReplicaPhase.FAILED, []), by_phase.get(ReplicaPhase.DRAINING, [])
    num_coming = len(starting) + sum(one.is_coming for one in failed)
    if ready:
        return RungStatus(phase=ReplicaPhase.READY, num_ready=len(ready), num_starting=num_coming)
    remaining_s = start_remaining_s(pool, starting_for_s=starting_for_s)
    if starting or (wanted_replicas and not failed):
        detail = f"{starting[0].name}: {starting[0].detail}" if starting else "asked for; its Pod is not there yet"
        return RungStatus(
            phase=ReplicaPhase.STARTING,
            num_starting=num_coming or wanted_replicas or 0,
            start_remaining_s=remaining_s,
            detail=detail,
        )
    if failed:
        one = next((state for state in failed if state.may_come), failed[0])
        return RungStatus(
            phase=ReplicaPhase.FAILED,
            num_starting=num_coming,
            start_remaining_s=remaining_s,
            can_wake=one.may_come,
            detail=f"{one.name}: {one.detail}",
        )
    remaining_s = start_remaining_s(pool, starting_for_s=0)
    phase = ReplicaPhase.DRAINING if draining else ReplicaPhase.SLEEPING
    detail = "its last replica is being deleted" if draining else "scaled to zero; a request wakes it"
    return RungStatus(phase=phase, start_remaining_s=remaining_s, detail=detail)


def start_remaining_s(pool: PoolConfig, *, starting_for_s: float) -> float:
    """Estimate of the time until a Pod is ready: what is left of the usual time, and after that of the budget."""
    usual_s = min(pool.policy.startup_s or pool.startup_budget_s, pool.startup_budget_s)
    return max(1.0, (usual_s if starting_for_s < usual_s else pool.startup_budget_s) - starting_for_s)
