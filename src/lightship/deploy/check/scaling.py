"""Autoscalers: bounds, windows, and that one target has one writer who finds no number of replicas in the manifest.

Source: k8s.io/kubernetes, pkg/apis/autoscaling/validation; KEDA's admission webhook.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_LONGEST_WINDOW_S, _LONGEST_PERIOD_S = 3600, 1800
_ZERO_SINCE_MINOR = 37


def horizontal_problems(resource: Mapping[str, Any], *, version: str) -> Iterator[str]:
    """Of a HorizontalPodAutoscaler on clusters from `version` on."""
    spec = resource["spec"]
    least, most = spec.get("minReplicas", 1), spec["maxReplicas"]
    if most < max(least, 1):
        yield f"spec.maxReplicas: {most} is below {max(least, 1)}"
    if least == 0:
        if int(version.partition(".")[2]) < _ZERO_SINCE_MINOR:
            yield f"spec.minReplicas: 0 is refused before Kubernetes 1.{_ZERO_SINCE_MINOR}, and this is for {version}"
        if not any(one.get("type") in {"Object", "External"} for one in spec.get("metrics", [])):
            yield "spec.minReplicas: 0 needs a metric of type Object or External"
    yield from _behavior_problems(spec.get("behavior", {}), "spec.behavior")


def _behavior_problems(behavior: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, rules in behavior.items():
        window_s = rules.get("stabilizationWindowSeconds", 0)
        if not 0 <= window_s <= _LONGEST_WINDOW_S:
            yield f"{path}.{name}: a window of {window_s} s, at most {_LONGEST_WINDOW_S} s are allowed"
        policies = rules.get("policies")
        if policies is not None and not policies:
            yield f"{path}.{name}: policies must not be empty"
        for policy in policies or []:
            if not 0 < policy["periodSeconds"] <= _LONGEST_PERIOD_S:
                yield f"{path}.{name}: a period of {policy['periodSeconds']} s, 1 to {_LONGEST_PERIOD_S} s are allowed"
            if policy["value"] <= 0:
                yield f"{path}.{name}: a value of {policy['value']}, it must be above 0"


def scaled_object_problems(resource: Mapping[str, Any]) -> Iterator[str]:
    """Of a ScaledObject."""
    spec = resource["spec"]
    least, most, idle = spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", 100), spec.get("idleReplicaCount")
    if least > most:
        yield f"spec.minReplicaCount: {least} is above maxReplicaCount, {most}"
    if idle is not None and idle >= least:
        yield f"spec.idleReplicaCount: {idle} must be below minReplicaCount, {least}"
    yield from trigger_problems(spec.get("triggers", []), "spec.triggers")
    advanced = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {})
    yield from _behavior_problems(advanced.get("behavior", {}), "spec.advanced")


def trigger_problems(triggers: Sequence[Mapping[str, Any]], path: str) -> Iterator[str]:
    """Of KEDA's triggers, whose metadata is text only."""
    if not triggers:
        yield f"{path}: there is none"
    for position, trigger in enumerate(triggers):
        for key, value in trigger.get("metadata", {}).items():
            if not isinstance(value, str):
                yield f"{path}[{position}].metadata: the value of {key} is {value!r}, which needs quotes to be text"
        if trigger.get("type") == "prometheus":
            metadata = trigger.get("metadata", {})
            missing = [key for key in ("serverAddress", "query", "threshold") if not metadata.get(key)]
            if missing:
                yield f"{path}[{position}].metadata: {', '.join(missing)} missing"
            if metadata.get("ignoreNullValues") != "false":
                yield f'{path}[{position}].metadata: without ignoreNullValues: "false" an absent metric looks idle'


def target_problems(resources: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(where, what) of targets with two writers, without existence, or with replicas in their manifest."""
    writers: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in resources:
        if one["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}:
            target = one["spec"]["scaleTargetRef"]
            writers[target.get("kind", "Deployment"), target["name"]].append(one["kind"])
        if one["kind"] == "Role":
            for rule in one.get("rules", []):
                if any(name.endswith("/scale") for name in rule.get("resources", [])):
                    kind = "Deployment" if "deployments/scale" in rule["resources"] else "LeaderWorkerSet"
                    for name in rule.get("resourceNames", []):
                        writers[kind, name].append("gateway")
    there = {(one["kind"], one["metadata"]["name"]): one for one in resources}
    for (kind, name), who in writers.items():
        where = f"{kind}/{name}"
        if len(who) > 1:
            yield where, f"its number of replicas has several writers: {', '.join(who)}"
        if (kind, name) not in there:
            yield where, f"is scaled by {who[0]} and not rendered"
        elif "replicas" in there[kind, name]["spec"]:
            yield where, "spec.replicas: must be left out where something scales, or every apply resets it"
