"""Pods as replicas to route to.

Read from Pods and not from EndpointSlices: a Pod says the same things, says them first (slices are made from Pods), and
says why it is not ready; one watch serves routing and scaling.
"""

from __future__ import annotations

from collections.abc import Iterable

from lightship.gateway.cluster.config import ClusterConfig, PoolConfig
from lightship.gateway.config import ReplicaConfig
from lightship.kubernetes.pods import belongs, pod_state
from lightship.kubernetes.resources import JsonObject
from lightship.ports.replica_control import ReplicaPhase


def replicas_of(pods: Iterable[JsonObject], config: ClusterConfig) -> list[ReplicaConfig]:
    """The replicas that take requests: Pods that are ready, have an address and are not on their way out.

    In the order of the pools, then of the Pods' names, so that equal Pods give equal lists.
    """
    known = sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))
    return [
        _replica(pod, pool)
        for pool in config.pools
        for pod in known
        if belongs(pod, pool.selector) and _takes_requests(pod)
    ]


def _takes_requests(pod: JsonObject) -> bool:
    state = pod_state(pod)
    return state.phase is ReplicaPhase.READY and bool(state.ip)


def _replica(pod: JsonObject, pool: PoolConfig) -> ReplicaConfig:
    ip = pod["status"]["podIP"]
    return ReplicaConfig(
        name=pod["metadata"]["name"],
        base_url=f"http://[{ip}]:{pool.port}" if ":" in ip else f"http://{ip}:{pool.port}",
        model_name=pool.model_name,
        variant_name=pool.variant_name,
        variant_digest=pool.variant_digest,
        rung=pool.rung,
        context_length=pool.context_length,
        served_model=pool.served_model,
        max_concurrency=pool.max_concurrency,
        prefill_tokens_per_s=pool.prefill_tokens_per_s,
        decode_tokens_per_s=pool.decode_tokens_per_s,
    )
