"""How far a Deployment has come. Pure.

Source: the conditions of `kubectl rollout status`, and what it leaves out: the Pods' own reasons.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from lightship.kubernetes.pods import PodState, pod_state
from lightship.kubernetes.resources import JsonObject
from lightship.ports.replica_control import ReplicaPhase


class RolloutPhase(StrEnum):
    """Where a rollout stands."""

    GOING = "going"
    DONE = "done"
    FAILED = "failed"  # its own deadline has passed


@dataclass(frozen=True)
class Rollout:
    """One Deployment's rollout. `stuck` are Pods in a state that does not mend itself; `detail` is for people."""

    phase: RolloutPhase
    detail: str
    num_ready: int = 0
    num_wanted: int = 0
    stuck: tuple[PodState, ...] = ()


def rollout(deployment: JsonObject, pods: Iterable[JsonObject]) -> Rollout:
    """How far a Deployment has come, by its status and its Pods."""
    states = [pod_state(pod) for pod in pods]
    status = deployment.get("status") or {}
    phase, detail = _ended(deployment, status) or _going(deployment, status, states)
    return Rollout(
        phase,
        detail,
        num_ready=int(status.get("availableReplicas") or 0),
        num_wanted=int(deployment["spec"].get("replicas", 1)),
        stuck=tuple(state for state in states if state.phase is ReplicaPhase.FAILED),
    )


def _ended(deployment: JsonObject, status: JsonObject) -> tuple[RolloutPhase, str] | None:
    """What the cluster itself has found about this generation; None where it goes on."""
    if int(status.get("observedGeneration") or 0) < int(deployment["metadata"]["generation"]):
        return RolloutPhase.GOING, "the cluster has not looked at it yet"
    for condition in status.get("conditions") or ():
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return RolloutPhase.FAILED, condition.get("message") or "its progress deadline has passed"
        if condition["type"] == "ReplicaFailure" and condition.get("status") == "True":
            return RolloutPhase.FAILED, condition.get("message") or "its Pods cannot be made"
    return None


def _going(deployment: JsonObject, status: JsonObject, states: Iterable[PodState]) -> tuple[RolloutPhase, str]:
    wanted = int(deployment["spec"].get("replicas", 1))
    updated, total = int(status.get("updatedReplicas") or 0), int(status.get("replicas") or 0)
    ready = int(status.get("availableReplicas") or 0)
    if updated < wanted:
        return RolloutPhase.GOING, f"{updated} of {wanted} new Pods were made"
    if total > updated:
        return RolloutPhase.GOING, f"{total - updated} old Pods are still there"
    if ready < updated:
        words = next((state.detail for state in states if state.phase is ReplicaPhase.STARTING), "")
        return RolloutPhase.GOING, f"{ready} of {wanted} Pods are ready" + (f"; {words}" if words else "")
    return RolloutPhase.DONE, f"{ready} of {wanted} Pods are ready" if wanted else "asleep: no Pods are asked for"
