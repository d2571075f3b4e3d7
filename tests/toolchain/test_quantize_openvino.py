"""NNCF on a real network, against calls of the library itself, the runtime, and a worker that serves the result."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from lightship.artifacts.checkpoint import Checkpoint, inspect_checkpoint
from lightship.artifacts.sources.builtin import builtin_students
from lightship.compression import ir_template
from lightship.compression.calibration import builtin_calibration, write_text_file
from lightship.compression.steps.base import JobPlan, StepContext, TextFile
from lightship.compression.steps.quantize_openvino import QuantizeNetwork
from lightship.compression.toolchains import bootstrap
from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.engines.process import WorkerProcess, free_port
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.ports.variants import RecipeStep

pytestmark = [pytest.mark.toolchain, pytest.mark.local]

GRAPH, WEIGHTS = "openvino_model.xml", "openvino_model.bin"
NUM_MATRICES = 2 * 7 + 1  # of the student's two blocks, and the head
TEXTS = [document.scored_text for document in builtin_texts().documents[:6]]
WINDOWS = {"num_samples": 12, "sequence_tokens": 128}  # 1,536 tokens: more than the longest sum has terms


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The built-in student: two blocks, so that calibration takes seconds."""
    folder = tmp_path_factory.mktemp("student")
    ir_template.assemble(builtin_students("fairytales")["fairytales-quarter"], folder)
    return inspect_checkpoint(folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> TextFile:
    return write_text_file(builtin_calibration(), tmp_path_factory.mktemp("texts"))


def run(network: Checkpoint, texts: TextFile, folder: Path, **options: Any) -> list[dict[str, Any]]:
    """Events of the job, run as a build runs it; its result lies in `folder / "out"`."""
    step = QuantizeNetwork()
    plan = step.plan(step.options(RecipeStep("quantize", options)), network, StepContext(network, {}, texts))
    assert isinstance(plan, JobPlan)
    output = folder / "out"
    output.mkdir()
    (folder / "job.json").write_text(json.dumps({**plan.job, "output": str(output)}))
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", bootstrap.__file__, plan.kind, str(folder / "job.json")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def made(network: Checkpoint, texts: TextFile, folder: Path, **options: Any) -> Path:
    events = run(network, texts, folder, **options)
    assert events[-1]["event"] == "resources", events
    return folder / "out"


@pytest.fixture(scope="module")
def rounded(network: Checkpoint, texts: TextFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(network, texts, tmp_path_factory.mktemp("int4"), scheme="int4")


@pytest.fixture(scope="module")
def eight_bit(network: Checkpoint, texts: TextFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(network, texts, tmp_path_factory.mktemp("int8a"), scheme="int8-activations", **WINDOWS)


def logits(folder: Path) -> Iterator[np.ndarray[Any, Any]]:
    """Of every position of the texts, computed in float32 by the runtime alone."""
    import openvino
    import openvino_tokenizers  # noqa: F401 - makes the operations of tokenizers known to OpenVINO

    core = openvino.Core()
    tokenizer = core.compile_model(folder / "openvino_tokenizer.xml", "CPU")
    request = core.compile_model(folder / GRAPH, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    for text in TEXTS:
        ids = tokenizer([text])["input_ids"]
        request.reset_state()
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "position_ids": np.arange(ids.shape[1])[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        yield request.infer(inputs)[0][0].astype(np.float64)


def squared_error(folder: Path, reference: Path) -> float:
    pairs = zip(logits(folder), logits(reference), strict=True)
    return float(np.mean([np.square(one - other).mean() for one, other in pairs]))


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({"scheme": "int8"}, {"mode": "INT8_ASYM"}),
        ({"scheme": "int8", "mode": "sym"}, {"mode": "INT8_SYM"}),
        ({"scheme": "int4"}, {"mode": "INT4_SYM", "group_size": 64, "ratio": 1.0}),
        ({"scheme": "int4", "mode": "asym", "group_size": 32}, {"mode": "INT4_ASYM", "group_size": 32, "ratio": 1.0}),
        ({"scheme": "int4", "group_size": -1}, {"mode": "INT4_SYM", "group_size": -1, "ratio": 1.0}),
    ],
)
def test_rounding_to_nearest_gives_the_bytes_of_the_library_itself(
    options: dict[str, Any], call: dict[str, Any], network: Checkpoint, texts: TextFile, tmp_path: Path
) -> None:
    import nncf
    import openvino

    mode = getattr(nncf.CompressWeightsMode, call["mode"])
    model = openvino.Core().read_model(network.folder / GRAPH)
    expected = nncf.compress_weights(model, **{**call, "mode": mode})
    openvino.save_model(expected, tmp_path / "expected.xml", compress_to_fp16=False)
    output = made(network, texts, tmp_path, **options)
    assert (output / WEIGHTS).read_bytes() == (tmp_path / "expected.bin").read_bytes()


@pytest.mark.parametrize(
    "options", [{"gptq": True}, {"awq": True, "scale_estimation": True}], ids=["gptq", "awq and scales"]
)
def test_calibrated_int4_is_as_small_and_nearer_to_the_source(
    options: dict[str, Any], rounded: Path, network: Checkpoint, texts: TextFile, tmp_path: Path
) -> None:
    output = made(network, texts, tmp_path, scheme="int4", **options, **WINDOWS)
    found, plain = inspect_checkpoint(output), inspect_checkpoint(rounded)
    assert found.dtypes == plain.dtypes
    assert found.weight_bytes == pytest.approx(plain.weight_bytes, rel=0.01)
    assert squared_error(output, network.folder) < squared_error(rounded, network.folder)


def test_ratio_keeps_the_rest_in_eight_bits(
    rounded: Path, network: Checkpoint, texts: TextFile, tmp_path: Path
) -> None:
    mixed = made(network, texts, tmp_path, scheme="int4", ratio=0.5, **WINDOWS)
    assert inspect_checkpoint(mixed).weight_bytes > 1.02 * inspect_checkpoint(rounded).weight_bytes
    assert squared_error(mixed, network.folder) < squared_error(rounded, network.folder)


def test_calibration_with_too_little_text_says_how_much_it_makes(network: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "Once upon a time."}\n')
    few = TextFile(tmp_path / "texts.jsonl", "sha256:0")
    (event,) = run(network, few, tmp_path, scheme="int4", gptq=True)
    assert event["event"] == "error"
    assert "fewer than one window of 256" in event["message"]


def test_calibration_tells_when_there_are_fewer_windows_than_asked_for(network: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "Once upon a time there was a king. " * 8}) + "\n")
    few = TextFile(tmp_path / "texts.jsonl", "sha256:0")
    events = run(network, few, tmp_path, scheme="int8-activations", sequence_tokens=32, num_samples=50)
    assert "50 were asked for" in events[0]["note"]
    assert events[-1]["event"] == "resources"


def test_int8_activations_runs_every_matrix_on_eight_bit_inputs(eight_bit: Path, network: Checkpoint) -> None:
    import openvino

    compiled = openvino.Core().compile_model(eight_bit / GRAPH, "CPU")
    operations = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops()]
    kinds = [(str(info["layerType"].value), str(info["runtimePrecision"].value)) for info in operations]
    products = [precision for kind, precision in kinds if kind == "FullyConnected"]
    assert len(products) == NUM_MATRICES
    assert set(products) <= {"i8", "u8"}
    assert inspect_checkpoint(eight_bit).weight_bytes < 0.6 * network.weight_bytes


def rotary_products(folder: Path) -> list[tuple[np.ndarray[Any, Any], list[str]]]:
    """The table of frequencies of each rotary product, and the kinds of operations before its other input."""
    import openvino

    found = []
    for node in openvino.Core().read_model(folder / GRAPH).get_ops():
        if node.get_type_name() == "MatMul" and "rotary" in node.get_friendly_name():
            sources = [node.input_value(port).get_node() for port in (0, 1)]
            before = [one.input_value(0).get_node() for one in sources]
            (table,) = (one.data for one in before if one.get_type_name() == "Constant")
            found.append((table, [one.get_type_name() for one in sources]))
    return found


def test_int8_activations_leaves_rotary_frequencies_as_they_were(eight_bit: Path, network: Checkpoint) -> None:
    """NNCF's SmoothQuant once multiplied them with 100, and rounded them again to 16 bits."""
    (before,), (after,) = rotary_products(network.folder), rotary_products(eight_bit)
    np.testing.assert_array_equal(before[0], after[0])
    assert before[1] == after[1]


async def bits_per_byte(folder: Path, work: Path) -> tuple[float, str]:
    """By a worker with its default settings; and what it goes on to write."""
    config = OpenVinoWorkerConfig(
        model_name="m", variant_name="v", variant_digest="", folder=str(folder), port=free_port(), num_threads=1
    )
    adapter, path = OpenVinoAdapter(), work / f"{config.port}.json"
    adapter.write_config(config, path)
    worker = WorkerProcess(
        name="m", command=adapter.worker_command(path), base_url=config.address, log_path=work / "worker.log"
    )
    body = {"model": "m", "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}
    try:
        await worker.start(startup_timeout_s=60.0)
        async with aiohttp.ClientSession() as session:
            endpoint = CompletionEndpoint(worker.base_url, model="m", session=session)
            scored = [await endpoint.score_prompt(text, top_k=1) for text in TEXTS]
            async with session.post(f"{worker.base_url}/v1/completions", json=body) as reply:
                answer = await reply.json()
    finally:
        await worker.stop(drain_timeout_s=5.0)
    nats = -sum(value for prompt in scored for value in prompt.token_logprobs[1:] if value is not None)
    return nats / math.log(2) / sum(len(text.encode()) for text in TEXTS), answer["choices"][0]["text"]


def test_int8_activations_is_served_and_scored_by_a_worker_within_three_percent(
    eight_bit: Path, network: Checkpoint, tmp_path: Path
) -> None:
    source, _ = asyncio.run(bits_per_byte(network.folder, tmp_path))
    found, written = asyncio.run(bits_per_byte(eight_bit, tmp_path))
    assert found == pytest.approx(source, rel=0.03)
    assert len(written.split()) >= 8
