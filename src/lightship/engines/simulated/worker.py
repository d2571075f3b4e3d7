"""Puts a simulated worker together and runs it."""

from __future__ import annotations

import asyncio

import msgspec
import uvloop

from lightship.engines.simulated.app import SimulatedApp
from lightship.engines.simulated.config import SimulatedWorkerConfig
from lightship.engines.simulated.endpoints import Endpoints
from lightship.engines.simulated.metrics import SimulatedMetrics
from lightship.engines.simulated.runner import Runner
from lightship.observability.logs import configure_logging
from lightship.ports.clock import Clock, SystemClock
from lightship.serving.drain import InFlight
from lightship.serving.parent import stop_with_parent
from lightship.serving.server import ServerSettings, bind_socket, serve


def build_worker(config: SimulatedWorkerConfig, *, clock: Clock) -> tuple[SimulatedApp, Runner, InFlight]:
    """The app of one worker, and the runner that must run beside it."""
    runner = Runner(msgspec.structs.replace(config.profile, limits=config.limits), clock=clock)
    metrics = SimulatedMetrics(config.model_name)
    endpoints = Endpoints(config=config, runner=runner, metrics=metrics, clock=clock)
    in_flight = InFlight()
    app = SimulatedApp(
        config=config,
        endpoints=endpoints,
        runner=runner,
        metrics=metrics,
        in_flight=in_flight,
        clock=clock,
        ready_at_s=clock.monotonic_s() + config.load_delay_s,
    )
    return app, runner, in_flight


def run_worker(config: SimulatedWorkerConfig, *, exits_with_parent: bool) -> int:
    """Serves until SIGTERM, SIGINT or the end of the parent; the exit status.

    Raises: LightshipError: the port is taken, or the address is not one of this machine.
    """
    configure_logging(component="simulated-worker")
    uvloop.run(_serve(config, exits_with_parent=exits_with_parent))
    return 0


async def _serve(config: SimulatedWorkerConfig, *, exits_with_parent: bool) -> None:
    listener = bind_socket(config.host, config.port)
    app, runner, in_flight = build_worker(config, clock=SystemClock())
    settings = ServerSettings(config.host, config.port, drain_timeout_s=config.drain_timeout_s)
    async with asyncio.TaskGroup() as tasks:
        stepping = tasks.create_task(runner.run())
        if exits_with_parent:
            stop_with_parent()
        await serve(app, listener, settings, in_flight=in_flight)
        stepping.cancel()
