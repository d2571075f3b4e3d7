"""From a sleeping model to the first token, through the gateway, beside llama-server started by hand.

    python benchmarks/scale_from_zero.py [--starts 20] [--concurrent 50] [--no-llama]

The built-in model is served by the system of `lightship up` with `replicas.min: 0`. Each round waits until its process
is gone, sends one streamed completion, and takes the time to the first token as the client sees it. Beside it, in turn:
llama-server with the same model (Q8_0) from its start to its first token, which is the least that anything which starts
it on demand can take. Then one wake with many requests at once. The page cache is warm throughout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from lightship.artifacts.machine import this_machine
from lightship.cli.measured_ladder import Prepared, prepare
from lightship.cli.prepare import Surroundings, build_variants, resolve_model, surroundings
from lightship.cli.running import RunningSystem, ServedModel, running_system
from lightship.cli.variant_worker import started_worker
from lightship.engines.process import free_port
from lightship.ports.replica_control import ReplicaPhase
from lightship.ports.variants import Variant
from lightship.spec.document import Spec
from lightship.spec.load import parse_spec

TARGET_P95_S = 2.0
_LIMIT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """One streamed completion: seconds to its first token, whether it came to its end, and whether it was held."""

    first_token_s: float
    is_whole: bool
    is_cold: bool


def spec_of(**sections: Any) -> Spec:
    """A spec with these sections."""
    return parse_spec(json.dumps(sections), origin="benchmark", environment=os.environ, overrides=[]).spec


async def ask(session: aiohttp.ClientSession, url: str, model: str, number: int) -> Answer:
    """One streamed completion with a prompt of its own."""
    body = {"model": model, "prompt": f"Tale {number}. Once", "max_tokens": 16, "stream": True, "temperature": 0}
    started_s, first_s, is_whole = time.perf_counter(), math.inf, False
    async with session.post(f"{url}/v1/completions", json=body) as reply:
        is_cold = reply.headers.get("x-cold-start") == "true"
        async for line in reply.content:
            if line.startswith(b"data: {") and first_s == math.inf:
                first_s = time.perf_counter() - started_s
            is_whole |= line.startswith(b"data: [DONE]")
        return Answer(first_s, is_whole and reply.status == 200, is_cold)


async def until_asleep(system: RunningSystem, changed: asyncio.Event) -> None:
    """Returns when no process of a replica is left; `changed` is set at every change of one."""
    async with asyncio.timeout(_LIMIT_S):
        while any(one.phase is not ReplicaPhase.SLEEPING for one in system.supervisor.snapshot().replicas):
            changed.clear()
            await changed.wait()


async def llama_start_s(spec: Spec, variant: Variant, around: Surroundings) -> float:
    """Seconds from the start of llama-server to its first token."""
    async with started_worker(spec, variant, around) as worker:
        return worker.startup_s


async def measure(
    prepared: Prepared, llama: tuple[Spec, Variant] | None, around: Surroundings, *, starts: int, concurrent: int
) -> tuple[list[Answer], list[float], list[Answer]]:
    """Answers of the cold starts, starts of llama-server, answers of the one wake with many requests."""
    spec = prepared.spec
    served = ServedModel(spec, tuple(prepared.rungs))
    timeout = aiohttp.ClientTimeout(total=_LIMIT_S)
    changed = asyncio.Event()
    async with (
        running_system([served], around, gateway_port=free_port(), on_change=changed.set) as system,
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        cold, others = [], []
        for number in range(starts):
            await until_asleep(system, changed)
            cold.append(await ask(session, system.gateway_url, spec.model.name, number))
            if llama is not None:
                await until_asleep(system, changed)
                others.append(await llama_start_s(*llama, around))
        await until_asleep(system, changed)
        many = await asyncio.gather(
            *(ask(session, system.gateway_url, spec.model.name, 1000 + number) for number in range(concurrent))
        )
        return cold, others, many


def p95(values: Sequence[float]) -> float:
    """The 95th percentile, nearest rank."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def told(values: Sequence[float]) -> str:
    """Median, p95 and range in words."""
    return f"median {statistics.median(values):.2f} s, p95 {p95(values):.2f} s, {min(values):.2f}-{max(values):.2f}"


def main() -> int:
    """Prints the figures; 1 when one falls short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--concurrent", type=int, default=50)
    parser.add_argument("--no-llama", action="store_true", help="leave llama-server out")
    args = parser.parse_args()
    around = surroundings()
    spec = spec_of(variants=["fp16"], replicas={"min": 0, "idle_after_s": 1})
    prepared = prepare(spec, around)
    llama = None
    if not args.no_llama:
        other = spec_of(variants=["fp16", "q8_0"], engines={"llamacpp": {}})
        built = build_variants(other, resolve_model(other, around), around)
        llama = other, next(one for one in built.variants if one.manifest.name == "q8_0")
    cold, others, many = asyncio.run(measure(prepared, llama, around, starts=args.starts, concurrent=args.concurrent))
    print(f"{this_machine().description}; load average {os.getloadavg()[0]:.1f}")
    times = [one.first_token_s for one in cold]
    num_lost = sum(not one.is_whole for one in [*cold, *many])
    checks = [
        (
            p95(times) <= TARGET_P95_S,
            f"first token of {len(cold)} cold starts: {told(times)}",
            f"p95 {TARGET_P95_S:g} s",
        ),
        (all(one.is_cold for one in cold), f"{sum(one.is_cold for one in cold)} of them were held", "all"),
        (not num_lost, f"{num_lost} of {len(cold) + len(many)} requests lost", "0"),
        (
            all(one.is_whole for one in many),
            f"{len(many)} at once during one wake: first token {told([one.first_token_s for one in many])}",
            "all answered",
        ),
    ]
    for is_met, found, target in checks:
        print(f"{'ok' if is_met else 'MISS'}  {found} ({target})")
    if others:
        ratio = statistics.median(mine / other for mine, other in zip(times, others, strict=True))
        print(
            f"llama-server (Q8_0), its own start to its first token: {told(others)}; ours takes {ratio:.2f} times that"
        )
    return 0 if all(is_met for is_met, _, _ in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
