"""A worker of one variant for as long as it is measured."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from lightship.cli.prepare import Surroundings
from lightship.cli.worker_setup import WorkerSetup, worker_setup
from lightship.engines.process import WorkerProcess, free_port
from lightship.errors import EngineError
from lightship.ports.variants import Variant
from lightship.spec.document import Spec

_FIRST_TOKEN_TIMEOUT_S = 60.0
# Loading is bounded by the disk; half of a slow one's speed, plus time for imports and graph compilation. vLLM compiles
# for a minute or two on two cores.
STARTUP_WARMUP_S = {"openvino": 60.0, "vllm": 420.0, "llamacpp": 60.0}
_STARTUP_BYTES_PER_S = 50e6
_DRAIN_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class StartedWorker:
    """A worker that has answered once; `startup_s` counts from its start to its first token."""

    process: WorkerProcess
    startup_s: float
    setup: WorkerSetup

    @property
    def base_url(self) -> str:
        """Where it answers."""
        return self.process.base_url


def startup_budget_s(variant: Variant, engine: str = "openvino") -> float:
    """How long a worker of this variant may take to become ready."""
    return STARTUP_WARMUP_S[engine] + variant.manifest.num_bytes / _STARTUP_BYTES_PER_S


@asynccontextmanager
async def started_worker(spec: Spec, variant: Variant, around: Surroundings) -> AsyncIterator[StartedWorker]:
    """A running worker with the spec's engine settings, gone afterwards.

    Raises: EngineError: it does not start, or its first request fails.
    Effects: may install the engine's toolchain; one process group, one log, one short-lived config file.
    """
    # Nothing is under way when it is stopped, and vLLM waits for the whole of its drain time all the same.
    setup = worker_setup(_without_drain(spec), variant, around, port=free_port())
    setup.install(around)
    name = f"{variant.manifest.name}-{variant.manifest.short_digest}"
    config_path = around.home / "run" / f"measure-{name}.json"
    worker = setup.process(name, config_path=config_path, log_path=around.logs / f"measure-{name}.log")
    started_s = around.clock.monotonic_s()
    try:
        with around.progress.task(f"starting {variant.manifest.name}"):
            await worker.start(startup_timeout_s=startup_budget_s(variant, setup.adapter.name))
            await _first_token(worker.base_url, spec.model.name)
        yield StartedWorker(worker, around.clock.monotonic_s() - started_s, setup)
    finally:
        await worker.stop(drain_timeout_s=_DRAIN_TIMEOUT_S)
        config_path.unlink(missing_ok=True)


def _without_drain(spec: Spec) -> Spec:
    return spec.model_copy(update={"gateway": spec.gateway.model_copy(update={"drain_timeout_s": 0.0})})


async def _first_token(base_url: str, model: str) -> None:
    """Asks for one token, so that start-up counts until a user would see something."""
    timeout = aiohttp.ClientTimeout(total=_FIRST_TOKEN_TIMEOUT_S)
    body = {"model": model, "prompt": "Once", "max_tokens": 1, "temperature": 0}
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(f"{base_url}/v1/completions", json=body) as reply,
    ):
        if reply.status != 200:
            raise EngineError(f"the first request failed: {(await reply.text())[:300]}", where=base_url)
