"""What the server checks of values and fills in itself, for the kinds and rules that tests rely on."""

from __future__ import annotations

import re

from lightship.kubernetes.resources import ApiResource, JsonObject
from lightship.testing.fake_kubernetes.failures import ApiFailureError, invalid

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")


def check(resource: ApiResource, obj: JsonObject, before: JsonObject | None) -> None:
    """Raises: ApiFailureError: a value that a real server refuses."""
    name = obj["metadata"]["name"]
    causes: list[tuple[str, str, str]] = []
    if not _NAME.fullmatch(name):
        causes.append(
            ("metadata.name", "FieldValueInvalid", f'Invalid value: "{name}": a lowercase RFC 1123 subdomain')
        )
    spec = obj.get("spec") or {}
    if resource.kind == "Deployment":
        labels = spec.get("template", {}).get("metadata", {}).get("labels", {})
        selector = spec.get("selector", {}).get("matchLabels", {})
        if not selector or selector.items() - labels.items():
            field = "spec.template.metadata.labels"
            causes.append((field, "FieldValueInvalid", "`selector` does not match template `labels`"))
        if before is not None and before["spec"].get("selector") != spec.get("selector"):
            causes.append(("spec.selector", "FieldValueInvalid", "field is immutable"))
    if resource.kind == "Lease":
        for field in ("renewTime", "acquireTime"):
            value = spec.get(field)
            if value is not None and not _MICRO_TIME.fullmatch(value):
                raise ApiFailureError(
                    400, "BadRequest", f'parsing time "{value}" as "2006-01-02T15:04:05.000000Z07:00"'
                )
        if spec.get("leaseDurationSeconds", 1) < 1:
            causes.append(("spec.leaseDurationSeconds", "FieldValueInvalid", "must be greater than 0"))
    if causes:
        raise invalid(resource, name, causes)


def fill_in(resource: ApiResource, obj: JsonObject) -> None:
    """Effects: the object has the server's defaults."""
    if resource.kind == "Deployment":
        spec = obj["spec"]
        spec.setdefault("replicas", 1)
        spec.setdefault("revisionHistoryLimit", 10)
        spec.setdefault("progressDeadlineSeconds", 600)
        spec.setdefault(
            "strategy", {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}
        )
        spec["template"].setdefault("spec", {}).setdefault("restartPolicy", "Always")
    elif resource.kind == "Service":
        obj.setdefault("spec", {}).setdefault("type", "ClusterIP")
        for port in obj["spec"].get("ports", ()):
            port.setdefault("protocol", "TCP")
    elif resource.kind == "Namespace":
        obj.setdefault("status", {"phase": "Active"})
