"""Who set which field: server-side apply in the part of it that Lightship meets.

A *path* leads to one leaf: a value, an atomic list or map, or an element of an associative list by its key. Owners hold
sets of paths. An apply fails where it would change a leaf that somebody else owns; what its manager applied before and
leaves out now goes, unless somebody else owns it too. Other writes take what they change.

Source: "Server-Side Apply" in the Kubernetes documentation. Simplified: one version of each kind, and the lists below
are the only associative ones.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lightship.kubernetes.resources import JsonObject

Path = tuple[str, ...]
_KEYS = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
_CONTAINER_PORT_KEY, _SERVICE_PORT_KEY = ("containerPort", "protocol"), ("port", "protocol")
_ATOMIC_MAPS = frozenset({"selector", "nodeSelector", "scaleTargetRef", "roleRef", "podSelector"})
# Not anybody's: who an object is, and what the server writes itself.
_NOT_OWNED = {
    ("apiVersion",),
    ("kind",),
    *(
        ("metadata", name)
        for name in [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "managedFields",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ]
    ),
}


@dataclass(frozen=True)
class Manager:
    """Who writes: a name, how (`Apply` or `Update`), and through which part of the object."""

    name: str
    operation: str
    subresource: str = ""


Owners = dict[Manager, frozenset[Path]]


@dataclass(frozen=True)
class OwnedBySomebodyElse(Exception):  # noqa: N818 # says what is the matter
    """An apply met (manager, path) pairs."""

    conflicts: tuple[tuple[Manager, Path], ...]


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, value) of everything that can be owned."""
    name = path[-1] if path else ""
    if isinstance(value, dict) and value and not (name in _ATOMIC_MAPS and path[0] == "spec"):
        for key, inner in value.items():
            if (*path, key) not in _NOT_OWNED:
                yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and _list_key(name, value):
        for element in value:
            yield from leaves(element, (*path, _element_key(name, element)))
    else:
        yield path, value


def apply(live: JsonObject, owners: Owners, patch: JsonObject, manager: Manager, *, is_forced: bool) -> Owners:
    """Lays a patch over an object in place; the owners after that.

    Raises: OwnedBySomebodyElse.
    """
    wanted = dict(leaves(patch))
    current = dict(leaves(live))
    conflicts = [
        (other, path)
        for other, owned in owners.items()
        if other != manager
        for path in sorted(owned & wanted.keys())
        if path not in current or current[path] != wanted[path]
    ]
    if conflicts and not is_forced:
        raise OwnedBySomebodyElse(tuple(conflicts))
    taken = {path for _, path in conflicts}
    after = {other: owned - taken for other, owned in owners.items() if other != manager}
    left_out = owners.get(manager, frozenset()) - wanted.keys()
    for path in sorted(left_out, key=_is_key):  # an element goes once what it held has gone
        if not any(path in owned for owned in after.values()):
            _remove(live, path)
    _merge(live, patch, "")
    after[manager] = frozenset(wanted)
    return {other: owned for other, owned in after.items() if owned}


def update(before: JsonObject, after: JsonObject, owners: Owners, manager: Manager) -> Owners:
    """The owners once somebody has written `after` over `before`: what changed is theirs."""
    old, new = dict(leaves(before)), dict(leaves(after))
    changed = {path for path, value in new.items() if path not in old or old[path] != value}
    touched = changed | (old.keys() - new.keys())
    result = {other: owned - touched for other, owned in owners.items()}
    result[manager] = result.get(manager, frozenset()) | changed
    return {other: owned for other, owned in result.items() if owned}


def managed_fields(owners: Owners, *, api_version: str, time: str) -> list[JsonObject]:
    """`metadata.managedFields` as the server shows it."""
    entries = []
    for manager, paths in owners.items():
        fields: JsonObject = {}
        for path in sorted(paths):
            place = fields
            for part in path:
                place = place.setdefault(part if part.startswith("k:") else f"f:{part}", {})
        entry = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": api_version,
            "time": time,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        }
        entries.append(entry | ({"subresource": manager.subresource} if manager.subresource else {}))
    return entries


def shown(path: Path) -> str:
    """A path as the server writes it: `.spec.template.spec.containers[name="main"].image`."""
    text = ""
    for part in path:
        if part.startswith("k:"):
            inner = ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(part[2:]).items())
            text += f"[{inner}]"
        else:
            text += f".{part}"
    return text


def _list_key(name: str, elements: list[Any]) -> tuple[str, ...]:
    if not elements or not all(isinstance(element, dict) for element in elements):
        return ()
    if name == "ports":
        return _CONTAINER_PORT_KEY if "containerPort" in elements[0] else _SERVICE_PORT_KEY
    key = _KEYS.get(name, ())
    return key if key and all(key[0] in element for element in elements) else ()


def _element_key(name: str, element: JsonObject) -> str:
    key = _list_key(name, [element])
    values = {one: element.get(one, "TCP" if one == "protocol" else "") for one in key}
    return "k:" + json.dumps(values, sort_keys=True)


def _merge(live: JsonObject, patch: JsonObject, parent: str) -> None:
    for name, value in patch.items():
        old = live.get(name)
        is_atomic = name in _ATOMIC_MAPS and parent == "spec"
        if isinstance(value, dict) and isinstance(old, dict) and not is_atomic:
            _merge(old, value, name)
        elif isinstance(value, list) and isinstance(old, list) and _list_key(name, value) and _list_key(name, old):
            by_key = {_element_key(name, element): element for element in old}
            for element in value:
                known = by_key.get(_element_key(name, element))
                if known is None:
                    old.append(copy.deepcopy(element))
                else:
                    _merge(known, element, name)
        else:
            live[name] = copy.deepcopy(value)


def _is_key(path: Path) -> bool:
    """Whether a leaf is part of what its list element is known by."""
    return len(path) > 1 and path[-2].startswith("k:") and path[-1] in json.loads(path[-2][2:])


def _remove(value: Any, path: Path) -> bool:
    """Takes a leaf out; whether the value it was in is empty now."""
    head, *rest = path
    if head not in value:
        return not value
    inner = value[head]
    if not rest:
        del value[head]
    elif rest[0].startswith("k:"):
        _remove_from_list(inner, head, rest)
        if not inner:
            del value[head]
    elif isinstance(inner, dict) and _remove(inner, tuple(rest)):
        del value[head]
    return not value


def _remove_from_list(elements: list[Any], name: str, path: list[str]) -> None:
    element = next((one for one in elements if _element_key(name, one) == path[0]), None)
    if element is None:
        return
    if not _is_key(tuple(path[-2:])) or len(path) > 2:
        _remove(element, tuple(path[1:]))
    elif element.keys() <= json.loads(path[0][2:]).keys():
        elements.remove(element)
