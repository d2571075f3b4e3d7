"""Metadata of all resources: labels that never change in selectors, model ids in annotations only."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from lightship.deploy.document import MANAGED_BY, without_none
from lightship.deploy.inputs import RenderInput
from lightship.ports.deployment import DeployedRung

ENGINE, GATEWAY, MODELS = "engine", "gateway", "models"
_DOMAIN = "lightship.dev"
CHECKSUM = "checksum/config"
_NOT_IN_LABEL_VALUES = re.compile(r"[^A-Za-z0-9._-]")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


def selector(around: RenderInput, name: str) -> dict[str, str]:
    """The labels by which a workload's Pods are found; they must never change."""
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/instance": around.names.prefix}


def component_selector(around: RenderInput, component: str) -> dict[str, str]:
    """The labels of all Pods of one kind in this deployment."""
    return {"app.kubernetes.io/instance": around.names.prefix, "app.kubernetes.io/component": component}


def labels(around: RenderInput, name: str, component: str) -> dict[str, str]:
    """All recommended labels.

    Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/
    """
    return {
        **selector(around, name),
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": MANAGED_BY,
        "app.kubernetes.io/managed-by": MANAGED_BY,
        "app.kubernetes.io/version": _NOT_IN_LABEL_VALUES.sub("-", around.version),
    }


def metadata(
    around: RenderInput, name: str, component: str, *, annotations: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Of a resource in the namespace of the spec."""
    return without_none(
        {
            "name": name,
            "namespace": around.settings.kubernetes.namespace,
            "labels": labels(around, name, component),
            "annotations": dict(annotations) if annotations else None,
        }
    )


def rung_annotations(around: RenderInput, rung: DeployedRung) -> dict[str, str]:
    """What a rung is: names that are no label values."""
    return {
        f"{_DOMAIN}/model": around.deployment.model_name,
        f"{_DOMAIN}/source": around.deployment.source,
        f"{_DOMAIN}/variant": rung.variant_name,
        f"{_DOMAIN}/variant-digest": rung.variant_digest or "not-built",
        f"{_DOMAIN}/rung": str(rung.position),
        f"{_DOMAIN}/engine": f"{rung.engine} {rung.engine_version}".rstrip(),
    }


def model_annotation(around: RenderInput) -> dict[str, str]:
    """Which model the gateway serves."""
    return {f"{_DOMAIN}/model": around.deployment.model_name}


def checksum(files: Mapping[str, str]) -> str:
    """SHA-256 of configuration files, so that Pods are replaced when they change."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name]}\0".encode())
    return digest.hexdigest()


def is_label_value(text: str) -> bool:
    """Whether Kubernetes takes it as the value of a label."""
    return LABEL_VALUE.fullmatch(text) is not None
