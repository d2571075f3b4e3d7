"""Load on a real gateway while replicas are killed, frozen, broken and restarted and it is reloaded; exit 1 on a loss.

    python benchmarks/chaos.py [--minutes 10] [--rate 40] [--seed 0] [--json FILE]

Three simulated engines with real HTTP servers, one gateway process, a Redis server where one is installed (killed and
started again as well). Every few seconds something happens to a replica, never to all three at a time:

    kill       SIGKILL, started again a few seconds later
    freeze     SIGSTOP for a few seconds: connections open, nothing answers
    restart    SIGTERM, which drains, then started again
    faults     a share of answers with status 500 or 503, slow first bytes, resets, broken and trickling streams

and to the gateway: SIGHUP with another valid configuration, and with an invalid one. Clients stream, or do not, and a
few leave in the middle.

What must hold: every request has exactly one outcome, the client's count is the gateway's; no request is lost before
its first byte while a healthy replica exists; at the end every counter of what is in flight is zero.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from lightship.engines.process import free_port
from lightship.engines.simulated.config import SimulatedWorkerConfig, encode_config
from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.gateway.config import encode_config as encode_gateway_config
from lightship.gateway.dispatch.config import DispatchConfig, LadderConfig, RungFacts
from lightship.gateway.state import StateConfig
from lightship.ports.engine import HopTimeouts
from lightship.ports.engine_profile import EngineLimits, EngineProfile, ProfileOrigin, ProfileSource, StepCosts

MODEL = "m"
NUM_REPLICAS = 3
PROFILE = EngineProfile(
    name="chaos",
    costs=StepCosts(step_s=0.004, prefill_token_s=0.00002, decode_token_s=0.0001),
    limits=EngineLimits(num_kv_blocks=20_000),
    source=ProfileSource(origin=ProfileOrigin.ASSUMED, description="chaos"),
)
TIMEOUTS = HopTimeouts(connect_s=1.0, first_token_s=3.0, next_token_s=8.0, total_s=40.0)
FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "status", "status": 500, "share": 0.7},
    {"kind": "status", "status": 503, "share": 0.7},
    {"kind": "slow_first_byte", "delay_s": 1.0, "share": 0.5},
    {"kind": "reset", "after_events": 0, "share": 0.7},
    {"kind": "truncate", "after_events": 3, "share": 0.3},
    {"kind": "error_event", "after_events": 2, "share": 0.3},
    {"kind": "trickle", "delay_s": 0.2, "share": 0.5},
)


@dataclass
class Replica:
    """One simulated engine that can be hurt."""

    port: int
    folder: Path
    process: asyncio.subprocess.Process | None = None
    is_hurt: bool = False

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Effects: a process that answers soon."""
        path = self.folder / f"replica-{self.port}.json"
        config = SimulatedWorkerConfig(
            model_name=MODEL, variant_name="v", variant_digest="sha256:v", host="127.0.0.1", port=self.port,
            profile=PROFILE, is_fault_admin=True,
        )  # fmt: skip
        path.write_bytes(encode_config(config))
        log = (self.folder / f"replica-{self.port}.log").open("ab")
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lightship.engines.simulated", str(path), stdout=log, stderr=log
        )

    async def stop(self, number: int) -> None:
        """Effects: it ends by that signal."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await self.process.wait()

    async def wait_ready(self, session: aiohttp.ClientSession) -> None:
        """Returns when it wants requests."""
        for _ in range(200):
            try:
                async with session.get(f"{self.url}/health/ready") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
        raise TimeoutError(f"{self.url} does not come up")


@dataclass
class Seen:
    """What clients saw."""

    outcomes: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    actions: Counter[str] = field(default_factory=Counter)
    num_sent: int = 0


def gateway_config(replicas: list[Replica], port: int, *, redis_url: str, max_attempts: int) -> GatewayConfig:
    """The gateway in front of them."""
    rung = RungFacts(variant_name="v", variant_digest="sha256:v", goodput_requests_per_s=100, concurrency=200)
    return GatewayConfig(
        model_name=MODEL,
        port=port,
        replicas=tuple(
            ReplicaConfig(
                name=f"r{position}", base_url=replica.url, model_name=MODEL, variant_name="v", variant_digest="sha256:v"
            )
            for position, replica in enumerate(replicas)
        ),
        timeouts=TIMEOUTS,
        max_attempts=max_attempts,
        retry_budget_share=1.0,
        dispatch=DispatchConfig(ladders={MODEL: LadderConfig(rungs=(rung,), ttft_s=10.0, tpot_s=1.0)}),
        state=StateConfig(redis_url=redis_url),
    )


class Redis:
    """A Redis server that is killed and started again; nothing where it is not installed."""

    def __init__(self, folder: Path) -> None:
        self.program = shutil.which("redis-server")
        self.port = free_port()
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it answers; "" where there is none."""
        return f"redis://127.0.0.1:{self.port}/0" if self.program else ""

    async def start(self) -> None:
        """Effects: a server without persistence."""
        if self.program:
            arguments = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder))
            quiet = asyncio.subprocess.DEVNULL
            self._process = await asyncio.create_subprocess_exec(self.program, *arguments, stdout=quiet, stderr=quiet)

    async def stop(self) -> None:
        """Effects: it is gone."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


async def send(session: aiohttp.ClientSession, url: str, rng: random.Random, seen: Seen) -> None:
    """One client: streams or not, stays or leaves."""
    is_streaming, leaves = rng.random() < 0.8, rng.random() < 0.08
    body = {"model": MODEL, "prompt": f"{rng.random()} " * rng.randint(1, 60), "max_tokens": rng.randint(4, 60)}
    seen.num_sent += 1
    num_bytes = 0
    try:
        async with session.post(f"{url}/v1/completions", json={**body, "stream": is_streaming}) as reply:
            if leaves:
                await asyncio.sleep(rng.random() * 0.1)
                seen.outcomes["left"] += 1
                return
            last = b""
            async for chunk in reply.content.iter_any():
                num_bytes += len(chunk)
                last = (last + chunk)[-300:]
            judge(reply.status, reply.headers, last, is_streaming=is_streaming, seen=seen)
    except (aiohttp.ClientError, TimeoutError) as error:
        if num_bytes or is_streaming is False:
            seen.outcomes["broken"] += 1
        else:
            seen.outcomes["lost"] += 1
            seen.lost.append(f"{type(error).__name__}: {error}")


def judge(status: int, headers: Any, last: bytes, *, is_streaming: bool, seen: Seen) -> None:
    """Puts one answer to its kind."""
    if status == 200:
        is_whole = last.endswith(b"data: [DONE]\n\n") if is_streaming else True
        seen.outcomes["answered" if is_whole else "broken"] += 1
    elif status == 503 and headers.get("x-reject-reason") in {"saturated", "deadline", "queue-full"}:
        seen.outcomes["refused"] += 1
    else:
        seen.outcomes["lost"] += 1
        seen.lost.append(f"{status} {last[:200]!r}")


async def hurt(replicas: list[Replica], session: aiohttp.ClientSession, rng: random.Random, seen: Seen) -> None:
    """Something happens to one replica; it is well again when this returns."""
    replica = rng.choice([one for one in replicas if not one.is_hurt])
    replica.is_hurt = True
    try:
        action = rng.choice(["kill", "freeze", "restart", "faults", "faults"])
        seen.actions[action] += 1
        if action in {"kill", "restart"}:
            await replica.stop(signal.SIGKILL if action == "kill" else signal.SIGTERM)
            await asyncio.sleep(rng.uniform(0.5, 3.0))
            await replica.start()
        elif action == "freeze":
            assert replica.process is not None
            replica.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(rng.uniform(1.0, 5.0))
            replica.process.send_signal(signal.SIGCONT)
        else:
            plan = {"rules": [rng.choice(FAULTS)], "seed": rng.randrange(1000)}
            await set_faults(session, replica, plan)
            await asyncio.sleep(rng.uniform(2.0, 5.0))
            await set_faults(session, replica, {})
        await replica.wait_ready(session)
        await asyncio.sleep(2.5)  # the gateway's probes see it, and its breaker lets it in again
    finally:
        replica.is_hurt = False


async def set_faults(session: aiohttp.ClientSession, replica: Replica, plan: dict[str, Any]) -> None:
    """Effects: the engine fails as the plan says."""
    async with session.put(f"{replica.url}/simulated/faults", json=plan) as reply:
        reply.raise_for_status()


async def chaos(system: Running, rng: random.Random, seen: Seen) -> None:
    """Hurts one thing after the other until it is cancelled."""
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for number in range(100_000):
            await asyncio.sleep(rng.uniform(0.5, 2.5))
            if sum(one.is_hurt for one in system.replicas) < NUM_REPLICAS - 1:
                group.create_task(hurt(system.replicas, session, rng, seen))
            if number % 5 == 2:
                is_valid = number % 10 == 2
                system.reload(number if is_valid else None)
                seen.actions["reload" if is_valid else "reload of an invalid file"] += 1
            if number % 9 == 4 and system.redis.program:
                await system.redis.stop()
                seen.actions["redis killed"] += 1
                await asyncio.sleep(rng.uniform(0.5, 2.0))
                await system.redis.start()


@dataclass
class Running:
    """All processes."""

    url: str
    replicas: list[Replica]
    gateway: asyncio.subprocess.Process
    path: Path
    config: GatewayConfig
    redis: Redis

    def reload(self, number: int | None) -> None:
        """Effects: the gateway is told to read another configuration, or one that is none."""
        content = b'{"model_name": 7}'
        if number is not None:
            changed = msgspec.structs.replace(self.config, max_attempts=3 + number % 2, max_in_flight=4096 + number)
            content = encode_gateway_config(changed)
        self.path.write_bytes(content)
        self.gateway.send_signal(signal.SIGHUP)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    """All processes, gone afterwards."""
    replicas = [Replica(free_port(), folder) for _ in range(NUM_REPLICAS)]
    redis = Redis(folder)
    port, path = free_port(), folder / "gateway.json"
    config = gateway_config(replicas, port, redis_url=redis.url, max_attempts=3)
    path.write_bytes(encode_gateway_config(config))
    log = (folder / "gateway.log").open("ab")
    gateway = None
    try:
        await redis.start()
        async with aiohttp.ClientSession() as session:
            for replica in replicas:
                await replica.start()
            for replica in replicas:
                await replica.wait_ready(session)
            gateway = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "lightship.gateway", str(path), stdout=log, stderr=log
            )
            await Replica(port, folder).wait_ready(session)
        yield Running(f"http://127.0.0.1:{port}", replicas, gateway, path, config, redis)
    finally:
        if gateway is not None and gateway.returncode is None:
            gateway.send_signal(signal.SIGTERM)
            await gateway.wait()
        for replica in replicas:
            await replica.stop(signal.SIGKILL)
        await redis.stop()


async def metrics(url: str) -> dict[str, float]:
    """Every sample of `/metrics`."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as reply:
        lines = (await reply.text()).splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


async def run(*, minutes: float, rate: float, seed: int) -> dict[str, Any]:
    """Load and chaos; what was seen, and what the gateway counted."""
    rng, seen = random.Random(seed), Seen()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        async with running(Path(folder)) as system:
            url = system.url
            hurting = asyncio.create_task(chaos(system, rng, seen))
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            timeout = aiohttp.ClientTimeout(total=90)
            end_s = time.monotonic() + minutes * 60
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                async with asyncio.TaskGroup() as group:
                    while time.monotonic() < end_s:
                        group.create_task(send(session, url, rng, seen))
                        await asyncio.sleep(rng.expovariate(rate))
                        if hurting.done():
                            hurting.result()
                    hurting.cancel()
                await asyncio.wait([hurting])
            await asyncio.sleep(1.0)  # the last disconnects are noticed
            counted = await metrics(url)
            keep = os.environ.get("CHAOS_LOG")
            if keep:
                shutil.copy(Path(folder) / "gateway.log", keep)
    outcomes = {
        name.partition('outcome="')[2].partition('"')[0]: value
        for name, value in counted.items()
        if name.startswith("lightship_requests_total")
    }
    in_flight = {
        name: value
        for name, value in counted.items()
        if name.startswith(("lightship_requests_in_flight", "lightship_requests_queued", "lightship_rung_requests",
                            "lightship_device_load", "lightship_replica_work"))
    }  # fmt: skip
    return {
        "sent": seen.num_sent,
        "seen": dict(seen.outcomes),
        "lost": seen.lost,
        "actions": dict(seen.actions),
        "outcomes": outcomes,
        "in_flight": in_flight,
    }


def main() -> int:
    """Runs it; 1 where something was lost or left over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = asyncio.run(run(minutes=args.minutes, rate=args.rate, seed=args.seed))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))
    print(f"{found['sent']} requests in {args.minutes:g} minutes; what happened: {found['actions']}")
    print(f"clients saw {found['seen']}; the gateway counted {found['outcomes']}")
    for line in found["lost"][:10]:
        print(f"  lost: {line}")
    counted = sum(found["outcomes"].values())
    left = {name: value for name, value in found["in_flight"].items() if abs(value) > 1e-6}
    checks = (
        (not found["lost"], f"{len(found['lost'])} requests lost before their first byte (0)"),
        (counted == found["sent"], f"{counted:.0f} outcomes for {found['sent']} requests"),
        (not left, f"left in flight at the end: {left or 'nothing'}"),
    )
    for holds, words in checks:
        print(f"{'ok' if holds else 'NO'} {words}")
    return 0 if all(holds for holds, _ in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
