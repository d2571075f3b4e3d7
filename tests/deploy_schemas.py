"""Kubernetes' own schemas, and those of CRDs, made strict: a field that nobody declares is a mistake."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import kubernetes_validate.utils
from referencing import Registry, Resource

SCHEMAS = Path(__file__).parent / "schemas"
# The three newest that the package knows.
_ALL = dict.fromkeys(full.rpartition(".")[0] for full in kubernetes_validate.utils.all_versions())
VERSIONS = tuple(_ALL)[-3:]


def crd_path(resource: Mapping[str, Any]) -> Path:
    """Where the schema of a custom resource is."""
    return SCHEMAS / "crds" / f"{resource['apiVersion'].replace('/', '_')}_{resource['kind']}.json"


def schema_errors(resource: dict[str, Any], version: str) -> list[str]:
    """What a strict server of this version would say of a resource's types and fields."""
    if crd_path(resource).exists():
        return [*_crd_errors(resource), *(error for pod in pods_in(resource) for error in _pod_errors(pod, version))]
    validator = _kubernetes_validator(resource["kind"], resource["apiVersion"], version)
    return [f"{'.'.join(map(str, one.path))}: {one.message}" for one in validator.iter_errors(resource)]


@cache
def _kubernetes_validator(kind: str, api_version: str, version: str) -> jsonschema.Draft202012Validator:
    """What `kubernetes_validate.validate(..., strict=True)` makes anew each time."""
    full = next(one for one in reversed(kubernetes_validate.utils.all_versions()) if one.startswith(f"{version}."))
    folder = f"kubernetes-json-schema/v{full}-local-strict"
    group, _, name = api_version.rpartition("/")
    short = f"{group.partition('.')[0]}-{name}" if group else name
    schema = kubernetes_validate.utils.schema_contents(f"{folder}/{kind.lower()}-{short}.json", version)
    return jsonschema.Draft202012Validator(schema, registry=_definitions(folder, version))


@cache
def _definitions(folder: str, version: str) -> Registry[Any]:
    content = kubernetes_validate.utils.schema_contents(f"{folder}/_definitions.json", version)
    return Resource.from_contents(content) @ Registry()


def _crd_errors(resource: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator(_strict_schema(crd_path(resource)))
    return [f"{'.'.join(map(str, one.path))}: {one.message}" for one in validator.iter_errors(resource)]


def _pod_errors(spec: dict[str, Any], version: str) -> list[str]:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "of-a-template"}, "spec": spec}
    return schema_errors(pod, version)


@cache
def _strict_schema(path: Path) -> dict[str, Any]:
    schema: dict[str, Any] = _strict(json.loads(path.read_text("utf-8")), is_root=True)
    return schema


def _strict(node: Any, *, is_root: bool = False) -> Any:
    """An OpenAPI schema as JSON Schema that allows no unknown field.

    Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
    """
    if isinstance(node, list):
        return [_strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: _strict(value) for key, value in node.items() if not key.startswith("x-") and key != "nullable"}
    if "properties" in node:
        made["properties"] = {key: _strict(value) for key, value in node["properties"].items()}
        if not node.get("x-kubernetes-preserve-unknown-fields") and not node.get("additionalProperties"):
            made["additionalProperties"] = False
    if is_root:
        made["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {}}
    if node.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    if node.get("nullable") and "type" in made:
        made["type"] = [made["type"], "null"]
    return made


def pods_in(resource: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Specs of Pods anywhere in a custom resource that is no Knative Service, whose Pods have a schema of their own."""
    if resource["apiVersion"].startswith("serving.knative.dev"):
        return
    pending: list[Any] = [resource]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if "containers" in node:
                yield deepcopy(node)
            else:
                pending += node.values()
        elif isinstance(node, list):
            pending += node
