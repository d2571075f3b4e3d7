"""A million distinct requests through one gateway process whose memory must not grow; exit 1 where it does.

    python benchmarks/soak.py [--requests 1000000] [--concurrency 64] [--json FILE]

One gateway with everything on that keeps something: keys and limits of many tenants, the fair queue (its rung takes
fewer requests than come), sessions, the prefix index, the exact cache, metrics and access log. No two prompts are
alike. One request in ten streams, sessions last two requests, prefixes are shared by a few, and one request in a
hundred each names a model or a key that nobody has. Beside them clients leave in the middle of their streams. The
upstream answers at once (`gateway_upstream.py`).

Everything that is bounded is full after the first fifth of the requests: from then on resident memory may grow by 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from gateway_load import Requests, closed_loop
from lightship.engines.process import WorkerProcess, free_port
from lightship.gateway.cache.config import CacheConfig
from lightship.gateway.config import GatewayConfig, ReplicaConfig, encode_config
from lightship.gateway.dispatch.config import DispatchConfig, LadderConfig, RungFacts
from lightship.gateway.server_config import AccessLogConfig, ServerConfig
from lightship.gateway.tenants.config import DEFAULT, LimitConfig, TenantsConfig
from lightship.gateway.tenants.key_store import KeyStore
from lightship.ports.clock import SystemClock

GENERATOR_CORE, GATEWAY_CORE = 0, 1
MAX_GROWTH = 0.05
WARM_UP_SHARE = 0.2
NUM_TENANTS = 200
LEAVES_PER_S = 20
_MODEL = "bench"
_DIGEST = "sha256:" + "0" * 64
_START_TIMEOUT_S = 60.0
_SEGMENT_S = 5.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PREFIX = "You tell stories of lighthouse keepers who count ships, and you never tell the same one twice. " * 4
# Above anything that comes: counted, never met. Prices so that money is counted as well.
_LIMITS = LimitConfig(
    requests_per_min=10_000_000, tokens_per_min=10**12, concurrent_requests=10_000, daily_tokens=10**14, monthly_usd=1e5
)


@dataclass
class Prompts:
    """Makes the requests, and counts those that must be refused."""

    requests: Requests
    keys: Sequence[str]
    num_made: int = 0
    num_refused: Counter[str] = field(default_factory=Counter)

    def make(self) -> bytes:
        """The next request."""
        number = self.num_made
        self.num_made += 1
        key, model = self.keys[number % len(self.keys)], _MODEL
        if number % 100 == 37:
            key = f"ls-abcdefgh-{number:043d}"
            self.num_refused["HTTP 401"] += 1
        elif number % 100 == 73:
            model = f"model-{number}"
            self.num_refused["HTTP 404"] += 1
        plan = "burst 8" if number % 10 == 0 else f"{number} please"
        return self.request(number, key, model, plan, is_streamed=number % 10 == 0)

    def request(self, number: int, key: str, model: str, plan: str, *, is_streamed: bool) -> bytes:
        """One request; what the upstream does stands in `plan`."""
        system = f"{number // 7} {_PREFIX}{number}"
        body = (
            f'{{"model":"{model}","messages":[{{"role":"system","content":"{system}"}},'
            f'{{"role":"user","content":"{plan}"}}],"temperature":0,"max_tokens":16'
            + (',"stream":true}' if is_streamed else "}")
        )
        origin = self.requests.origin
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {origin.authority}\r\nauthorization: Bearer {key}\r\n"
            f"content-type: application/json\r\nx-session-id: s-{number // 2}\r\nx-request-id: r-{number}\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}"
        ).encode("ascii")


@dataclass(frozen=True)
class Bench:
    """The gateway while it runs."""

    url: str
    keys: Sequence[str]
    process: WorkerProcess

    def resident_bytes(self) -> int:
        """Its memory now."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE_BYTES


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    """The upstream on the core that this process takes for itself, the gateway on its own."""
    os.sched_setaffinity(0, {GENERATOR_CORE})
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        upstream_port, port = free_port(), free_port()
        store = KeyStore(folder / "keys.sqlite", SystemClock())
        keys = [store.create(f"tenant-{number}")[0] for number in range(NUM_TENANTS)]
        (folder / "gateway.json").write_bytes(encode_config(_config(upstream_port, port, folder)))
        upstream = [sys.executable, str(Path(__file__).with_name("gateway_upstream.py")), str(upstream_port)]
        gateway = [sys.executable, "-m", "lightship.gateway", str(folder / "gateway.json")]
        async with (
            _process("upstream", upstream, upstream_port, folder, core=GENERATOR_CORE),
            _process("gateway", gateway, port, folder, core=GATEWAY_CORE) as process,
        ):
            yield Bench(f"http://127.0.0.1:{port}", keys, process)


def _config(upstream_port: int, port: int, folder: Path) -> GatewayConfig:
    rung = RungFacts(variant_name="fp16", variant_digest=_DIGEST, concurrency=24)
    replica = ReplicaConfig(
        name="r0",
        base_url=f"http://127.0.0.1:{upstream_port}",
        model_name=_MODEL,
        variant_name="fp16",
        variant_digest=_DIGEST,
    )
    return GatewayConfig(
        model_name=_MODEL,
        port=port,
        replicas=(replica,),
        dispatch=DispatchConfig(ladders={_MODEL: LadderConfig(rungs=(rung,), ttft_s=30.0, tpot_s=5.0)}),
        # small, so that it is full long before the warm-up ends
        cache=CacheConfig(max_bytes=32 * 2**20),
        tenants=TenantsConfig(keys_path=str(folder / "keys.sqlite"), are_keys_required=True, limits={DEFAULT: _LIMITS}),
        server=ServerConfig(access_log=AccessLogConfig(file=os.devnull)),
    )


@asynccontextmanager
async def _process(
    name: str, command: Sequence[str], port: int, folder: Path, *, core: int
) -> AsyncIterator[WorkerProcess]:
    url = f"http://127.0.0.1:{port}"
    pinned = ["taskset", "-c", str(core), *command]
    process = WorkerProcess(name=name, command=pinned, base_url=url, log_path=folder / f"{name}.log")
    await process.start(startup_timeout_s=_START_TIMEOUT_S)
    try:
        yield process
    finally:
        await process.stop(drain_timeout_s=5)


async def leave(prompts: Prompts, num_left: list[int]) -> None:
    """Clients that go away in the middle of a stream, a few every second, until this is cancelled."""
    origin = prompts.requests.origin
    for number in itertools.count(10**9):
        await asyncio.sleep(1 / LEAVES_PER_S)
        reader, writer = await asyncio.open_connection(origin.host, origin.port)
        key = prompts.keys[number % len(prompts.keys)]
        writer.write(prompts.request(number, key, _MODEL, "paced 50 50", is_streamed=True))
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(5):
                await reader.read(1000)
                await asyncio.sleep(0.1)
        writer.transport.abort()
        num_left[0] += 1


async def run(num_requests: int, concurrency: int) -> dict[str, Any]:
    """Memory over the requests, and what came back."""
    samples: list[tuple[int, int]] = []
    num_left = [0]
    errors = Counter[str]()
    async with running() as bench:
        prompts = Prompts(Requests(bench.url, api_key=""), bench.keys)
        leaving = asyncio.create_task(leave(prompts, num_left))
        began_s = time.monotonic()
        while prompts.num_made < num_requests:
            result = await closed_loop(
                prompts.requests, prompts.make, concurrency=concurrency, warmup_s=0, seconds=_SEGMENT_S
            )
            errors.update(result.errors)
            samples.append((prompts.num_made, bench.resident_bytes()))
            print(
                f"{time.monotonic() - began_s:4.0f} s  {prompts.num_made:8} requests  {result.requests_per_s:6.0f}/s  "
                f"{samples[-1][1] / 2**20:6.1f} MiB",
                flush=True,
            )
            if leaving.done():
                leaving.result()
        duration_s = time.monotonic() - began_s
        leaving.cancel()
        await asyncio.wait([leaving])
    warm_up = next(index for index, (made, _) in enumerate(samples) if made >= WARM_UP_SHARE * num_requests)
    warm_bytes = samples[warm_up][1]
    most_bytes = max(resident for _, resident in samples[warm_up:])
    return {
        "requests": prompts.num_made,
        "requests_per_s": prompts.num_made / duration_s,
        "left": num_left[0],
        "errors": dict(errors),
        "refused_on_purpose": dict(prompts.num_refused),
        "warm_bytes": warm_bytes,
        "most_bytes": most_bytes,
        "last_bytes": samples[-1][1],
        "growth": most_bytes / warm_bytes - 1,
        "samples": samples,
    }


def main() -> int:
    """Runs it; 1 where memory grew, or a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    found = uvloop.run(run(args.requests, args.concurrency))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2), "utf-8")
    mib = {name: found[f"{name}_bytes"] / 2**20 for name in ("warm", "most", "last")}
    print(
        f"{found['requests']} requests at {found['requests_per_s']:.0f}/s, {found['left']} clients left; "
        f"{mib['warm']:.1f} MiB after the first {WARM_UP_SHARE:.0%}, at most {mib['most']:.1f} afterwards, "
        f"{mib['last']:.1f} at the end"
    )
    is_steady = found["growth"] < MAX_GROWTH
    are_answered = found["errors"] == found["refused_on_purpose"]
    print(f"{'ok' if is_steady else 'NO'} growth after warm-up {found['growth']:.1%} (below {MAX_GROWTH:.0%})")
    print(f"{'ok' if are_answered else 'NO'} refused {found['errors']}, meant to be {found['refused_on_purpose']}")
    return 0 if is_steady and are_answered else 1


if __name__ == "__main__":
    sys.exit(main())
