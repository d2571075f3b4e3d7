"""Streaming through worker and gateway against the bare OpenVINO GenAI pipeline, side by side in one run.

    python benchmarks/streaming_overhead.py [--model FOLDER] [--rounds 3] [--json FILE]

32 concurrent requests of 128 prompt tokens and 64 output tokens, greedy, end-of-text ignored. Both sides have the same
scheduler settings and threads, and take turns (bare, served, bare, served, ...), each in processes of its own. The bare
side is the pipeline's step loop in one process that only counts tokens; the served side is a worker, a gateway and a
client that reads server-sent events. Without --model a 0.5B-shaped model with random weights is made once, in the
toolchain `openvino-convert` (a minute or two and 2 GB of disk). Figures are medians over the rounds with their range.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp

from lightship.artifacts.home import data_home
from lightship.cli.progress import progress_for_stderr
from lightship.compression.toolchains.definitions import OPENVINO_CONVERT
from lightship.compression.toolchains.environment import ToolchainFolder
from lightship.compression.toolchains.jobs import JobSettings, run_job
from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.engines.process import WorkerProcess, free_port
from lightship.gateway.config import GatewayConfig, ReplicaConfig, encode_config

NUM_REQUESTS = 32
NUM_PROMPT_TOKENS = 128
NUM_OUTPUT_TOKENS = 64
KV_CACHE_BYTES = 2 * 2**30
MAX_BATCHED_TOKENS = 256
MODEL = "bench"


@dataclass(frozen=True)
class Run:
    """One round: tokens delivered, and seconds from the first request to the last token."""

    num_tokens: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Aggregate output speed."""
        return self.num_tokens / self.seconds


def prompt_ids(request: int, round_number: int) -> list[int]:
    """Distinct prompts from their first tokens on, so that nothing is answered from the prefix cache."""
    generator = random.Random(round_number * NUM_REQUESTS + request)
    head = [1, 3 + round_number % 250, 3 + request]
    return head + [generator.randrange(3, 253) for _ in range(NUM_PROMPT_TOKENS - len(head))]


def bare_rounds(model: Path, rounds: int) -> None:
    """The bare pipeline: prints one JSON line per line read from standard input; ends at its end."""
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = KV_CACHE_BYTES // 2**30
    scheduler.max_num_batched_tokens = MAX_BATCHED_TOKENS
    scheduler.max_num_seqs = 256
    scheduler.enable_prefix_caching = True
    scheduler.dynamic_split_fuse = True
    pipeline = genai.ContinuousBatchingPipeline(str(model), scheduler, "CPU", {})
    options = genai.GenerationConfig(max_new_tokens=NUM_OUTPUT_TOKENS, ignore_eos=True, do_sample=False)
    for number in range(rounds):
        sys.stdin.readline()
        started = time.perf_counter()
        handles = []
        for request in range(NUM_REQUESTS):
            ids = ov.Tensor(np.array([prompt_ids(request, number)], dtype=np.int64))
            handles.append(pipeline.add_request(number * NUM_REQUESTS + request, ids, options))
        num_tokens = 0
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for handle in handles:
                if handle.can_read():
                    num_tokens += sum(len(output.generated_ids) for output in handle.read().values())
        print(json.dumps({"num_tokens": num_tokens, "seconds": time.perf_counter() - started}), flush=True)


class BarePipeline:
    """The bare side in a process of its own; loaded only while it runs, so that memory is not shared with the other."""

    def __init__(self, model: Path, rounds: int) -> None:
        command = [sys.executable, __file__, "--bare", str(model), "--rounds", str(rounds)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def round(self) -> Run:
        """One round."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return Run(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate(timeout=60)


class ServedPipeline:
    """Worker and gateway, started as `lightship up` starts them."""

    def __init__(self, model: Path, folder: Path) -> None:
        adapter = OpenVinoAdapter()
        settings = OpenVinoWorkerConfig(
            model_name=MODEL,
            variant_name="fp16",
            variant_digest="sha256:" + "0" * 64,
            folder=str(model),
            port=free_port(),
            kv_cache_bytes=KV_CACHE_BYTES,
            max_batched_tokens=MAX_BATCHED_TOKENS,
            max_sequences=256,
            prefix_caching=True,
        )
        adapter.write_config(settings, folder / "worker.json")
        replica = ReplicaConfig(
            name="r0", base_url=settings.address, model_name=MODEL, variant_name="fp16", variant_digest="sha256:0"
        )
        gateway = GatewayConfig(model_name=MODEL, replicas=(replica,), port=free_port())
        (folder / "gateway.json").write_bytes(encode_config(gateway))
        self.url = f"http://127.0.0.1:{gateway.port}"
        self._worker = WorkerProcess(
            name="worker",
            command=adapter.worker_command(folder / "worker.json"),
            base_url=settings.address,
            log_path=folder / "worker.log",
        )
        self._gateway = WorkerProcess(
            name="gateway",
            command=[sys.executable, "-m", "lightship.gateway", str(folder / "gateway.json"), "--exit-with-parent"],
            base_url=self.url,
            log_path=folder / "gateway.log",
        )

    async def __aenter__(self) -> ServedPipeline:
        await self._worker.start(startup_timeout_s=300)
        await self._gateway.start(startup_timeout_s=30)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._gateway.stop(drain_timeout_s=5)
        await self._worker.stop(drain_timeout_s=5)

    async def round(self, number: int) -> Run:
        """32 streams at once; tokens are those the server says it delivered."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600)) as session:
            started = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._stream(session, i, number)) for i in range(NUM_REQUESTS)]
            return Run(sum(task.result() for task in tasks), time.perf_counter() - started)

    async def _stream(self, session: aiohttp.ClientSession, request: int, number: int) -> int:
        body = {
            "model": MODEL,
            "prompt": prompt_ids(request, number),
            "max_tokens": NUM_OUTPUT_TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        last = b""
        async with session.post(f"{self.url}/v1/completions", json=body) as reply:
            reply.raise_for_status()
            async for chunk in reply.content.iter_any():
                last = (last + chunk)[-4096:]
        events = [line for line in last.split(b"\n\n") if line.startswith(b"data: {")]
        assert last.endswith(b"data: [DONE]\n\n"), last
        return int(json.loads(events[-1].removeprefix(b"data: "))["usage"]["completion_tokens"])


def random_model(home: Path) -> Path:
    """The 0.5B-shaped model, made on first use below the data directory."""
    folder = home / "bench" / "random-0.5b"
    if folder.exists():
        return folder
    progress = progress_for_stderr()
    python = ToolchainFolder(home / "toolchains").ensure(OPENVINO_CONVERT, progress).python
    with tempfile.TemporaryDirectory(dir=home) as temporary:
        checkpoint, converted = Path(temporary) / "checkpoint", Path(temporary) / "converted"
        converted.mkdir()
        with progress.task("making a 0.5B-shaped model with random weights"):
            script = Path(__file__).with_name("random_model.py")
            command = [str(python), "-I", "-W", "ignore", str(script), str(checkpoint)]
            subprocess.run(command, check=True, capture_output=True)
        settings = JobSettings(python, "convert_openvino", home / "logs" / "bench-convert.log", 3600.0)
        job = {"checkpoint": str(checkpoint), "output": str(converted), "weight_format": "fp16"}
        run_job(settings, job, title="converting it to OpenVINO", progress=progress)
        folder.parent.mkdir(parents=True, exist_ok=True)
        converted.rename(folder)
    return folder


async def compare(model: Path, rounds: int) -> dict[str, object]:
    """Both sides in turn; one warm-up round each that is not counted."""
    bare_runs: list[Run] = []
    served_runs: list[Run] = []
    bare = BarePipeline(model, rounds + 1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            async with ServedPipeline(model, Path(folder)) as served:
                for number in range(rounds + 1):
                    bare_run = await asyncio.to_thread(bare.round)
                    served_run = await served.round(number)
                    if number > 0:
                        bare_runs.append(bare_run)
                        served_runs.append(served_run)
    finally:
        bare.close()
    ratios = [s.tokens_per_s / b.tokens_per_s for s, b in zip(served_runs, bare_runs, strict=True)]
    assert all(run.num_tokens == NUM_REQUESTS * NUM_OUTPUT_TOKENS for run in (*bare_runs, *served_runs))
    return {
        "bare_tokens_per_s": [round(run.tokens_per_s, 1) for run in bare_runs],
        "served_tokens_per_s": [round(run.tokens_per_s, 1) for run in served_runs],
        "ratios": [round(ratio, 4) for ratio in ratios],
        "median_ratio": round(median(ratios), 4),
    }


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description="Streaming overhead of worker and gateway.")
    parser.add_argument("--model", type=Path, help="OpenVINO folder; default: a 0.5B shape with random weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        bare_rounds(args.bare, args.rounds)
        return
    model = args.model or random_model(data_home(os.environ))
    figures = asyncio.run(compare(model, args.rounds))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"bare pipeline    {figures['bare_tokens_per_s']} tokens/s")
    print(f"worker + gateway {figures['served_tokens_per_s']} tokens/s")
    print(f"ratio            {figures['ratios']}, median {figures['median_ratio']}")


if __name__ == "__main__":
    main()
