"""The exact response cache: what a hit takes under load, what a miss costs, and one engine call for a hundred requests.

    python benchmarks/exact_cache.py [--seconds 10] [--rate 1000]

A gateway process on a core of its own, with the cache on, in front of a simulated engine. Hits come on a schedule that
waits for nobody, from as many distinct requests of 1 kB as `_NUM_REQUESTS` says; latency counts from the schedule. The
engine's own counter says how many calls reached it. What the layer adds to a request it cannot answer is measured in
one process, as processor time, around an engine that answers at once, in turns with that engine alone. Exits 1 when a
figure falls short.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType

import aiohttp
import uvloop
from prometheus_client import CollectorRegistry

from evidence import Line, run_topic
from gateway_load import Requests, Tally, fixed_rate
from lightship.engines.process import WorkerProcess, free_port
from lightship.gateway.cache.caching import CachedEngine
from lightship.gateway.cache.config import CacheConfig
from lightship.gateway.cache.memory_store import MemoryResponseStore
from lightship.gateway.cache.telemetry import CacheTelemetry
from lightship.gateway.config import GatewayConfig, ReplicaConfig, encode_config
from lightship.ports.clock import SystemClock
from lightship.ports.engine import EngineCall, EngineReply

MODEL = "bench"
DIGEST = "sha256:" + "0" * 64
GENERATOR_CORE, GATEWAY_CORE = 0, 1
START_TIMEOUT_S = 60.0
HIT_P50_MS = 1.0
MISS_ADDED_US = 25.0
BYPASS_ADDED_US = 2.0
NUM_IDENTICAL = 100
_NUM_REQUESTS = 200
_PROMPT = "Tell me the story of a lighthouse keeper who counts ships. " * 15
_WHOLE = (
    b'{"id":"chatcmpl-0","object":"chat.completion","created":1763900000,"model":"bench","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Once upon a time."},"logprobs":null,"finish_reason":"stop"}],"usage":'
    b'{"prompt_tokens":20,"completion_tokens":5,"total_tokens":25}}'
)


def body(number: int, *, stream: bool = False, temperature: str = '"temperature":0,') -> bytes:
    """A request of about 1 kB; requests of other numbers differ."""
    message = f'{{"role":"user","content":"{number} {_PROMPT}"}}'
    text = f'{{"model":"{MODEL}","messages":[{message}],{temperature}"max_tokens":32'
    return (text + (',"stream":true}' if stream else "}")).encode()


@dataclass
class Bench:
    """Gateway and engine while they run."""

    gateway_url: str
    engine_url: str

    async def num_engine_calls(self, session: aiohttp.ClientSession) -> int:
        """Requests that reached the engine, by its own count."""
        async with session.get(self.engine_url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        return round(
            sum(float(line.split()[-1]) for line in lines if line.startswith("lightship_engine_requests_total"))
        )

    async def ask(self, session: aiohttp.ClientSession, content: bytes) -> tuple[str, bytes]:
        """What the cache did, and the answer."""
        headers = {"content-type": "application/json"}
        url = self.gateway_url + "/v1/chat/completions"
        async with session.post(url, data=content, headers=headers) as response:
            answer = await response.read()
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {answer[:500]!r}")
            return response.headers.get("x-cache", ""), answer


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    """A simulated engine on the core that this process takes for itself, and a gateway on its own."""
    os.sched_setaffinity(0, {GENERATOR_CORE})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine_url = f"http://127.0.0.1:{free_port()}"
        replica = ReplicaConfig(
            name="r0", base_url=engine_url, model_name=MODEL, variant_name="fp16", variant_digest=DIGEST
        )
        config = GatewayConfig(model_name=MODEL, replicas=(replica,), port=free_port(), cache=CacheConfig())
        (folder / "gateway.json").write_bytes(encode_config(config))
        gateway_url = f"http://127.0.0.1:{config.port}"
        lightship = str(Path(sys.executable).with_name("lightship"))
        simulated = [lightship, "serve-simulated", "--model", MODEL, "--port", engine_url.rpartition(":")[2]]
        gateway = [sys.executable, "-m", "lightship.gateway", str(folder / "gateway.json")]
        async with (
            _process("engine", simulated, engine_url, folder, core=GENERATOR_CORE),
            _process("gateway", gateway, gateway_url, folder, core=GATEWAY_CORE),
        ):
            yield Bench(gateway_url, engine_url)


@asynccontextmanager
async def _process(name: str, command: Sequence[str], url: str, folder: Path, *, core: int) -> AsyncIterator[None]:
    pinned = ["taskset", "-c", str(core), *command]
    process = WorkerProcess(name=name, command=pinned, base_url=url, log_path=folder / f"{name}.log")
    await process.start(startup_timeout_s=START_TIMEOUT_S)
    try:
        yield
    finally:
        await process.stop(drain_timeout_s=5)


async def hits(seconds: float, rate: float) -> Iterable[Line]:
    """Whole and streamed hits on a schedule."""
    lines = []
    async with running() as bench, aiohttp.ClientSession() as session:
        for number in range(_NUM_REQUESTS):
            for stream in (False, True):
                await bench.ask(session, body(number, stream=stream))
        for stream, form in ((False, "whole"), (True, "streamed")):
            answers = [await bench.ask(session, body(number, stream=stream)) for number in range(_NUM_REQUESTS)]
            num_before = await bench.num_engine_calls(session)
            tally = await _on_schedule(bench.gateway_url, stream=stream, rate=rate, seconds=seconds)
            num_calls = await bench.num_engine_calls(session) - num_before
            are_hits = num_calls == 0 and tally.num_errors == 0 and {word for word, _ in answers} == {"hit-exact"}
            p50_ms, p99_ms = tally.quantile_ms(0.5), tally.quantile_ms(0.99)
            figure = (
                f"{p50_ms:.3f} ms p50, {p99_ms:.3f} ms p99 of {tally.num_complete} at {rate:g} requests/s; "
                f"{tally.num_errors} errors, {num_calls} engine calls"
            )
            target = f"at most {HIT_P50_MS:g} ms p50, no engine call"
            lines.append(
                Line("1", f"{form} hit through the gateway", figure, target, are_hits and p50_ms <= HIT_P50_MS)
            )
    return lines


async def _on_schedule(url: str, *, stream: bool, rate: float, seconds: float) -> Tally:
    requests = Requests(url, api_key="none")
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {requests.origin.authority}\r\n"
        "content-type: application/json\r\ncontent-length: "
    )
    ready = []
    for number in range(_NUM_REQUESTS):
        content = body(number, stream=stream)
        ready.append(f"{head}{len(content)}\r\n\r\n".encode() + content)
    return await fixed_rate(requests, itertools.cycle(ready).__next__, rate=rate, warmup_s=2, seconds=seconds)


async def identical() -> Iterable[Line]:
    """A hundred identical requests at once."""
    lines = []
    connector = aiohttp.TCPConnector(limit=0)
    async with running() as bench, aiohttp.ClientSession(connector=connector) as session:
        for number, (stream, form) in enumerate(((False, "whole"), (True, "streamed"))):
            num_before = await bench.num_engine_calls(session)
            content = body(1000 + number, stream=stream)
            answers = await asyncio.gather(*(bench.ask(session, content) for _ in range(NUM_IDENTICAL)))
            num_calls = await bench.num_engine_calls(session) - num_before
            are_equal = len({answer for _, answer in answers}) == 1
            figure = f"{num_calls} engine call(s), answers {'equal' if are_equal else 'DIFFERENT'}"
            claim = f"{NUM_IDENTICAL} identical {form} requests at once"
            lines.append(Line("2", claim, figure, "1 engine call", num_calls == 1 and are_equal))
    return lines


class _AtOnce:
    """An engine that has its answer ready."""

    def open(self, call: EngineCall) -> _Opened:
        return _Opened()


class _Opened:
    __slots__ = ("_is_read",)

    def __init__(self) -> None:
        self._is_read = False

    async def __aenter__(self) -> EngineReply:
        headers = {"content-type": "application/json", "x-served-variant": DIGEST}
        return EngineReply(200, headers, self, replica="r0")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __aiter__(self) -> _Opened:
        return self

    async def __anext__(self) -> bytes:
        if self._is_read:
            raise StopAsyncIteration
        self._is_read = True
        return _WHOLE


async def added_cost(num_requests: int, num_rounds: int) -> Iterable[Line]:
    """What the layer adds to requests it does not answer, and what a hit takes in it."""
    clock = SystemClock()
    inner = _AtOnce()
    cached = CachedEngine(
        inner,
        CacheConfig(),
        store=MemoryResponseStore(max_bytes=2**28, clock=clock),
        acceptable_digests=lambda call: (DIGEST,),
        telemetry=CacheTelemetry(CollectorRegistry()),
        clock=clock,
    )
    kinds: dict[str, list[float]] = {"alone": [], "bypass": [], "miss": [], "hit": []}
    async with cached.running():
        for number in range(num_rounds):
            first = number * num_requests
            sampled = [_call(body(at, temperature="")) for at in range(first, first + num_requests)]
            greedy = [_call(body(at)) for at in range(first, first + num_requests)]
            for kind, engine, calls in (
                ("alone", inner, sampled),
                ("bypass", cached, sampled),
                ("miss", cached, greedy),
                ("hit", cached, greedy),
            ):
                began_s = time.process_time()
                for call in calls:
                    async with engine.open(call) as reply:
                        async for _ in reply.chunks:
                            pass
                await asyncio.sleep(0)
                kinds[kind].append((time.process_time() - began_s) / num_requests * 1e6)
    us = {kind: median(values) for kind, values in kinds.items()}
    spread = {kind: f"{min(values):.1f}-{max(values):.1f}" for kind, values in kinds.items()}
    figures = (
        ("added to a request that is not for the cache", us["bypass"] - us["alone"], spread["bypass"], BYPASS_ADDED_US),
        ("added to a miss of 1 kB", us["miss"] - us["alone"], spread["miss"], MISS_ADDED_US),
        ("added to a hit of 1 kB, within the layer", us["hit"] - us["alone"], spread["hit"], HIT_P50_MS * 1000),
    )
    return [
        Line("3", claim, f"{added:.1f} us (in all {range_us} us)", f"at most {most:g} us", added <= most)
        for claim, added, range_us, most in figures
    ]


def _call(content: bytes) -> EngineCall:
    return EngineCall(path="/v1/chat/completions", body=content, request_id="r", model=MODEL, is_streaming=False)


def main() -> int:
    """Prints the figures beside their targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="1,2,3", help="which lines (default: all)")
    parser.add_argument("--seconds", type=float, default=10, help="length of each load (default: 10)")
    parser.add_argument("--rate", type=float, default=1000, help="hits per second (default: 1000)")
    arguments = parser.parse_args()
    steps: dict[str, Callable[[], Iterable[Line]]] = {
        "1": lambda: asyncio.run(hits(arguments.seconds, arguments.rate)),
        "2": lambda: asyncio.run(identical()),
        "3": lambda: uvloop.run(added_cost(2000, 7)),
    }
    return run_topic(steps, arguments.only)


if __name__ == "__main__":
    sys.exit(main())
