"""What an apply would change: the server's own dry run against what is there.

So defaults that the server fills in are no differences, and what it would refuse is said. Values of Secrets never show.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from lightship.deploy.apply.applying import Located, find_ours, locate, missing_namespaces
from lightship.deploy.apply.inventory import read_inventory
from lightship.deploy.apply.manifests import ObjectKey, check_manifests, ordered, ordered_keys
from lightship.deploy.apply.refusals import refusal
from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.errors import ConflictError, KubernetesError, NotFoundError
from lightship.kubernetes.resources import NAMESPACES, JsonObject

_SERVER_FIELDS = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")


@dataclass(frozen=True)
class ObjectDiff:
    """One object that would change. `text` is a unified diff; `conflict` says who owns what would be taken over."""

    key: ObjectKey
    text: str
    conflict: str = ""


@dataclass(frozen=True)
class SetDiff:
    """Everything that would change. `left_over` are objects of former applies that these manifests lack."""

    objects: tuple[ObjectDiff, ...]
    left_over: tuple[ObjectKey, ...]

    @property
    def exit_code(self) -> int:
        """0 when nothing would change, 1 when something would; as `diff` does."""
        return int(bool(self.objects or self.left_over))


async def diff_manifests(
    client: KubernetesClient, manifests: Sequence[JsonObject], *, set_name: str, namespace: str
) -> SetDiff:
    """What an apply of these manifests would change.

    Raises: ApplyError: the cluster would not take them, or cannot be asked.
    """
    check_manifests(manifests, namespace=namespace)
    located = await locate(client, ordered(manifests), namespace=namespace)
    missing = await missing_namespaces(client, located, namespace)
    missing |= {one.key.name for one in located if one.resource == NAMESPACES}
    found = [await _diff_one(client, one, missing) for one in located]
    key = ObjectKey("v1", "ConfigMap", namespace, set_name)
    try:
        inventory = await read_inventory(client, set_name=set_name, namespace=namespace)
    except KubernetesError as error:
        raise refusal(error, key, verb="read") from error
    gone = inventory - {one.key for one in located}
    left_over = [one for one in ordered_keys(gone) if await find_ours(client, one) is not None]
    return SetDiff(tuple(one for one in found if one is not None), tuple(left_over))


async def _diff_one(client: KubernetesClient, one: Located, missing: set[str]) -> ObjectDiff | None:
    conflict = ""
    try:
        live = await client.find(one.resource, one.key.name, namespace=one.key.namespace)
        try:
            after = await client.apply(one.resource, one.manifest, namespace=one.key.namespace, is_dry_run=True)
        except ConflictError as error:
            conflict = refusal(error, one.key).what
            after = await client.apply(
                one.resource, one.manifest, namespace=one.key.namespace, is_dry_run=True, is_forced=True
            )
    except NotFoundError as error:
        if not (error.is_missing_namespace and one.key.namespace in missing):
            raise refusal(error, one.key) from error
        live, after = None, one.manifest  # its namespace will be made by the same apply
    except KubernetesError as error:
        raise refusal(error, one.key) from error
    text = diff_objects(live, after, name=str(one.key))
    return ObjectDiff(one.key, text, conflict) if text else None


def diff_objects(live: JsonObject | None, after: JsonObject, *, name: str) -> str:
    """A unified diff of two states of an object, without what the server writes; "" where they are equal.

    >>> print(diff_objects(None, {"kind": "Secret", "metadata": {}, "data": {"key": "c2VjcmV0"}}, name="s"), end="")
    --- s (live)
    +++ s (rendered)
    @@ -0,0 +1,4 @@
    +data:
    +  key: '***'
    +kind: Secret
    +metadata: {}
    """
    old, new = _comparable(live), _comparable(after)
    _mask(old, new)
    lines = difflib.unified_diff(_lines(old), _lines(new), f"{name} (live)", f"{name} (rendered)")
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _comparable(obj: JsonObject | None) -> JsonObject:
    if obj is None:
        return {}
    result = copy.deepcopy({name: value for name, value in obj.items() if name != "status"})
    for name in _SERVER_FIELDS:
        result.get("metadata", {}).pop(name, None)
    return result


def _mask(old: JsonObject, new: JsonObject) -> None:
    """Effects: no value of a Secret is left, but whether it changes still shows."""
    if "Secret" not in {old.get("kind"), new.get("kind")}:
        return
    for part in ("data", "stringData"):
        before, after = old.get(part) or {}, new.get(part) or {}
        for name in before.keys() | after.keys():
            is_changed = name in before and name in after and before[name] != after[name]
            if name in before:
                before[name] = "*** (before)" if is_changed else "***"
            if name in after:
                after[name] = "*** (after)" if is_changed else "***"


def _lines(obj: JsonObject) -> list[str]:
    return yaml.safe_dump(obj, sort_keys=True).splitlines(keepends=True) if obj else []
