"""Serves measured ladders until it is told to stop: what `up` and `serve` do last."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import msgspec
from rich.console import Console

from lightship.cli.measured_ladder import Prepared
from lightship.cli.prepare import Surroundings
from lightship.cli.rolling import roll
from lightship.cli.run_state import ReplicaState, RunState, published
from lightship.cli.running import RunningSystem, ServedModel, running_system, watch_until_stopped
from lightship.engines.supervisor.messages import ReplicaStatus
from lightship.errors import LightshipError, SpecError
from lightship.ports.replica_control import ReplicaPhase
from lightship.serving.server import bind_socket
from lightship.spec.document import Spec

_LOGGER = logging.getLogger(__name__)
_CONSOLE_STDERR = Console(stderr=True, highlight=False)


async def serve(
    models: Sequence[Prepared], around: Surroundings, *, gateway_port: int, read_specs: Callable[[], list[Spec]]
) -> None:
    """Serves the ladders behind one gateway until it is told to stop.

    Args:
        models: What is served; the first one's spec says everything about the gateway and the memory of the machine.
        around: Where it runs.
        gateway_port: For the gateway.
        read_specs: The specs as they are now, for a rolling update.
    """
    served = [ServedModel(one.spec, tuple(one.rungs)) for one in models]
    with ExitStack() as in_use:
        for rung in (rung for one in served for rung in one.rungs):
            around.store.verify(rung.variant)
            in_use.enter_context(around.store.in_use(rung.variant))
        changes = ChangeNotes()
        async with running_system(served, around, gateway_port=gateway_port, on_change=changes.note) as system:
            started_unix_s = around.clock.unix_s()
            specs = [one.spec for one in models]

            async def roll_to_specs() -> None:
                try:
                    wanted = await asyncio.to_thread(read_specs)
                except LightshipError as error:
                    _LOGGER.error("no rolling update: %s", error)  # noqa: TRY400 - a user's mistake
                    return
                specs[:] = await roll(specs, wanted, models=system.models, supervisor=system.supervisor, around=around)

            with published(lambda: _state(models, system, started_unix_s), around.home) as write_state:
                changes.listener = write_state
                await watch_until_stopped(
                    system,
                    on_restart=write_state,
                    on_watching=lambda: _greet(models, system),
                    on_roll=roll_to_specs,
                )
                _CONSOLE_STDERR.print("stopping: answers under way are finished first ...")


def refuse_idle_upstreams(spec: Spec) -> None:
    """Raises: SpecError: an upstream that nothing here would use."""
    spill = spec.routing.spill.to if spec.routing.spill else None
    for index, upstream in enumerate(spec.upstreams):
        if upstream.name != spill:
            raise SpecError(
                f"`up` serves the variants it makes, and {upstream.name!r} is not where requests spill to",
                where=f"upstreams[{index}]",
                hint="Name it as routing.spill.to, run `lightship gateway` for endpoints that exist, or remove it.",
            )


@contextmanager
def reserved_port(spec: Spec, *, is_serving: bool) -> Iterator[int]:
    """The gateway's port, held while variants are built, so that a taken one is told at once and not minutes later."""
    if not is_serving:
        yield 0
        return
    listener: socket.socket = bind_socket(spec.gateway.listen.host, spec.gateway.listen.port)
    with listener:
        yield int(listener.getsockname()[1])


class ChangeNotes:
    """Passes changes of replicas on to whoever listens; those before anybody does are in what it writes first."""

    def __init__(self) -> None:
        self.listener: Callable[[], None] = lambda: None

    def note(self) -> None:
        """Something changed."""
        self.listener()


def _state(models: Sequence[Prepared], system: RunningSystem, started_unix_s: float) -> RunState:
    pools = [pool for model in system.models for pool in model.pools]
    configs = {one.config.name: one.config for pool in pools for one in pool.replicas}
    return RunState(
        pid=os.getpid(),
        model=", ".join(one.spec.model.name for one in models),
        gateway_url=system.gateway_url,
        report_path=", ".join(str(one.report_path) for one in models),
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
    for pool in [pool for model in system.models for pool in model.pools]:
        names = {one.config.name for one in pool.replicas}
        on_rung = [one for one in replicas if one.name in names]
        on_rung.sort(key=lambda one: one.phase is ReplicaPhase.SLEEPING)
        num_awake = sum(one.phase is not ReplicaPhase.SLEEPING for one in on_rung)
        shown += on_rung[: max(num_awake, pool.policy.max_replicas)]
    return shown


def _greet(models: Sequence[Prepared], system: RunningSystem) -> None:
    """Prints where they are served and a command to try the first."""
    first = models[0].spec
    names = ", ".join(one.spec.model.name for one in models)
    message = {"role": "user", "content": "The Fox and the Lantern"}
    request = {"model": first.model.name, "stream": True, "max_tokens": 200, "messages": [message]}
    body = msgspec.json.encode(request).decode()
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\n[bold]{system.gateway_url}/v1[/]  {'model' if len(models) == 1 else 'models'} [bold]{names}[/]")
    for one in models:
        console.print(f"report: {one.report_path}", markup=False)
    console.print()
    url = f"{system.gateway_url}/v1/chat/completions"
    needs_key = first.gateway.keys.required
    if needs_key:
        console.print(
            "export LIGHTSHIP_KEY=$(lightship keys create me)   # once; a key is shown only then", markup=False
        )
    key = ' -H "authorization: Bearer $LIGHTSHIP_KEY"' if needs_key else ""
    command = f"curl -N {url} -H 'content-type: application/json'{key} \\\n  -d {shlex.quote(body)}"
    console.print(command, markup=False)
    console.print("\nCtrl-C stops everything; SIGHUP replaces every replica without a gap.", style="dim")
