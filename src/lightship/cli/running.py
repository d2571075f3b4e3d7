"""Runs a ladder on this machine: a supervisor of the rungs' replicas, and the gateway in front.

    start the replicas that always run -> start gateway -> serve
    [stop signal] -> stop gateway (drains) -> stop replicas

The gateway is started again when it dies, with a pause that doubles from one second to half a minute and is forgotten
after a minute of running well. Replicas are the supervisor's (`engines/supervisor`).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lightship.cli.gateway_config import dispatch_config, gateway_config, spill_rung
from lightship.cli.local_replicas import LocalPool, RungToServe, local_pools, memory_budget_bytes
from lightship.cli.prepare import Surroundings
from lightship.engines.process import WorkerProcess
from lightship.engines.supervisor.control import ControlServer, control_folder
from lightship.engines.supervisor.supervisor import Supervisor
from lightship.errors import EngineError
from lightship.gateway.config import GatewayConfig, ReplicaConfig, encode_config
from lightship.gateway.dispatch.config import LadderConfig
from lightship.ports.clock import Clock
from lightship.spec.document import Spec

_LOGGER = logging.getLogger(__name__)
_GATEWAY_STARTUP_S = 30.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GOOD_RUN_S = 1.0, 30.0, 60.0


class SupervisedProcess:
    """One process that is kept running; `make` gives a fresh, unstarted one for the same address."""

    def __init__(self, make: Callable[[], WorkerProcess], *, startup_timeout_s: float, clock: Clock) -> None:
        self._make = make
        self._startup_timeout_s = startup_timeout_s
        self._clock = clock
        self.current = make()
        self.num_restarts = 0

    async def start(self) -> None:
        """Starts it the first time. Raises: EngineError: it does not come up."""
        await self.current.start(startup_timeout_s=self._startup_timeout_s)

    async def keep_running(self, on_restart: Callable[[], None]) -> None:
        """Waits for its end and starts it again, for ever; cancelled at the stop. `on_restart` is told after each."""
        pause_s = _FIRST_PAUSE_S
        while True:
            started_s = self._clock.monotonic_s()
            code = await self.current.wait()
            if self._clock.monotonic_s() - started_s >= _GOOD_RUN_S:
                pause_s = _FIRST_PAUSE_S
            _LOGGER.warning("%s ended with status %s; starting it again in %g s", self.current.name, code, pause_s)
            await self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            self.current = self._make()
            self.num_restarts += 1
            try:
                await self.start()
                on_restart()
            except EngineError as error:
                _LOGGER.error("%s", error)  # noqa: TRY400 - a known condition: the message says all

    async def stop(self, *, drain_timeout_s: float) -> None:
        """Ends it."""
        await self.current.stop(drain_timeout_s=drain_timeout_s)


@dataclass(frozen=True)
class ServedModel:
    """One model and its ladder, top first."""

    spec: Spec
    rungs: tuple[RungToServe, ...]


@dataclass(frozen=True)
class LocalModel:
    """A served model with the replicas that may run here, a pool for each rung."""

    served: ServedModel
    pools: tuple[LocalPool, ...]


@dataclass(frozen=True)
class RunningSystem:
    """A gateway and the supervisor of its replicas. `models` is what may run."""

    gateway_url: str
    gateway: SupervisedProcess
    supervisor: Supervisor
    models: tuple[LocalModel, ...]


@asynccontextmanager
async def running_system(
    served: Sequence[ServedModel],
    around: Surroundings,
    *,
    gateway_port: int,
    on_change: Callable[[], None] = lambda: None,
) -> AsyncIterator[RunningSystem]:
    """The whole system, started and ready; stopped when the block is left, gateway first.

    Args:
        served: The models; the spec of the first says everything about the gateway and the machine's memory.
        around: Where it runs.
        gateway_port: For the gateway.
        on_change: Called when a replica came into another phase.

    Raises: EngineError: a replica that always runs, or the gateway, does not come up; the others are stopped.
    Effects: starts processes, writes their configurations below the data directory.
    """
    models = tuple(LocalModel(one, tuple(local_pools(one.spec, one.rungs, around))) for one in served)
    spec = served[0].spec
    async with control_folder() as folder:
        control = ControlServer(folder / "supervisor.sock")

        def note_change() -> None:
            control.note_change()
            on_change()

        supervisor = Supervisor(
            [pool.pool_spec(one.served.spec.model.name) for one in models for pool in one.pools],
            clock=around.clock,
            memory_budget_bytes=memory_budget_bytes(spec.replicas),
            num_gateways=spec.gateway.workers,
            on_change=note_change,
        )
        gateway_url, gateway = _gateway(models, around, gateway_port=gateway_port, control=control.path)
        async with supervisor.running(), control.running(supervisor):
            try:
                with around.progress.task("starting workers and gateway"):
                    await supervisor.until_serving()
                    await gateway.start()
                yield RunningSystem(gateway_url, gateway, supervisor, models)
            finally:
                await gateway.stop(drain_timeout_s=spec.gateway.drain_timeout_s + 5)


async def watch_until_stopped(
    system: RunningSystem,
    *,
    on_restart: Callable[[], None],
    on_watching: Callable[[], None],
    on_roll: Callable[[], Awaitable[None]],
) -> None:
    """Keeps the gateway running until SIGINT or SIGTERM.

    Args:
        system: What runs.
        on_restart: Called when the gateway was started again.
        on_watching: Called once, when a signal stops the system in order; whoever is told earlier could stop it rudely.
        on_roll: Called for SIGHUP, one at a time.
    """
    stopped, hung_up = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = {signal.SIGINT: stopped, signal.SIGTERM: stopped, signal.SIGHUP: hung_up}
    for number, event in signals.items():
        loop.add_signal_handler(number, event.set)

    async def roll_when_asked() -> None:
        while True:
            await hung_up.wait()
            hung_up.clear()
            await on_roll()

    try:
        on_watching()
        async with asyncio.TaskGroup() as group:
            watchers = [
                group.create_task(system.gateway.keep_running(on_restart)),
                group.create_task(roll_when_asked()),
            ]
            await stopped.wait()
            for watcher in watchers:
                watcher.cancel()
    finally:
        loop.remove_signal_handler(signal.SIGINT)  # a second Ctrl-C ends it at once
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, _LOGGER.warning, "stopping already; SIGINT ends it at once")


def _gateway(
    models: Sequence[LocalModel], around: Surroundings, *, gateway_port: int, control: Path
) -> tuple[str, SupervisedProcess]:
    spec = models[0].served.spec
    config = _with_all_ladders(
        gateway_config(spec, _replicas(models), port=gateway_port, home=around.home, control_socket=str(control)),
        models,
    )
    folder = around.home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    config_path = folder / f"gateway-{gateway_port}.json"
    config_path.write_bytes(encode_config(config))
    host = "127.0.0.1" if spec.gateway.listen.host in {"0.0.0.0", "::"} else spec.gateway.listen.host
    scheme = "http" if config.server.tls is None else "https"
    url = f"{scheme}://[{host}]:{gateway_port}" if ":" in host else f"{scheme}://{host}:{gateway_port}"

    def make() -> WorkerProcess:
        return WorkerProcess(
            name="gateway",
            command=[sys.executable, "-m", "lightship.gateway", str(config_path), "--exit-with-parent"],
            base_url=url,
            log_path=around.logs / "gateway.log",
        )

    return url, SupervisedProcess(make, startup_timeout_s=_GATEWAY_STARTUP_S, clock=around.clock)


def _replicas(models: Sequence[LocalModel]) -> list[ReplicaConfig]:
    """Of all models, each one's spill rung included."""
    replicas = []
    for one in models:
        spec = one.served.spec
        for replica in (replica for pool in one.pools for replica in pool.replicas):
            replicas += [replica.config, *replica.adapters]
        if (spill := spill_rung(spec, rung=len(one.served.rungs))) is not None:
            name = f"{spec.model.name}-{spill[0].name}" if len(models) > 1 else spill[0].name
            replicas.append(msgspec.structs.replace(spill[0], name=name, served_model=spec.model.name))
    return replicas


def _with_all_ladders(config: GatewayConfig, models: Sequence[LocalModel]) -> GatewayConfig:
    """Every model with the promise, budget and policy of its own spec."""
    ladders: dict[str, LadderConfig] = {}
    for one in models:
        spec = one.served.spec
        facts = [rung.facts for rung in one.served.rungs]
        if (spill := spill_rung(spec, rung=len(facts))) is not None:
            facts.append(spill[1])
        own = dispatch_config(spec, {spec.model.name: facts}, num_processes=config.server.workers)
        ladders |= own.ladders
    return msgspec.structs.replace(config, dispatch=msgspec.structs.replace(config.dispatch, ladders=ladders))
