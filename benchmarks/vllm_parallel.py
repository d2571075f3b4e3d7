"""A vLLM of several processes behind the gateway: one of them is killed under load; exit 1 when a promise is broken.

    python benchmarks/vllm_parallel.py [--modes data,tensor] [--seconds 75] [--rate 2] [--json FILE]

For `data_parallel: 2` and `tensor_parallel: 2`, each once alone and once above a lower rung (the same model in 8 bits
on OpenVINO): the built-in model is served through the engine's own adapter and supervision, clients come at random
times and do not wait for each other, and a third into the load one computing process of vLLM's group gets SIGKILL.

    answered     with 200 and `[DONE]`, and by which rung
    refused      503 with a time to come back in, which is what a model without any replica has to answer
    broken       after its first token: told so in the stream; nothing may be tried again there
    failed       before its first token, with an error that says so
    lost         any other end: nobody told the client

Promises: nothing is lost. With a lower rung nothing is refused and nothing fails: only what was broken in the middle
is not answered. Alone, requests fail for the moment in which the gateway does not know yet, and then are refused. The
whole group goes when one process does, comes back by itself, and answers again; at the end no counter has a request
left, and no process is left behind. Nothing is compiled (`eager`): speed is not what this is about. Needs the toolchain
`vllm`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from lightship.artifacts.machine import this_machine
from lightship.cli.prepare import Surroundings, build_context, resolve_model, surroundings
from lightship.cli.running import SupervisedProcess
from lightship.cli.variant_worker import startup_budget_s
from lightship.cli.worker_setup import worker_setup
from lightship.compression.build import build_variant
from lightship.compression.recipes import PRESETS
from lightship.engines.memory import group_members
from lightship.engines.process import WorkerProcess, free_port
from lightship.gateway.config import GatewayConfig, ReplicaConfig, encode_config
from lightship.gateway.dispatch.config import DispatchConfig, LadderConfig, RungFacts
from lightship.gateway.headers import SERVED_VARIANT
from lightship.gateway.routing.engine_metrics import parse_engine_metrics
from lightship.ports.clock import SystemClock
from lightship.ports.engine import HopTimeouts
from lightship.ports.variants import Variant
from lightship.spec.load import parse_spec

MODEL = "tales"
TOP, LOWER = "bf16", "int8"
MAX_TOKENS = 16
GATEWAY_START_S, DRAIN_S = 30.0, 10.0
# After the last request: engines tell their load once a step, the gateway reads it every second.
SETTLE_S = 20.0
# The gateway probes once a second, and two probes may cross the death of the engine.
DETECTION_S = 5.0
# Names that vLLM gives its computing processes, by what the replica is split for.
VICTIMS = {"data": b"VLLM::EngineCore_DP1", "tensor": b"VLLM::Worker_TP1"}
IN_FLIGHT = ("lightship_requests_in_flight", "lightship_requests_queued", "lightship_rung_requests_in_flight")


@dataclass
class Seen:
    """What clients saw, each with the time at which it was sent."""

    sent_s: dict[int, float] = field(default_factory=dict)
    ends: dict[int, str] = field(default_factory=dict)
    answered_s: list[tuple[float, str]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


@dataclass
class Result:
    """One run: counts of requests before and after the kill, and what became of the group."""

    mode: str
    has_lower_rung: bool
    startup_s: float
    victim: str = ""
    before_kill: dict[str, int] = field(default_factory=dict)
    after_kill: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    num_failed_late: int = 0
    group_gone_after_s: float = 0.0
    answered_again_after_s: float | None = None
    num_restarts: int = 0
    left_in_counters: dict[str, float] = field(default_factory=dict)
    num_processes_left: int = 0

    @property
    def broken_promises(self) -> list[str]:
        """What did not hold."""
        total = Counter(self.before_kill) + Counter(self.after_kill)
        found = {
            f"{len(self.lost)} requests were lost": bool(self.lost),
            f"{total['refused']} requests were refused beside a lower rung": self.has_lower_rung and total["refused"],
            f"{total['failed']} requests failed beside a lower rung": self.has_lower_rung and total["failed"],
            f"{self.num_failed_late} requests failed long after the kill": bool(self.num_failed_late),
            "the group did not come back": self.num_restarts == 0 or self.answered_again_after_s is None,
            f"requests are left in counters: {self.left_in_counters}": bool(self.left_in_counters),
            f"{self.num_processes_left} processes are left": bool(self.num_processes_left),
        }
        return [what for what, is_so in found.items() if is_so]


@dataclass
class System:
    """The processes of one run."""

    url: str
    top: SupervisedProcess
    workers: list[SupervisedProcess]
    gateway: SupervisedProcess
    variants: dict[str, str]  # names by digest
    groups: set[int] = field(default_factory=set)
    restarted_s: float | None = None

    def note_restart(self) -> None:
        """Something was started again and is ready."""
        self.restarted_s = time.monotonic()
        self.note_groups()

    def note_groups(self) -> None:
        """Remembers every process group there was, to look for what is left of them."""
        self.groups |= {one.current.pid for one in (*self.workers, self.gateway) if one.current.pid is not None}

    @property
    def num_processes_left(self) -> int:
        """Processes of any group there ever was."""
        return sum(len(group_members(group)) for group in self.groups)


async def send(session: aiohttp.ClientSession, system: System, number: int, seen: Seen) -> None:
    """One client that streams."""
    body = {"model": MODEL, "prompt": f"Tale {number}: once upon", "max_tokens": MAX_TOKENS, "stream": True}
    seen.sent_s[number] = time.monotonic()
    content, variant = b"", ""
    try:
        async with session.post(f"{system.url}/v1/completions", json=body) as reply:
            variant = reply.headers.get(SERVED_VARIANT, "")
            async for chunk in reply.content.iter_any():
                content += chunk
            if reply.status == 503 and int(reply.headers.get("retry-after", 0)) >= 1:
                seen.ends[number] = "refused"
            elif reply.status == 200 and content.endswith(b"data: [DONE]\n\n"):
                name = system.variants[variant]
                seen.ends[number] = f"answered by {name}"
                seen.answered_s.append((time.monotonic(), name))
            elif b'"choices"' in content and b'"error"' in content:
                seen.ends[number] = "broken"
            elif reply.status in {500, 502, 504} and b'"error"' in content:
                seen.ends[number] = "failed"
            else:
                _note_lost(number, f"{reply.status} {content[-200:]!r}", seen)
    except (aiohttp.ClientError, TimeoutError) as error:
        _note_lost(number, repr(error), seen)


def _note_lost(number: int, said: str, seen: Seen) -> None:
    seen.ends[number] = "lost"
    seen.lost.append(f"request {number}: {said}")


async def run(mode: str, *, has_lower_rung: bool, args: argparse.Namespace, around: Surroundings) -> Result:
    """One system, one load, one kill."""
    started_s = time.monotonic()
    async with serving(mode, has_lower_rung=has_lower_rung, around=around, logs=args.logs) as system:
        result = Result(mode, has_lower_rung, startup_s=time.monotonic() - started_s)
        seen, killed_s = Seen(), [0.0]
        async with asyncio.TaskGroup() as tasks:
            watchers = [
                tasks.create_task(one.keep_running(system.note_restart)) for one in (*system.workers, system.gateway)
            ]
            killer = tasks.create_task(_kill(mode, system, result, killed_s, after_s=args.seconds / 3))
            await _load(system, seen, args)
            await killer
            result.answered_again_after_s = await _until_top_answers(system, killed_s[0], seen)
            result.left_in_counters = await _left(system)
            result.num_restarts = sum(one.num_restarts for one in system.workers)
            for watcher in watchers:
                watcher.cancel()
        _count(result, seen, killed_s[0])
    # the end of the last process is seen a moment after it
    await _wait(lambda: system.num_processes_left == 0, timeout_s=5.0)
    result.num_processes_left = system.num_processes_left
    return result


async def _load(system: System, seen: Seen, args: argparse.Namespace) -> None:
    rng = random.Random(args.seed)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as clients:
        ends_s, number = time.monotonic() + args.seconds, 0
        while time.monotonic() < ends_s:
            clients.create_task(send(session, system, number, seen))
            number += 1
            await asyncio.sleep(rng.expovariate(args.rate))


async def _kill(mode: str, system: System, result: Result, killed_s: list[float], *, after_s: float) -> None:
    await asyncio.sleep(after_s)
    group = system.top.current.pid
    assert group is not None
    victims = [pid for pid in group_members(group) if _command(pid).startswith(VICTIMS[mode])]
    if len(victims) != 1:
        raise RuntimeError(f"no single process {VICTIMS[mode]!r} in the group: {victims}")
    result.victim = VICTIMS[mode].decode()
    os.kill(victims[0], signal.SIGKILL)
    killed_s[0] = time.monotonic()
    await _wait(lambda: not group_members(group), timeout_s=60.0)
    result.group_gone_after_s = time.monotonic() - killed_s[0]


async def _until_top_answers(system: System, killed_s: float, seen: Seen) -> float | None:
    """Seconds from the kill to the first answer of the restarted rung; goes on asking after the load has ended."""
    number = 1_000_000
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < killed_s + 240.0:
            ready_s = system.restarted_s
            if ready_s is not None:
                found = [when_s for when_s, name in seen.answered_s if name == TOP and when_s > ready_s]
                if found:
                    return min(found) - killed_s
            await asyncio.sleep(1.0)
            extra = Seen()
            await send(session, system, number, extra)
            number += 1
            seen.answered_s += extra.answered_s
    return None


async def _left(system: System) -> dict[str, float]:
    """Gauges of requests that are not zero, of the gateway and of the engines, once they have settled."""
    left: dict[str, float] = {}
    ends_s = time.monotonic() + SETTLE_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < ends_s:
            async with session.get(f"{system.url}/metrics") as reply:
                lines = (await reply.text()).splitlines()
            samples = {
                name: float(value) for name, _, value in (one.rpartition(" ") for one in lines if one[:1] != "#")
            }
            left = {name: value for name, value in samples.items() if name.startswith(IN_FLIGHT) and value}
            for worker in system.workers:
                try:
                    async with session.get(f"{worker.current.base_url}/metrics") as reply:
                        gauges = parse_engine_metrics(await reply.read())
                except aiohttp.ClientError:
                    gauges = None
                if gauges is None or gauges.num_running + gauges.num_waiting:
                    left[worker.current.name] = -1.0 if gauges is None else gauges.num_running + gauges.num_waiting
            if not left:
                break
            await asyncio.sleep(0.5)
    return left


def _count(result: Result, seen: Seen, killed_s: float) -> None:
    before = Counter(end for number, end in seen.ends.items() if seen.sent_s[number] < killed_s)
    result.before_kill = dict(sorted(before.items()))
    result.after_kill = dict(sorted((Counter(seen.ends.values()) - before).items()))
    result.lost = seen.lost
    failed = [number for number, end in seen.ends.items() if end == "failed"]
    result.num_failed_late = sum(seen.sent_s[number] > killed_s + DETECTION_S for number in failed)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def _wait(is_so: Any, *, timeout_s: float) -> None:
    ends_s = time.monotonic() + timeout_s
    while time.monotonic() < ends_s:
        if is_so():
            return
        await asyncio.sleep(0.05)


@asynccontextmanager
async def serving(mode: str, *, has_lower_rung: bool, around: Surroundings, logs: Path | None) -> AsyncIterator[System]:
    """Workers and gateway, gone afterwards."""
    settings = f"{{eager: true, kv_cache_size: 64 MiB, {mode}_parallel: 2}}"
    overrides = [f"model.name={MODEL}", f"engines.vllm={settings}", "engines.openvino.threads=1"]
    spec = parse_spec("", overrides=[*overrides, "gateway.drain_timeout_s=10"]).spec
    model = resolve_model(spec, around)
    context = build_context(spec, model, around)
    recipes = [PRESETS[name] for name in ([TOP, LOWER] if has_lower_rung else [TOP])]
    variants = [build_variant(recipe, model.checkpoint, context, model_name=MODEL) for recipe in recipes]
    with tempfile.TemporaryDirectory() as temporary:
        folder = logs or Path(temporary)
        workers, replicas = [], []
        for rung, variant in enumerate(variants):
            setup = worker_setup(spec, variant, around, port=free_port())
            setup.install(around)
            path = folder / f"{variant.manifest.name}.json"

            def make(setup: Any = setup, path: Path = path, name: str = variant.manifest.name) -> WorkerProcess:
                process: WorkerProcess = setup.process(name, config_path=path, log_path=path.with_suffix(".log"))
                return process

            budget_s = startup_budget_s(variant, setup.adapter.name)
            workers.append(SupervisedProcess(make, startup_timeout_s=budget_s, clock=SystemClock()))
            replicas.append(_replica(variant, setup.settings.address, rung))
        gateway, url = _gateway(replicas, folder)
        names = {one.manifest.digest: one.manifest.name for one in variants}
        system = System(url, workers[0], workers, gateway, names)
        try:
            for process in (*workers, gateway):
                await process.start()
            system.note_groups()
            yield system
        finally:
            system.note_groups()
            for process in (gateway, *workers):
                await process.stop(drain_timeout_s=DRAIN_S)


def _replica(variant: Variant, address: str, rung: int) -> ReplicaConfig:
    return ReplicaConfig(
        name=variant.manifest.name,
        base_url=address,
        model_name=MODEL,
        variant_name=variant.manifest.name,
        variant_digest=variant.manifest.digest,
        rung=rung,
        device="cpu",
    )


def _gateway(replicas: list[ReplicaConfig], folder: Path) -> tuple[SupervisedProcess, str]:
    facts = tuple(
        RungFacts(
            variant_name=one.variant_name,
            variant_digest=one.variant_digest,
            device="cpu",
            quality_loss=0.01 * one.rung,
            goodput_requests_per_s=8.0 * (1 + one.rung),
            concurrency=16,
        )
        for one in replicas
    )
    config = GatewayConfig(
        model_name=MODEL,
        port=free_port(),
        replicas=tuple(replicas),
        timeouts=HopTimeouts(connect_s=2.0, first_token_s=20.0, next_token_s=10.0, total_s=60.0),
        retry_budget_share=1.0,
        dispatch=DispatchConfig(ladders={MODEL: LadderConfig(rungs=facts, ttft_s=10.0, tpot_s=1.0)}),
    )
    path = folder / "gateway.json"
    path.write_bytes(encode_config(config))
    url = f"http://127.0.0.1:{config.port}"

    def make() -> WorkerProcess:
        command = [sys.executable, "-m", "lightship.gateway", str(path), "--exit-with-parent"]
        return WorkerProcess(name="gateway", command=command, base_url=url, log_path=folder / "gateway.log")

    return SupervisedProcess(make, startup_timeout_s=GATEWAY_START_S, clock=SystemClock()), url


def show(result: Result) -> None:
    """Prints one run."""
    rungs = f"above {LOWER} on OpenVINO" if result.has_lower_rung else "alone"
    again_s = result.answered_again_after_s
    again = "never" if again_s is None else f"after {again_s:.1f} s"
    print(f"\n{result.mode}_parallel: 2, {rungs} (started in {result.startup_s:.0f} s)")
    print(f"  sent before the kill   {_shown(result.before_kill)}")
    print(f"  sent after it          {_shown(result.after_kill)}")
    print(
        f"  {result.victim} killed; its group was gone after {result.group_gone_after_s:.1f} s, {TOP} answered {again}"
    )
    print(f"  restarts {result.num_restarts}; left in counters {result.left_in_counters or 0}", end="; ")
    print(f"processes left {result.num_processes_left}")
    broken = (*result.broken_promises, *result.lost[:5])
    for line in broken:
        print(f"  BROKEN: {line}")
    after = f"{_shown(result.after_kill)} after the kill, {TOP} answered {again}"
    print(f"{'MISS' if broken else 'ok  '} {result.mode}_parallel 2, {rungs}: {after} (nothing lost, nothing left)")
    sys.stdout.flush()


def _shown(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {end}" for end, count in counts.items()) or "none"


def main() -> int:
    parser = argparse.ArgumentParser(description="vLLM of several processes behind the gateway, one of them killed.")
    parser.add_argument("--modes", default="data,tensor")
    parser.add_argument("--rungs", default="alone,ladder", help="alone, ladder, or both")
    parser.add_argument("--seconds", type=float, default=75.0, help="of load")
    parser.add_argument("--rate", type=float, default=2.0, help="requests per second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logs", type=Path, help="existing folder in which the logs are kept")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print(this_machine().description)
    around, results = surroundings(), []
    for mode in args.modes.split(","):
        for rungs in args.rungs.split(","):
            results.append(asyncio.run(run(mode, has_lower_rung=rungs == "ladder", args=args, around=around)))
            show(results[-1])
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in results], indent=2) + "\n")
    return 1 if any(one.broken_promises for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
