"""What our client and the fake server take for the Kubernetes API, against the fake over real HTTP and in memory.

`LIGHTSHIP_TEST_KUBECONFIG=FILE` runs the suite against the server of that file, too: each test in a namespace of its
own, no node is needed. Expectations are those of the Kubernetes documentation.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.errors import ConflictError, GoneError, NotFoundError, StatusError
from lightship.kubernetes.kubeconfig import kubeconfig_access
from lightship.kubernetes.resources import CONFIG_MAPS, DEPLOYMENTS, LEASES, NAMESPACES, SERVICES, ApiResource
from lightship.ports.clock import SystemClock
from lightship.testing.fake_kubernetes import FakeKubernetes

KUBECONFIG = os.environ.get("LIGHTSHIP_TEST_KUBECONFIG", "")
CLOCK = SystemClock()
Body = Callable[["Server"], Awaitable[None]]


class Server:
    """A client of the server under test, others of other managers, and a namespace."""

    def __init__(self, make: Callable[[str], KubernetesClient], namespace: str) -> None:
        self.client = make("lightship")
        self.other = make("somebody-else")
        self.namespace = namespace

    def config_map(self, name: str = "a", **data: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}

    def deployment(self, **spec: Any) -> dict[str, Any]:
        labels = {"app": "a"}
        container = {"name": "main", "image": "example.com/a:1", "env": [{"name": "A", "value": "1"}]}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "a"},
            "spec": {"selector": {"matchLabels": labels}, "template": template, **spec},
        }


@asynccontextmanager
async def fake_over_http() -> AsyncIterator[Server]:
    fake = FakeKubernetes()
    fake.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "llm"}})
    async with fake.serving() as access:
        server = Server(lambda name: KubernetesClient(access.exchange(), clock=CLOCK, field_manager=name), "llm")
        async with server.client, server.other:
            yield server


@asynccontextmanager
async def fake_in_memory() -> AsyncIterator[Server]:
    fake = FakeKubernetes()
    fake.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "llm"}})
    yield Server(lambda name: KubernetesClient(fake.exchange(), clock=CLOCK, field_manager=name), "llm")


@asynccontextmanager
async def real_server() -> AsyncIterator[Server]:
    access = kubeconfig_access([Path(KUBECONFIG)], clock=CLOCK)
    namespace = f"lightship-test-{uuid.uuid4().hex[:8]}"

    def make(name: str) -> KubernetesClient:
        return KubernetesClient(
            access.exchange(), clock=CLOCK, credentials=access.credentials, limit_s=30.0, field_manager=name
        )

    server = Server(make, namespace)
    async with server.client, server.other:
        await server.client.create(
            NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        )
        try:
            yield server
        finally:
            await server.client.delete(NAMESPACES, namespace)


SERVERS = {"http": fake_over_http, "memory": fake_in_memory, "real": real_server}


@pytest.fixture(params=["http", "memory", "real"])
def run(request: pytest.FixtureRequest) -> Callable[[Body], None]:
    if request.param == "real" and not KUBECONFIG:
        pytest.skip("NOT TESTED: no real API server (set LIGHTSHIP_TEST_KUBECONFIG to a kubeconfig)")

    def run_body(body: Body) -> None:
        async def main() -> None:
            async with SERVERS[request.param]() as server:
                await body(server)

        asyncio.run(main())

    return run_body


def test_object_created_is_read_listed_and_deleted(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        made = await client.create(CONFIG_MAPS, server.config_map(key="1"), namespace=ns)
        assert made["data"] == {"key": "1"}
        assert made["metadata"]["uid"]
        assert (await client.get(CONFIG_MAPS, "a", namespace=ns))["metadata"]["uid"] == made["metadata"]["uid"]
        listed = await client.list(CONFIG_MAPS, namespace=ns, field_selector="metadata.name=a")
        assert [(item["kind"], item["metadata"]["name"]) for item in listed.items] == [("ConfigMap", "a")]
        await client.delete(CONFIG_MAPS, "a", namespace=ns)
        assert await client.find(CONFIG_MAPS, "a", namespace=ns) is None

    run(body)


def test_create_of_an_existing_object_conflicts_with_reason(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        await server.client.create(CONFIG_MAPS, server.config_map(), namespace=server.namespace)
        with pytest.raises(ConflictError) as caught:
            await server.client.create(CONFIG_MAPS, server.config_map(), namespace=server.namespace)
        assert caught.value.reason == "AlreadyExists"

    run(body)


def test_missing_object_namespace_and_kind_are_told_apart(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client = server.client
        with pytest.raises(NotFoundError) as caught:
            await client.get(DEPLOYMENTS, "a", namespace=server.namespace)
        assert (caught.value.kind, caught.value.name) == ("deployments", "a")
        assert not caught.value.is_missing_kind
        with pytest.raises(NotFoundError) as caught:
            await client.apply(CONFIG_MAPS, server.config_map(), namespace="no-such-namespace")
        assert caught.value.is_missing_namespace
        with pytest.raises(NotFoundError) as caught:
            await client.list(ApiResource("no.such.group", "v1", "Thing", "things"), namespace=server.namespace)
        assert caught.value.is_missing_kind
        with pytest.raises(NotFoundError):
            await client.resource_of("no.such.group/v1", "Thing")

    run(body)


def test_resource_that_is_not_listed_here_is_found_at_the_server(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client = server.client
        listed = (await client._object("GET", "/apis/apps/v1"))["resources"]
        one = next(resource for resource in listed if resource["kind"] == "Deployment")
        assert (one["name"], one["namespaced"]) == ("deployments", True)
        assert await client.resource_of("apps/v1", "Deployment") == DEPLOYMENTS

    run(body)


def test_replace_with_an_old_version_conflicts_and_changes_nothing(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        first = await client.create(CONFIG_MAPS, server.config_map(key="1"), namespace=ns)
        second = await client.replace(CONFIG_MAPS, "a", {**first, "data": {"key": "2"}}, namespace=ns)
        assert second["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]
        with pytest.raises(ConflictError):
            await client.replace(CONFIG_MAPS, "a", {**first, "data": {"key": "3"}}, namespace=ns)
        assert (await client.get(CONFIG_MAPS, "a", namespace=ns))["data"] == {"key": "2"}

    run(body)


def test_merge_patch_removes_nulls_and_heeds_the_version(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        first = await client.create(CONFIG_MAPS, server.config_map(one="1", two="2"), namespace=ns)
        patched = await client.merge_patch(CONFIG_MAPS, "a", {"data": {"one": None, "three": "3"}}, namespace=ns)
        assert patched["data"] == {"two": "2", "three": "3"}
        stale = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"two": "9"}}
        with pytest.raises(ConflictError):
            await client.merge_patch(CONFIG_MAPS, "a", stale, namespace=ns)

    run(body)


def test_watch_tells_what_happened_since_the_list_in_order(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        listed = await client.list(CONFIG_MAPS, namespace=ns, label_selector="app=x")
        labelled = server.config_map("b", key="1")
        labelled["metadata"]["labels"] = {"app": "x"}
        await client.create(CONFIG_MAPS, labelled, namespace=ns)
        await client.create(CONFIG_MAPS, server.config_map("c"), namespace=ns)
        await client.merge_patch(CONFIG_MAPS, "b", {"data": {"key": "2"}}, namespace=ns)
        seen = []
        async with client.watching(
            CONFIG_MAPS, resource_version=listed.resource_version, namespace=ns, label_selector="app=x"
        ) as events:
            async for event in events:
                if event["type"] == "BOOKMARK":
                    continue
                seen.append((event["type"], event["object"]["metadata"]["name"]))
                if len(seen) == 2:  # what is seen from here on happens while the watch is open
                    await client.merge_patch(CONFIG_MAPS, "b", {"metadata": {"labels": {"app": None}}}, namespace=ns)
                if len(seen) == 3:
                    break
        assert seen == [("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "b")]  # it left the selection

    run(body)


def test_watch_ends_by_itself_when_its_time_is_over(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        listed = await server.client.list(CONFIG_MAPS, namespace=server.namespace)
        async with server.client.watching(
            CONFIG_MAPS, resource_version=listed.resource_version, namespace=server.namespace, lasts_s=1
        ) as events:
            assert [event async for event in events if event["type"] != "BOOKMARK"] == []

    run(body)


def test_apply_creates_then_changes_nothing_when_nothing_changed(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        first = await client.apply(DEPLOYMENTS, server.deployment(), namespace=ns)
        again = await client.apply(DEPLOYMENTS, server.deployment(), namespace=ns)
        assert first["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]
        assert first["spec"]["replicas"] == 1  # the server's default
        [entry] = [one for one in again["metadata"]["managedFields"] if one["operation"] == "Apply"]
        assert entry["manager"] == "lightship"
        assert "f:replicas" not in entry["fieldsV1"]["f:spec"]

    run(body)


def test_apply_without_a_field_it_set_before_takes_it_away(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        await client.apply(CONFIG_MAPS, server.config_map(one="1", two="2"), namespace=ns)
        await server.other.merge_patch(CONFIG_MAPS, "a", {"data": {"three": "3"}}, namespace=ns)
        left = await client.apply(CONFIG_MAPS, server.config_map(one="1"), namespace=ns)
        assert left["data"] == {"one": "1", "three": "3"}  # what somebody else set stays
        await client.apply(DEPLOYMENTS, server.deployment(replicas=3), namespace=ns)
        without = await client.apply(DEPLOYMENTS, server.deployment(), namespace=ns)
        assert without["spec"]["replicas"] == 1

    run(body)


def test_apply_over_somebody_elses_value_conflicts_by_field_until_forced(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        await client.apply(DEPLOYMENTS, server.deployment(), namespace=ns)
        await server.other.merge_patch(DEPLOYMENTS, "a", {"spec": {"minReadySeconds": 5}}, namespace=ns)
        with pytest.raises(ConflictError) as caught:
            await client.apply(DEPLOYMENTS, server.deployment(minReadySeconds=7), namespace=ns)
        [cause] = caught.value.causes
        assert (cause.reason, cause.field) == ("FieldManagerConflict", ".spec.minReadySeconds")
        assert '"somebody-else"' in cause.message
        same = await client.apply(DEPLOYMENTS, server.deployment(minReadySeconds=5), namespace=ns)  # agreement is none
        assert same["spec"]["minReadySeconds"] == 5
        with pytest.raises(ConflictError):
            await client.apply(DEPLOYMENTS, server.deployment(minReadySeconds=7), namespace=ns)
        forced = await client.apply(DEPLOYMENTS, server.deployment(minReadySeconds=7), namespace=ns, is_forced=True)
        assert forced["spec"]["minReadySeconds"] == 7

    run(body)


def test_apply_merges_list_elements_by_key(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        await client.apply(DEPLOYMENTS, server.deployment(), namespace=ns)
        theirs = server.deployment()
        theirs["spec"] = {
            **theirs["spec"],
            "template": {"spec": {"containers": [{"name": "main", "env": [{"name": "B", "value": "2"}]}]}},
        }
        del theirs["spec"]["selector"]
        await server.other.apply(DEPLOYMENTS, theirs, namespace=ns)
        ours = server.deployment()
        ours["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "C", "value": "3"}]
        applied = await client.apply(DEPLOYMENTS, ours, namespace=ns)
        [container] = applied["spec"]["template"]["spec"]["containers"]
        assert {one["name"]: one["value"] for one in container["env"]} == {"B": "2", "C": "3"}

    run(body)


def test_apply_as_a_dry_run_shows_the_result_and_keeps_nothing(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        shown = await client.apply(DEPLOYMENTS, server.deployment(replicas=2), namespace=ns, is_dry_run=True)
        assert shown["spec"]["replicas"] == 2
        assert await client.find(DEPLOYMENTS, "a", namespace=ns) is None

    run(body)


def test_unknown_fields_are_refused_by_path(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        wrong = server.deployment(replicaz=2)
        with pytest.raises(StatusError, match=r"\.spec\.replicaz: field not declared in schema"):
            await client.apply(DEPLOYMENTS, wrong, namespace=ns)
        with pytest.raises(StatusError, match=r'unknown field "spec\.replicaz"') as caught:
            await client.create(DEPLOYMENTS, wrong, namespace=ns)
        assert caught.value.code == 400
        deep = server.deployment()
        deep["spec"]["template"]["spec"]["containers"][0]["imgae"] = "x"
        with pytest.raises(StatusError, match=r"\.imgae: field not declared in schema"):
            await client.apply(DEPLOYMENTS, deep, namespace=ns)

    run(body)


def test_selector_of_a_deployment_cannot_be_changed(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        await client.apply(DEPLOYMENTS, server.deployment(), namespace=ns)
        changed = server.deployment()
        changed["spec"]["selector"] = {"matchLabels": {"app": "b"}}
        changed["spec"]["template"]["metadata"]["labels"] = {"app": "b"}
        with pytest.raises(StatusError, match="immutable") as caught:
            await client.apply(DEPLOYMENTS, changed, namespace=ns)
        assert (caught.value.code, [cause.field for cause in caught.value.causes]) == (422, ["spec.selector"])

    run(body)


def test_scale_is_read_and_patched_with_a_version(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        await client.apply(DEPLOYMENTS, server.deployment(), namespace=ns)
        first = await client.get(DEPLOYMENTS, "a", namespace=ns, subresource="scale")
        assert (first["kind"], first["spec"]["replicas"]) == ("Scale", 1)
        patch = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "spec": {"replicas": 3}}
        second = await client.merge_patch(DEPLOYMENTS, "a", patch, namespace=ns, subresource="scale")
        assert second["spec"]["replicas"] == 3
        with pytest.raises(ConflictError):
            await client.merge_patch(DEPLOYMENTS, "a", patch, namespace=ns, subresource="scale")
        assert (await client.get(DEPLOYMENTS, "a", namespace=ns))["spec"]["replicas"] == 3

    run(body)


def test_scale_above_zero_owns_replicas_and_zero_does_not(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        await client.apply(DEPLOYMENTS, server.deployment(), namespace=ns)
        await server.other.merge_patch(DEPLOYMENTS, "a", {"spec": {"replicas": 2}}, namespace=ns, subresource="scale")
        with pytest.raises(ConflictError, match=r"\.spec\.replicas"):
            await client.apply(DEPLOYMENTS, server.deployment(replicas=3), namespace=ns)
        kept = await client.apply(DEPLOYMENTS, server.deployment(), namespace=ns)
        assert kept["spec"]["replicas"] == 2  # an apply that says nothing of replicas leaves them alone
        await server.other.merge_patch(DEPLOYMENTS, "a", {"spec": {"replicas": 0}}, namespace=ns, subresource="scale")
        woken = await client.apply(DEPLOYMENTS, server.deployment(replicas=3), namespace=ns)
        assert woken["spec"]["replicas"] == 3

    run(body)


def test_lease_times_need_microseconds(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        lease: dict[str, Any] = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}}
        lease["spec"] = {"leaseDurationSeconds": 15}
        made = await client.create(LEASES, lease, namespace=ns)
        made["spec"] |= {"holderIdentity": "a", "renewTime": "2026-11-27T10:00:00.000000Z"}
        renewed = await client.replace(LEASES, "l", made, namespace=ns)
        assert renewed["spec"]["holderIdentity"] == "a"
        renewed["spec"]["renewTime"] = "2026-11-27T10:00:00Z"
        with pytest.raises(StatusError) as caught:
            await client.replace(LEASES, "l", renewed, namespace=ns)
        assert caught.value.code == 400

    run(body)


def test_deletion_waits_for_finalizers(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        held = server.config_map()
        held["metadata"]["finalizers"] = ["example.com/hold"]
        await client.create(CONFIG_MAPS, held, namespace=ns)
        await client.delete(CONFIG_MAPS, "a", namespace=ns)
        assert (await client.get(CONFIG_MAPS, "a", namespace=ns))["metadata"]["deletionTimestamp"]
        await client.merge_patch(CONFIG_MAPS, "a", {"metadata": {"finalizers": None}}, namespace=ns)
        assert await client.find(CONFIG_MAPS, "a", namespace=ns) is None

    run(body)


def test_deletion_of_another_object_of_the_same_name_is_refused(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        client, ns = server.client, server.namespace
        await client.create(CONFIG_MAPS, server.config_map(), namespace=ns)
        with pytest.raises(ConflictError):
            await client.delete(CONFIG_MAPS, "a", namespace=ns, uid=str(uuid.uuid4()))

    run(body)


def test_service_gets_the_servers_defaults(run: Callable[[Body], None]) -> None:
    async def body(server: Server) -> None:
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "a"},
            "spec": {"selector": {"app": "a"}, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
        }
        made = await server.client.apply(SERVICES, service, namespace=server.namespace)
        assert made["spec"]["type"] == "ClusterIP"

    run(body)


async def first_event(client: KubernetesClient) -> dict[str, Any]:
    async with client.watching(CONFIG_MAPS, resource_version="1", namespace="llm") as events:
        return await anext(events)


@pytest.mark.parametrize("serve", [fake_over_http, fake_in_memory])
def test_watch_from_a_version_no_longer_kept_says_gone(serve: Any) -> None:
    async def main() -> None:
        async with serve() as server:
            with pytest.raises(GoneError):
                await first_event(server.client)

    asyncio.run(main())
