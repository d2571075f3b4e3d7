"""A controller with everything it needs, for one gateway process in a Pod."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec

from lightship.gateway.cluster.config import ClusterConfig
from lightship.gateway.cluster.controller import ClusterController, OnReplicas
from lightship.gateway.cluster.peers import LocalLoads, MetricsReader
from lightship.gateway.cluster.scaler import ScaleFunction
from lightship.kubernetes.access import ClusterAccess
from lightship.kubernetes.client import client_of
from lightship.ports.clock import Clock


@asynccontextmanager
async def open_controller(
    access: ClusterAccess,
    config: ClusterConfig,
    *,
    environment: Mapping[str, str],
    scale: ScaleFunction,
    clock: Clock,
    local_loads: LocalLoads | None = None,
    on_replicas: OnReplicas | None = None,
) -> AsyncIterator[ClusterController]:
    """A controller that runs until the block ends, when the Lease is let go of.

    Args:
        access: The way to the API server (`in_cluster_access`, or `kubeconfig_access` outside).
        config: See `ClusterConfig`; without a namespace, the access's is taken.
        environment: Of the process: the Pod's name is in `POD_NAME`, else in `HOSTNAME`, as Kubernetes sets it.
        scale: Decides on the replicas of one rung.
        clock: Time.
        local_loads: See `ClusterController`: None where several processes serve in one Pod.
        on_replicas: See `ClusterController`.
    """
    config = msgspec.structs.replace(config, namespace=config.namespace or access.namespace)
    pod_name = environment.get("POD_NAME") or environment.get("HOSTNAME") or "gateway"
    async with (
        MetricsReader(limit_s=config.peer_limit_s) as read,
        client_of(access, clock=clock, limit_s=config.request_limit_s) as client,
    ):
        controller = ClusterController(
            client,
            config,
            pod_name=pod_name,
            # Another process of the same Pod, or the Pod's next container, is another candidate.
            identity=f"{pod_name}_{secrets.token_hex(4)}",
            scale=scale,
            clock=clock,
            read_metrics=read,
            local_loads=local_loads,
            on_replicas=on_replicas,
        )
        async with controller.running():
            yield controller
