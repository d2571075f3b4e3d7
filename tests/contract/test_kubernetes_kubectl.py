"""kubectl, which is nobody's of ours, takes the fake for an API server: an oracle of discovery, paths and `Status`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from lightship.testing.fake_kubernetes import FakeKubernetes, Rule, Workloads

KUBECTL = shutil.which("kubectl")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(KUBECTL is None, reason="NOT TESTED: kubectl is not installed"),
]
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "a"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "a"}},
        "template": {
            "metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "main", "image": "example.com/a:1"}]},
        },
    },
}


class Kubectl:
    """kubectl with a home of its own; each call gives (exit code, what it printed)."""

    def __init__(self, server: str, home: Path) -> None:
        self._server = server
        self._home = home

    async def __call__(self, *arguments: str, stdin: object = None) -> tuple[int, str]:
        assert KUBECTL is not None
        process = await asyncio.create_subprocess_exec(
            KUBECTL,
            f"--server={self._server}",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "HOME": str(self._home), "KUBECONFIG": os.devnull},
        )
        async with asyncio.timeout(60):
            output, _ = await process.communicate(json.dumps(stdin).encode())
        return process.returncode or 0, output.decode()

    async def apply(self, *arguments: str, stdin: object) -> tuple[int, str]:
        return await self("apply", "--server-side", "--validate=false", *arguments, "-f", "-", stdin=stdin)


def test_kubectl_applies_waits_scales_and_deletes(tmp_path: Path) -> None:
    async def main() -> None:
        fake = FakeKubernetes()
        Workloads(fake, becomes_ready=True)
        async with fake.serving() as access:
            kubectl = Kubectl(access.server, tmp_path)
            assert await kubectl.apply(stdin=DEPLOYMENT) == (0, "deployment.apps/a serverside-applied\n")
            code, text = await kubectl("rollout", "status", "deployment/a", "--timeout=20s")
            assert (code, text) == (0, 'deployment "a" successfully rolled out\n')
            assert (await kubectl("scale", "deployment/a", "--replicas=3"))[0] == 0
            code, text = await kubectl("get", "pods", "-l", "app=a", "-o", "name")
            assert (code, len(text.splitlines())) == (0, 3)
            assert (await kubectl("delete", "deployment", "a", "--wait=true", "--timeout=20s"))[0] == 0
            code, text = await kubectl("get", "deployment", "a")
            assert (code, text) == (1, 'Error from server (NotFound): deployments.apps "a" not found\n')

    asyncio.run(main())


def test_kubectl_understands_conflicts_unknown_fields_and_denials(tmp_path: Path) -> None:
    async def main() -> None:
        fake = FakeKubernetes()
        async with fake.serving() as access:
            kubectl = Kubectl(access.server, tmp_path)
            await kubectl.apply(stdin=DEPLOYMENT)
            other = {**DEPLOYMENT, "spec": {**DEPLOYMENT["spec"], "replicas": 5}}
            code, text = await kubectl.apply("--field-manager=lightship", stdin=other)
            assert code == 1
            assert 'Apply failed with 1 conflict: conflict with "kubectl" using apps/v1: .spec.replicas' in text
            wrong = {**DEPLOYMENT, "spec": {**DEPLOYMENT["spec"], "replicaz": 5}}
            code, text = await kubectl.apply(stdin=wrong)
            assert (code, ".spec.replicaz: field not declared in schema" in text) == (1, True)
            fake.rules = [Rule(("",), ("pods",), ("get",))]
            code, text = await kubectl("get", "pods")
            assert code == 1
            assert 'Error from server (Forbidden): pods is forbidden: User "system:anonymous" cannot list' in text

    asyncio.run(main())
