"""Names, labels and annotations: patterns and lengths that schemas do not state, and values that must be text.

Source: k8s.io/apimachinery, pkg/util/validation: IsDNS1123Subdomain, IsDNS1035Label, IsQualifiedName,
IsValidLabelValue.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_KEY_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_MAX_ANNOTATIONS_BYTES = 262_144
# Kinds whose name becomes a host name, or a label value of what they make.
_SHORT_NAMES = frozenset(
    {"Service", "Deployment", "Job", "LeaderWorkerSet", "LLMInferenceService", "RayService", "InferencePool"}
)


def metadata_problems(resource: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a resource's name, namespace, labels, annotations, and those of its Pods."""
    metadata = resource.get("metadata", {})
    yield from _name_problems(resource["kind"], metadata.get("name", ""))
    namespace = metadata.get("namespace")
    if namespace is not None and (len(namespace) > 63 or _LABEL_1123.fullmatch(namespace) is None):
        yield f"metadata.namespace: {namespace!r} is no name of a namespace"
    yield from _maps(metadata, "metadata")
    yield from _nested(resource.get("spec"), "spec")


def _name_problems(kind: str, name: str) -> Iterator[str]:
    if kind in _SHORT_NAMES:
        if len(name) > 63:
            yield f"metadata.name: {name!r} has {len(name)} characters, at most 63 are allowed"
        if "." in name:
            yield f"metadata.name: {name!r} must not contain dots"
        elif _LABEL_1035.fullmatch(name) is None:
            yield f"metadata.name: {name!r} must be small letters, digits and hyphens, a letter first"
    elif len(name) > 253 or _SUBDOMAIN.fullmatch(name) is None:
        yield f"metadata.name: {name!r} is no name"


def _nested(value: Any, path: str) -> Iterator[str]:
    """Labels and annotations of templates, wherever they stand."""
    if isinstance(value, Mapping):
        if isinstance(value.get("metadata"), Mapping):
            yield from _maps(value["metadata"], f"{path}.metadata")
        if isinstance(value.get("matchLabels"), Mapping):
            yield from _labels(value["matchLabels"], f"{path}.matchLabels")
        for key, inner in value.items():
            if key != "metadata":
                yield from _nested(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _nested(inner, f"{path}[{position}]")


def _maps(metadata: Mapping[str, Any], path: str) -> Iterator[str]:
    yield from _labels(metadata.get("labels") or {}, f"{path}.labels")
    annotations = metadata.get("annotations") or {}
    num_bytes = 0
    for key, value in annotations.items():
        yield from _key_problems(key, f"{path}.annotations")
        if not isinstance(value, str):
            yield f"{path}.annotations: the value of {key} is {value!r}, which needs quotes to be text"
        else:
            num_bytes += len(key) + len(value.encode())
    if num_bytes > _MAX_ANNOTATIONS_BYTES:
        yield f"{path}.annotations: {num_bytes} bytes, at most {_MAX_ANNOTATIONS_BYTES} are allowed"


def _labels(labels: Mapping[str, Any], path: str) -> Iterator[str]:
    for key, value in labels.items():
        yield from _key_problems(key, path)
        if not isinstance(value, str):
            yield f"{path}: the value of {key} is {value!r}, which needs quotes to be text"
        elif LABEL_VALUE.fullmatch(value) is None:
            yield f"{path}: {value!r} is no label value; put it into an annotation"


def _key_problems(key: str, path: str) -> Iterator[str]:
    prefix, has_prefix, name = key.rpartition("/")
    if _KEY_NAME.fullmatch(name) is None or (has_prefix and _SUBDOMAIN.fullmatch(prefix) is None):
        yield f"{path}: {key!r} is no key"
