"""Runs a ladder on this machine: one worker per rung and the gateway in front, restarted when they die.

    start workers (side by side) -> start gateway -> watch all -> [stop signal] -> stop gateway (drains) -> stop workers

Each process is watched by a task of its own. One that ends is started again at the same address, with a pause that
doubles from one second to half a minute; it is forgotten after a minute of running well.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from lightship.cli.gateway_config import gateway_config, spill_rung
from lightship.cli.prepare import Surroundings
from lightship.cli.variant_worker import startup_budget_s
from lightship.cli.worker_setup import worker_setup
from lightship.engines.process import WorkerProcess, free_port
from lightship.errors import EngineError
from lightship.gateway.config import ReplicaConfig, encode_config
from lightship.gateway.dispatch.config import RungFacts
from lightship.ports.clock import Clock
from lightship.ports.variants import Variant
from lightship.spec.document import Spec

_LOGGER = logging.getLogger(__name__)
_GATEWAY_STARTUP_S = 30.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GOOD_RUN_S = 1.0, 30.0, 60.0


@dataclass(frozen=True)
class RungToServe:
    """One rung of the ladder, the variant that serves it, and what was measured of it; position 0 is the top."""

    position: int
    variant: Variant
    facts: RungFacts


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
    """A gateway and its workers, all ready."""

    gateway_url: str
    gateway: SupervisedProcess
    workers: tuple[SupervisedProcess, ...]


@asynccontextmanager
async def running_system(
    spec: Spec, rungs: Sequence[RungToServe], around: Surroundings, *, gateway_port: int
) -> AsyncIterator[RunningSystem]:
    """The whole system, started and ready; stopped when the block is left, gateway first.

    Raises: EngineError: a process does not come up; the others are stopped.
    Effects: starts processes, writes their configurations below the data directory.
    """
    ports = [free_port() for _ in rungs]
    workers = tuple(_worker(spec, rung, port, around) for rung, port in zip(rungs, ports, strict=True))
    gateway_url, gateway = _gateway(spec, rungs, ports, around, gateway_port=gateway_port)
    drain_s = spec.gateway.drain_timeout_s
    try:
        with around.progress.task("starting workers and gateway"):
            await _all_started([*workers])
            await gateway.start()
        yield RunningSystem(gateway_url, gateway, workers)
    finally:
        await gateway.stop(drain_timeout_s=drain_s + 5)
        for worker in workers:
            await worker.stop(drain_timeout_s=drain_s)


async def watch_until_stopped(
    system: RunningSystem, *, on_restart: Callable[[], None], on_watching: Callable[[], None]
) -> None:
    """Keeps every process running until SIGINT or SIGTERM.

    Args:
        system: What runs.
        on_restart: Called when a process was started again.
        on_watching: Called once, when a signal stops the system in order; whoever is told earlier could stop it rudely.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        on_watching()
        async with asyncio.TaskGroup() as group:
            watchers = [group.create_task(p.keep_running(on_restart)) for p in (system.gateway, *system.workers)]
            await stopped.wait()
            for watcher in watchers:
                watcher.cancel()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _all_started(processes: Sequence[SupervisedProcess]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for process in processes:
                group.create_task(process.start())
    except ExceptionGroup as errors:
        first = (errors.subgroup(EngineError) or errors).exceptions[0]
        raise first from errors


def _worker(spec: Spec, rung: RungToServe, port: int, around: Surroundings) -> SupervisedProcess:
    manifest = rung.variant.manifest
    setup = worker_setup(spec, rung.variant, around, port=port)
    setup.install(around)
    config_path = _run_file(around, f"worker-{port}.json")

    def make() -> WorkerProcess:
        name, log_path = f"{manifest.name}-{rung.position}", around.logs / f"worker-{manifest.name}.log"
        return setup.process(name, config_path=config_path, log_path=log_path)

    budget_s = startup_budget_s(rung.variant, setup.adapter.name)
    return SupervisedProcess(make, startup_timeout_s=budget_s, clock=around.clock)


def _gateway(
    spec: Spec, rungs: Sequence[RungToServe], ports: Sequence[int], around: Surroundings, *, gateway_port: int
) -> tuple[str, SupervisedProcess]:
    replicas = [
        ReplicaConfig(
            name=f"{rung.variant.manifest.name}-{rung.position}",
            base_url=f"http://127.0.0.1:{port}",
            model_name=spec.model.name,
            variant_name=rung.variant.manifest.name,
            variant_digest=rung.variant.manifest.digest,
            rung=rung.position,
            device=rung.facts.device,
        )
        for rung, port in zip(rungs, ports, strict=True)
    ]
    facts = [rung.facts for rung in rungs]
    if (spill := spill_rung(spec, rung=len(rungs))) is not None:
        replicas.append(spill[0])
        facts.append(spill[1])
    ladders = {spec.model.name: facts}
    config = gateway_config(spec, replicas, port=gateway_port, home=around.home, ladders=ladders)
    config_path = _run_file(around, f"gateway-{gateway_port}.json")
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


def _run_file(around: Surroundings, name: str) -> Path:
    folder = around.home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
