"""Label and field selectors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lightship.kubernetes.resources import JsonObject

_IN = re.compile(r"\s*([^\s!=,]+)\s+(in|notin)\s+\(([^)]*)\)\s*")


def select(obj: JsonObject, query: Mapping[str, str]) -> bool:
    """Whether an object is one of those that `labelSelector` and `fieldSelector` of a request ask for."""
    labels = obj["metadata"].get("labels") or {}
    return all(_has_label(labels, part) for part in _parts(query.get("labelSelector", ""))) and all(
        _has_field(obj, part) for part in _parts(query.get("fieldSelector", ""))
    )


def _parts(selector: str) -> list[str]:
    return [part.strip() for part in re.split(r",(?![^(]*\))", selector) if part.strip()]


def _has_label(labels: Mapping[str, str], part: str) -> bool:
    if found := _IN.fullmatch(part):
        is_in = labels.get(found[1]) in {value.strip() for value in found[3].split(",")}
        return is_in if found[2] == "in" else not is_in
    if "!=" in part:
        name, value = part.split("!=", 1)
        return labels.get(name) != value
    if "=" in part:
        name, value = part.replace("==", "=").split("=", 1)
        return labels.get(name) == value
    return part[1:] not in labels if part.startswith("!") else part in labels


def _has_field(obj: JsonObject, part: str) -> bool:
    name, value = part.replace("==", "=").split("=", 1)
    found: Any = obj
    for key in name.split("."):
        found = (found or {}).get(key)
    return str(found if found is not None else "") == value
