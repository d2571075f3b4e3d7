"""Pods in words: where each stands in its life, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lightship.kubernetes.resources import JsonObject
from lightship.ports.replica_control import ReplicaPhase

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
