"""`lightship up`: resolve, build what is missing, measure what is unmeasured, choose the ladder, serve it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from lightship.artifacts.home import measurement_path, report_folder
from lightship.artifacts.machine import this_machine
from lightship.artifacts.measurements import MeasurementStore
from lightship.cli.assess import Assessment, assess, write_report
from lightship.cli.gateway_config import measured_rungs, spill_rung
from lightship.cli.ladder_table import print_ladder
from lightship.cli.load_spec import load_spec
from lightship.cli.local_replicas import RungToServe
from lightship.cli.measure import Measurer
from lightship.cli.prepare import BuiltVariants, Surroundings, build_variants, resolve_model, surroundings
from lightship.cli.resources import resource_figures
from lightship.cli.rolling import roll
from lightship.cli.run_state import ReplicaState, RunState, published
from lightship.cli.running import RunningSystem, running_system, watch_until_stopped
from lightship.engines.supervisor.messages import ReplicaStatus
from lightship.errors import LightshipError, SpecError
from lightship.observability.logs import configure_logging
from lightship.ports.measurements import Metric
from lightship.ports.replica_control import ReplicaPhase
from lightship.serving.server import bind_socket
from lightship.spec.document import Spec

_LOGGER = logging.getLogger(__name__)
_CONSOLE_STDERR = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Prepared:
    """A measured ladder, ready to serve."""

    spec: Spec
    built: BuiltVariants
    assessment: Assessment
    report_path: Path

    @property
    def rungs(self) -> list[RungToServe]:
        """Rungs with their variants, top first."""
        by_digest = {variant.manifest.digest: variant for variant in self.built.variants}
        ladder = self.assessment.ladder
        variants = [by_digest[rung.candidate.variant_digest] for rung in ladder.rungs]
        facts = measured_rungs(ladder, concurrency=self.spec.measurement.target_concurrency)
        entries = {entry.name: entry for entry in self.assessment.report.variants}
        startups = [entries[rung.candidate.name].figure(Metric.STARTUP_S) for rung in ladder.rungs]
        return [
            RungToServe(
                position,
                variant,
                measured,
                memory_bytes=int(rung.candidate.memory_bytes or 0),
                startup_s=0.0 if startup is None else startup.value,
            )
            for position, (variant, measured, rung, startup) in enumerate(
                zip(variants, facts, ladder.rungs, startups, strict=True)
            )
        ]


def prepare(spec: Spec, around: Surroundings, *, is_forced: bool = False) -> Prepared:
    """Builds and measures what is missing, then assesses all of it.

    Not a coroutine: an event loop would only note a Ctrl-C that comes while a build holds it, which may be for hours.

    Args:
        spec: What is wanted.
        around: Where it happens.
        is_forced: Measure everything again.

    Raises: LightshipError: of whatever step failed.
    Effects: as building and measuring have; writes the report.
    """
    machine = this_machine()
    # a price that is not in the list is told now, not after minutes of measuring
    resource_figures(spec.cost, [], [], machine=machine, now_unix_s=around.clock.unix_s())
    model = resolve_model(spec, around)
    built = build_variants(spec, model, around)
    store = MeasurementStore(measurement_path(around.home))
    measurer = Measurer(spec, built, store, machine, around)
    asyncio.run(measurer.measure_missing(is_forced=is_forced))
    assessment = assess(spec, built, measurer, machine, around)
    return Prepared(spec, built, assessment, write_report(assessment, report_folder(around.home, spec.model.name)))


def run_up(args: argparse.Namespace) -> int:
    """`lightship up` with parsed arguments; returns the exit code."""
    configure_logging(component="up", level="WARNING")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being terminated cleans up as Ctrl-C does
    spec, around, is_serving = load_spec(args).spec, surroundings(), not args.no_serve
    _refuse_idle_upstreams(spec)
    spill_rung(spec, rung=0)  # a price that is not there is told now, not after minutes of measuring
    with _reserved_port(spec, is_serving=is_serving) as gateway_port:
        prepared = prepare(spec, around, is_forced=args.remeasure)
    print_ladder(Console(), prepared.assessment, prepared.built)
    if is_serving:
        asyncio.run(_serve(prepared, around, gateway_port=gateway_port, read_spec=lambda: load_spec(args).spec))
    else:
        Console().print(f"report: {prepared.report_path}", highlight=False, soft_wrap=True)
    return 0


def _refuse_idle_upstreams(spec: Spec) -> None:
    """Raises: SpecError: an upstream that nothing here would use."""
    spill = spec.routing.spill.to if spec.routing.spill else None
    for index, upstream in enumerate(spec.upstreams):
        if upstream.name != spill:
            raise SpecError(
                f"`up` serves the variants it makes, and {upstream.name!r} is not where requests spill to",
                where=f"upstreams[{index}]",
                hint="Name it as routing.spill.to, run `lightship gateway` for endpoints that exist, or remove it.",
            )


async def _serve(prepared: Prepared, around: Surroundings, *, gateway_port: int, read_spec: Callable[[], Spec]) -> None:
    """Serves the ladder until it is told to stop."""
    rungs, spec = prepared.rungs, prepared.spec
    with ExitStack() as in_use:
        for rung in rungs:
            around.store.verify(rung.variant)
            in_use.enter_context(around.store.in_use(rung.variant))
        changes = ChangeNotes()
        async with running_system(spec, rungs, around, gateway_port=gateway_port, on_change=changes.note) as system:
            started_unix_s = around.clock.unix_s()

            async def roll_to_spec() -> None:
                nonlocal spec
                try:
                    wanted = await asyncio.to_thread(read_spec)
                except LightshipError as error:
                    _LOGGER.error("no rolling update: %s", error)  # noqa: TRY400 - a user's mistake
                    return
                spec = await roll(
                    spec, wanted, rungs=rungs, pools=system.pools, supervisor=system.supervisor, around=around
                )

            with published(lambda: _state(prepared, system, started_unix_s), around.home) as write_state:
                changes.listener = write_state
                await watch_until_stopped(
                    system,
                    on_restart=write_state,
                    on_watching=lambda: _greet(prepared, system),
                    on_roll=roll_to_spec,
                )
                _CONSOLE_STDERR.print("stopping: answers under way are finished first ...")


class ChangeNotes:
    """Passes changes of replicas on to whoever listens; those before anybody does are in what it writes first."""

    def __init__(self) -> None:
        self.listener: Callable[[], None] = lambda: None

    def note(self) -> None:
        """Something changed."""
        self.listener()


@contextmanager
def _reserved_port(spec: Spec, *, is_serving: bool) -> Iterator[int]:
    """The gateway's port, held while variants are built, so that a taken one is told at once and not minutes later."""
    if not is_serving:
        yield 0
        return
    listener: socket.socket = bind_socket(spec.gateway.listen.host, spec.gateway.listen.port)
    with listener:
        yield int(listener.getsockname()[1])


def _state(prepared: Prepared, system: RunningSystem, started_unix_s: float) -> RunState:
    configs = {one.config.name: one.config for pool in system.pools for one in pool.replicas}
    return RunState(
        pid=os.getpid(),
        model=prepared.spec.model.name,
        gateway_url=system.gateway_url,
        report_path=str(prepared.report_path),
        started_unix_s=started_unix_s,
        replicas=[
            ReplicaState(
                name=status.name,
                base_url=configs[status.name].base_url,
                variant=configs[status.name].variant_name,
                pid=status.pid,
                phase=status.phase.value,
                detail=status.detail,
            )
            for status in _shown(system)
        ],
    )


def _shown(system: RunningSystem) -> list[ReplicaStatus]:
    """The replicas worth telling of: those that run or failed, and sleeping ones up to the most that may run."""
    shown: list[ReplicaStatus] = []
    replicas = system.supervisor.snapshot().replicas
    for pool in system.pools:
        on_rung = [one for one in replicas if one.rung == pool.rung]
        on_rung.sort(key=lambda one: one.phase is ReplicaPhase.SLEEPING)
        num_awake = sum(one.phase is not ReplicaPhase.SLEEPING for one in on_rung)
        shown += on_rung[: max(num_awake, pool.policy.max_replicas)]
    return shown


def _greet(prepared: Prepared, system: RunningSystem) -> None:
    """Prints where it is served and a command to try it."""
    model = prepared.spec.model.name
    message = {"role": "user", "content": "The Fox and the Lantern"}
    body = msgspec.json.encode({"model": model, "stream": True, "max_tokens": 200, "messages": [message]}).decode()
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\n[bold]{system.gateway_url}/v1[/]  model [bold]{model}[/]")
    console.print(f"report: {prepared.report_path}\n", markup=False)
    url = f"{system.gateway_url}/v1/chat/completions"
    needs_key = prepared.spec.gateway.keys.required
    if needs_key:
        console.print(
            "export LIGHTSHIP_KEY=$(lightship keys create me)   # once; a key is shown only then", markup=False
        )
    key = ' -H "authorization: Bearer $LIGHTSHIP_KEY"' if needs_key else ""
    command = f"curl -N {url} -H 'content-type: application/json'{key} \\\n  -d {shlex.quote(body)}"
    console.print(command, markup=False)
    console.print("\nCtrl-C stops everything.", style="dim")
