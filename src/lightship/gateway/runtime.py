"""Puts a gateway together from its configuration, and takes it apart again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from lightship.engines.remote import RemoteEngine, upstream_session
from lightship.gateway.app import GatewayApp
from lightship.gateway.catalog import ModelCatalog
from lightship.gateway.config import GatewayConfig
from lightship.gateway.replicas import Replica, ReplicaPool
from lightship.gateway.stack import build_stack
from lightship.gateway.telemetry import GatewayTelemetry
from lightship.ports.clock import Clock, SystemClock


def build_app(
    config: GatewayConfig, replicas: Iterable[Replica], *, clock: Clock, telemetry: GatewayTelemetry
) -> tuple[GatewayApp, ReplicaPool]:
    """The app in front of these replicas, and their pool; nothing is probed yet (see `ReplicaPool.watching`)."""
    pool = ReplicaPool(replicas, clock=clock, interval_s=config.health_interval_s)
    telemetry.watch_replicas(pool)
    app = GatewayApp(
        config,
        engine=build_stack(pool, config, telemetry=telemetry, clock=clock),
        catalog=ModelCatalog(config.model_name, config.replicas, created_unix_s=clock.unix_s()),
        pool=pool,
        telemetry=telemetry,
        clock=clock,
    )
    return app, pool


@asynccontextmanager
async def running_gateway(config: GatewayConfig, *, clock: Clock | None = None) -> AsyncIterator[GatewayApp]:
    """An app whose replicas have been probed and are watched until the block ends. Serve it on one event loop."""
    clock = clock or SystemClock()
    async with upstream_session() as session:
        replicas = [
            Replica(
                replica,
                RemoteEngine(name=replica.name, base_url=replica.base_url, session=session, timeouts=config.timeouts),
            )
            for replica in config.replicas
        ]
        app, pool = build_app(config, replicas, clock=clock, telemetry=GatewayTelemetry())
        async with pool.watching():
            yield app
