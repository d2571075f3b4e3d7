"""Speculative drafts on a real vLLM: what is generated stays the same, token by token, and tokens are accepted."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

import lightship.artifacts
from lightship.artifacts.checkpoint import inspect_checkpoint
from lightship.artifacts.home import artifact_root
from lightship.artifacts.machine import this_machine
from lightship.artifacts.store import ArtifactStore
from lightship.cli.draft_trial import TrialProtocol, draft_refusal, hold_trial, uses_draft
from lightship.cli.prepare import Surroundings, build_context, resolve_model
from lightship.compression.build import BuildContext, build_variant
from lightship.compression.drafts import DraftTrial, accept_draft, compare_outputs
from lightship.compression.recipes import PRESETS
from lightship.compression.steps.base import TextFile
from lightship.compression.toolchains.environment import ToolchainFolder
from lightship.engines.process import WorkerProcess, free_port
from lightship.engines.vllm.adapter import VllmAdapter
from lightship.engines.vllm.config import VllmWorkerConfig
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.greedy import GreedyRun, greedy_outputs
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.ports.clock import SystemClock
from lightship.ports.measurements import Metric
from lightship.ports.progress import SilentProgress
from lightship.ports.variants import Variant
from lightship.spec.load import parse_spec

pytestmark = [pytest.mark.toolchain, pytest.mark.local]

BUILTIN = Path(lightship.artifacts.__file__).parent / "builtin"
PRESET_NAMES = ("bf16", "ngram-draft", "student-draft")
CONCURRENCY = 4


@dataclass(frozen=True)
class Served:
    """What one way of serving said, and how many proposed tokens it took over."""

    run: GreedyRun
    num_accepted: int


async def serve(variant: Variant, python: Path, folder: Path) -> Served:
    settings = VllmWorkerConfig(
        model_name="tales",
        variant_name=variant.manifest.name,
        variant_digest=variant.manifest.digest,
        folder=str(variant.folder),
        port=free_port(),
        python=str(python),
        dtype="float32",  # in 16 bits, two almost equally likely tokens may change places
        kv_cache_bytes=2**27,
        enforce_eager=True,
    )
    adapter = VllmAdapter()
    adapter.write_config(settings, folder / f"{variant.manifest.name}.json")
    worker = WorkerProcess(
        name=variant.manifest.name,
        command=adapter.worker_command(folder / f"{variant.manifest.name}.json"),
        base_url=settings.address,
        log_path=folder / f"{variant.manifest.name}.log",
        environment=adapter.environment(settings),
        ready_path=adapter.ready_path,
    )
    try:
        await worker.start(startup_timeout_s=300.0)
        async with aiohttp.ClientSession() as session:
            endpoint = CompletionEndpoint(worker.base_url, model="tales", session=session)
            prompts = [document.scored_text[:200] for document in builtin_texts().documents[:8]]
            run = await greedy_outputs(endpoint, prompts, max_tokens=64, concurrency=CONCURRENCY)
            async with session.get(f"{worker.base_url}/metrics") as response:
                metrics = await response.text()
    finally:
        await worker.stop(drain_timeout_s=0.0)
    accepted = re.search(r"^vllm:spec_decode_num_accepted_tokens_total\{[^}]*\} (\S+)$", metrics, re.MULTILINE)
    return Served(run, int(float(accepted[1])) if accepted else 0)


@pytest.fixture(scope="module")
def served(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    home = tmp_path_factory.mktemp("home")
    context = BuildContext(
        store=ArtifactStore(artifact_root(home), SystemClock()),
        toolchains=ToolchainFolder(home / "toolchains"),
        logs=home / "logs",
        work=home / "work",
        students={"fairytales-quarter": BUILTIN / "fairytales-quarter"},
        calibration=TextFile(home / "none.jsonl", "sha256:0"),
        progress=SilentProgress(),
    )
    tales = inspect_checkpoint(BUILTIN / "fairytales")
    variants = {name: build_variant(PRESETS[name], tales, context, model_name="tales") for name in PRESET_NAMES}
    return {name: asyncio.run(serve(variant, vllm_python, home)) for name, variant in variants.items()}


@pytest.mark.parametrize("name", ["ngram-draft", "student-draft"])
def test_draft_greedy_completions_are_those_without_it(name: str, served: dict[str, Served]) -> None:
    base, drafted = served["bf16"].run, served[name].run
    assert sum(map(len, base.output_ids)) > 300
    assert compare_outputs(base.output_ids, drafted.output_ids).first_difference is None


@pytest.mark.parametrize("name", ["ngram-draft", "student-draft"])
def test_draft_proposes_tokens_that_the_model_takes(name: str, served: dict[str, Served]) -> None:
    assert served["bf16"].num_accepted == 0
    num_tokens = sum(map(len, served[name].run.output_ids))
    assert num_tokens / 10 < served[name].num_accepted < num_tokens


def test_draft_is_judged_by_what_was_measured(served: dict[str, Served]) -> None:
    base, drafted = (served[name].run for name in ("bf16", "student-draft"))
    compared = compare_outputs(base.output_ids, drafted.output_ids)
    trial = DraftTrial(compared, base.tokens_per_s, drafted.tokens_per_s, CONCURRENCY)
    is_accepted, reason = accept_draft(trial)
    assert is_accepted == (drafted.tokens_per_s >= 1.05 * base.tokens_per_s)
    assert f"at {CONCURRENCY} concurrent requests" in reason


def test_draft_trial_real_workers_say_the_same_and_the_verdict_follows_from_the_figures(
    toolchain_root: Path, vllm_python: Path, tmp_path: Path
) -> None:
    del vllm_python  # installed
    (tmp_path / "toolchains").symlink_to(toolchain_root)
    around = Surroundings(home=tmp_path, clock=SystemClock(), progress=SilentProgress())
    settings = "engines.vllm={eager: true, kv_cache_size: 128 MiB, precision: f32}"
    spec = parse_spec("", overrides=[settings]).spec
    model = resolve_model(spec, around)
    context = build_context(spec, model, around)
    variant = build_variant(PRESETS["student-draft"], model.checkpoint, context, model_name="fairytales")
    assert uses_draft(spec, variant)
    texts = [document.scored_text for document in builtin_texts().documents]
    protocol = TrialProtocol(concurrency=CONCURRENCY, num_rounds=1)
    figures = asyncio.run(hold_trial(spec, variant, around, this_machine(), protocol=protocol, texts=texts))
    values = {one.metric: one.value for one in figures}
    assert values[Metric.GREEDY_AGREEMENT] == 1.0  # in float32 nothing changes places
    assert {one.target.settings["draft"] for one in figures} == {"model/3"}
    reason = draft_refusal(figures, is_16_bit=False)
    assert (reason is None) == (values[Metric.DRAFT_SPEEDUP] >= 1.05)
