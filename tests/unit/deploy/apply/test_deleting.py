"""Taking a deployment away."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.deploy.apply.harness import Site, at_site, claim, config_map, deployment, manifest

from lightship.deploy.apply.options import ApplyError
from lightship.kubernetes.resources import CONFIG_MAPS, DEPLOYMENTS, NAMESPACES


def test_delete_takes_what_is_ours_in_reverse_order_and_keeps_volumes_and_namespaces() -> None:
    async def body(site: Site) -> None:
        manifests = manifest("Namespace", "llm"), config_map(), claim(), deployment(replicas=0)
        await site.apply(*manifests)
        result = await site.delete(*manifests)
        assert [key.kind for key in result.deleted] == ["Deployment", "ConfigMap"]
        assert [key.kind for key in result.kept] == ["PersistentVolumeClaim", "Namespace"]
        assert site.names("PersistentVolumeClaim") == ["models"]
        assert site.fake.find(NAMESPACES, "llm") is not None
        result = await site.delete(*manifests, deletes_volumes=True, deletes_namespace=True)
        assert [key.kind for key in result.deleted] == ["PersistentVolumeClaim", "Namespace"]
        assert site.fake.find(NAMESPACES, "llm") is None

    at_site(body)


def test_delete_leaves_alone_what_is_not_labelled_as_ours() -> None:
    async def body(site: Site) -> None:
        await site.apply(config_map("one"))
        site.fake.put({**config_map("two"), "metadata": {"name": "two", "namespace": "llm"}})
        result = await site.delete(config_map("one"), config_map("two"))
        assert [key.name for key in result.deleted] == ["one"]
        assert site.names("ConfigMap") == ["two"]

    at_site(body)


def test_delete_takes_what_former_applies_made_and_the_inventory_itself() -> None:
    async def body(site: Site) -> None:
        await site.apply(config_map("one"), config_map("two"))
        await site.apply(config_map("one"))
        await site.delete(config_map("one"))
        assert site.names("ConfigMap") == []
        assert site.fake.find(CONFIG_MAPS, "lightship-inventory-fairytales", namespace="llm") is None

    at_site(body)


def test_delete_waits_until_finalizers_let_go() -> None:
    async def body(site: Site) -> None:
        held = deployment(replicas=0)
        held["metadata"]["finalizers"] = ["example.com/hold"]
        await site.apply(held)
        deleting = asyncio.create_task(site.delete(held))
        await asyncio.sleep(30)
        assert not deleting.done()
        live = site.fake.find(DEPLOYMENTS, "qwen", namespace="llm")
        assert live is not None
        site.fake.remove(DEPLOYMENTS, "qwen", namespace="llm")
        await deleting

    at_site(body)


def test_delete_that_does_not_end_names_what_is_still_there() -> None:
    async def body(site: Site) -> None:
        held = config_map()
        held["metadata"]["finalizers"] = ["example.com/hold"]
        await site.apply(held)
        with pytest.raises(ApplyError, match=r"after 20 s these are still there: ConfigMap llm/a.*finalizers"):
            await site.delete(held, wait_limit_s=20.0)

    at_site(body)


def test_delete_of_nothing_is_no_error() -> None:
    async def body(site: Site) -> None:
        result = await site.delete(config_map(), manifest("ScaledObject", api_version="keda.sh/v1alpha1"))
        assert (result.deleted, result.kept) == ([], {})

    at_site(body)
