"""Puts a gateway together from its configuration, changes it while it runs, and takes it apart again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import msgspec

from lightship.engines.remote import RemoteEngine, upstream_session
from lightship.errors import UsageError
from lightship.gateway.activation.holding import HeldEngine
from lightship.gateway.activation.link import SupervisorLink
from lightship.gateway.activation.loads import rung_loads
from lightship.gateway.api.first_token import FirstTokenEngine
from lightship.gateway.api.responding import ResponsesEngine
from lightship.gateway.app import GatewayApp
from lightship.gateway.cache.opening import open_store
from lightship.gateway.cache.store import ResponseStore
from lightship.gateway.catalog import ModelCatalog
from lightship.gateway.cluster.collector import ClusterCollector
from lightship.gateway.cluster.late_calls import LateCalls
from lightship.gateway.cluster.opening import open_controller
from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.gateway.routing.pool import ReplicaPool
from lightship.gateway.routing.replica import Replica
from lightship.gateway.stack import Stack, build_stack
from lightship.gateway.state import resolved
from lightship.gateway.telemetry import GatewayTelemetry
from lightship.gateway.tenants.authentication import Authenticator
from lightship.gateway.tenants.key_watch import KeyWatch
from lightship.gateway.tenants.ledger import Ledger
from lightship.gateway.tenants.memory_store import MemoryStore
from lightship.gateway.tenants.running import Tenants, running_tenants
from lightship.gateway.tenants.store_loss import StoreLoss
from lightship.kubernetes.access import ClusterAccess, in_cluster_access
from lightship.ports.clock import Clock, SystemClock
from lightship.ports.replica_control import ReplicaControl
from lightship.scaling.decide import scale
from lightship.transport.pool import ConnectionPool

Exposition = Callable[[], Awaitable[bytes]]


class RunningGateway:
    """A gateway that can be changed while it serves.

    Args:
        config: What it serves now.
        parts: What it is made of.
        environment: Where the keys of replicas are.
        link: To the supervisor of its replicas, where there is one.

    Concurrency: one event loop; changes wait for each other.
    """

    def __init__(
        self, config: GatewayConfig, parts: Parts, *, environment: Mapping[str, str], link: SupervisorLink | None = None
    ) -> None:
        self.parts = parts
        self._config = config
        self._environment = environment
        self._link = link
        self._found: tuple[ReplicaConfig, ...] = ()
        self._changing = asyncio.Lock()

    @property
    def app(self) -> GatewayApp:
        """The app that serves."""
        return self.parts.app

    @property
    def pool(self) -> ReplicaPool:
        """Its replicas."""
        return self.parts.pool

    async def apply(self, config: GatewayConfig) -> None:
        """Puts another configuration to use; requests under way end as they began.

        Keys are read and new replicas probed first. Everything after that is one step, in which no request can begin.
        """
        async with self._changing:
            await self._put_to_use(config, self._found)
            self._config = config

    async def place(self, found: Sequence[ReplicaConfig]) -> None:
        """Takes these replicas, which a cluster found, beside the configured ones."""
        async with self._changing:
            await self._put_to_use(self._config, tuple(found))
            self._found = tuple(found)

    async def _put_to_use(self, config: GatewayConfig, found: tuple[ReplicaConfig, ...]) -> None:
        parts = self.parts
        config = msgspec.structs.replace(config, replicas=(*config.replicas, *found))
        replicas = make_replicas(config, parts.session, environment=self._environment, clock=parts.pool.clock)
        await parts.tenants.apply(config.tenants)
        await parts.pool.apply(
            replicas,
            interval_s=config.health_interval_s,
            routing=config.routing,
            served_model=config.model_name,
        )
        if self._link is not None:
            self._link.apply_phases()
        parts.stack.apply(config)
        parts.telemetry.watch_replicas(parts.pool)
        parts.app.apply(config)


@dataclass(frozen=True)
class Parts:
    """What a gateway is made of."""

    app: GatewayApp
    pool: ReplicaPool
    stack: Stack
    tenants: Tenants
    telemetry: GatewayTelemetry
    session: ConnectionPool


def build_app(
    config: GatewayConfig,
    replicas: Iterable[Replica],
    *,
    clock: Clock,
    telemetry: GatewayTelemetry,
    control: ReplicaControl | None = None,
) -> tuple[GatewayApp, ReplicaPool]:
    """The app in front of these replicas, and their pool; nothing is probed yet (see `ReplicaPool.watching`).

    It has neither keys nor limits: those need tasks of their own (see `reloadable_gateway`). `control` starts and stops
    the replicas, where the configuration has a section about that.
    """
    ledger = Ledger(MemoryStore(clock), clock, holder="alone", on_store_loss=StoreLoss.ALLOW)
    authenticator = Authenticator(are_keys_required=False, unix_s=clock.unix_s, on_failure=telemetry.record_key_failure)
    tenants = Tenants(authenticator, ledger, KeyWatch(None, authenticator, clock))
    app, pool, _ = _assemble(
        config, replicas, clock=clock, telemetry=telemetry, tenants=tenants, exposition=None, control=control
    )
    return app, pool


def make_replicas(
    config: GatewayConfig, session: ConnectionPool, *, environment: Mapping[str, str], clock: Clock
) -> list[Replica]:
    """The configured replicas, reached over HTTP; their keys come from the environment.

    Raises: UsageError: a key is not there, or is none.
    """
    replicas = []
    for replica in config.replicas:
        remote = RemoteEngine(
            name=replica.name,
            base_url=replica.base_url,
            session=session,
            timeouts=config.timeouts,
            headers=_authorization(replica, environment),
        )
        first_token_s = config.timeouts.first_token_s
        committed = FirstTokenEngine(remote, first_token_s=first_token_s)
        engine = ResponsesEngine(committed, clock=clock, first_token_s=first_token_s)
        replicas.append(Replica(replica, engine, metrics=remote))
    return replicas


def check_api_keys(config: GatewayConfig, environment: Mapping[str, str]) -> None:
    """Raises: UsageError: a replica's key is not in the environment, or is none."""
    for replica in config.replicas:
        _authorization(replica, environment)


def _authorization(replica: ReplicaConfig, environment: Mapping[str, str]) -> dict[str, str]:
    if not replica.api_key_env:
        return {}
    key = environment.get(replica.api_key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        what = f"the environment variable {replica.api_key_env} " + ("is not set" if not key else "holds no API key")
        hint = "Set it to the endpoint's key before the start, or name another one as api_key_env."
        raise UsageError(what, where=f"upstream {replica.name}", hint=hint)
    return {"authorization": f"Bearer {key}"}


@asynccontextmanager
async def reloadable_gateway(
    config: GatewayConfig,
    *,
    telemetry: GatewayTelemetry | None = None,
    exposition: Exposition | None = None,
    environment: Mapping[str, str] = os.environ,
    clock: Clock | None = None,
    access: ClusterAccess | None = None,
) -> AsyncIterator[RunningGateway]:
    """A gateway whose replicas have been probed and are watched until the block ends. Serve it on one event loop.

    Args:
        config: What to begin with.
        telemetry: Where requests are counted.
        exposition: What `/metrics` shows; by default what `telemetry` counted.
        environment: Where the keys of replicas are.
        clock: Time.
        access: The way to the cluster's API server, where the configuration has a section about one; None is that of
            the Pod this runs in.

    Raises: UsageError: a replica's key is missing, or this is no Pod.
    """
    clock = clock or SystemClock()
    telemetry = telemetry or GatewayTelemetry()
    state = resolved(config.state, environment)
    async with AsyncExitStack() as resources:
        session = await resources.enter_async_context(upstream_session())
        replicas = make_replicas(config, session, environment=environment, clock=clock)
        responses = None
        if config.cache is not None:
            responses = await resources.enter_async_context(open_store(config.cache, state, clock=clock))
        tenants = await resources.enter_async_context(
            running_tenants(
                config.tenants,
                state,
                clock=clock,
                on_key_failure=telemetry.record_key_failure,
                num_processes=config.server.workers,
            )
        )
        link, controller = None, None
        if config.activation is not None and config.activation.control_socket:
            link = SupervisorLink(config.activation.control_socket, clock=clock)
        if config.cluster is not None:
            late = LateCalls()
            controller = await resources.enter_async_context(
                open_controller(
                    in_cluster_access(environment, clock=clock) if access is None else access,
                    config.cluster,
                    environment=environment,
                    scale=scale,
                    clock=clock,
                    local_loads=late.loads if config.server.workers == 1 else None,
                    on_replicas=late.place,
                )
            )
        app, pool, stack = _assemble(
            config,
            replicas,
            clock=clock,
            telemetry=telemetry,
            tenants=tenants,
            exposition=exposition,
            responses=responses,
            control=link or controller,
        )
        if stack.cached is not None:
            await resources.enter_async_context(stack.cached.running())
        await resources.enter_async_context(pool.watching())
        gateway = RunningGateway(
            config, Parts(app, pool, stack, tenants, telemetry, session), environment=environment, link=link
        )
        if stack.held is not None:
            loads = partial(rung_loads, stack.held, stack.admitted.dispatcher, pool)
            telemetry.watch_activation(stack.held, loads)
            if link is not None:
                running = link.running(note_phase=pool.note_phase, loads=loads, on_change=stack.held.recheck)
                await resources.enter_async_context(running)
            if controller is not None:
                telemetry.registry.register(ClusterCollector(controller, clock))
                late.connect(loads, gateway.place)
                await resources.enter_async_context(_rechecking(controller, stack.held))
        yield gateway


@asynccontextmanager
async def _rechecking(control: ReplicaControl, held: HeldEngine) -> AsyncIterator[None]:
    """The block in which requests that are held are looked at again whenever a rung may stand otherwise."""

    async def recheck() -> None:
        while True:
            await control.changed()
            held.recheck()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(recheck())
        try:
            yield
        finally:
            task.cancel()


@asynccontextmanager
async def running_gateway(config: GatewayConfig, *, clock: Clock | None = None) -> AsyncIterator[GatewayApp]:
    """The app of a `reloadable_gateway`."""
    async with reloadable_gateway(config, clock=clock) as gateway:
        yield gateway.app


def _assemble(
    config: GatewayConfig,
    replicas: Iterable[Replica],
    *,
    clock: Clock,
    telemetry: GatewayTelemetry,
    tenants: Tenants,
    exposition: Exposition | None,
    responses: ResponseStore | None = None,
    control: ReplicaControl | None = None,
) -> tuple[GatewayApp, ReplicaPool, Stack]:
    pool = ReplicaPool(
        replicas,
        clock=clock,
        interval_s=config.health_interval_s,
        routing=config.routing,
        served_model=config.model_name,
        num_processes=config.server.workers,
    )
    telemetry.watch_replicas(pool)
    stack = build_stack(
        pool,
        config,
        telemetry=telemetry,
        clock=clock,
        ledger=tenants.ledger,
        responses=responses,
        control=control,
    )
    pool.on_readiness = stack.note_readiness
    app = GatewayApp(
        config,
        engine=stack.top,
        catalog=ModelCatalog(config.model_name, config.declared, created_unix_s=clock.unix_s()),
        pool=pool,
        telemetry=telemetry,
        authenticator=tenants.authenticator,
        clock=clock,
        exposition=exposition,
        held=stack.held,
    )
    return app, pool, stack
