"""The processes of `chaos.py`: engines that can be hurt, a Redis server that can be killed, one gateway in front."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from lightship.engines.process import free_port
from lightship.engines.simulated.config import SimulatedWorkerConfig
from lightship.engines.simulated.config import encode_config as encode_worker_config
from lightship.gateway.config import GatewayConfig, ReplicaConfig, encode_config
from lightship.gateway.dispatch.config import DispatchConfig, LadderConfig, RungFacts
from lightship.gateway.server_config import AccessLogConfig, ServerConfig
from lightship.gateway.state import StateConfig
from lightship.gateway.tenants.config import DEFAULT, LimitConfig, TenantsConfig
from lightship.gateway.tenants.key_store import KeyStore
from lightship.gateway.tenants.limits import Position
from lightship.gateway.tenants.store_loss import StoreLoss
from lightship.ports.clock import SystemClock
from lightship.ports.engine import HopTimeouts
from lightship.ports.engine_profile import EngineLimits, EngineProfile, ProfileOrigin, ProfileSource, StepCosts

MODEL = "m"
NUM_REPLICAS = 3
TENANTS = ("alpha", "beta")
TIMEOUTS = HopTimeouts(connect_s=1.0, first_token_s=3.0, next_token_s=8.0, total_s=40.0)
_START_TIMEOUT_S = 30.0
_PROFILE = EngineProfile(
    name="chaos",
    costs=StepCosts(step_s=0.004, prefill_token_s=0.00002, decode_token_s=0.0001),
    limits=EngineLimits(num_kv_blocks=20_000),
    source=ProfileSource(origin=ProfileOrigin.ASSUMED, description="chaos"),
)
# Far above the load, so that every request is counted and none is refused: all limits that there are.
_LIMITS = LimitConfig(
    requests_per_min=1_000_000,
    tokens_per_min=1_000_000_000,
    concurrent_requests=10_000,
    daily_tokens=1_000_000_000,
    monthly_usd=1000.0,
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
            model_name=MODEL,
            variant_name="v",
            variant_digest="sha256:v",
            host="127.0.0.1",
            port=self.port,
            profile=_PROFILE,
            is_fault_admin=True,
        )
        path.write_bytes(encode_worker_config(config))
        self.process = await _started(["-m", "lightship.engines.simulated", str(path)], path.with_suffix(".log"))

    async def stop(self, number: int) -> None:
        """Effects: it ends by that signal."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await self.process.wait()

    def signal(self, number: int) -> None:
        """Effects: it gets that signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def set_faults(self, session: aiohttp.ClientSession, plan: dict[str, Any]) -> None:
        """Effects: it fails as the plan says."""
        async with session.post(f"{self.url}/simulated/faults", json=plan) as reply:
            reply.raise_for_status()


class Redis:
    """A Redis server that is killed and started again; nothing where it is not installed."""

    def __init__(self, folder: Path) -> None:
        self._program = shutil.which("redis-server")
        self._port = free_port()
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it answers; "" where there is none."""
        return f"redis://127.0.0.1:{self._port}/0" if self._program else ""

    async def start(self) -> None:
        """Effects: an empty server, unless it runs."""
        if not self._program or (self._process is not None and self._process.returncode is None):
            return
        options = ("--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder))
        quiet = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(self._program, *options, stdout=quiet, stderr=quiet)

    async def kill(self) -> None:
        """Effects: it is gone."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def held(self) -> dict[str, int]:
        """What the gateway still holds of the tenants' limits: tokens, money and running requests, by tenant."""
        if not self.url:
            return {}
        from redis.asyncio import Redis as Client

        found: dict[str, int] = {}
        async with Client.from_url(self.url) as client:
            async for key in client.scan_iter("lightship:limits:*:positions"):
                tenant = key.decode().partition("{")[2].partition("}")[0]
                rows: list[Any] = list(await client.hvals(key))
                positions = [msgspec.msgpack.decode(row, type=Position) for row in rows]
                sums = {
                    "tokens": sum(one.held.budget_tokens for one in positions),
                    "nanousd": sum(one.held.nanousd for one in positions),
                    "running": sum(one.held.concurrent for one in positions),
                }
                found |= {f"{tenant} {name}": value for name, value in sums.items()}
        return found


@dataclass
class System:
    """All processes, and the keys of the tenants."""

    url: str
    replicas: list[Replica]
    gateway: asyncio.subprocess.Process
    path: Path
    config: GatewayConfig
    redis: Redis
    keys: list[str]
    access_log: Path
    gateway_log: Path

    def reload(self, number: int | None) -> None:
        """Effects: the gateway is told to read another configuration, or one that is none."""
        content = b'{"model_name": 7}'
        if number is not None:
            limits = msgspec.structs.replace(_LIMITS, requests_per_min=1_000_000 + number)
            changed = msgspec.structs.replace(
                self.config,
                max_attempts=3 + number % 2,
                max_in_flight=4096 + number,
                tenants=msgspec.structs.replace(self.config.tenants, limits={DEFAULT: limits}),
            )
            content = encode_config(changed)
        self.path.write_bytes(content)
        self.gateway.send_signal(signal.SIGHUP)

    async def metrics(self) -> dict[str, float]:
        """Every sample of `/metrics`."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as reply:
            lines = (await reply.text()).splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}

    async def stop_gateway(self) -> int:
        """Effects: it drains. Returns its exit code."""
        if self.gateway.returncode is None:
            self.gateway.send_signal(signal.SIGTERM)
        return await self.gateway.wait()


@asynccontextmanager
async def running_system(folder: Path) -> AsyncIterator[System]:
    """All processes, gone afterwards."""
    replicas = [Replica(free_port(), folder) for _ in range(NUM_REPLICAS)]
    redis, path, log = Redis(folder), folder / "gateway.json", folder / "gateway.log"
    keys = [KeyStore(folder / "keys.sqlite", SystemClock()).create(tenant)[0] for tenant in TENANTS]
    config = _gateway_config(replicas, folder, redis_url=redis.url)
    path.write_bytes(encode_config(config))
    url = f"http://127.0.0.1:{config.port}"
    gateway = None
    try:
        await redis.start()
        for replica in replicas:
            await replica.start()
        for replica in replicas:
            await until_ready(replica.url)
        gateway = await _started(["-m", "lightship.gateway", str(path)], log)
        await until_ready(url)
        yield System(url, replicas, gateway, path, config, redis, keys, folder / "access.log", log)
    finally:
        if gateway is not None and gateway.returncode is None:
            gateway.kill()
            await gateway.wait()
        for replica in replicas:
            await replica.stop(signal.SIGKILL)
        await redis.kill()


async def until_ready(url: str) -> None:
    """Returns when a server wants requests.

    Raises: TimeoutError: it does not come up.
    """
    async with asyncio.timeout(_START_TIMEOUT_S), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/health/ready") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


def _gateway_config(replicas: Iterable[Replica], folder: Path, *, redis_url: str) -> GatewayConfig:
    rung = RungFacts(variant_name="v", variant_digest="sha256:v", goodput_requests_per_s=100, concurrency=200)
    return GatewayConfig(
        model_name=MODEL,
        port=free_port(),
        replicas=tuple(
            ReplicaConfig(
                name=f"r{position}", base_url=replica.url, model_name=MODEL, variant_name="v", variant_digest="sha256:v"
            )
            for position, replica in enumerate(replicas)
        ),
        timeouts=TIMEOUTS,
        # every request may be tried again: what is tested is that nothing is lost, not how retries are bounded
        retry_budget_share=1.0,
        dispatch=DispatchConfig(ladders={MODEL: LadderConfig(rungs=(rung,), ttft_s=10.0, tpot_s=1.0)}),
        tenants=TenantsConfig(
            keys_path=str(folder / "keys.sqlite"),
            are_keys_required=True,
            limits={DEFAULT: _LIMITS},
            on_store_loss=StoreLoss.ALLOW,
        ),
        state=StateConfig(redis_url=redis_url),
        server=ServerConfig(access_log=AccessLogConfig(file=str(folder / "access.log"))),
    )


async def _started(arguments: list[str], log_path: Path) -> asyncio.subprocess.Process:
    with log_path.open("ab") as log:
        return await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=log, stderr=log)
