"""What an apply would change."""

from __future__ import annotations

import base64

import pytest
from tests.unit.deploy.apply.harness import Site, at_site, config_map, deployment, manifest

from lightship.deploy.apply.options import ApplyError
from lightship.kubernetes.resources import DEPLOYMENTS


def test_diff_of_what_is_applied_is_empty_though_the_server_filled_in_defaults() -> None:
    async def body(site: Site) -> None:
        manifests = deployment(replicas=1), config_map(key="1")
        await site.apply(*manifests)
        version = site.fake.store.version
        found = await site.diff(*manifests)
        assert (found.objects, found.left_over, found.exit_code) == ((), (), 0)
        assert site.fake.store.version == version  # nothing was written

    at_site(body)


def test_diff_shows_new_and_changed_objects_line_by_line() -> None:
    async def body(site: Site) -> None:
        await site.apply(config_map("one", key="1"))
        found = await site.diff(config_map("one", key="2"), config_map("two", key="1"))
        assert found.exit_code == 1
        changed, new = found.objects
        assert "-  key: '1'\n+  key: '2'\n" in changed.text
        assert changed.text.startswith("--- ConfigMap llm/one (live)\n+++ ConfigMap llm/one (rendered)\n")
        assert "+kind: ConfigMap\n" in new.text
        assert "uid" not in new.text
        assert "managedFields" not in changed.text

    at_site(body)


def test_diff_never_shows_a_secret_but_that_it_changes() -> None:
    async def body(site: Site) -> None:
        old, new = (base64.b64encode(text).decode() for text in (b"old-password", b"new-password"))
        await site.apply(manifest("Secret", data={"key": old, "same": old}))
        found = await site.diff(manifest("Secret", data={"key": new, "same": old}))
        [secret] = found.objects
        assert "-  key: '*** (before)'\n+  key: '*** (after)'\n" in secret.text
        assert old not in secret.text
        assert new not in secret.text

    at_site(body)


def test_diff_lists_what_is_left_over() -> None:
    async def body(site: Site) -> None:
        await site.apply(config_map("one"), config_map("two"))
        found = await site.diff(config_map("one"))
        assert ([str(key) for key in found.left_over], found.exit_code) == (["ConfigMap llm/two"], 1)

    at_site(body)


def test_diff_with_somebody_elses_fields_shows_the_change_and_the_conflict() -> None:
    async def body(site: Site) -> None:
        await site.apply(deployment())
        live = site.fake.find(DEPLOYMENTS, "qwen", namespace="llm")
        assert live is not None
        live["spec"]["minReadySeconds"] = 5
        site.fake.put(live, manager="kubectl-edit")
        [found] = (await site.diff(deployment(minReadySeconds=9))).objects
        assert "-  minReadySeconds: 5\n+  minReadySeconds: 9\n" in found.text
        assert ".spec.minReadySeconds belongs to kubectl-edit" in found.conflict

    at_site(body)


def test_diff_in_a_namespace_that_will_be_made_shows_everything_as_new() -> None:
    async def body(site: Site) -> None:
        found = await site.diff(config_map(key="1"), namespace="new")
        assert "+  key: '1'" in found.objects[0].text

    at_site(body)


def test_diff_of_what_the_server_would_refuse_is_an_error() -> None:
    async def body(site: Site) -> None:
        with pytest.raises(ApplyError, match=r"knows no field spec\.replicaz"):
            await site.diff(deployment(replicaz=1))

    at_site(body)
