"""Deployments, Jobs, LeaderWorkerSets, Services, disruption budgets, leases.

Source: k8s.io/kubernetes, pkg/apis/{apps,batch,core,policy,coordination}/validation; the webhook of LeaderWorkerSet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

_MICRO_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}(Z|[+-][0-9]{2}:[0-9]{2})")
_DEFAULT_DEADLINE_S = 600


def deployment_problems(resource: Mapping[str, Any]) -> Iterator[str]:
    """Selector, strategy, deadline."""
    spec = resource["spec"]
    wanted = spec["selector"].get("matchLabels", {})
    labels = spec["template"].get("metadata", {}).get("labels", {})
    if not wanted:
        yield "spec.selector: is empty"
    if any(labels.get(key) != value for key, value in wanted.items()):
        yield "spec.selector: does not match the labels of the Pod template"
    strategy = spec.get("strategy", {})
    rolling = strategy.get("rollingUpdate")
    if strategy.get("type") == "Recreate" and rolling is not None:
        yield "spec.strategy: rollingUpdate must not be set with Recreate"
    if rolling is not None and {str(value) for value in rolling.values()} <= {"0", "0%"}:
        yield "spec.strategy: maxUnavailable and maxSurge must not both be 0"
    deadline_s, least_s = spec.get("progressDeadlineSeconds", _DEFAULT_DEADLINE_S), spec.get("minReadySeconds", 0)
    if deadline_s <= least_s:
        yield f"spec.progressDeadlineSeconds: {deadline_s} must be more than minReadySeconds, {least_s}"


def job_problems(resource: Mapping[str, Any]) -> Iterator[str]:
    """A Job's Pods must not be started for ever."""
    policy = resource["spec"]["template"]["spec"].get("restartPolicy", "Always")
    if policy not in {"OnFailure", "Never"}:
        yield f"spec.template.spec.restartPolicy: {policy} is not for a Job"


def leader_worker_problems(resource: Mapping[str, Any]) -> Iterator[str]:
    """Sizes that the API takes and nothing can run."""
    size = resource["spec"]["leaderWorkerTemplate"].get("size", 1)
    if size < 1:
        yield f"spec.leaderWorkerTemplate.size: {size} counts the leader, so it is at least 1"
    rolling = resource["spec"].get("rolloutStrategy", {}).get("rollingUpdateConfiguration", {})
    if rolling and {str(value) for value in rolling.values()} <= {"0", "0%"}:
        yield "spec.rolloutStrategy: maxUnavailable and maxSurge must not both be 0"


def service_problems(resource: Mapping[str, Any]) -> Iterator[str]:
    """Ports with names, once each."""
    ports = resource["spec"].get("ports", [])
    if len(ports) > 1 and any(not one.get("name") for one in ports):
        yield "spec.ports: several ports need names"
    for key in ("name", "port"):
        counts = Counter((one.get(key), one.get("protocol", "TCP") if key == "port" else "") for one in ports)
        yield from (f"spec.ports: the {key} {value[0]!r} is given {n} times" for value, n in counts.items() if n > 1)


def disruption_problems(resource: Mapping[str, Any]) -> Iterator[str]:
    """One bound, and one that means something."""
    spec = resource["spec"]
    if "minAvailable" in spec and "maxUnavailable" in spec:
        yield "spec: minAvailable and maxUnavailable exclude each other"
    if spec.get("minAvailable") == 0:
        yield "spec.minAvailable: 0 protects nothing"
    if spec.get("maxUnavailable") == 0 or spec.get("minAvailable") == "100%":
        yield "spec: no node could ever be drained"


def lease_problems(resource: Mapping[str, Any]) -> Iterator[str]:
    """Times as the API reads them."""
    spec = resource.get("spec", {})
    if spec.get("leaseDurationSeconds", 1) <= 0:
        yield "spec.leaseDurationSeconds: must be more than 0"
    for key in ("renewTime", "acquireTime"):
        if key in spec and _MICRO_TIME.fullmatch(str(spec[key])) is None:
            yield f"spec.{key}: needs microseconds, like 2026-01-01T00:00:00.000000Z"
