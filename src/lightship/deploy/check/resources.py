"""The entry: every resource by the rules of all resources and of its kind, then what several must agree on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lightship.deploy.check.metadata import metadata_problems
from lightship.deploy.check.pods import pod_problems
from lightship.deploy.check.problem import Problem
from lightship.deploy.check.scaling import horizontal_problems, scaled_object_problems, target_problems
from lightship.deploy.check.serving import (
    knative_problems,
    kserve_problems,
    pool_problems,
    ray_problems,
    route_problems,
)
from lightship.deploy.check.workloads import (
    deployment_problems,
    disruption_problems,
    job_problems,
    leader_worker_problems,
    lease_problems,
    service_problems,
)

Resource = Mapping[str, Any]
Rule = Callable[[Resource], Iterator[str]]
_MAX_CONFIG_MAP_BYTES = 2**20

_RULES: Mapping[tuple[str, str], Rule] = {
    ("apps/v1", "Deployment"): deployment_problems,
    ("v1", "Service"): service_problems,
    ("policy/v1", "PodDisruptionBudget"): disruption_problems,
    ("batch/v1", "Job"): job_problems,
    ("coordination.k8s.io/v1", "Lease"): lease_problems,
    ("keda.sh/v1alpha1", "ScaledObject"): scaled_object_problems,
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"): leader_worker_problems,
    ("serving.knative.dev/v1", "Service"): knative_problems,
    ("serving.kserve.io/v1alpha2", "LLMInferenceService"): kserve_problems,
    ("inference.networking.k8s.io/v1", "InferencePool"): pool_problems,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): route_problems,
    ("ray.io/v1", "RayService"): ray_problems,
}


def resource_problems(resources: Sequence[Resource], *, version: str = "v1.35") -> tuple[Problem, ...]:
    """Everything that is wrong with Kubernetes resources that are applied together.

    Args:
        resources: As parsed from YAML; what has no `apiVersion` is left out.
        version: Of the oldest cluster.
    """
    own = [one for one in resources if "apiVersion" in one]
    found: list[Problem] = []
    for one in own:
        found += [Problem(_where(one), what) for what in _problems_of(one, version)]
    found += [Problem(where, what) for where, what in _together(own)]
    return tuple(found)


def _problems_of(resource: Resource, version: str) -> Iterator[str]:
    yield from metadata_problems(resource)
    for pod, where in pods_of(resource):
        yield from (f"{where}{what}" for what in pod_problems(pod))
    kind = (resource["apiVersion"], resource["kind"])
    if kind in _RULES:
        yield from _RULES[kind](resource)
    if resource["kind"] == "HorizontalPodAutoscaler":
        yield from horizontal_problems(resource, version=version)
    if resource["kind"] == "ConfigMap":
        num_bytes = sum(len(text.encode()) for text in resource.get("data", {}).values())
        if num_bytes > _MAX_CONFIG_MAP_BYTES:
            yield f"data: {num_bytes} bytes are more than the {_MAX_CONFIG_MAP_BYTES} that a ConfigMap holds"


def pods_of(resource: Resource) -> Iterator[tuple[Resource, str]]:
    """The Pod specs in a resource that Kubernetes runs as they are, with their paths."""
    spec = resource.get("spec", {})
    if resource["kind"] in {"Deployment", "Job"}:
        yield spec["template"]["spec"], "spec.template.spec."
    if resource["kind"] == "LeaderWorkerSet":
        for name in ("leaderTemplate", "workerTemplate"):
            if name in spec["leaderWorkerTemplate"]:
                yield spec["leaderWorkerTemplate"][name]["spec"], f"spec.leaderWorkerTemplate.{name}.spec."


def _together(resources: Sequence[Resource]) -> Iterator[tuple[str, str]]:
    counts = Counter(_where(one) for one in resources)
    yield from ((where, f"is rendered {count} times") for where, count in counts.items() if count > 1)
    yield from target_problems(resources)
    yield from _missing_references(resources)


def _missing_references(resources: Sequence[Resource]) -> Iterator[tuple[str, str]]:
    """ConfigMaps and claims that a Pod mounts and nobody renders: the Pod would wait for them for ever."""
    there = {(one["kind"], one["metadata"]["name"]) for one in resources}
    for resource in resources:
        for pod, where in pods_of(resource):
            for volume in pod.get("volumes", []):
                for field, key, kind in (
                    ("configMap", "name", "ConfigMap"),
                    ("persistentVolumeClaim", "claimName", "PersistentVolumeClaim"),
                ):
                    if field in volume and (kind, volume[field][key]) not in there:
                        yield _where(resource), f"{where}volumes: {kind} {volume[field][key]!r} is not rendered"


def _where(resource: Resource) -> str:
    return f"{resource['kind']}/{resource.get('metadata', {}).get('name', '')}"
