"""The same resources as a kustomize base without hardware, and overlays that put it in: `cpu`, `gpu`, `spot`."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

from lightship.deploy.document import Document, yaml_text
from lightship.deploy.inputs import CPU, GPU, RenderInput
from lightship.deploy.kubernetes.engines import CONTAINER, Engine, engines_of
from lightship.deploy.lifecycle import STARTUP_PERIOD_S

_KUSTOMIZATION = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
# Fields of an engine's container that follow from its hardware.
_HARDWARE_FIELDS = ("image", "command", "args", "resources", "securityContext")
# Labels and taints of machines that may be taken away, by their makers.
# Source: documentation of GKE (Spot VMs), AKS (spot node pools), EKS (managed node groups), Karpenter (known labels).
_SPOT_LABELS = (
    ("cloud.google.com/gke-spot", "true"),
    ("kubernetes.azure.com/scalesetpriority", "spot"),
    ("eks.amazonaws.com/capacityType", "SPOT"),
    ("karpenter.sh/capacity-type", "spot"),
)


def hardware_choices(around: RenderInput) -> dict[str, list[Engine]]:
    """The engines by hardware they can run on, the spec's own first."""
    found = {around.hardware: engines_of(around)}
    for name, rungs in around.other_hardware.items():
        # an image that the spec names is for the spec's hardware
        images = around.settings.images.model_copy(update={"vllm": "auto"})
        other = replace(
            around,
            deployment=replace(around.deployment, rungs=rungs),
            settings=around.settings.model_copy(update={"images": images}),
            other_hardware={},
        )
        found.setdefault(name, engines_of(other))
    return found


def kustomize_documents(around: RenderInput, files: dict[str, list[dict[str, Any]]]) -> list[Document]:
    """Base and overlays.

    Args:
        around: What is rendered.
        files: Resources by file name, as the plain folder has them.
    """
    choices = hardware_choices(around)
    base = {name: [_without_hardware(one, choices) for one in resources] for name, resources in files.items()}
    documents = [Document(f"kustomize/base/{name}", yaml_text(*resources)) for name, resources in base.items()]
    documents.append(_kustomization("base", {"resources": sorted(base)}))
    for name in (CPU, GPU):
        if name in choices:
            documents += _overlay(name, ["../../base"], [_hardware_patch(one, choices) for one in choices[name]])
    spot = [_spot_patch(one) for one in choices[around.hardware]]
    return [*documents, *_overlay("spot", [f"../{around.hardware}"], spot)]


def _overlay(name: str, resources: list[str], patches: list[dict[str, Any]]) -> list[Document]:
    folder = f"overlays/{name}"
    paths = [f"{patch['metadata']['name']}.yaml" for patch in patches]
    content = {"resources": resources, "patches": [{"path": path} for path in paths]}
    return [
        _kustomization(folder, content),
        *(Document(f"kustomize/{folder}/{path}", yaml_text(patch)) for path, patch in zip(paths, patches, strict=True)),
    ]


def _kustomization(folder: str, content: dict[str, Any]) -> Document:
    return Document(f"kustomize/{folder}/kustomization.yaml", yaml_text({**_KUSTOMIZATION, **content}))


def _without_hardware(resource: dict[str, Any], choices: dict[str, list[Engine]]) -> dict[str, Any]:
    """An engine's Deployment with what all hardware has in common; everything else as it is."""
    engine = next((one for one in next(iter(choices.values())) if _is_workload_of(resource, one)), None)
    if engine is None or engine.is_split:  # a patch of a custom resource replaces whole lists, so it brings all of it
        return resource
    common = deepcopy(resource)
    pod = common["spec"]["template"]["spec"]
    pod.pop("tolerations", None)
    pod.pop("runtimeClassName", None)
    pod["containers"][0]["env"] = _common_environment(engine, choices)
    memory = pod["containers"][0]["resources"]["requests"]["memory"]
    pod["containers"][0]["resources"] = {"requests": {"memory": memory}, "limits": {"memory": memory}}
    return common


def _is_workload_of(resource: dict[str, Any], engine: Engine) -> bool:
    return resource["kind"] in {"Deployment", "LeaderWorkerSet"} and resource["metadata"]["name"] == engine.name


def _common_environment(engine: Engine, choices: dict[str, list[Engine]]) -> list[dict[str, Any]]:
    position = engine.rung.position
    each = [engines[position].container([])["env"] for engines in choices.values()]
    return [variable for variable in each[0] if all(variable in others for others in each)]


def _hardware_patch(engine: Engine, choices: dict[str, list[Engine]]) -> dict[str, Any]:
    if engine.is_split:
        return engine.leader_worker_set()
    container = engine.container([])
    common = _common_environment(engine, choices)
    environment = [one for one in container["env"] if one not in common]
    patch = {"name": CONTAINER, **{key: container[key] for key in _HARDWARE_FIELDS}}
    patch["startupProbe"] = {
        "periodSeconds": STARTUP_PERIOD_S,
        "failureThreshold": engine.lifecycle.startup_failures,
    }
    if environment:
        patch["env"] = environment
    return _deployment_patch(
        engine,
        {**engine.placement(), "containers": [patch]},
        {"progressDeadlineSeconds": engine.lifecycle.progress_deadline_s},
    )


def _spot_patch(engine: Engine) -> dict[str, Any]:
    """Machines that may be taken away are preferred, not demanded: without one the model still serves."""
    placement = engine.placement()
    tolerations = placement.get("tolerations", []) + [
        {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"} for key, value in _SPOT_LABELS
    ]
    preferences = [
        {"weight": 100, "preference": {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}}
        for key, value in _SPOT_LABELS
    ]
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferences}}
    pod = {"tolerations": tolerations, "affinity": affinity}
    if not engine.is_split:
        return _deployment_patch(engine, pod, {})
    whole = engine.leader_worker_set()
    for template in ("leaderTemplate", "workerTemplate"):
        whole["spec"]["leaderWorkerTemplate"][template]["spec"] |= pod
    return whole


def _deployment_patch(engine: Engine, pod: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    namespace = engine.around.settings.kubernetes.namespace
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": engine.name, "namespace": namespace},
        "spec": {**spec, "template": {"spec": pod}},
    }
