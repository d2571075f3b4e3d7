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

from lightship.cli.gateway_config import gateway_config, spill_rung
from lightship.cli.local_replicas import LocalPool, RungToServe, local_pools, memory_budget_bytes
from lightship.cli.prepare import Surroundings
from lightship.engines.process import WorkerProcess
from lightship.engines.supervisor.control import ControlServer, control_folder
from lightship.engines.supervisor.supervisor import Supervisor
from lightship.errors import EngineError
from lightship.gateway.config import encode_config
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
class RunningSystem:
    """A gateway and the supervisor of its replicas. `pools` is what may run."""

    gateway_url: str
    gateway: SupervisedProcess
    supervisor: Supervisor
    pools: tuple[LocalPool, ...]


@asynccontextmanager
async def running_system(
    spec: Spec,
    rungs: Sequence[RungToServe],
    around: Surroundings,
    *,
    gateway_port: int,
    on_change: Callable[[], None] = lambda: None,
) -> AsyncIterator[RunningSystem]:
    """The whole system, started and ready; stopped when the block is left, gateway first.

    Args:
        spec: What is wanted.
        rungs: The ladder, top first.
        around: Where it runs.
        gateway_port: For the gateway.
        on_change: Called when a replica came into another phase.

    Raises: EngineError: a replica that always runs, or the gateway, does not come up; the others are stopped.
    Effects: starts processes, writes their configurations below the data directory.
    """
    pools = tuple(local_pools(spec, rungs, around))
    async with control_folder() as folder:
        control = ControlServer(folder / "supervisor.sock")

        def note_change() -> None:
            control.note_change()
            on_change()

        supervisor = Supervisor(
            [pool.pool_spec(spec.model.name) for pool in pools],
            clock=around.clock,
            memory_budget_bytes=memory_budget_bytes(spec.replicas),
            num_gateways=spec.gateway.workers,
            on_change=note_change,
        )
        gateway_url, gateway = _gateway(spec, rungs, pools, around, gateway_port=gateway_port, control=control.path)
        async with supervisor.running(), control.running(supervisor):
            try:
                with around.progress.task("starting workers and gateway"):
                    if spec.replicas.min:
                        await _all_ready(supervisor)
                    await gateway.start()
                yield RunningSystem(gateway_url, gateway, supervisor, pools)
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
        for number in signals:
            loop.remove_signal_handler(number)


async def _all_ready(supervisor: Supervisor) -> None:
    """Waits for one replica of each rung, started side by side."""
    try:
        async with asyncio.TaskGroup() as group:
            for served_model, rung in supervisor.pools:
                group.create_task(supervisor.until_ready(served_model, rung))
    except ExceptionGroup as errors:
        first = (errors.subgroup(EngineError) or errors).exceptions[0]
        raise first from errors


def _gateway(
    spec: Spec,
    rungs: Sequence[RungToServe],
    pools: Sequence[LocalPool],
    around: Surroundings,
    *,
    gateway_port: int,
    control: Path,
) -> tuple[str, SupervisedProcess]:
    replicas = [one.config for pool in pools for one in pool.replicas]
    facts = [rung.facts for rung in rungs]
    if (spill := spill_rung(spec, rung=len(rungs))) is not None:
        replicas.append(spill[0])
        facts.append(spill[1])
    ladders = {spec.model.name: facts}
    config = gateway_config(
        spec, replicas, port=gateway_port, home=around.home, ladders=ladders, control_socket=str(control)
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
