"""How many streams the load client drives from one core before it, and not the server, is what one measures.

    python benchmarks/load_client_capacity.py [--streams 2000] [--step-ms 100] [--tokens 100]
                                              [--server raw|simulated] [--client lean|aiohttp] [--json FILE]

The server is a process of its own on core 1 and writes one event per stream and step; the client is pinned to core 0.
The server `raw` is a few lines on bare sockets, because it must be quicker than the client; `simulated` is Lightship's
simulated engine, a whole HTTP server, which is the slower side at 2,000 streams. The client `aiohttp` is the baseline:
the same reading of the same bytes, over the usual library. The machine needs two cores that nothing else uses; where
others do, run it with real-time priority (`chrt -f 10 python ...`).

Verdict: the client holds if it took under 80 % of its core, if its event loop was late by under 20 ms at the 99th
percentile, and if the median gap between tokens is within 2 % (or 0.5 ms) of the server's step.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import httptools
import msgspec
import numpy as np
import uvloop

from lightship.engines.process import free_port
from lightship.engines.simulated.config import SimulatedWorkerConfig, encode_config
from lightship.engines.simulated.presets import load_preset
from lightship.evaluation.performance.client import CompletionEndpoint, HttpCompletions, LoadClient
from lightship.evaluation.performance.connections import Receiver
from lightship.evaluation.performance.records import RequestRecord
from lightship.ports.clock import SystemClock
from lightship.ports.engine import HopTimeouts

CLIENT_CORE, SERVER_CORE = 0, 1
# Seconds over which streams begin, so that their events do not all come in one moment.
RAMP_S = 2.0
HEARTBEAT_S = 0.02
MAX_CPU_SHARE, MAX_HEARTBEAT_LAG_MS, MAX_STEP_ERROR_SHARE, MAX_STEP_ERROR_MS = 0.80, 20.0, 0.02, 0.5
LIMITS = HopTimeouts(connect_s=10, first_token_s=120, next_token_s=120, total_s=600)


@dataclass(frozen=True)
class Capacity:
    """What one run showed; latencies in milliseconds."""

    server: str
    client: str
    num_streams: int
    num_events: int
    seconds: float
    events_per_s: float
    client_cpu_share: float
    client_us_per_event: float
    server_cpu_share: float
    lag_p50_ms: float
    lag_p99_ms: float
    lag_max_ms: float
    heartbeat_lag_p99_ms: float
    step_ms: float
    itl_p50_ms: float
    itl_p99_ms: float
    num_errors: int

    @property
    def problems(self) -> list[str]:
        """Why the client was the bottleneck, if it was."""
        allowed_ms = max(MAX_STEP_ERROR_MS, MAX_STEP_ERROR_SHARE * self.step_ms)
        checks = [
            (self.num_errors == 0, f"{self.num_errors} requests failed"),
            (self.client_cpu_share <= MAX_CPU_SHARE, f"the client took {self.client_cpu_share:.0%} of its core"),
            (
                self.heartbeat_lag_p99_ms <= MAX_HEARTBEAT_LAG_MS,
                f"its event loop was late by {self.heartbeat_lag_p99_ms:.1f} ms",
            ),
            (
                abs(self.itl_p50_ms - self.step_ms) <= allowed_ms,
                f"the median gap is {self.itl_p50_ms:.2f} ms where the server steps every {self.step_ms:g} ms",
            ),
        ]
        return [problem for is_met, problem in checks if not is_met]


class RawServer(asyncio.Protocol):
    """One connection of the raw server: an event per step until the answer has its tokens."""

    EVENT = (
        b'data: {"id":"cmpl-0123456789abcdef","object":"text_completion","created":1763900000,"model":"m",'
        b'"choices":[{"index":0,"text":" once","logprobs":null,"finish_reason":null}]}\n\n'
    )

    def __init__(self, step_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._step_s = step_s
        self._body = b""
        self._parser = httptools.HttpRequestParser(self)
        self._event = _chunk(self.EVENT)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body += body

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._num_tokens = self._num_left = json.loads(self._body)["max_tokens"]
        self._body = b""
        self._parser = httptools.HttpRequestParser(self)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self._transport.write(head)  # type: ignore[attr-defined]
        self._next_s = self._loop.time() + self._step_s
        self._loop.call_at(self._next_s, self._step)

    def _step(self) -> None:
        if self._transport.is_closing():
            return
        self._num_left -= 1
        if self._num_left > 0:
            self._transport.write(self._event)  # type: ignore[attr-defined]
            self._next_s += self._step_s
            self._loop.call_at(self._next_s, self._step)
            return
        usage = {"choices": [], "usage": {"prompt_tokens": 16, "completion_tokens": self._num_tokens}}
        last = _chunk(b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n")
        self._transport.write(self._event + last + b"0\r\n\r\n")  # type: ignore[attr-defined]


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def serve_raw(step_s: float) -> None:
    """Prints its port, serves until the end of standard input."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: RawServer(step_s), "127.0.0.1", 0, backlog=4096)
        print(server.sockets[0].getsockname()[1], flush=True)
        await loop.run_in_executor(None, sys.stdin.read)

    uvloop.run(main())


@asynccontextmanager
async def raw_server(step_s: float) -> AsyncIterator[tuple[str, int]]:
    """Address and process id of a raw server."""
    command = [sys.executable, __file__, "--serve-raw", str(step_s)]
    process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs in this loop yet
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    os.sched_setaffinity(process.pid, {SERVER_CORE})
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid
    finally:
        process.stdin.close()
        process.wait()


@asynccontextmanager
async def simulated_server(step_s: float, num_streams: int) -> AsyncIterator[tuple[str, int]]:
    """Address and process id of a simulated engine whose step takes `step_s`, whatever is in it."""
    preset = load_preset("toy")
    replace = msgspec.structs.replace
    costs = replace(preset.costs, step_s=step_s, prefill_token_s=0.0, decode_token_s=0.0, request_latency_s=0.0)
    limits = replace(preset.limits, max_sequences=num_streams, max_batched_tokens=2**20, num_kv_blocks=64 * num_streams)
    config = SimulatedWorkerConfig(
        model_name="m",
        variant_name="v",
        variant_digest="sha256:" + "0" * 64,
        port=free_port(),
        max_waiting_requests=num_streams,
        profile=replace(preset, costs=costs, limits=limits),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "worker.json"
        path.write_bytes(encode_config(config))
        command = [sys.executable, "-m", "lightship.engines.simulated", str(path), "--exit-with-parent"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: ASYNC220 - see above
        assert process.stdin is not None
        os.sched_setaffinity(process.pid, {SERVER_CORE})
        try:
            await _until_ready(config.address)
            yield config.address, process.pid
        finally:
            process.stdin.close()
            process.wait()


async def _until_ready(address: str) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(200):
            try:
                async with session.get(f"{address}/health/ready") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise SystemExit("the simulated engine did not start")


class AiohttpCompletions:
    """The baseline: the same requests over aiohttp."""

    def __init__(self, base_url: str) -> None:
        self._url = f"{base_url}/v1/completions"

    async def __aenter__(self) -> AiohttpCompletions:
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    async def exchange(self, body: bytes, receiver: Receiver) -> None:
        """See `CompletionEndpoint`."""
        async with self._session.post(self._url, data=body) as response:
            receiver.start(response.status)
            async for chunk in response.content.iter_any():
                receiver.receive(chunk)


async def drive(
    endpoint: CompletionEndpoint, num_streams: int, num_tokens: int
) -> tuple[list[RequestRecord], list[float]]:
    """The records of streams that begin one after the other, and how late the event loop was meanwhile."""
    clock = SystemClock()
    client = LoadClient(endpoint, "m", clock=clock, limits=LIMITS, has_fixed_length=True)
    began_s = clock.monotonic_s()

    async def stream(index: int) -> RequestRecord:
        scheduled_s = began_s + index * RAMP_S / num_streams
        await asyncio.sleep(max(0.0, scheduled_s - clock.monotonic_s()))
        return await client.complete(f"{index} tales", max_tokens=num_tokens, scheduled_s=scheduled_s)

    lags_s: list[float] = []

    async def heartbeat() -> None:
        while True:
            due_s = clock.monotonic_s() + HEARTBEAT_S
            await asyncio.sleep(HEARTBEAT_S)
            lags_s.append(clock.monotonic_s() - due_s)

    beating = asyncio.create_task(heartbeat())
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stream(index)) for index in range(num_streams)]
    beating.cancel()
    return [task.result() for task in tasks], lags_s


def _process_cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(args: argparse.Namespace) -> Capacity:
    """One run."""
    step_s = args.step_ms / 1000
    server = raw_server(step_s) if args.server == "raw" else simulated_server(step_s, args.streams)
    async with server as (address, pid):
        os.sched_setaffinity(0, {CLIENT_CORE})
        endpoint = HttpCompletions(address) if args.client == "lean" else AiohttpCompletions(address)
        async with endpoint:
            gc.collect()
            gc.freeze()
            wall_s, cpu_s, server_s = time.perf_counter(), time.process_time(), _process_cpu_s(pid)
            records, beats_s = await drive(endpoint, args.streams, args.tokens)
            wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
            server_s = _process_cpu_s(pid) - server_s
    num_events = sum(len(record.token_times_s) for record in records)
    gaps_ms = np.array([gap for record in records for gap in record.itl_ms])
    lags_ms = np.array([record.lag_s for record in records]) * 1000
    return Capacity(
        server=args.server,
        client=args.client,
        num_streams=args.streams,
        num_events=num_events,
        seconds=wall_s,
        events_per_s=num_events / wall_s,
        client_cpu_share=cpu_s / wall_s,
        client_us_per_event=cpu_s / num_events * 1e6,
        server_cpu_share=server_s / wall_s,
        lag_p50_ms=float(np.quantile(lags_ms, 0.5)),
        lag_p99_ms=float(np.quantile(lags_ms, 0.99)),
        lag_max_ms=float(lags_ms.max()),
        heartbeat_lag_p99_ms=float(np.quantile(beats_s, 0.99)) * 1000,
        step_ms=args.step_ms,
        itl_p50_ms=float(np.quantile(gaps_ms, 0.5)),
        itl_p99_ms=float(np.quantile(gaps_ms, 0.99)),
        num_errors=sum(record.error is not None for record in records),
    )


def main() -> int:
    """Prints the figures and the verdict; 1 if the client was the bottleneck."""
    parser = argparse.ArgumentParser(description="Capacity of the load client on one core.")
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--step-ms", type=float, default=100.0)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--server", choices=("raw", "simulated"), default="raw")
    parser.add_argument("--client", choices=("lean", "aiohttp"), default="lean")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--serve-raw", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if args.serve_raw is not None:
        serve_raw(args.serve_raw)
        return 0
    found = uvloop.run(measure(args))
    for name, value in asdict(found).items():
        print(f"{name:24} {value:.3f}" if isinstance(value, float) else f"{name:24} {value}")
    print("; ".join(found.problems) or "the client holds")
    if args.json:
        document = {**asdict(found), "problems": found.problems}
        args.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
