"""Knative, KServe, Gateway API, InferencePool, KubeRay: rules of their CRDs' expressions and of their webhooks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from lightship.deploy.check.scaling import trigger_problems

# Fields of a Pod that a cluster's administrator must switch on first.
# Source: config/core/configmaps/features.yaml of knative/serving.
_KNATIVE_OFF = (
    "affinity",
    "topologySpreadConstraints",
    "hostAliases",
    "nodeSelector",
    "tolerations",
    "runtimeClassName",
    "dnsPolicy",
    "dnsConfig",
    "securityContext",
    "shareProcessNamespace",
    "hostIPC",
    "hostPID",
    "hostNetwork",
    "priorityClassName",
    "schedulerName",
    "initContainers",
)
_KNATIVE_VOLUMES = frozenset({"name", "configMap", "secret", "projected", "emptyDir"})
_SPAN = re.compile(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")


def knative_problems(resource: Mapping[str, Any]) -> Iterator[str]:
    """Of a Knative Service, with what is off unless somebody switches it on."""
    template = resource["spec"]["template"]
    pod = template["spec"]
    containers = pod.get("containers", [])
    with_ports = [one for one in containers if one.get("ports")]
    if len(with_ports) != 1 and len(containers) > 1:
        yield f"spec.template.spec.containers: {len(with_ports)} containers have ports, exactly one must"
    for one in with_ports:
        if len(one["ports"]) != 1:
            yield f"spec.template.spec.containers: {one.get('name')!r} has {len(one['ports'])} ports, one is allowed"
    for one in containers:
        if one not in with_ports and (one.get("readinessProbe") or one.get("livenessProbe")):
            yield f"spec.template.spec.containers: {one.get('name')!r} has a probe and no port"
    yield from (f"spec.template.spec.{key}: is off by default in Knative" for key in _KNATIVE_OFF if key in pod)
    for volume in pod.get("volumes", []):
        if extra := sorted(set(volume) - _KNATIVE_VOLUMES):
            yield f"spec.template.spec.volumes: {extra[0]} is off by default in Knative"
    for one in containers:
        for variable in one.get("env", []):
            if "fieldRef" in variable.get("valueFrom", {}):
                yield f"spec.template.spec.containers: {variable['name']} has a fieldRef, which is off by default"
    total_s, first_s = pod.get("timeoutSeconds", 300), pod.get("responseStartTimeoutSeconds", 0)
    if first_s > total_s:
        yield f"spec.template.spec.responseStartTimeoutSeconds: {first_s} is more than timeoutSeconds, {total_s}"
    yield from _scale_annotations(template.get("metadata", {}).get("annotations", {}))


def _scale_annotations(annotations: Mapping[str, Any]) -> Iterator[str]:
    prefix = "autoscaling.knative.dev/"
    least, most = (int(annotations.get(f"{prefix}{name}", 0)) for name in ("min-scale", "max-scale"))
    if most and least > most:
        yield f"{prefix}min-scale: {least} is above max-scale, {most}"
    kept = str(annotations.get(f"{prefix}scale-to-zero-pod-retention-period", "0s"))
    found = _SPAN.fullmatch(kept)
    seconds = (
        sum(int(part or 0) * factor for part, factor in zip(found.groups(), (3600, 60, 1), strict=True))
        if found
        else -1
    )
    if not 0 <= seconds <= 3600:
        yield f"{prefix}scale-to-zero-pod-retention-period: {kept} is not within 0s and 1h"


def kserve_problems(resource: Mapping[str, Any]) -> Iterator[str]:
    """Of an LLMInferenceService."""
    spec = resource["spec"]
    if "replicas" in spec and "scaling" in spec:
        yield "spec: replicas and scaling exclude each other"
    scaling = spec.get("scaling")
    if scaling is not None:
        if ("keda" in scaling) == ("wva" in scaling):
            yield "spec.scaling: exactly one of keda and wva is needed"
        if scaling.get("minReplicas", 1) > scaling["maxReplicas"]:
            yield "spec.scaling: minReplicas is above maxReplicas"
        yield from trigger_problems(scaling.get("keda", {}).get("triggers", []), "spec.scaling.keda.triggers")
    if not str(spec.get("model", {}).get("uri", "")).startswith(
        ("hf://", "pvc://", "oci://", "oci+native://", "s3://")
    ):
        yield f"spec.model.uri: {spec.get('model', {}).get('uri')!r} is no source that KServe knows"
    names = [one.get("name") for one in spec.get("template", {}).get("containers", [])]
    if names and "main" not in names:
        yield "spec.template.containers: the engine's container must be called `main`"


def pool_problems(resource: Mapping[str, Any]) -> Iterator[str]:
    """Of an InferencePool."""
    spec = resource["spec"]
    counts = Counter(one["number"] for one in spec.get("targetPorts", []))
    yield from (f"spec.targetPorts: {port} is given {n} times" for port, n in counts.items() if n > 1)
    picker = spec.get("endpointPickerRef")
    if picker is not None and picker.get("kind", "Service") == "Service" and "port" not in picker:
        yield "spec.endpointPickerRef: a Service needs a port"


def route_problems(resource: Mapping[str, Any]) -> Iterator[str]:
    """Of an HTTPRoute."""
    for position, rule in enumerate(resource["spec"].get("rules", [])):
        where = f"spec.rules[{position}]"
        timeouts = rule.get("timeouts", {})
        whole, one = (_seconds(timeouts.get(name, "0s")) for name in ("request", "backendRequest"))
        if whole and one > whole:
            yield f"{where}.timeouts: backendRequest is longer than request"
        for backend in rule.get("backendRefs", []):
            if backend.get("kind", "Service") == "Service" and "port" not in backend:
                yield f"{where}.backendRefs: the Service {backend['name']!r} needs a port"


def _seconds(text: str) -> float:
    factors = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(number) * factors[unit] for number, unit in re.findall(r"([0-9]+)(ms|h|m|s)", text))


def ray_problems(resource: Mapping[str, Any]) -> Iterator[str]:
    """Of a RayService: KubeRay's operator checks these, the API server does not."""
    groups = resource["spec"]["rayClusterConfig"].get("workerGroupSpecs", [])
    counts = Counter(one["groupName"] for one in groups)
    yield from (f"spec.rayClusterConfig: the group {name!r} is given {n} times" for name, n in counts.items() if n > 1)
    for group in groups:
        if group["minReplicas"] > group["maxReplicas"]:
            yield f"spec.rayClusterConfig: {group['groupName']!r} has minReplicas above maxReplicas"
    for template in [resource["spec"]["rayClusterConfig"]["headGroupSpec"], *groups]:
        for key, value in template.get("rayStartParams", {}).items():
            if not isinstance(value, str):
                yield f"spec.rayClusterConfig: rayStartParams.{key} is {value!r}, which needs quotes to be text"
