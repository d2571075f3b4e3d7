"""`lightship deploy --apply`, `diff` and `delete` as users run them, against an API server of ours over HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import yaml

from lightship.cli.main import main
from lightship.kubernetes.resources import DEPLOYMENTS, LEASES
from lightship.testing.fake_kubernetes import FakeKubernetes, Workloads

NAMESPACE = "llm"
SPEC = "replicas: {min: 0, max: 2}\ndeploy: {kubernetes: {namespace: llm}}\n"


class Cluster:
    """A fake API server in a thread of its own, and a kubeconfig that leads to it."""

    def __init__(self, folder: Path) -> None:
        self.fake = FakeKubernetes()
        self.kubeconfig = folder / "kubeconfig"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def start(self) -> None:
        self._thread.start()
        self._resources = AsyncExitStack()
        access = asyncio.run_coroutine_threadsafe(
            self._resources.enter_async_context(self.fake.serving()), self._loop
        ).result(20)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "fake", "user": "me"}}],
            "clusters": [{"name": "fake", "cluster": {"server": access.server}}],
            "users": [{"name": "me", "user": {"token": "t"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._resources.aclose(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    def add_namespace(self) -> None:
        self.fake.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        Workloads(self.fake, namespace=NAMESPACE, becomes_ready=True)


@pytest.fixture
def cluster(deploy_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    monkeypatch.setenv("LIGHTSHIP_HOME", str(deploy_home))
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)
    one = Cluster(tmp_path)
    one.start()
    monkeypatch.setenv("KUBECONFIG", str(one.kubeconfig))
    yield one
    one.stop()


def test_deploy_apply_diff_delete_each_in_its_turn(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.add_namespace()
    assert main(["deploy", "diff", "spec.yaml"]) == 1
    assert "fairytales-gateway" in capsys.readouterr().out
    assert main(["deploy", "kubernetes", "spec.yaml", "--apply"]) == 0
    applied = capsys.readouterr().out
    assert "Deployment" in applied
    assert cluster.fake.find(DEPLOYMENTS, "fairytales-gateway", namespace=NAMESPACE) is not None
    assert cluster.fake.find(LEASES, "fairytales-scaler", namespace=NAMESPACE) is not None
    assert main(["deploy", "diff", "spec.yaml"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["deploy", "diff", "spec.yaml", "--set", "gateway.drain_timeout_s=60"]) == 1
    assert main(["deploy", "delete", "spec.yaml"]) == 0
    assert cluster.fake.find(DEPLOYMENTS, "fairytales-gateway", namespace=NAMESPACE) is None
    assert cluster.fake.find(LEASES, "fairytales-scaler", namespace=NAMESPACE) is None


def test_deploy_apply_into_a_missing_namespace_says_how_to_make_it(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", "kubernetes", "spec.yaml", "--apply"]) == 7
    told = capsys.readouterr().err
    assert "--create-namespace" in told
    assert "Traceback" not in told
    assert cluster.fake.find(DEPLOYMENTS, "fairytales-gateway", namespace=NAMESPACE) is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["deploy", "compose", "spec.yaml", "--apply"], "compose is no cluster"),
        (["deploy", "kubernetes", "spec.yaml", "-o", "out", "--prune"], "--prune"),
        (["deploy", "kubernetes", "spec.yaml", "--apply", "--context", "nowhere"], "there is no context 'nowhere'"),
        (["deploy", "diff", "spec.yaml", "--kubeconfig", "missing"], "there is no kubeconfig"),
    ],
)
def test_deploy_cluster_options_that_cannot_be_are_one_message(
    arguments: list[str], told: str, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert told in output.err
    assert "Traceback" not in output.err
