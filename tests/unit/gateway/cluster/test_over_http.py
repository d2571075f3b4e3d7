"""A wake from zero over real sockets: a follower's metrics, the leader, the API server, the list of replicas."""

from __future__ import annotations

import asyncio
import dataclasses

import msgspec
from tests.unit.gateway.cluster.harness import CONFIG, DEPLOYMENT, MODEL, NAMESPACE, scale_by_demand, until

from lightship.gateway.cluster.opening import open_controller
from lightship.gateway.config import ReplicaConfig
from lightship.kubernetes.resources import DEPLOYMENTS, LEASES
from lightship.ports.clock import SystemClock
from lightship.ports.replica_control import ReplicaPhase, RungLoad
from lightship.testing.fake_engine import FakeReply
from lightship.testing.fake_kubernetes import FakeKubernetes, Workloads
from lightship.testing.fake_upstream import FakeUpstream

CLOCK = SystemClock()


def exposition(held: int) -> bytes:
    counts = {"held": held, "queued": 0, "in_flight": 0}
    lines = [f'lightship_rung_{name}_requests{{model="{MODEL}",rung="0"}} {count}\n' for name, count in counts.items()]
    return "".join(lines).encode()


def fake_cluster() -> FakeKubernetes:
    fake = FakeKubernetes()
    fake.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    Workloads(fake, namespace=NAMESPACE, becomes_ready=True)
    labels = {"app": DEPLOYMENT}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": DEPLOYMENT, "namespace": NAMESPACE}
    fake.put({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
    gateway = {"name": "gw-2", "namespace": NAMESPACE, "labels": {"app": "gateway"}}
    owner = {"ownerReferences": [{"name": "gateway-x", "uid": "0"}]}
    status = {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
    fake.put({"apiVersion": "v1", "kind": "Pod", "metadata": gateway | owner, "status": status})
    return fake


def test_wake_over_http_is_routed_to_within_a_second() -> None:
    async def main() -> float:
        fake, follower = fake_cluster(), FakeUpstream(lambda _: FakeReply())
        follower.metrics = exposition(held=0)
        routed = asyncio.Queue[list[ReplicaConfig]]()
        async with fake.serving() as access, follower.serving():
            config = msgspec.structs.replace(
                CONFIG, namespace="", gateway_port=int(follower.base_url.rpartition(":")[2])
            )
            async with (
                open_controller(
                    dataclasses.replace(access, namespace=NAMESPACE),
                    config,
                    environment={"HOSTNAME": "gw-1"},
                    scale=scale_by_demand,
                    clock=CLOCK,
                    local_loads=lambda: [RungLoad(served_model=MODEL, rung=0)],
                    on_replicas=routed.put,
                ) as controller,
                asyncio.timeout(20),
            ):
                assert await routed.get() == []
                await until(lambda: controller.decisions.last(DEPLOYMENT) is not None, within_s=5, step_s=0.01)
                held_s = CLOCK.monotonic_s()
                follower.metrics = exposition(held=1)
                [replica] = await routed.get()
                lasted_s = CLOCK.monotonic_s() - held_s
                assert controller.status(MODEL, 0).phase is ReplicaPhase.READY
                assert replica.base_url.startswith("http://10.0.0.")
            lease = fake.find(LEASES, "lightship-scaler", namespace=NAMESPACE)
            assert lease is not None
            assert lease["spec"]["holderIdentity"] == ""  # let go of
            deployment = fake.find(DEPLOYMENTS, DEPLOYMENT, namespace=NAMESPACE)
            assert deployment is not None
            assert deployment["spec"]["replicas"] == 1
        return lasted_s

    assert asyncio.run(main()) <= 1.0
