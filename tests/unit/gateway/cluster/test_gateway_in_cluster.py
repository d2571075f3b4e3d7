"""A whole gateway in a cluster: a request for a model without Pods is held, wakes it, and is answered by its Pod."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable

import msgspec
from tests.unit.gateway.cluster.harness import CONFIG, DEPLOYMENT, MODEL, NAMESPACE, POOL

from lightship.gateway.activation.config import ActivationConfig
from lightship.gateway.config import GatewayConfig, ReplicaConfig, config_problems
from lightship.gateway.runtime import RunningGateway, reloadable_gateway
from lightship.kubernetes.resources import DEPLOYMENTS
from lightship.ports.clock import SystemClock
from lightship.testing.asgi_client import AsgiClient
from lightship.testing.fake_engine import always, stream_reply
from lightship.testing.fake_kubernetes import FakeKubernetes, Workloads
from lightship.testing.fake_upstream import FakeUpstream

CLOCK = SystemClock()


def fake_cluster(*deployments: str) -> FakeKubernetes:
    fake = FakeKubernetes()
    fake.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    Workloads(fake, namespace=NAMESPACE, becomes_ready=True, ip_of=lambda number: "127.0.0.1")
    for name in deployments or (DEPLOYMENT,):
        labels = {"app": name}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main"}]}}
        spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
        metadata = {"name": name, "namespace": NAMESPACE}
        fake.put({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
    return fake


def replicas(fake: FakeKubernetes, name: str) -> int:
    deployment = fake.find(DEPLOYMENTS, name, namespace=NAMESPACE)
    assert deployment is not None
    return int(deployment["spec"]["replicas"])


def gateway_config(engine_port: int, **changes: object) -> GatewayConfig:
    pool = msgspec.structs.replace(POOL, port=engine_port)
    cluster = msgspec.structs.replace(CONFIG, pools=(pool,))
    config = GatewayConfig(model_name=MODEL, replicas=(), cluster=cluster, activation=ActivationConfig(hold_s=15.0))
    return msgspec.structs.replace(config, **changes)


async def ask(gateway: RunningGateway, model: str = MODEL) -> AsgiClient:
    client = AsgiClient(body=json.dumps({"model": model, "stream": True}).encode())
    await client.run(gateway.app)
    return client


def test_gateway_request_for_a_model_without_pods_wakes_it_and_is_answered_by_its_pod() -> None:
    async def main() -> None:
        fake, engine = fake_cluster(), FakeUpstream(always(stream_reply("a")))
        async with fake.serving() as server, engine.serving(), asyncio.timeout(30):
            access = dataclasses.replace(server, namespace=NAMESPACE)
            config = gateway_config(int(engine.base_url.rpartition(":")[2]))
            async with reloadable_gateway(config, environment={"HOSTNAME": "gw-1"}, access=access) as gateway:
                ready = AsgiClient(method="GET", path="/health/ready")
                await ready.run(gateway.app)
                woken = await ask(gateway)
                warm = await ask(gateway)
                unknown = await ask(gateway, "nobody")
        assert ready.status == 200, "a gateway whose models sleep takes requests"
        assert (woken.status, woken.text) == (200, stream_reply("a").body)
        assert woken.reply_headers["x-cold-start"] == "true"
        assert "x-cold-start" not in warm.reply_headers
        assert unknown.status == 404
        assert replicas(fake, DEPLOYMENT) == 1

    asyncio.run(main())


def test_gateway_lower_rung_wakes_with_its_ladder_and_sleeps_with_it() -> None:
    lower = "qwen-int4"

    async def main() -> None:
        fake, engine = fake_cluster(DEPLOYMENT, lower), FakeUpstream(always(stream_reply("a")))
        async with fake.serving() as server, engine.serving(), asyncio.timeout(60):
            access = dataclasses.replace(server, namespace=NAMESPACE)
            config = gateway_config(int(engine.base_url.rpartition(":")[2]))
            assert config.cluster is not None
            top = msgspec.structs.replace(
                config.cluster.pools[0], policy=msgspec.structs.replace(POOL.policy, idle_after_s=2.0)
            )
            below = msgspec.structs.replace(top, rung=1, deployment=lower, selector={"app": lower}, variant_name="int4")
            cluster = msgspec.structs.replace(config.cluster, pools=(top, below), interval_s=0.1)
            config = msgspec.structs.replace(config, cluster=cluster)
            async with reloadable_gateway(config, environment={"HOSTNAME": "gw-1"}, access=access) as gateway:
                assert (await ask(gateway)).status == 200
                awake = await until(lambda: replicas(fake, lower) == 1)
                asleep = await until(lambda: (replicas(fake, DEPLOYMENT), replicas(fake, lower)) == (0, 0))
        assert awake
        assert asleep

    asyncio.run(main())


async def until(is_so: Callable[[], bool]) -> bool:
    """Whether it became so within twenty seconds."""
    end_s = CLOCK.monotonic_s() + 20
    while not is_so() and CLOCK.monotonic_s() < end_s:
        await CLOCK.sleep(0.02)
    return is_so()


def test_gateway_models_are_listed_whether_they_have_pods_or_not() -> None:
    async def main() -> None:
        fake = fake_cluster()
        async with fake.serving() as server, asyncio.timeout(30):
            access = dataclasses.replace(server, namespace=NAMESPACE)
            async with reloadable_gateway(gateway_config(1), environment={}, access=access) as gateway:
                client = AsgiClient(method="GET", path="/v1/models")
                await client.run(gateway.app)
        assert [card["id"] for card in json.loads(client.text)["data"]] == [MODEL, f"{MODEL}@int8"]

    asyncio.run(main())


def test_gateway_reload_keeps_the_replicas_that_the_cluster_found() -> None:
    async def main() -> None:
        fake, engine = fake_cluster(), FakeUpstream(always(stream_reply("a")))
        async with fake.serving() as server, engine.serving(), asyncio.timeout(30):
            access = dataclasses.replace(server, namespace=NAMESPACE)
            config = gateway_config(int(engine.base_url.rpartition(":")[2]))
            async with reloadable_gateway(config, environment={"HOSTNAME": "gw-1"}, access=access) as gateway:
                await ask(gateway)
                before = [one.config.name for one in gateway.pool]
                await gateway.apply(msgspec.structs.replace(config, max_attempts=1))
                after = [one.config.name for one in gateway.pool]
                answer = await ask(gateway)
        assert len(before) == 1
        assert after == before
        assert answer.status == 200

    asyncio.run(main())


def test_config_without_replicas_is_accepted_where_a_cluster_has_them() -> None:
    assert list(config_problems(gateway_config(8000))) == []
    alone = gateway_config(8000, cluster=None)
    assert "replicas: must name at least one replica" in list(config_problems(alone))


def test_config_supervisor_and_cluster_at_once_is_a_problem() -> None:
    both = gateway_config(8000, activation=ActivationConfig(control_socket="/s"))
    assert any("not by both" in problem for problem in config_problems(both))


def test_declared_names_a_rung_once_whether_it_runs_or_not() -> None:
    pod = ReplicaConfig(
        name="pod-1", base_url="http://10.0.0.1:8000", model_name="m", variant_name="int8", served_model=MODEL
    )
    assert [one.name for one in gateway_config(8000).declared] == [DEPLOYMENT]
    assert [one.name for one in gateway_config(8000, replicas=(pod,)).declared] == ["pod-1"]
