"""Manifests by what they are and in which order they go. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from lightship.deploy.apply.options import MANAGED_BY, OURS, ApplyError
from lightship.kubernetes.resources import JsonObject, built_in

# What others refer to first. Kinds that are not listed come last: those of operators refer to what is above.
_ORDER = (
    "Namespace",
    "PriorityClass",
    "StorageClass",
    "ResourceQuota",
    "LimitRange",
    "NetworkPolicy",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "Lease",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Service",
    "PodDisruptionBudget",
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "CronJob",
    "HorizontalPodAutoscaler",
    "Ingress",
)


class ObjectKey(msgspec.Struct, frozen=True, order=True):
    """Which object. `namespace` is "" for kinds without one."""

    api_version: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def key_of(manifest: JsonObject, *, namespace: str) -> ObjectKey:
    """Which object a manifest is of. `namespace` is for those that name none."""
    metadata = manifest["metadata"]
    known = built_in(manifest["apiVersion"], manifest["kind"])
    where = "" if known is not None and not known.is_namespaced else metadata.get("namespace") or namespace
    return ObjectKey(manifest["apiVersion"], manifest["kind"], where, metadata["name"])


def ordered(manifests: Iterable[JsonObject]) -> list[JsonObject]:
    """In the order in which they can be applied; as given among equals."""
    return sorted(manifests, key=lambda one: _place(one["kind"]))


def ordered_keys(keys: Iterable[ObjectKey]) -> list[ObjectKey]:
    """In the order in which they can be applied."""
    return sorted(keys, key=lambda one: (_place(one.kind), one))


def _place(kind: str) -> int:
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def check_manifests(manifests: Sequence[Any], *, namespace: str) -> None:
    """Raises: ApplyError: something that is no manifest, is there twice, or is not labelled as ours."""
    for position, manifest in enumerate(manifests):
        where = f"manifest {position + 1}"
        if not isinstance(manifest, dict) or not all(isinstance(manifest.get(k), str) for k in ("apiVersion", "kind")):
            raise ApplyError("it has no apiVersion and kind", where=where)
        metadata = manifest.get("metadata")
        if not isinstance(metadata, dict) or not metadata.get("name"):
            raise ApplyError(f"the {manifest['kind']} has no name", where=where)
    keys = [key_of(manifest, namespace=namespace) for manifest in manifests]
    if twice := [str(key) for key, count in Counter(keys).items() if count > 1]:
        raise ApplyError(f"{', '.join(twice)} is there twice")
    for key, manifest in zip(keys, manifests, strict=True):
        if not is_ours(manifest):
            raise ApplyError(
                f"{key} does not carry the label {MANAGED_BY}: {OURS}",
                hint="Without it, nobody could tell later what may be deleted.",
            )


def is_ours(obj: JsonObject) -> bool:
    """Whether an object is labelled as ours."""
    return bool((obj["metadata"].get("labels") or {}).get(MANAGED_BY) == OURS)
