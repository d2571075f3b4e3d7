"""What former applies have made: one ConfigMap per set, so that what nobody renders any more is not forgotten.

Written before an apply with everything old and new, and after it with what is left: whenever it is interrupted, the
inventory names at least what is there.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from lightship.deploy.apply.manifests import ObjectKey, ordered_keys
from lightship.deploy.apply.options import MANAGED_BY, OURS, ApplyError
from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.resources import CONFIG_MAPS, JsonObject

_DATA_KEY = "objects"


def inventory_name(set_name: str) -> str:
    """The name of a set's inventory."""
    return f"lightship-inventory-{set_name}"


def inventory_object(set_name: str, keys: Iterable[ObjectKey]) -> JsonObject:
    """The ConfigMap that lists these objects."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": inventory_name(set_name), "labels": {MANAGED_BY: OURS}},
        "data": {_DATA_KEY: msgspec.json.encode(ordered_keys(keys)).decode()},
    }


async def read_inventory(client: KubernetesClient, *, set_name: str, namespace: str) -> frozenset[ObjectKey]:
    """What former applies have made; nothing where there was none.

    Raises: KubernetesError; ApplyError: the inventory was changed by hand into something else.
    """
    obj = await client.find(CONFIG_MAPS, inventory_name(set_name), namespace=namespace)
    if obj is None:
        return frozenset()
    try:
        text = (obj.get("data") or {}).get(_DATA_KEY, "[]")
        return frozenset(msgspec.json.decode(text, type=list[ObjectKey]))
    except msgspec.DecodeError as error:
        raise ApplyError(
            f"the inventory is damaged: {error}",
            where=f"ConfigMap {namespace}/{inventory_name(set_name)}",
            hint="Delete it; what it lists has to be deleted by hand once it is no longer rendered.",
        ) from error


async def write_inventory(
    client: KubernetesClient, keys: Iterable[ObjectKey], *, set_name: str, namespace: str
) -> None:
    """Effects: the inventory lists these. Raises: KubernetesError."""
    await client.apply(CONFIG_MAPS, inventory_object(set_name, keys), namespace=namespace, is_forced=True)
