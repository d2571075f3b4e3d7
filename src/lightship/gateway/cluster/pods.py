"""Pods as replicas: where each stands in its life, why, and how those of one rung stand together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lightship.gateway.cluster.config import PoolConfig
from lightship.kubernetes.resources import JsonObject
from lightship.ports.replica_control import ReplicaPhase, RungStatus

# Waiting for these does not help: a person has to change something, or the kubelet tries in minutes only.
_HOPELESS = {
    "CrashLoopBackOff": "its process ends again and again",
    "ImagePullBackOff": "its image cannot be pulled",
    "ErrImagePull": "its image cannot be pulled",
    "ErrImageNeverPull": "its image is not on the node, and may not be pulled",
    "InvalidImageName": "the name of its image makes no sense",
    "CreateContainerConfigError": "it names a ConfigMap, Secret or key that is not there",
    "CreateContainerError": "its container cannot be made",
    "RunContainerError": "its container cannot be started",
}
_MOST_DETAIL_CHARACTERS = 400


@dataclass(frozen=True)
class PodState:
    """One Pod.

    `may_come` is false for a Pod from which nothing is to be expected without a change; one that found no node may
    still get one. `ip` is "" before it has one.
    """

    name: str
    phase: ReplicaPhase
    detail: str
    ip: str = ""
    may_come: bool = True

    @property
    def is_coming(self) -> bool:
        """Whether it is capacity in flight."""
        return self.may_come and self.phase in {ReplicaPhase.STARTING, ReplicaPhase.FAILED}


def pod_state(pod: JsonObject) -> PodState:
    """Where a Pod stands, and why, in words."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    ip = status.get("podIP") or ""
    if pod["metadata"].get("deletionTimestamp"):
        return PodState(name, ReplicaPhase.DRAINING, "it is being deleted", ip, may_come=False)
    if status.get("phase") in {"Failed", "Succeeded"}:
        why = status.get("message") or status.get("reason") or "its process ended"
        return PodState(name, ReplicaPhase.FAILED, _short(f"it is over: {why}"), ip, may_come=False)
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    if conditions.get("Ready", {}).get("status") == "True":
        return PodState(name, ReplicaPhase.READY, "", ip)
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        why = f"no node takes it: {scheduled.get('message', '')}"
        return PodState(name, ReplicaPhase.FAILED, _short(why), ip)
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in containers:
        if reason := _hopeless(container):
            return PodState(name, ReplicaPhase.FAILED, _short(reason), ip, may_come=False)
    return PodState(name, ReplicaPhase.STARTING, _short(_starting(status, containers)), ip)


def _hopeless(container: JsonObject) -> str:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason = waiting.get("reason", "")
    if reason not in _HOPELESS:
        return ""
    if reason == "CrashLoopBackOff":
        number = container.get("restartCount", 0)
        return f"{_HOPELESS[reason]}: {number} restarts{_last_end(container)}"
    message = waiting.get("message", "")
    return f"{_HOPELESS[reason]} ({reason}): {message}" if message else f"{_HOPELESS[reason]} ({reason})"


def _last_end(container: JsonObject) -> str:
    ended = (container.get("lastState") or {}).get("terminated") or {}
    if not ended:
        return ""
    if ended.get("reason") == "OOMKilled":
        return ", the last time it took more memory than its limit (OOMKilled)"
    return f", the last time with exit code {ended.get('exitCode', '?')}"


def _starting(status: JsonObject, containers: Iterable[JsonObject]) -> str:
    if not status.get("podIP") and not containers:
        return "it waits for a node"
    for container in containers:
        state = container.get("state") or {}
        if waiting := state.get("waiting"):
            return f"its container is being made ({waiting.get('reason', 'Waiting')})"
        if "running" in state and container.get("restartCount"):
            return f"it loads, after {container['restartCount']} restarts{_last_end(container)}"
    return "it loads the model"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST_DETAIL_CHARACTERS else text[: _MOST_DETAIL_CHARACTERS - 1] + "…"


def belongs(pod: JsonObject, selector: Mapping[str, str]) -> bool:
    """Whether a Pod has all these labels."""
    labels = pod["metadata"].get("labels") or {}
    return all(labels.get(name) == value for name, value in selector.items())


def common_selector(selectors: Iterable[Mapping[str, str]]) -> str:
    """The label selector for what all of these have in common, so that one watch serves them; "" for everything.

    >>> common_selector([{"a": "1", "b": "2"}, {"a": "1", "b": "3"}])
    'a=1'
    """
    first, *others = [set(selector.items()) for selector in selectors] or [set()]
    return ",".join(f"{name}={value}" for name, value in sorted(first.intersection(*others)))


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
