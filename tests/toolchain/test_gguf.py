"""Real llama.cpp: conversion, importance matrix, quantization, the server, and scores on it beside transformers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from lightship.artifacts.checkpoint import Checkpoint, inspect_checkpoint
from lightship.artifacts.gguf_header import read_gguf_header
from lightship.artifacts.home import artifact_root
from lightship.artifacts.sources.builtin import builtin_checkpoint
from lightship.artifacts.store import ArtifactStore
from lightship.compression.build import BuildContext, build_variant
from lightship.compression.calibration import builtin_calibration, write_text_file
from lightship.compression.recipes import PRESETS
from lightship.compression.toolchains.environment import ToolchainFolder
from lightship.engines.llamacpp.adapter import LlamacppAdapter
from lightship.engines.llamacpp.config import LlamacppWorkerConfig
from lightship.engines.process import WorkerProcess, free_port
from lightship.errors import CheckpointError, ToolchainError
from lightship.evaluation.prefix_scoring import PrefixScoringEndpoint
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.evaluation.quality.protocol import QualityProtocol, QualityResult, measure_quality
from lightship.evaluation.quality.scoring import DocumentScores
from lightship.ports.clock import SystemClock
from lightship.ports.measurements import Metric
from lightship.ports.progress import SilentProgress
from lightship.ports.variants import Recipe, RecipeStep, Variant, WeightFormat

pytestmark = pytest.mark.toolchain

REPOSITORY = Path(__file__).resolve().parents[2]
ORACLE = REPOSITORY / "benchmarks" / "reference_bits_per_byte.py"
NUM_DOCUMENTS = 3
MODEL_NAME = "tales"
READ_BY_GGUF_PACKAGE = """
import json, sys
sys.path.insert(0, sys.argv[2])
import gguf
reader = gguf.GGUFReader(sys.argv[1])
first = min(tensor.data_offset for tensor in reader.tensors)
rows = []
for one in reader.tensors:
    shape = [int(number) for number in one.shape]
    rows.append([one.name, one.tensor_type.name, shape, int(one.data_offset - first), int(one.n_bytes)])
print(json.dumps(rows))
"""
COMPARE_TOKENIZERS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from lightship.compression.jobs.convert_gguf import check_tokenizer
print(len(check_tokenizer(Path(sys.argv[2]), Path(sys.argv[3]))))
"""
Result = TypeVar("Result")


@pytest.fixture(scope="module")
def context(gguf_python: Path, toolchain_root: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildContext:
    del gguf_python  # it is installed now
    home = tmp_path_factory.mktemp("home")
    return BuildContext(
        store=ArtifactStore(artifact_root(home), SystemClock()),
        toolchains=ToolchainFolder(toolchain_root),
        logs=home / "logs",
        work=home / "work",
        students={},
        calibration=write_text_file(builtin_calibration(), home / "texts"),
        progress=SilentProgress(),
    )


@pytest.fixture(scope="module")
def tales() -> Checkpoint:
    return inspect_checkpoint(builtin_checkpoint("fairytales"))


@pytest.fixture(scope="module")
def converted(context: BuildContext, tales: Checkpoint) -> Variant:
    return build_variant(PRESETS["gguf-bf16"], tales, context, model_name=MODEL_NAME)


@pytest.fixture(scope="module")
def quantized(context: BuildContext, tales: Checkpoint) -> Variant:
    return build_variant(PRESETS["q4_k_m-imatrix"], tales, context, model_name=MODEL_NAME)


def run(python: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [str(python), "-I", "-W", "ignore", "-c", code, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)


def by_transformers(checkpoint: Checkpoint, texts: list[str], python: Path, folder: Path) -> dict[str, Any]:
    """What the checkpoint says of the texts in float32."""
    (folder / "texts.json").write_text(json.dumps(texts))
    argv = [str(python), "-W", "ignore", str(ORACLE), str(checkpoint.folder), str(folder / "texts.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=True, env=environment)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def on_worker(
    variant: Variant, python: Path, folder: Path, use: Callable[[str, aiohttp.ClientSession], Awaitable[Result]]
) -> Result:
    """What `use` makes of a worker of the variant."""

    async def with_worker() -> Result:
        adapter = LlamacppAdapter()
        settings = LlamacppWorkerConfig(
            model_name=MODEL_NAME,
            variant_name=variant.manifest.name,
            variant_digest=variant.manifest.digest,
            folder=str(variant.folder),
            port=free_port(),
            program=str(python.with_name("llama-server")),
            num_threads=1,
            max_sequences=4,
        )
        adapter.write_config(settings, folder / "worker.json")
        worker = WorkerProcess(
            name=variant.manifest.name,
            command=adapter.worker_command(folder / "worker.json"),
            base_url=settings.address,
            log_path=folder / "worker.log",
            environment=adapter.environment(settings),
            ready_path=adapter.ready_path,
        )
        await worker.start(startup_timeout_s=120)
        try:
            async with aiohttp.ClientSession() as session:
                return await use(settings.address, session)
        finally:
            await worker.stop(drain_timeout_s=10)

    return asyncio.run(with_worker())


def quality(variant: Variant, python: Path, folder: Path, reference: DocumentScores | None = None) -> QualityResult:
    protocol = QualityProtocol(num_documents=NUM_DOCUMENTS, bootstrap_resamples=100)

    async def use(base_url: str, session: aiohttp.ClientSession) -> QualityResult:
        endpoint = PrefixScoringEndpoint(base_url, model=MODEL_NAME, session=session)
        return await measure_quality(endpoint, protocol=protocol, texts=builtin_texts(), reference=reference)

    return on_worker(variant, python, folder, use)


def figures(result: QualityResult) -> dict[Metric, float]:
    return {figure.metric: figure.value for figure in result.figures}


def test_conversion_keeps_every_weight_and_all_that_goes_with_them(
    converted: Variant, tales: Checkpoint, context: BuildContext
) -> None:
    context.store.verify(converted, full=True)
    manifest = converted.manifest
    assert manifest.weight_format is WeightFormat.GGUF
    assert (manifest.num_parameters, manifest.context_length) == (tales.num_parameters, tales.context_length)
    assert {"model.gguf", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"} == {
        entry.path for entry in manifest.files
    }
    metadata = read_gguf_header(converted.folder / "model.gguf").metadata
    # digits one by one, then GPT-2's expression: what llama.cpp calls smollm
    assert (metadata["tokenizer.ggml.pre"], metadata["tokenizer.ggml.add_bos_token"]) == ("smollm", True)


def test_header_agrees_with_the_gguf_package(quantized: Variant, gguf_python: Path) -> None:
    path = quantized.folder / "model.gguf"
    package = gguf_python.parent.parent / "llama.cpp" / "gguf-py"
    result = run(gguf_python, READ_BY_GGUF_PACKAGE, str(path), str(package))
    assert result.returncode == 0, result.stderr
    ours = [[t.name, t.dtype, list(t.shape), t.offset, t.num_bytes] for t in read_gguf_header(path).tensors]
    assert sorted(ours) == sorted(json.loads(result.stdout))


def test_quantization_says_what_became_of_the_weights_and_from_which_texts(
    quantized: Variant, context: BuildContext
) -> None:
    summary = json.loads((quantized.folder / "quantization.json").read_text())
    assert quantized.manifest.inputs == {"calibration": context.calibration.digest}
    assert summary["num_calibration_chunks"] > 10
    assert summary["num_fallback_matrices"] == 0
    assert set(summary["num_elements_by_type"]) == {"F32", "Q4_K", "Q6_K"}
    elements = summary["num_elements_by_type"]
    # bits of a weight: blocks of 256 in 144 and 210 bytes
    bits = 32 * elements["F32"] + 4.5 * elements["Q4_K"] + 6.5625 * elements["Q6_K"]
    assert summary["bits_per_weight"] == pytest.approx(bits / quantized.manifest.num_parameters, abs=1e-3)


def test_served_scores_equal_transformers_and_quantization_costs_a_little(
    converted: Variant, quantized: Variant, tales: Checkpoint, gguf_python: Path, tmp_path: Path
) -> None:
    texts = [document.scored_text for document in builtin_texts().first(NUM_DOCUMENTS).documents]
    oracle = by_transformers(tales, texts, gguf_python, tmp_path)

    reference = quality(converted, gguf_python, tmp_path)
    scored = figures(reference)
    assert sum(document.num_tokens for document in reference.scores.documents) == oracle["num_tokens"]
    assert scored[Metric.BITS_PER_BYTE] == pytest.approx(oracle["bits_per_byte"], rel=2e-3)

    smaller = figures(quality(quantized, gguf_python, tmp_path, reference.scores))
    assert 1e-4 < smaller[Metric.KL_NATS] < 0.05
    assert smaller[Metric.QUALITY_RECOVERY] > 0.98


def test_worker_completes_and_chats_under_the_models_name(
    converted: Variant, gguf_python: Path, tmp_path: Path
) -> None:
    async def use(base_url: str, session: aiohttp.ClientSession) -> list[dict[str, Any]]:
        replies = []
        for path, prompt in (
            ("completions", {"prompt": "Once upon a time"}),
            ("chat/completions", {"messages": [{"role": "user", "content": "The Fox"}]}),
        ):
            body = {"model": MODEL_NAME, "max_tokens": 8, "temperature": 0, **prompt}
            async with session.post(f"{base_url}/v1/{path}", json=body) as response:
                assert response.status == 200, await response.text()
                replies.append(await response.json())
        async with session.get(f"{base_url}/slots") as response:  # it would show what others ask
            assert response.status != 200
        return replies

    completion, chat = on_worker(converted, gguf_python, tmp_path, use)
    assert completion["model"] == chat["model"] == MODEL_NAME
    assert completion["choices"][0]["text"].strip()
    assert chat["choices"][0]["message"]["content"].strip()
    assert completion["usage"]["completion_tokens"] == chat["usage"]["completion_tokens"] == 8


def test_check_tokenizer_one_that_splits_in_another_way_is_caught(
    converted: Variant, gguf_python: Path, tmp_path: Path
) -> None:
    tokenizer = json.loads((converted.folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    arguments = (str(REPOSITORY / "src"), str(tmp_path / "tokenizer.json"), str(converted.folder / "model.gguf"))
    result = run(gguf_python, COMPARE_TOKENIZERS, *arguments)
    assert "ValueError: llama.cpp splits text in another way" in result.stderr
    same = run(gguf_python, COMPARE_TOKENIZERS, arguments[0], str(converted.folder / "tokenizer.json"), arguments[2])
    assert int(same.stdout) > 8, same.stderr


def copy_of(tales: Checkpoint, folder: Path) -> Path:
    return Path(shutil.copytree(tales.folder, folder / "copy", ignore=shutil.ignore_patterns("openvino")))


def convert(folder: Path, context: BuildContext) -> Variant:
    recipe = Recipe("converted", (RecipeStep("convert", {"to": "gguf", "weight_format": "f16"}),))
    return build_variant(recipe, inspect_checkpoint(folder), context, model_name="other")


def test_convert_pre_tokenizer_that_llama_cpp_lacks_is_refused(
    tales: Checkpoint, context: BuildContext, tmp_path: Path
) -> None:
    folder = copy_of(tales, tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Punctuation", "behavior": "Isolated"})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    num_variants = len(context.store.ls())
    with pytest.raises(ToolchainError, match="no pre-tokenizer that is known to split text"):
        convert(folder, context)
    assert len(context.store.ls()) == num_variants


def overwrite_weights(folder: Path, elements: bytes) -> None:
    """Puts the elements at the beginning of one matrix of the checkpoint."""
    content = bytearray((folder / "model.safetensors").read_bytes())
    (header_bytes,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + header_bytes])
    begin = 8 + header_bytes + header["model.layers.3.mlp.up_proj.weight"]["data_offsets"][0]
    content[begin : begin + len(elements)] = elements
    (folder / "model.safetensors").write_bytes(content)


def test_convert_weights_that_are_nan_are_refused_by_name(
    tales: Checkpoint, context: BuildContext, tmp_path: Path
) -> None:
    folder = copy_of(tales, tmp_path)
    overwrite_weights(folder, b"\xc0\x7f")  # NaN in bf16
    with pytest.raises(CheckpointError, match=r"'model\.layers\.3\.mlp\.up_proj\.weight' are NaN"):
        convert(folder, context)


def test_convert_finite_weights_that_overflow_are_refused(
    tales: Checkpoint, context: BuildContext, tmp_path: Path
) -> None:
    folder = copy_of(tales, tmp_path)
    overwrite_weights(folder, b"\x7f\x7f" * 256)  # a row of the largest numbers of bf16
    with pytest.raises(ToolchainError, match="no finite numbers"):
        convert(folder, context)


@pytest.mark.parametrize("name", ["tinystories-656k", "stories260k"])
def test_convert_sentencepiece_like_tokenizers(
    name: str, shared_data: Path, context: BuildContext, gguf_python: Path, tmp_path: Path
) -> None:
    """One stores its tied matrix under the head's name and has no byte tokens; rows of both are no multiples of 256."""
    checkpoint = inspect_checkpoint(shared_data / "models" / name)
    steps = (
        RecipeStep("convert", {"to": "gguf", "weight_format": "f16"}),
        RecipeStep("quantize", {"scheme": "Q4_K_M", "importance": True, "num_chunks": 4}),
    )
    quantized = build_variant(Recipe("small", steps), checkpoint, context, model_name=name)
    summary = json.loads((quantized.folder / "quantization.json").read_text())
    assert summary["num_fallback_matrices"] == summary["num_matrices"] > 10
    assert summary["bits_per_weight"] > 6
    assert summary["num_calibration_chunks"] == 4

    text = "Once upon a time, there was a little girl."
    oracle = by_transformers(checkpoint, [text], gguf_python, tmp_path)

    async def use(base_url: str, session: aiohttp.ClientSession) -> float:
        endpoint = PrefixScoringEndpoint(base_url, model=MODEL_NAME, session=session)
        scored = await endpoint.score_prompt(text, top_k=64)
        return -sum(value for value in scored.token_logprobs[1:] if value is not None)

    converted = build_variant(Recipe("f16", steps[:1]), checkpoint, context, model_name=name)
    assert on_worker(converted, gguf_python, tmp_path, use) == pytest.approx(oracle["nats"], rel=2e-3)
