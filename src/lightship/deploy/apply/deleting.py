"""Takes a deployment out of a cluster: what the manifests name and what the inventory remembers, where it is ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightship.deploy.apply.applying import Report, delete_one, find_ours
from lightship.deploy.apply.inventory import inventory_name, read_inventory, write_inventory
from lightship.deploy.apply.manifests import ObjectKey, check_manifests, key_of, ordered_keys
from lightship.deploy.apply.options import DeleteOptions
from lightship.deploy.apply.refusals import refusal
from lightship.deploy.apply.waiting import wait_until_gone
from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.errors import KubernetesError
from lightship.kubernetes.resources import JsonObject
from lightship.ports.clock import Clock
from lightship.ports.progress import Progress


@dataclass
class DeleteResult:
    """What was done: `kept` are objects that were left there on purpose, with the reason."""

    deleted: list[ObjectKey] = field(default_factory=list)
    kept: dict[ObjectKey, str] = field(default_factory=dict)


async def delete_manifests(
    client: KubernetesClient,
    manifests: Sequence[JsonObject],
    *,
    options: DeleteOptions,
    clock: Clock,
    progress: Progress,
    report: Report = lambda _: None,
) -> DeleteResult:
    """Effects: what belongs to the set and is labelled as ours is gone, or going where nobody waits.

    The last in order goes first. PersistentVolumeClaims and Namespaces stay unless the options say otherwise; what
    stays remains in the inventory.

    Raises: ApplyError: the cluster cannot be asked, does not allow it, or something is still there after the time.
    """
    check_manifests(manifests, namespace=options.namespace)
    inventory_key = ObjectKey("v1", "ConfigMap", options.namespace, inventory_name(options.set_name))
    try:
        known = await read_inventory(client, set_name=options.set_name, namespace=options.namespace)
    except KubernetesError as error:
        raise refusal(error, inventory_key, verb="read") from error
    result = DeleteResult()
    keys = known | {key_of(manifest, namespace=options.namespace) for manifest in manifests}
    for key in reversed(ordered_keys(keys)):
        live = await find_ours(client, key)
        if live is None:
            continue
        if reason := _kept_because(key, options):
            result.kept[key] = reason
            report(f"{key}: kept; {reason}")
            continue
        await delete_one(client, key, live)
        result.deleted.append(key)
        report(f"{key}: deleted")
    if options.waits:
        await wait_until_gone(client, result.deleted, limit_s=options.wait_limit_s, clock=clock, progress=progress)
    await _settle_inventory(client, inventory_key, result, options)
    return result


def _kept_because(key: ObjectKey, options: DeleteOptions) -> str:
    if key.kind in {"PersistentVolumeClaim", "PersistentVolume"} and not options.deletes_volumes:
        return "what is in it would be lost (--volumes deletes it, too)"
    if key.kind == "Namespace" and not options.deletes_namespace:
        return "everything in it would go with it (--namespace-too deletes it)"
    return ""


async def _settle_inventory(
    client: KubernetesClient, key: ObjectKey, result: DeleteResult, options: DeleteOptions
) -> None:
    """Effects: the inventory names what was kept, or is gone with everything else."""
    live = await find_ours(client, key)
    if live is None:
        return
    if not result.kept:
        await delete_one(client, key, live)
        return
    try:
        await write_inventory(client, result.kept, set_name=options.set_name, namespace=options.namespace)
    except KubernetesError as error:
        raise refusal(error, key) from error
