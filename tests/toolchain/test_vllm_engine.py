"""A real vLLM serves the built-in checkpoint: ready, answers, scores prompts, and ends with who started it."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import lightship.artifacts
from lightship.engines.memory import group_members
from lightship.engines.process import free_port
from lightship.engines.vllm.adapter import VllmAdapter
from lightship.engines.vllm.config import VllmWorkerConfig
from lightship.evaluation.endpoint import CompletionEndpoint, EndpointTraits, PromptLogprobs, PromptTooLongError
from lightship.evaluation.quality.builtin_texts import builtin_texts

pytestmark = [pytest.mark.toolchain, pytest.mark.local]

ROOT = Path(__file__).resolve().parents[2]
ORACLE = ROOT / "benchmarks" / "reference_bits_per_byte.py"
TALES = Path(lightship.artifacts.__file__).parent / "builtin" / "fairytales"
NUM_TALES = 4
STARTUP_TIMEOUT_S = 300.0
# A parent that starts a worker, says its process id once it is ready, and waits for ever.
PARENT = """
import asyncio, sys
from pathlib import Path
from lightship.engines.process import WorkerProcess
from lightship.engines.vllm.adapter import VllmAdapter
from lightship.engines.vllm.config import read_config

async def main(path, timeout_s):
    adapter, settings = VllmAdapter(), read_config(path)
    worker = WorkerProcess(
        name="vllm", command=adapter.worker_command(path), base_url=settings.address,
        log_path=path.with_suffix(".log"), environment=adapter.environment(settings), ready_path=adapter.ready_path,
    )
    await worker.start(startup_timeout_s=timeout_s)
    print(worker.pid, worker.peak_rss_bytes(), flush=True)
    await worker.wait()

asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
"""


@dataclass
class Facts:
    """What one worker did in its life."""

    completion: dict[str, Any]
    traits: EndpointTraits
    scored: list[PromptLogprobs]
    too_long: str
    peak_rss_bytes: int
    num_processes: int
    num_left: int


async def ask(url: str, texts: list[str]) -> tuple[dict[str, Any], EndpointTraits, list[PromptLogprobs], str]:
    async with aiohttp.ClientSession() as session:
        body = {"model": "tales", "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}
        async with session.post(f"{url}/v1/completions", json=body) as response:
            completion = await response.json()
        endpoint = CompletionEndpoint(url, model="tales", session=session)
        traits = await endpoint.probe_prompt_logprobs(top_k=64)
        scored = [await endpoint.score_prompt(text, top_k=64) for text in texts]
        with pytest.raises(PromptTooLongError) as refusal:
            await endpoint.score_prompt(" ".join(texts) * 10, top_k=1)
    return completion, traits, scored, str(refusal.value)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [document.scored_text for document in builtin_texts().documents[:NUM_TALES]]


@pytest.fixture(scope="module")
def facts(vllm_python: Path, texts: list[str], processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    path = tmp_path_factory.mktemp("vllm") / "worker.json"
    settings = VllmWorkerConfig(
        model_name="tales",
        variant_name="bf16",
        variant_digest="sha256:1",
        folder=str(TALES),
        port=free_port(),
        python=str(vllm_python),
        dtype="float32",
        kv_cache_bytes=2**27,
        enforce_eager=True,
    )
    VllmAdapter().write_config(settings, path)
    command = [sys.executable, "-c", PARENT, str(path), str(STARTUP_TIMEOUT_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            said = parent.stdout.readline().split()
            assert len(said) == 2, path.with_suffix(".log").read_text()[-3000:]
            group, peak_rss_bytes = map(int, said)
            num_processes = len(group_members(group))
            asked = asyncio.run(ask(settings.address, texts))
        finally:
            parent.kill()
    processes.wait_until(lambda: not group_members(group), timeout_s=60)
    return Facts(*asked, peak_rss_bytes, num_processes, len(group_members(group)))


def test_worker_completes_a_prompt(facts: Facts) -> None:
    (choice,) = facts.completion["choices"]
    assert facts.completion["usage"]["completion_tokens"] == 12
    assert choice["finish_reason"] == "length"
    assert " " in choice["text"].strip()


def test_worker_gives_real_prompt_logprobs(facts: Facts, texts: list[str]) -> None:
    assert facts.traits == EndpointTraits(is_first_token_text=False, context_length=1024)
    for one in facts.scored:
        assert one.token_logprobs[0] is None
        assert all(len(entry or {}) >= 64 for entry in one.top_logprobs[1:])
    assert facts.scored[0].served.fingerprint.startswith("vllm-0.32.0")
    assert len(facts.scored) == len(texts)


def test_worker_prompt_beyond_the_context_is_told_as_such(facts: Facts) -> None:
    assert "1024" in facts.too_long


def test_worker_bits_per_byte_in_fp32_are_those_of_plain_transformers(
    facts: Facts, texts: list[str], vllm_python: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    argv = [str(vllm_python), "-W", "ignore", str(ORACLE), str(TALES), str(tmp_path / "texts.json")]
    printed = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=True).stdout
    oracle = json.loads(printed.splitlines()[-1])
    scored = [nats for one in facts.scored for nats in one.token_logprobs[1:]]
    assert len(scored) == oracle["num_tokens"]
    assert -math.fsum(nats for nats in scored if nats is not None) == pytest.approx(oracle["nats"], rel=1e-5)


def test_worker_ends_with_all_its_helpers_when_its_parent_is_killed(facts: Facts) -> None:
    assert facts.num_processes >= 4  # tether, HTTP server, engine core, worker
    assert facts.num_left == 0
    assert 2**29 < facts.peak_rss_bytes < 8 * 2**30
