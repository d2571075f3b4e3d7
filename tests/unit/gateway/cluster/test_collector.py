"""What `/metrics` says of a controller."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, generate_latest
from tests.unit.gateway.cluster.harness import DEPLOYMENT, Cluster, in_cluster, until

from lightship.gateway.cluster.collector import ClusterCollector


def test_collector_tells_leadership_replicas_scalings_and_errors() -> None:
    async def body(cluster: Cluster) -> None:
        gateway = await cluster.join("gw-1")
        registry = CollectorRegistry()
        registry.register(ClusterCollector(gateway.controller, cluster.clock))
        assert "lightship_cluster_data_age_seconds -1.0" in generate_latest(registry).decode()
        gateway.in_flight = 15
        await until(lambda: cluster.replicas == 2, within_s=3)
        cluster.workloads.make_ready(cluster.pod_names()[0])
        await asyncio.sleep(0.1)
        text = generate_latest(registry).decode()
        labels = 'model="qwen",phase="{}",rung="0"'
        assert "lightship_cluster_leader 1.0" in text
        assert f"lightship_cluster_replicas{{{labels.format('ready')}}} 1.0" in text
        assert f"lightship_cluster_replicas{{{labels.format('starting')}}} 1.0" in text
        assert f"lightship_cluster_replicas{{{labels.format('wanted')}}} 2.0" in text
        assert 'lightship_cluster_scalings_total{model="qwen",reason="wake",rung="0"} 1.0' in text
        assert 'lightship_cluster_frozen{model="qwen",rung="0"} 0.0' in text
        assert "lightship_cluster_data_age_seconds 0.0" in text
        cluster.fake.fail(1, status=500, when=lambda request: request.method == "PUT")
        gateway.is_readable = False
        await asyncio.sleep(5)
        text = generate_latest(registry).decode()
        assert 'lightship_cluster_api_errors_total{reason="server-error"} 1.0' in text
        assert 'lightship_cluster_frozen{model="qwen",rung="0"} 1.0' in text
        assert cluster.workloads.pods(DEPLOYMENT)

    in_cluster(body)
