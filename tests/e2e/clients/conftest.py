"""A gateway process before a simulated worker and before engines that refuse, for real client libraries."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightship.engines.process import WorkerProcess, free_port
from lightship.engines.simulated.adapter import SimulatedAdapter
from lightship.engines.simulated.config import SimulatedWorkerConfig
from lightship.gateway.config import GatewayConfig, ReplicaConfig, encode_config
from lightship.gateway.tenants.config import LimitConfig, TenantsConfig
from lightship.gateway.tenants.key_store import KeyStore
from lightship.gateway.tenants.keys import KeyScopes
from lightship.ports.clock import SystemClock
from lightship.ports.engine_profile import EngineLimits, EngineProfile, ProfileOrigin, ProfileSource, StepCosts
from lightship.testing.raw_upstream import RawScript, RawUpstream

LIMITS = EngineLimits(max_batched_tokens=2048, kv_block_tokens=16, context_length=1024)
COSTS = StepCosts(step_s=0.001, prefill_token_s=1e-6, decode_token_s=1e-6)


def refusing(status: int, code: str, *headers: str, num_requests: int | None = None) -> RawScript:
    """An engine that answers with an error object; after so many requests with a proper answer."""
    error = {"error": {"message": f"told to say {status}", "type": "server_error", "param": None, "code": code}}
    chat = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "at last"}, "finish_reason": "stop"}],
    }
    num_left = [num_requests]

    def script(connection: object, is_over: threading.Event) -> None:
        del is_over
        is_refused = num_left[0] is None or num_left[0] > 0
        if num_left[0] is not None:
            num_left[0] -= 1
        body = json.dumps(error if is_refused else chat).encode()
        lines = [f"HTTP/1.1 {status if is_refused else 200} X", "content-type: application/json"]
        lines += [f"content-length: {len(body)}", "connection: close", *(headers if is_refused else ())]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)  # type: ignore[attr-defined]

    return script


SOON = ("retry-after: 0", "retry-after-ms: 20")
ENGINES = {
    "says-400": refusing(400, "bad"),
    "says-401": refusing(401, "invalid_api_key"),
    "says-403": refusing(403, "forbidden"),
    "says-429": refusing(429, "rate_limit_exceeded", *SOON),
    "says-429-once": refusing(429, "rate_limit_exceeded", *SOON, num_requests=1),
    "says-429-final": refusing(429, "insufficient_quota", "x-should-retry: false"),
    "says-500": refusing(500, "oops"),
    "says-503": refusing(503, "server_is_overloaded", *SOON),
    "says-503-twice": refusing(503, "server_is_overloaded", *SOON, num_requests=2),
    "says-503-final": refusing(503, "server_is_overloaded", *SOON, "x-should-retry: false"),
    "says-503-later": refusing(503, "server_is_overloaded", "retry-after: 1", num_requests=1),
}


@dataclass(frozen=True)
class Served:
    """A gateway's address, and keys for it by the tenants whose they are."""

    url: str
    keys: Mapping[str, str]


TENANTS = {
    "plain": None,
    "hasty": LimitConfig(requests_per_min=1),
    "broke": LimitConfig(daily_tokens=1),
}


def make_keys(path: Path) -> dict[str, str]:
    """A key for each tenant, and one that may use one model only."""
    store = KeyStore(path, SystemClock())
    keys = {tenant: store.create(tenant=tenant)[0] for tenant in TENANTS}
    return {**keys, "narrow": store.create(tenant="plain", scopes=KeyScopes(models=frozenset({"other"})))[0]}


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway that asks for keys: model `good` is simulated, the others do as their names say."""
    folder = tmp_path_factory.mktemp("clients")
    keys = make_keys(folder / "keys.db")
    source = ProfileSource(origin=ProfileOrigin.ASSUMED, description="test")
    worker = SimulatedWorkerConfig(
        model_name="good",
        variant_name="v",
        variant_digest="sha256:" + "ab" * 32,
        port=free_port(),
        profile=EngineProfile(name="test", costs=COSTS, limits=LIMITS, source=source),
        mean_answer_tokens=16,
    )
    adapter = SimulatedAdapter()
    adapter.write_config(worker, folder / "worker.json")
    process = WorkerProcess(
        name="good",
        command=adapter.worker_command(folder / "worker.json"),
        base_url=worker.address,
        log_path=folder / "worker.log",
    )
    with asyncio.Runner() as runner, RawUpstream(ENGINES, missing=["/v1/responses"]).serving() as upstream:
        runner.run(process.start(startup_timeout_s=30.0))
        replicas = [ReplicaConfig(name="good", base_url=worker.address, model_name="good", variant_name="v")]
        replicas += [
            ReplicaConfig(
                name=name, base_url=f"{upstream.base_url}/{name}", model_name=name, served_model=name, variant_name="v"
            )
            for name in ENGINES
        ]
        tenants = TenantsConfig(
            keys_path=str(folder / "keys.db"),
            are_keys_required=True,
            limits={tenant: limit for tenant, limit in TENANTS.items() if limit is not None},
        )
        config = GatewayConfig(
            model_name="good", replicas=tuple(replicas), port=0, max_attempts=1, drain_timeout_s=5, tenants=tenants
        )
        for url in _serve(config, folder):
            yield Served(url, keys)
        runner.run(process.stop(drain_timeout_s=5.0))


def _serve(config: GatewayConfig, folder: Path) -> Iterator[str]:
    path, log_path = folder / "gateway.json", folder / "gateway.log"
    path.write_bytes(encode_config(config))
    with log_path.open("w") as log:
        gateway = subprocess.Popen([sys.executable, "-m", "lightship.gateway", str(path)], stderr=log)
    pause, end_s = threading.Event(), time.monotonic() + 30
    try:
        while (match := re.search(r"listening on (http://\S+)", log_path.read_text("utf-8"))) is None:
            assert time.monotonic() < end_s, log_path.read_text("utf-8")
            pause.wait(0.05)
        yield match[1]
    finally:
        gateway.terminate()
        assert gateway.wait(20) == 0


@pytest.fixture(scope="session")
def client_environment(served: Served) -> dict[str, str]:
    """What the suite inside the clients' environment is told. No other address may be reached."""
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false", "NO_PROXY": "*"}
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    keys = {f"LIGHTSHIP_KEY_{name.upper()}": key for name, key in served.keys.items()}
    return {**kept, **quiet, **keys, "LIGHTSHIP_GATEWAY_URL": served.url}
