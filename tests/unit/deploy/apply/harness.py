"""Manifests and a fake cluster in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from lightship.deploy.apply.applying import ApplyResult, apply_manifests
from lightship.deploy.apply.deleting import DeleteResult, delete_manifests
from lightship.deploy.apply.diffing import SetDiff, diff_manifests
from lightship.deploy.apply.options import ApplyOptions, DeleteOptions
from lightship.kubernetes.client import KubernetesClient
from lightship.testing.fake_kubernetes import FakeKubernetes, Workloads
from lightship.testing.recording_progress import RecordingProgress
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

LABELS = {"app.kubernetes.io/managed-by": "lightship"}


def manifest(kind: str, name: str = "a", *, api_version: str = "v1", **fields: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "labels": dict(LABELS)}, **fields}


def config_map(name: str = "a", **data: str) -> dict[str, Any]:
    return manifest("ConfigMap", name, data=data)


def claim(name: str = "models") -> dict[str, Any]:
    return manifest("PersistentVolumeClaim", name, spec={"accessModes": ["ReadWriteMany"]})


def deployment(name: str = "qwen", *, image: str = "example.com/engine:1", **spec: Any) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": image}]}}
    return manifest(
        "Deployment",
        name,
        api_version="apps/v1",
        spec={"selector": {"matchLabels": labels}, "template": template, **spec},
    )


class Site:
    """A cluster with the namespace `llm`, somebody who applies to it, and what was reported."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.fake = FakeKubernetes(clock=self.clock)
        self.fake.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "llm"}})
        self.workloads = Workloads(self.fake, namespace="llm", becomes_ready=True)
        self.client: KubernetesClient = self.fake.client(clock=self.clock)
        self.reports: list[str] = []
        self.progress = RecordingProgress()

    async def apply(self, *manifests: dict[str, Any], **options: Any) -> ApplyResult:
        return await apply_manifests(
            self.client,
            manifests,
            options=ApplyOptions(**{"set_name": "fairytales", "namespace": "llm", **options}),
            clock=self.clock,
            progress=self.progress,
            report=self.reports.append,
        )

    async def diff(self, *manifests: dict[str, Any], namespace: str = "llm") -> SetDiff:
        return await diff_manifests(self.client, manifests, set_name="fairytales", namespace=namespace)

    async def delete(self, *manifests: dict[str, Any], **options: Any) -> DeleteResult:
        return await delete_manifests(
            self.client,
            manifests,
            options=DeleteOptions(**{"set_name": "fairytales", "namespace": "llm", **options}),
            clock=self.clock,
            progress=self.progress,
            report=self.reports.append,
        )

    def names(self, kind: str) -> list[str]:
        """Those of a kind in the namespace, inventories left out."""
        return [
            record.obj["metadata"]["name"]
            for (resource, namespace, _), record in self.fake.store.records.items()
            if resource.kind == kind and namespace == "llm" and "inventory" not in record.obj["metadata"]["name"]
        ]


def at_site(body: Callable[[Site], Awaitable[None]]) -> None:
    """Runs a test in virtual time."""

    async def main() -> None:
        await body(Site())

    run_in_virtual_time(main())
