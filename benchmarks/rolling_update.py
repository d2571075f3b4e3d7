"""A rolling update, a step down and a crash under load: how many requests fail.

    python benchmarks/rolling_update.py [--seconds 15] [--seed 1]

The built-in model is served by the system of `lightship up` with one to two replicas. Clients that each send one stream
after another keep it busy, and check every stream to its `[DONE]`. Meanwhile

    up      more clients than one replica should have: a second one is started
    down    fewer: it is drained and stopped, with streams under way on it
    roll    every replica is replaced by a new one, three times
    crash   a replica is killed with SIGKILL while it answers

The first three must fail nobody. The crash may break only those streams that had begun on the killed replica.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from lightship.artifacts.machine import this_machine
from lightship.cli.measured_ladder import Prepared, prepare
from lightship.cli.prepare import Surroundings, surroundings
from lightship.cli.running import RunningSystem, ServedModel, running_system
from lightship.engines.process import free_port
from lightship.ports.replica_control import ReplicaPhase
from scale_from_zero import spec_of

_LIMIT_S = 120.0
# Of a stream; each takes a second or more on this kind of machine, so that some are always under way.
_NUM_TOKENS = 600


@dataclass
class Load:
    """Clients that send one stream after another, and what came of them, by the step in which they ended."""

    url: str
    model: str
    session: aiohttp.ClientSession
    step: str = ""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    number: int = 0
    num_clients: int = 0

    async def client(self, me: int) -> None:
        """Sends until there are fewer clients than this one's place."""
        while me < self.num_clients:
            result = await self._stream()
            self.counts[self.step, result] += 1

    async def _stream(self) -> str:
        self.number += 1
        body = {
            "model": self.model,
            "prompt": f"Tale {self.number}. Once upon a time",
            "max_tokens": _NUM_TOKENS,
            "stream": True,
            "temperature": 0,
            "ignore_eos": True,
        }
        has_begun = False
        try:
            async with self.session.post(f"{self.url}/v1/completions", json=body) as reply:
                if reply.status != 200:
                    return f"status {reply.status}"
                async for line in reply.content:
                    if line.startswith(b'data: {"error"'):
                        self.errors.append(f"{self.step}: {line.decode().strip()}")
                        return "broken after its first token" if has_begun else "error before its first token"
                    has_begun |= line.startswith(b"data: {")
                    if line.startswith(b"data: [DONE]"):
                        return "served"
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__
        return "broken after its first token"

    def failed(self, step: str) -> Counter[str]:
        """What went wrong in a step."""
        return Counter({result: n for (at, result), n in self.counts.items() if at == step and result != "served"})


async def run(prepared: Prepared, around: Surroundings, *, seconds: float) -> tuple[Load, dict[str, str], float]:
    """The load with its counts, what was seen in each step, and requests still counted as under way at the end."""
    spec = prepared.spec
    changed = asyncio.Event()
    timeout = aiohttp.ClientTimeout(total=_LIMIT_S)
    async with (
        asyncio.timeout(20 * _LIMIT_S),
        running_system(
            [ServedModel(spec, tuple(prepared.rungs))], around, gateway_port=free_port(), on_change=changed.set
        ) as system,
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        load = Load(system.gateway_url, spec.model.name, session)
        async with asyncio.TaskGroup() as group:

            def set_clients(count: int) -> None:
                running, load.num_clients = load.num_clients, count
                for me in range(running, count):
                    group.create_task(load.client(me))

            seen = await steps(system, load, changed, set_clients=set_clients, seconds=seconds)
            set_clients(0)
        async with session.get(f"{system.gateway_url}/metrics") as reply:
            lines = (await reply.text()).splitlines()
        left = sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("lightship_rung_in_flight"))
        return load, seen, left


async def steps(
    system: RunningSystem,
    load: Load,
    changed: asyncio.Event,
    *,
    set_clients: Callable[[int], None],
    seconds: float,
) -> dict[str, str]:
    """Goes through all of them; what was seen, in words."""

    async def until(is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(_LIMIT_S):
            while not is_so():
                changed.clear()
                await changed.wait()

    def num_ready() -> int:
        return system.supervisor.rung_status(load.model, 0).num_ready

    def pids() -> set[int]:
        return {one.pid for one in system.supervisor.snapshot().replicas if one.phase is ReplicaPhase.READY}

    seen = {}
    load.step = "up"
    set_clients(12)
    await until(lambda: num_ready() == 2)
    await asyncio.sleep(seconds / 3)
    seen["up"] = "1 -> 2 replicas"
    load.step = "down"
    set_clients(3)
    await until(lambda: num_ready() == 1)
    await until(lambda: all(one.phase is not ReplicaPhase.DRAINING for one in system.supervisor.snapshot().replicas))
    seen["down"] = "2 -> 1 replicas"
    load.step = "roll"
    set_clients(6)
    before = pids()
    num_rolled = sum([await system.supervisor.roll() for _ in range(3)])
    await asyncio.sleep(seconds / 3)
    seen["roll"] = f"{num_rolled} replacements, {len(pids() & before)} old processes left"
    load.step = "crash"
    running = pids()
    os.kill(min(running), signal.SIGKILL)
    await until(lambda: min(running) not in pids())
    await until(lambda: num_ready() >= len(running))
    await asyncio.sleep(seconds / 3)
    seen["crash"] = f"1 of {len(running)} killed, and started again"
    return seen


def main() -> int:
    """Prints the figures; 1 when one falls short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of load after the changes, all steps together")
    args = parser.parse_args()
    around = surroundings()
    spec = spec_of(
        variants=["fp16"],
        measurement={"concurrencies": [1, 8], "target_concurrency": 8},
        replicas={"min": 1, "max": 2, "scale_down_after_s": 2},
        slo={"ttft_ms": 60_000},  # nobody is shed for having to wait: what fails here is to be the change's fault
    )
    load, seen, left = asyncio.run(run(prepare(spec, around), around, seconds=args.seconds))
    print(f"{this_machine().description}; load average {os.getloadavg()[0]:.1f}")
    falls_short = False
    for step, words in seen.items():
        failed = load.failed(step)
        allowed = {"broken after its first token"} if step == "crash" else set()
        is_met = not set(failed) - allowed
        falls_short |= not is_met
        num_served = load.counts[step, "served"]
        told = json.dumps(dict(failed)) if failed else "0 failed"
        target = "only streams that had begun there" if step == "crash" else "0 failed"
        print(f"{'ok' if is_met else 'MISS'}  {step}: {words}; {num_served} served, {told} ({target})")
    for error in load.errors:
        print(f"    {error}")
    falls_short |= left != 0
    print(f"{'MISS' if left else 'ok'}  {left:g} requests still counted as under way at the end (0)")
    return 1 if falls_short else 0


if __name__ == "__main__":
    sys.exit(main())
