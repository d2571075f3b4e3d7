"""The gateways that `gateway.py` compares, each as a process on the core under test, in front of the same upstream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway_load import Requests, Tally, fixed_rate
from lightship.engines.memory import group_members
from lightship.engines.process import free_port
from lightship.gateway.cache.config import CacheConfig
from lightship.gateway.config import GatewayConfig, ReplicaConfig, encode_config
from lightship.gateway.dispatch.config import DispatchConfig, LadderConfig, QualityBudgetConfig, RungFacts
from lightship.gateway.server_config import AccessLogConfig, ServerConfig
from lightship.gateway.state import StateConfig
from lightship.gateway.tenants.config import LimitConfig, PriceConfig, TenantsConfig
from lightship.gateway.tenants.key_store import KeyStore
from lightship.ports.clock import SystemClock
from peer_environment import DEFAULT_FOLDER, ensure_environment

# The upstream and the load generator share the first core; each gateway has the second one to itself.
GENERATOR_CORE, GATEWAY_CORE = 0, 1
LITELLM = ("litellm[proxy]==1.106.12", "prometheus-client>=0.21,<1")  # without the latter it has no metrics
SMG = ("smg==1.13.0",)
API_KEY = "sk-benchmark-0123456789abcdef"
START_TIMEOUT_S = 90.0
# Nothing of a peer may leave this machine while it is measured.
_QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False", "NO_PROXY": "*"}
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Running:
    """One subject while it runs; `pid` leads a process group of its own, and is None for the bare upstream."""

    name: str
    base_url: str
    pid: int | None
    api_key: str = API_KEY

    def requests(self) -> Requests:
        """Requests to it."""
        return Requests(self.base_url, api_key=self.api_key)

    def resident_bytes(self) -> int:
        """Memory of the whole process group now."""
        total = 0
        for pid in group_members(self.pid) if self.pid is not None else ():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        return total

    def cpu_s(self) -> float:
        """Processor time of the whole process group so far."""
        total = 0.0
        for pid in group_members(self.pid) if self.pid is not None else ():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        return total


@dataclass(frozen=True)
class Launch:
    """How a gateway is started, and the key its clients send."""

    command: Sequence[str]
    api_key: str = API_KEY


@dataclass(frozen=True)
class Subject:
    """A gateway that can be started, given the upstream's address, a port and a folder for its files."""

    name: str
    version: str
    launch: Callable[[str, int, Path], Launch]


def our_config(upstream_url: str, port: int, folder: Path) -> GatewayConfig:
    """Lightship's gateway with everything on: keys, limits, budgets, routing, ladder, cache, metrics, access log.

    Limits are far above what is sent, so that they are counted and never met; the prompts are all different and not
    deterministic, so that the cache is asked for nothing it has.
    """
    replica = ReplicaConfig(
        name="r0",
        base_url=upstream_url,
        model_name="bench",
        variant_name="fp16",
        variant_digest="sha256:" + "0" * 64,
        max_concurrency=4096,
    )
    cheaper = msgspec.structs.replace(
        replica, name="r1", variant_name="int4", variant_digest="sha256:" + "1" * 64, rung=1
    )
    rungs = (
        RungFacts(variant_name="fp16", goodput_requests_per_s=20_000.0, concurrency=4096),
        RungFacts(variant_name="int4", quality_loss=0.01, goodput_requests_per_s=40_000.0, concurrency=4096),
    )
    ladder = LadderConfig(rungs=rungs, budget=QualityBudgetConfig(degraded_share=0.1, mean_loss=0.01))
    limits = LimitConfig(
        requests_per_min=10**9,
        tokens_per_min=10**12,
        concurrent_requests=10**6,
        daily_tokens=10**14,
        daily_usd=10**6,
    )
    return GatewayConfig(
        model_name="bench",
        replicas=(replica, cheaper),
        port=port,
        dispatch=DispatchConfig(ladders={"bench": ladder}),
        cache=CacheConfig(),
        tenants=TenantsConfig(
            keys_path=str(folder / "keys.sqlite"),
            are_keys_required=True,
            limits={"bench": limits},
            prices={"default": PriceConfig(usd_per_1m_input_tokens=0.1, usd_per_1m_output_tokens=0.4)},
        ),
        state=StateConfig(folder=str(folder / "state")),
        server=ServerConfig(access_log=AccessLogConfig(is_enabled=True, file=str(folder / "access.log"))),
    )


def _our_launch(upstream_url: str, port: int, folder: Path) -> Launch:
    path = folder / "gateway.json"
    (folder / "state").mkdir(exist_ok=True)
    config = our_config(upstream_url, port, folder)
    path.write_bytes(encode_config(config))
    key, _ = KeyStore(Path(config.tenants.keys_path), SystemClock()).create("bench")
    return Launch([sys.executable, "-m", "lightship.gateway", str(path)], key)


def _litellm_launch(python: Path) -> Callable[[str, int, Path], Launch]:
    def launch(upstream_url: str, port: int, folder: Path) -> Launch:
        # JSON is YAML; the limit on requests is far above what it reaches, so that it is counted and never met
        limits = {"rpm": 10_000_000, "tpm": 1_000_000_000}
        upstream = {"model": "openai/bench", "api_base": f"{upstream_url}/v1", "api_key": "none", **limits}
        config = {
            "model_list": [{"model_name": "bench", "litellm_params": upstream}],
            "general_settings": {"master_key": API_KEY},
            "litellm_settings": {"callbacks": ["prometheus"], "telemetry": False},
        }
        path = folder / "litellm.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")
        program = str(python.with_name("litellm"))
        address = ("--host", "127.0.0.1", "--port", str(port))
        return Launch([program, "--config", str(path), *address, "--num_workers", "1"])

    return launch


def _smg_launch(python: Path) -> Callable[[str, int, Path], Launch]:
    def launch(upstream_url: str, port: int, folder: Path) -> Launch:
        del folder
        command = [
            *(str(python.with_name("smg")), "launch", "--host", "127.0.0.1", "--port", str(port)),
            *("--worker-urls", upstream_url, "--backend", "vllm", "--policy", "cache_aware"),
            *("--tenant-api-key", f"bench:{API_KEY}", "--max-concurrent-requests", "4096"),
            *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
            *("--log-level", "warn", "--disable-tokenizer-autoload"),
        ]  # fmt: skip
        return Launch(command)

    return launch


def subjects(names: Sequence[str], *, folder: Path = DEFAULT_FOLDER, may_install: bool) -> list[Subject]:
    """The gateways of these names, `ours`, `litellm` and `smg`; peers that are not there are installed or left out."""
    found = []
    for name in names:
        if name == "ours":
            found.append(Subject("ours", _our_version(), _our_launch))
            continue
        requirements, launch_of = {"litellm": (LITELLM, _litellm_launch), "smg": (SMG, _smg_launch)}[name]
        python = folder / name / "bin" / "python"
        if may_install:
            ensure_environment(folder / name, requirements, needs_torch=False)
        if not python.with_name(name).exists():
            print(f"skip: {name} is not installed in {folder / name}", file=sys.stderr)
            continue
        found.append(Subject(name, requirements[0].rpartition("==")[2], launch_of(python)))
    return found


def _our_version() -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return commit.stdout.strip() or "unknown"


@asynccontextmanager
async def upstream(folder: Path) -> AsyncIterator[str]:
    """The address of the trivial upstream, on the generator's core."""
    port = free_port()
    script = str(Path(__file__).with_name("gateway_upstream.py"))
    async with _process([sys.executable, script, str(port)], core=GENERATOR_CORE, log=folder / "upstream.log"):
        url = f"http://127.0.0.1:{port}"
        await _until_it_answers(Running("bare", url, None))
        yield url


@asynccontextmanager
async def running(subject: Subject, upstream_url: str, folder: Path) -> AsyncIterator[Running]:
    """A gateway that has answered a request."""
    port = free_port()
    launch = subject.launch(upstream_url, port, folder)
    async with _process(launch.command, core=GATEWAY_CORE, log=folder / f"{subject.name}.log") as pid:
        found = Running(subject.name, f"http://127.0.0.1:{port}", pid, launch.api_key)
        await _until_it_answers(found)
        yield found


@asynccontextmanager
async def _process(command: Sequence[str], *, core: int, log: Path) -> AsyncIterator[int]:
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 # nothing else runs in this loop yet
            ["taskset", "-c", str(core), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **_QUIET},
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def _until_it_answers(subject: Running) -> None:
    """Returns when a request gets a complete 200."""
    deadline_s = time.perf_counter() + START_TIMEOUT_S
    tally = Tally()
    while time.perf_counter() < deadline_s:
        requests = subject.requests()
        try:
            tally = await fixed_rate(requests, requests.whole, rate=10, warmup_s=0, seconds=0.1)
        except Exception as error:  # noqa: BLE001 # whatever it is, it is tried again
            tally.errors = {str(error): 1}
        if tally.num_complete:
            return
        await asyncio.sleep(0.2)
    raise SystemExit(f"{subject.name} did not answer within {START_TIMEOUT_S:g} s: {tally.errors}")
