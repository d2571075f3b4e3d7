"""Applying to a fake cluster."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.deploy.apply.harness import Site, at_site, claim, config_map, deployment, manifest

from lightship.deploy.apply.options import ApplyError, RolloutError
from lightship.kubernetes.resources import CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, ApiResource
from lightship.testing.fake_kubernetes import Rule


def test_apply_goes_in_the_order_of_dependence_and_waits_until_it_serves() -> None:
    async def body(site: Site) -> None:
        service = manifest("Service", spec={"selector": {"app": "qwen"}, "ports": [{"port": 80, "protocol": "TCP"}]})
        account = manifest("ServiceAccount")
        result = await site.apply(deployment(replicas=2), service, claim(), config_map(key="1"), account)
        kinds = [key.kind for key in result.changes]
        assert kinds == ["ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "Service", "Deployment"]
        assert site.reports[-1] == "Deployment llm/qwen: created"
        assert len(site.workloads.pods("qwen")) == 2
        assert site.progress.titles == ["dry run", "apply", "wait for qwen"]

    at_site(body)


def test_apply_again_says_what_changed_and_what_did_not() -> None:
    async def body(site: Site) -> None:
        await site.apply(config_map("one", key="1"), config_map("two", key="1"))
        result = await site.apply(config_map("one", key="1"), config_map("two", key="2"))
        assert [str(change) for change in result.changes.values()] == ["unchanged", "changed"]

    at_site(body)


def test_apply_leaves_the_replicas_that_the_gateway_set() -> None:
    async def body(site: Site) -> None:
        await site.apply(deployment())
        await site.fake.client(clock=site.clock).merge_patch(
            DEPLOYMENTS, "qwen", {"spec": {"replicas": 0}}, namespace="llm", subresource="scale"
        )
        await site.apply(deployment(image="example.com/engine:2"))
        live = site.fake.find(DEPLOYMENTS, "qwen", namespace="llm")
        assert live is not None
        assert live["spec"]["replicas"] == 0
        assert live["spec"]["template"]["spec"]["containers"][0]["image"] == "example.com/engine:2"

    at_site(body)


def test_apply_unknown_fields_of_several_objects_are_told_together_and_nothing_is_changed() -> None:
    async def body(site: Site) -> None:
        wrong = manifest("Service", spec={"portz": []})
        with pytest.raises(ApplyError) as caught:
            await site.apply(config_map(key="1"), deployment(replicaz=1), wrong)
        text = str(caught.value)
        assert "2 objects were not accepted, and nothing was changed" in text
        assert "Deployment llm/qwen was not applied: this version of the cluster knows no field spec.replicaz" in text
        assert "Service llm/a was not applied: this version of the cluster knows no field spec.portz" in text
        assert site.names("ConfigMap") == []

    at_site(body)


def test_apply_conflict_names_the_owner_and_the_field_until_it_is_forced() -> None:
    async def body(site: Site) -> None:
        await site.apply(deployment())
        live = site.fake.find(DEPLOYMENTS, "qwen", namespace="llm")
        assert live is not None
        live["spec"]["minReadySeconds"] = 5
        site.fake.put(live, manager="kubectl-edit")
        with pytest.raises(ApplyError) as caught:
            await site.apply(deployment(minReadySeconds=9))
        assert ".spec.minReadySeconds belongs to kubectl-edit" in caught.value.what
        assert caught.value.hint is not None
        assert "--force-conflicts" in caught.value.hint
        result = await site.apply(deployment(minReadySeconds=9), forces_conflicts=True)
        assert [str(change) for change in result.changes.values()] == ["changed"]

    at_site(body)


def test_apply_missing_namespace_says_how_to_make_it_and_makes_it_when_asked() -> None:
    async def body(site: Site) -> None:
        with pytest.raises(ApplyError, match=r"namespace new does not exist.*--create-namespace"):
            await site.apply(config_map(), namespace="new")
        await site.apply(config_map(), namespace="new", creates_namespace=True)
        assert site.fake.find(NAMESPACES, "new") is not None
        assert site.fake.find(CONFIG_MAPS, "a", namespace="new") is not None

    at_site(body)


def test_apply_namespace_among_the_manifests_is_made_first() -> None:
    async def body(site: Site) -> None:
        await site.apply(config_map(), manifest("Namespace", "new"), namespace="new")
        assert site.fake.find(CONFIG_MAPS, "a", namespace="new") is not None
        assert site.fake.find(CONFIG_MAPS, "lightship-inventory-fairytales", namespace="new") is not None

    at_site(body)


def test_apply_kind_that_the_cluster_lacks_names_who_brings_it() -> None:
    async def body(site: Site) -> None:
        scaled = manifest("ScaledObject", api_version="keda.sh/v1alpha1", spec={})
        with pytest.raises(ApplyError, match=r"no kind ScaledObject in keda.sh/v1alpha1.*Install KEDA first"):
            await site.apply(config_map(), scaled)
        site.fake.register(ApiResource("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects"))
        await site.apply(config_map(), scaled)
        assert site.names("ScaledObject") == ["a"]

    at_site(body)


def test_apply_what_rbac_denies_names_verb_resource_and_rule() -> None:
    async def body(site: Site) -> None:
        site.fake.rules = [Rule(("",), ("*",), ("*",))]
        with pytest.raises(ApplyError) as caught:
            await site.apply(deployment())
        assert "you may not patch deployments in namespace llm" in caught.value.what
        assert caught.value.hint == (
            'Ask for a role with the rule {apiGroups: ["apps"], resources: [deployments], verbs: [patch]}.'
        )

    at_site(body)


def test_apply_changed_selector_says_that_it_cannot_be_changed_in_place() -> None:
    async def body(site: Site) -> None:
        await site.apply(deployment())
        changed = deployment()
        changed["spec"]["selector"] = {"matchLabels": {"app": "b"}}
        changed["spec"]["template"]["metadata"]["labels"] = {"app": "b"}
        with pytest.raises(ApplyError, match=r"spec.selector: field is immutable.*delete the object"):
            await site.apply(changed)

    at_site(body)


def test_apply_server_that_does_not_answer_is_told() -> None:
    async def body(site: Site) -> None:
        site.fake.is_down = True
        with pytest.raises(ApplyError, match="the API server does not answer"):
            await site.apply(config_map())

    at_site(body)


def test_apply_manifest_without_our_label_or_twice_is_refused_before_anything() -> None:
    async def body(site: Site) -> None:
        bare = config_map()
        del bare["metadata"]["labels"]
        with pytest.raises(ApplyError, match="does not carry the label"):
            await site.apply(bare)
        with pytest.raises(ApplyError, match="ConfigMap llm/a is there twice"):
            await site.apply(config_map(), config_map())
        with pytest.raises(ApplyError, match="manifest 1: it has no apiVersion"):
            await site.apply({"kind": "ConfigMap"})
        assert site.fake.calls == []

    at_site(body)


def test_apply_left_over_objects_are_told_and_deleted_only_when_pruned() -> None:
    async def body(site: Site) -> None:
        await site.apply(config_map("one"), config_map("two"), claim())
        site.fake.put({**config_map("foreign"), "metadata": {"name": "foreign", "namespace": "llm"}})
        result = await site.apply(config_map("one"))
        assert [str(key) for key in result.left_over] == ["PersistentVolumeClaim llm/models", "ConfigMap llm/two"]
        assert site.names("ConfigMap") == ["one", "two", "foreign"]
        result = await site.apply(config_map("one"), prunes=True)
        assert [str(key) for key in result.pruned] == ["ConfigMap llm/two"]
        assert [str(key) for key in result.left_over] == ["PersistentVolumeClaim llm/models"]
        assert site.names("ConfigMap") == ["one", "foreign"]
        result = await site.apply(config_map("one"), prunes=True, prunes_volumes=True)
        assert [str(key) for key in result.pruned] == ["PersistentVolumeClaim llm/models"]
        assert (await site.apply(config_map("one"))).left_over == []

    at_site(body)


def test_apply_interrupted_leaves_an_inventory_that_names_what_is_there() -> None:
    async def body(site: Site) -> None:
        await site.apply(config_map("old"))
        site.fake.fail(1, status=500, when=lambda r: r.path.endswith("/two") and ("dryRun", "All") not in r.query)
        with pytest.raises(ApplyError, match="ConfigMap llm/two was not applied"):
            await site.apply(config_map("one"), config_map("two"))
        result = await site.apply(config_map("two"), prunes=True)
        assert sorted(key.name for key in result.pruned) == ["old", "one"]

    at_site(body)


def test_wait_image_that_cannot_be_pulled_ends_it_with_events_after_the_patience() -> None:
    async def body(site: Site) -> None:
        site.workloads.becomes_ready = False
        waiting = asyncio.create_task(site.apply(deployment()))
        await asyncio.sleep(5)
        [pod] = [one["metadata"]["name"] for one in site.workloads.pods("qwen")]
        site.workloads.fail_pull(pod, message="manifest unknown")
        site.workloads.post_event(pod, reason="Failed", message='Failed to pull image "example.com/engine:1"')
        site.workloads.post_event(pod, reason="Pulling", message="Pulling image", is_warning=False)
        started_s = site.clock.monotonic_s()
        with pytest.raises(RolloutError) as caught:
            await waiting
        assert 59 <= site.clock.monotonic_s() - started_s <= 62
        text = caught.value.what
        assert f"Pod {pod}: its image cannot be pulled (ImagePullBackOff): manifest unknown" in text
        assert 'event Failed: Failed to pull image "example.com/engine:1"' in text
        assert "Pulling image" not in text

    at_site(body)


def test_wait_crash_loop_shows_the_last_lines_of_the_log() -> None:
    async def body(site: Site) -> None:
        site.workloads.becomes_ready = False
        waiting = asyncio.create_task(site.apply(deployment(), patience_s=10.0))
        await asyncio.sleep(1)
        [pod] = [one["metadata"]["name"] for one in site.workloads.pods("qwen")]
        site.workloads.crash(pod, exit_code=1, log="loading\nValueError: no such model\n")
        with pytest.raises(RolloutError) as caught:
            await waiting
        assert "3 restarts, the last time with exit code 1" in caught.value.what
        assert "    log: ValueError: no such model" in caught.value.what

    at_site(body)


def test_wait_pod_that_found_no_node_is_waited_for_until_the_limit() -> None:
    async def body(site: Site) -> None:
        site.workloads.becomes_ready = False
        waiting = asyncio.create_task(site.apply(deployment(), wait_limit_s=300.0))
        await asyncio.sleep(1)
        [pod] = [one["metadata"]["name"] for one in site.workloads.pods("qwen")]
        site.workloads.refuse_schedule(pod)
        await asyncio.sleep(200)  # a node may be added
        assert not waiting.done()
        with pytest.raises(RolloutError, match=r"not ready after 300 s(.|\n)*3 Insufficient cpu"):
            await waiting

    at_site(body)


def test_wait_ends_by_the_deployments_own_deadline() -> None:
    async def body(site: Site) -> None:
        site.workloads.becomes_ready = False
        waiting = asyncio.create_task(site.apply(deployment()))
        await asyncio.sleep(1)
        site.workloads.say_progress_failed("qwen")
        with pytest.raises(RolloutError, match="has timed out progressing"):
            await waiting

    at_site(body)


def test_wait_server_that_is_away_for_a_while_is_waited_for() -> None:
    async def body(site: Site) -> None:
        site.workloads.becomes_ready = False
        waiting = asyncio.create_task(site.apply(deployment()))
        await asyncio.sleep(2)
        site.fake.is_down = True
        await asyncio.sleep(60)
        assert not waiting.done()
        site.fake.is_down = False
        site.workloads.make_all_ready("qwen")
        await waiting

    at_site(body)


def test_wait_rolling_update_ends_when_the_old_pods_are_replaced() -> None:
    async def body(site: Site) -> None:
        await site.apply(deployment(replicas=2))
        site.workloads.becomes_ready = False
        waiting = asyncio.create_task(site.apply(deployment(replicas=2, image="example.com/engine:2")))
        await asyncio.sleep(10)
        assert not waiting.done()
        site.workloads.make_all_ready("qwen")
        await waiting
        live = [pod for pod in site.workloads.pods("qwen") if "deletionTimestamp" not in pod["metadata"]]
        assert [pod["spec"]["containers"][0]["image"] for pod in live] == ["example.com/engine:2"] * 2

    at_site(body)
