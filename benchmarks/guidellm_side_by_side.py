"""GuideLLM and our load client on the same server, load and prompts, in turn; exit 1 where their medians part by 5 %.

    python benchmarks/guidellm_side_by_side.py [--server simulated|builtin] [--profile constant|poisson|concurrent]
        [--rate 2] [--concurrency 4] [--seconds 20] [--rounds 5] [--prompt-tokens N] [--output-tokens N] [--json FILE]

`simulated` is our engine of made-up text with the timing of a real one: what differs then is the clients alone, also on
a machine where clients and engine share the cores. `builtin` is the built-in model on its real engine. A token of it
takes about a millisecond, less than what a client spends on an event, so it computes on one thread and leaves a core to
the clients, and prompts and answers are longer there: what a client adds of its own is then a small part of the times.

Both clients send prompts of the same length that no cache has seen, ask greedily for the same number of tokens
(`ignore_eos`), and take turns; requests that leave in the first seconds of a run count on neither side. With `poisson`
each client draws its own arrivals, so single rounds differ by chance; the others offer both sides one load.

The figures are computed here from both sides' records of single requests, by one definition: TTFT from sending to the
first output, TPOT from first to last output over the tokens between. GuideLLM's own `time_per_output_token_ms` counts
the first token too; its `inter_token_latency_ms` is this TPOT, and that the two agree is checked. It runs as a
subprocess in an environment of its own, made on first use (`--environment`), from a scenario file; its report has
`metadata.version` 2.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lightship.artifacts.sources.builtin import builtin_checkpoint
from lightship.engines.process import WorkerProcess, free_port
from lightship.engines.simulated.adapter import SimulatedAdapter
from lightship.engines.simulated.config import SimulatedWorkerConfig
from lightship.engines.simulated.presets import load_preset
from lightship.evaluation.performance.arrivals import ConstantArrivals, PoissonArrivals
from lightship.evaluation.performance.client import HttpCompletions, LoadClient, probe_endpoint
from lightship.evaluation.performance.closed_loop import ClosedLoop, run_closed_loop
from lightship.evaluation.performance.open_loop import LagLimits, OpenLoop, PlannedRequest, run_open_loop
from lightship.evaluation.performance.prompts import draw_prompts
from lightship.evaluation.performance.records import RequestRecord
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.ports.clock import SystemClock
from lightship.ports.engine import HopTimeouts
from peer_environment import DEFAULT_FOLDER, ensure_environment
from served_worker import served_worker

REQUIREMENTS = ("guidellm==0.8.1", "transformers==5.5.4", "datasets>=5.0.1,<6")
REPORT_VERSION = 2
# Tokens of a prompt and of an answer at each server. Prompts are long enough that the time of the first token is the
# engine's: a few milliseconds of it are each client's own.
LENGTHS = {"simulated": (256, 32), "builtin": (768, 128)}
# A core for the engine, the other one for the clients.
BUILTIN_SPEC = {"variants": ["fp16"], "engines": {"openvino": {"threads": 1}}}
WARMUP_S = 3.0
TOLERANCE = 0.05
LIMITS = HopTimeouts(connect_s=5.0, first_token_s=60.0, next_token_s=60.0, total_s=120.0)
PRESET = "openvino-0.5b-fp16-2core-amx"


@dataclass(frozen=True)
class Timing:
    """Medians of one run over its counted requests, and how many of them there were."""

    ttft_ms: float
    tpot_ms: float
    num_requests: int


@dataclass(frozen=True)
class Load:
    """The same load for both clients."""

    profile: str
    rate: float
    concurrency: int
    seconds: float
    num_prompt_tokens: int
    num_output_tokens: int

    @property
    def num_prompts(self) -> int:
        """More than any run sends."""
        per_s = self.rate if self.profile != "concurrent" else 50.0 * self.concurrency
        return int(2 * per_s * (WARMUP_S + self.seconds)) + 100


@dataclass(frozen=True)
class Server:
    """Where both clients send, and the length of a prompt in characters."""

    base_url: str
    model: str
    prompt_chars: int


@asynccontextmanager
async def simulated() -> AsyncIterator[str]:
    """The address of a simulated engine."""
    adapter = SimulatedAdapter()
    profile = load_preset(PRESET)
    with tempfile.TemporaryDirectory() as folder:
        config = SimulatedWorkerConfig(
            model_name="fairytales", variant_name="simulated", variant_digest=profile.digest, port=free_port(),
            max_waiting_requests=profile.limits.max_waiting_requests, profile=profile,
        )  # fmt: skip
        path = Path(folder) / "worker.json"
        adapter.write_config(config, path)
        worker = WorkerProcess(
            name="simulated",
            command=adapter.worker_command(path),
            base_url=config.address,
            log_path=Path(folder) / "worker.log",
        )
        await worker.start(startup_timeout_s=30)
        try:
            yield config.address
        finally:
            await worker.stop(drain_timeout_s=5)


def prompts(server: Server, *, seed: int) -> Iterator[str]:
    """Prompts of equal length; another seed gives other ones."""
    return draw_prompts([document.text for document in builtin_texts().documents], num_chars=server.prompt_chars,
                        seed=seed)  # fmt: skip


async def probed(base_url: str, num_prompt_tokens: int) -> Server:
    """The server with the length of a prompt of so many tokens."""
    server = Server(base_url, "fairytales", 256)
    async with HttpCompletions(base_url) as endpoint:
        trial = next(prompts(server, seed=0))
        traits = await probe_endpoint(endpoint, server.model, prompt=trial, clock=SystemClock(), limits=LIMITS)
    return Server(base_url, server.model, round(num_prompt_tokens * traits.chars_per_token))


async def our_run(server: Server, load: Load, *, seed: int) -> Timing:
    """One run of our client."""
    clock = SystemClock()
    async with HttpCompletions(server.base_url) as endpoint:
        client = LoadClient(endpoint, server.model, clock=clock, limits=LIMITS, has_fixed_length=True)
        drawn = prompts(server, seed=seed)
        if load.profile == "concurrent":
            closed = ClosedLoop(load.concurrency, load.num_output_tokens, load.seconds, load.seconds + 60, 10**6)
            records = (await run_closed_loop(client, closed, drawn, clock=clock)).records
        else:
            kind = ConstantArrivals if load.profile == "constant" else PoissonArrivals
            end_s = WARMUP_S + load.seconds
            offsets = kind(load.rate).offsets_s(duration_s=end_s, seed=seed)
            planned = [PlannedRequest(o, next(drawn), load.num_output_tokens) for o in offsets]
            # TTFT counts from sending here, so a late request is no error; both clients share the cores with the engine
            bounds = OpenLoop(WARMUP_S, end_s, lag=LagLimits(1.0, 1.0))
            records = (await run_open_loop(client, bounds, planned, clock=clock)).records
    return _our_timing(records, load.num_output_tokens)


def _our_timing(records: tuple[RequestRecord, ...], num_output_tokens: int) -> Timing:
    answered = [record for record in records if record.error is None]
    assert all(record.num_output_tokens == num_output_tokens for record in answered), "answers of other lengths"
    return Timing(
        statistics.median((record.token_times_s[0] - record.sent_s) * 1000 for record in answered),
        statistics.median(record.tpot_ms for record in answered if record.tpot_ms is not None),
        len(answered),
    )


def guidellm_run(python: Path, server: Server, load: Load, *, seed: int) -> Timing:
    """One run of GuideLLM."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = [
            {"prompt": prompt, "output_tokens_count": load.num_output_tokens}
            for prompt in islice(prompts(server, seed=seed), load.num_prompts)
        ]
        (folder / "prompts.json").write_text(json.dumps(rows), encoding="utf-8")
        (folder / "scenario.json").write_text(json.dumps({"spec": _scenario(server, load, folder, seed)}), "utf-8")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
        # one process of its own is enough for such loads; ten would take the cores from the engine
        environment["GUIDELLM__MAX_WORKER_PROCESSES"] = "1"
        command = [str(python), "-m", "guidellm", "run", "-c", str(folder / "scenario.json"), "--disable-console"]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise SystemExit(f"guidellm failed:\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}")
        return read_report(json.loads((folder / "report.json").read_text("utf-8")), load.num_output_tokens)


def _scenario(server: Server, load: Load, folder: Path, seed: int) -> dict[str, Any]:
    profile: dict[str, Any] = {"kind": load.profile, "rate": [load.rate]}
    if load.profile == "concurrent":
        # streams that begin together would stay in step, and each prompt would wait for all others
        profile = {"kind": "concurrent", "streams": [load.concurrency], "rampup_duration": WARMUP_S / 2}
    return {
        "backend": {
            "kind": "openai_http", "target": server.base_url, "model": server.model,
            "request_format": "/v1/completions", "http2": False, "validate_backend": True,
            "extras": {"body": {"temperature": 0}},
        },
        "profile": profile,
        "constraints": [{"kind": "max_duration", "seconds": WARMUP_S + load.seconds}],
        "tokenizer": {"kind": "huggingface_auto", "model": str(builtin_checkpoint("fairytales"))},
        "data": [{"kind": "json_file", "path": str(folder / "prompts.json")}],
        "seed": {"kind": "static", "value": seed},
        "outputs": [{"kind": "json", "path": str(folder / "report.json")}],
    }  # fmt: skip


def read_report(report: dict[str, Any], num_output_tokens: int) -> Timing:
    """The medians of a GuideLLM report, computed from its requests."""
    version = report["metadata"]["version"]
    if version != REPORT_VERSION:
        raise SystemExit(f"GuideLLM's report has version {version}, expected {REPORT_VERSION}")
    requests = report["benchmarks"][0]["requests"]
    if requests["errored"]:
        raise SystemExit(f"GuideLLM's requests failed: {requests['errored'][0]['info']['error']}")
    began_s = min(request["info"]["timings"]["request_start"] for request in requests["successful"])
    ttft_ms: list[float] = []
    tpot_ms: list[float] = []
    for request in requests["successful"]:
        times = request["info"]["timings"]
        if times["request_start"] < began_s + WARMUP_S:
            continue
        if request["output_tokens"] != num_output_tokens:
            raise SystemExit(f"an answer has {request['output_tokens']} tokens, expected {num_output_tokens}")
        first_s, last_s = times["first_token_iteration"], times["last_token_iteration"]
        ttft_ms.append((first_s - times["request_start"]) * 1000)
        tpot_ms.append((last_s - first_s) * 1000 / (num_output_tokens - 1))
        if abs(tpot_ms[-1] - request["inter_token_latency_ms"]) > 1e-3:
            raise SystemExit("GuideLLM's inter_token_latency_ms is not what it is taken for")
    return Timing(statistics.median(ttft_ms), statistics.median(tpot_ms), len(ttft_ms))


async def compare(base_url: str, python: Path, load: Load, rounds: int) -> list[dict[str, Timing]]:
    """Both clients in turn; which one begins changes from round to round."""
    server = await probed(base_url, load.num_prompt_tokens)
    results: list[dict[str, Timing]] = []
    for number in range(rounds):
        seeds = {"ours": 2 * number + 1, "guidellm": 2 * number + 2}
        timings: dict[str, Timing] = {}
        for side in ("ours", "guidellm") if number % 2 == 0 else ("guidellm", "ours"):
            if side == "ours":
                timings[side] = await our_run(server, load, seed=seeds[side])
            else:
                timings[side] = await asyncio.to_thread(guidellm_run, python, server, load, seed=seeds[side])
            print(f"round {number + 1} {side}: {timings[side]}", file=sys.stderr, flush=True)
        results.append(timings)
    return results


def ratios(results: list[dict[str, Timing]], name: str) -> list[float]:
    """Ours over GuideLLM's, round by round."""
    return [getattr(pair["ours"], name) / getattr(pair["guidellm"], name) for pair in results]


def main() -> int:
    """Prints ratios and their spread; 1 if a median ratio is out of tolerance."""
    parser = argparse.ArgumentParser(description="GuideLLM and our load client, side by side.")
    parser.add_argument("--server", choices=("simulated", "builtin"), default="simulated")
    parser.add_argument("--profile", choices=("constant", "poisson", "concurrent"), default="constant")
    parser.add_argument("--rate", type=float, default=2.0, help="requests per second of an open loop")
    parser.add_argument("--concurrency", type=int, default=4, help="streams of a closed loop")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run, after its warm-up")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, help="of each request (default: 256, builtin: 768)")
    parser.add_argument("--output-tokens", type=int, help="of each answer (default: 32, builtin: 128)")
    parser.add_argument("--environment", type=Path, default=DEFAULT_FOLDER / "guidellm")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args()
    num_prompt, num_output = LENGTHS[args.server]
    load = Load(
        args.profile,
        args.rate,
        args.concurrency,
        args.seconds,
        args.prompt_tokens or num_prompt,
        args.output_tokens or num_output,
    )
    python = ensure_environment(args.environment, REQUIREMENTS)

    async def run() -> list[dict[str, Timing]]:
        started = simulated() if args.server == "simulated" else served_worker(BUILTIN_SPEC)
        async with started as base_url:
            return await compare(base_url, python, load, args.rounds)

    results = asyncio.run(run())
    is_close = True
    for name in ("ttft_ms", "tpot_ms"):
        found = ratios(results, name)
        middle = statistics.median(found)
        ours, theirs = (
            statistics.median(getattr(pair[side], name) for pair in results) for side in ("ours", "guidellm")
        )
        is_near = abs(middle - 1) <= TOLERANCE
        is_close = is_close and is_near
        print(
            f"{'ok' if is_near else 'MISS'} {name}: ratio {middle:.3f} (rounds {min(found):.3f} to {max(found):.3f}), "
            f"ours {ours:.2f}, GuideLLM {theirs:.2f}: {args.server}, {args.profile}"
        )
    if args.json:
        rows = [{side: asdict(timing) for side, timing in pair.items()} for pair in results]
        args.json.write_text(json.dumps({"load": asdict(load), "rounds": rows}, indent=2) + "\n", encoding="utf-8")
    return 0 if is_close else 1


if __name__ == "__main__":
    sys.exit(main())
