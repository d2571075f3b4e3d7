"""Server-side apply of a set of manifests.

    check (pure) -> kinds and namespaces there? -> dry run of all
        -> namespaces -> inventory -> apply in order -> prune -> inventory -> wait

The dry run finds unknown fields, conflicts and missing rights in all objects before the first one is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from lightship.deploy.apply.inventory import read_inventory, write_inventory
from lightship.deploy.apply.manifests import ObjectKey, check_manifests, is_ours, key_of, ordered, ordered_keys
from lightship.deploy.apply.options import MANAGED_BY, OURS, ApplyError, ApplyOptions
from lightship.deploy.apply.refusals import missing_kind, missing_namespace, refusal
from lightship.deploy.apply.waiting import wait_until_gone, wait_until_serving
from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.errors import KubernetesError, NotFoundError
from lightship.kubernetes.resources import NAMESPACES, ApiResource, JsonObject
from lightship.ports.clock import Clock
from lightship.ports.progress import Progress

Report = Callable[[str], None]
_KEPT_KINDS = frozenset({"PersistentVolumeClaim", "Namespace"})


class Change(StrEnum):
    """What an apply did to an object."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Located:
    """One manifest, and where it goes."""

    key: ObjectKey
    resource: ApiResource
    manifest: JsonObject


@dataclass
class ApplyResult:
    """What was done. `left_over` are objects of former applies that are still there."""

    changes: dict[ObjectKey, Change] = field(default_factory=dict)
    pruned: list[ObjectKey] = field(default_factory=list)
    left_over: list[ObjectKey] = field(default_factory=list)


async def apply_manifests(
    client: KubernetesClient,
    manifests: Sequence[JsonObject],
    *,
    options: ApplyOptions,
    clock: Clock,
    progress: Progress,
    report: Report = lambda _: None,
) -> ApplyResult:
    """Effects: the cluster has what the manifests say, and, where that is wished, it serves.

    Args:
        client: The way to the cluster.
        manifests: Everything that belongs to the set.
        options: See `ApplyOptions`.
        clock: Time.
        progress: Shows what is being done.
        report: Takes one line for each object, and for what is left over.

    Raises: ApplyError: the cluster did not take it; nothing was changed where the dry run found it. RolloutError: it
        was taken, and does not come to serve.
    """
    check_manifests(manifests, namespace=options.namespace)
    located = await locate(client, ordered(manifests), namespace=options.namespace)
    missing = await missing_namespaces(client, located, options.namespace)
    if missing and not options.creates_namespace:
        raise missing_namespace(sorted(missing)[0])
    await _rehearse(client, [one for one in located if one.key.namespace not in missing], options, progress)
    result = ApplyResult()
    for namespace in sorted(missing):
        await _create_namespace(client, namespace, report)
    before = await _inventory(client, options)
    wanted = {one.key for one in located}
    has_inventory = False
    with progress.task("apply") as task:
        for number, one in enumerate(located, start=1):
            if one.resource != NAMESPACES and not has_inventory:  # which is in a namespace itself
                await _keep(client, before | wanted, options)
                has_inventory = True
            change = await _apply(client, one, options)
            result.changes[one.key] = change
            report(f"{one.key}: {change.value}")
            task.advance(done=number, total=len(located))
    await _prune(client, before - wanted, options, result, clock=clock, progress=progress, report=report)
    await _keep(client, wanted | set(result.left_over), options)
    if options.waits:
        await wait_until_serving(client, [one.key for one in located], options=options, clock=clock, progress=progress)
    return result


async def locate(client: KubernetesClient, manifests: Sequence[JsonObject], *, namespace: str) -> list[Located]:
    """Where each manifest goes. Raises: ApplyError: the cluster lacks a kind, or does not answer."""
    found = []
    for manifest in manifests:
        key = key_of(manifest, namespace=namespace)
        try:
            resource = await client.resource_of(key.api_version, key.kind)
        except NotFoundError as error:
            raise missing_kind(key) from error
        except KubernetesError as error:
            raise refusal(error, key) from error
        if not resource.is_namespaced:
            key = ObjectKey(key.api_version, key.kind, "", key.name)
        found.append(Located(key, resource, manifest))
    return found


async def missing_namespaces(client: KubernetesClient, located: Sequence[Located], namespace: str) -> set[str]:
    """Namespaces that are needed, are not among the manifests, and do not exist. Those we may not look at are there.

    Namespaces among the manifests that do not exist yet are not in the result.
    """
    brought = {one.key.name for one in located if one.resource == NAMESPACES}
    missing = set()
    for name in {namespace, *(one.key.namespace for one in located)} - brought - {""}:
        try:
            if await client.find(NAMESPACES, name) is None:
                missing.add(name)
        except KubernetesError as error:
            if getattr(error, "code", 0) != 403:
                raise refusal(error, ObjectKey("v1", "Namespace", "", name), verb="read") from error
    return missing


async def _rehearse(
    client: KubernetesClient, located: Sequence[Located], options: ApplyOptions, progress: Progress
) -> None:
    """Raises: ApplyError: with everything that is wrong with any of them."""
    new = {one.key.name for one in located if one.resource == NAMESPACES}
    faults: list[ApplyError] = []
    with progress.task("dry run") as task:
        for number, one in enumerate(located, start=1):
            try:
                await client.apply(
                    one.resource,
                    one.manifest,
                    namespace=one.key.namespace,
                    is_forced=options.forces_conflicts,
                    is_dry_run=True,
                )
            except NotFoundError as error:
                if not (error.is_missing_namespace and one.key.namespace in new):
                    faults.append(refusal(error, one.key))
            except KubernetesError as error:
                faults.append(refusal(error, one.key))
            task.advance(done=number, total=len(located))
    if len(faults) == 1:
        raise faults[0]
    if faults:
        lines = "\n".join(f"- {fault}" for fault in faults)
        raise ApplyError(f"{len(faults)} objects were not accepted, and nothing was changed:\n{lines}")


async def _create_namespace(client: KubernetesClient, name: str, report: Report) -> None:
    key = ObjectKey("v1", "Namespace", "", name)
    obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {MANAGED_BY: OURS}}}
    try:
        await client.apply(NAMESPACES, obj)
    except KubernetesError as error:
        raise refusal(error, key) from error
    report(f"{key}: created")


async def _apply(client: KubernetesClient, one: Located, options: ApplyOptions) -> Change:
    try:
        before = await client.find(one.resource, one.key.name, namespace=one.key.namespace)
        after = await client.apply(
            one.resource, one.manifest, namespace=one.key.namespace, is_forced=options.forces_conflicts
        )
    except KubernetesError as error:
        raise refusal(error, one.key) from error
    if before is None:
        return Change.CREATED
    is_same = before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
    return Change.UNCHANGED if is_same else Change.CHANGED


async def _prune(
    client: KubernetesClient,
    candidates: set[ObjectKey] | frozenset[ObjectKey],
    options: ApplyOptions,
    result: ApplyResult,
    *,
    clock: Clock,
    progress: Progress,
    report: Report,
) -> None:
    for key in reversed(ordered_keys(candidates)):
        live = await find_ours(client, key)
        if live is None:
            continue
        is_kept = key.kind in _KEPT_KINDS and not (options.prunes_volumes and key.kind == "PersistentVolumeClaim")
        if not options.prunes or is_kept:
            result.left_over.append(key)
            report(f"{key}: left over from a former apply" + ("" if options.prunes else "; --prune deletes it"))
            continue
        await delete_one(client, key, live)
        result.pruned.append(key)
        report(f"{key}: pruned")
    if result.pruned and options.waits:
        await wait_until_gone(client, result.pruned, limit_s=300.0, clock=clock, progress=progress)


async def find_ours(client: KubernetesClient, key: ObjectKey) -> JsonObject | None:
    """The object, where it is there and labelled as ours. Raises: ApplyError."""
    try:
        resource = await client.resource_of(key.api_version, key.kind)
        live = await client.find(resource, key.name, namespace=key.namespace)
    except NotFoundError:
        return None  # with its kind, everything of the kind is gone
    except KubernetesError as error:
        raise refusal(error, key, verb="read") from error
    return live if live is not None and is_ours(live) else None


async def delete_one(client: KubernetesClient, key: ObjectKey, live: JsonObject) -> None:
    """Effects: this very object is deleted, and what it owns with it. Raises: ApplyError."""
    try:
        resource = await client.resource_of(key.api_version, key.kind)
        await client.delete(resource, key.name, namespace=key.namespace, uid=live["metadata"]["uid"])
    except NotFoundError:
        return
    except KubernetesError as error:
        raise refusal(error, key, verb="deleted") from error


async def _inventory(client: KubernetesClient, options: ApplyOptions) -> frozenset[ObjectKey]:
    try:
        return await read_inventory(client, set_name=options.set_name, namespace=options.namespace)
    except KubernetesError as error:
        raise refusal(error, _inventory_key(options), verb="read") from error


async def _keep(client: KubernetesClient, keys: set[ObjectKey] | frozenset[ObjectKey], options: ApplyOptions) -> None:
    try:
        await write_inventory(client, keys, set_name=options.set_name, namespace=options.namespace)
    except KubernetesError as error:
        raise refusal(error, _inventory_key(options)) from error


def _inventory_key(options: ApplyOptions) -> ObjectKey:
    return ObjectKey("v1", "ConfigMap", options.namespace, f"lightship-inventory-{options.set_name}")
