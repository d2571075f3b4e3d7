"""A task on the real OpenVINO worker, against the log-probabilities of the network run directly by the runtime."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.engines.process import WorkerProcess, free_port
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.tasks.identity import EndpointIdentity, identify
from lightship.evaluation.tasks.loading import load_task
from lightship.evaluation.tasks.results import TaskRun
from lightship.evaluation.tasks.run import run_task
from lightship.evaluation.tasks.task import Task

pytestmark = pytest.mark.local

DIGEST = "sha256:" + "ab" * 32
TASK = """\
version: 1
name: tales
kind: multiple_choice
items: items.jsonl
prompt: "{start} "
choices: choices
choice_prefix: ""
answer: answer
"""
STARTS: dict[str, tuple[list[str], int]] = {
    "Once upon a": (["time there was a king", "spoon of grey lamps"], 0),
    "The king had three": (["daughters", "between"], 0),
    "Deep in the forest there lived an old": (["woman", "softly", "the"], 0),
    "The wolf opened his mouth and": (["swallowed her up", "telephone of seven"], 0),
    "She went to the well to fetch some": (["is", "water"], 1),
    "And they lived happily ever": (["after", "cow"], 0),
    "The giant fell": (["asleep", "asleep under the heavy table of the kitchen"], 0),
    "He gave the horse some": (["hay", "yesterday"], 0),
    "The princess put on her golden": (["and", "crown"], 1),
    "At midnight the clock struck": (["twelve", "green"], 0),
}


async def measured(folder: Path, task: Task, scratch: Path) -> tuple[TaskRun, EndpointIdentity]:
    """The task's result on a worker that serves the folder."""
    config = OpenVinoWorkerConfig(
        model_name="tiny",
        variant_name="fp32",
        variant_digest=DIGEST,
        folder=str(folder),
        port=free_port(),
        precision="f32",
        kv_cache_precision="f32",
        kv_cache_bytes=2**27,
        body_limit_bytes=200_000,
    )
    adapter = OpenVinoAdapter()
    adapter.write_config(config, scratch / "worker.json")
    process = WorkerProcess(
        name="tiny",
        command=adapter.worker_command(scratch / "worker.json"),
        base_url=config.address,
        log_path=scratch / "worker.log",
    )
    await process.start(startup_timeout_s=30.0)
    try:
        async with aiohttp.ClientSession() as session:
            endpoint = CompletionEndpoint(config.address, model="tiny", session=session)
            result = await run_task(endpoint, task, subject="tiny", journal=scratch / "journal.jsonl")
            return result, await identify(endpoint)
    finally:
        await process.stop(drain_timeout_s=5.0)


def log_likelihood_of(folder: Path) -> Callable[[str, str], float]:
    """The rule of lm-evaluation-harness, written out on the network itself."""
    import openvino
    import openvino_genai

    tokenizer = openvino_genai.Tokenizer(str(folder))
    network = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def ids(text: str) -> list[int]:
        return [int(token) for token in tokenizer.encode(text).input_ids.data[0]]

    def log_likelihood(context: str, continuation: str) -> float:
        stripped = context.rstrip()
        whole, num_context = ids(context + continuation), len(ids(stripped))
        request = network.create_infer_request()
        inputs: dict[str, Any] = {
            "input_ids": np.array([whole], dtype=np.int64),
            "attention_mask": np.ones((1, len(whole)), dtype=np.int64),
            "position_ids": np.arange(len(whole), dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        logits = request.infer(inputs)["logits"][0].astype(np.float64)
        normal = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        normal -= logits.max(-1, keepdims=True)
        return math.fsum(normal[position - 1, whole[position]] for position in range(num_context, len(whole)))

    return log_likelihood


def test_run_choice_on_the_worker_equals_the_network_item_by_item(builtin_ir: Path, tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": str(number), "start": start, "choices": choices, "answer": answer})
        for number, (start, (choices, answer)) in enumerate(STARTS.items())
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    (tmp_path / "task.yaml").write_text(TASK)
    task = load_task(tmp_path / "task.yaml")
    result, identity = asyncio.run(measured(builtin_ir, task, tmp_path))
    log_likelihood = log_likelihood_of(builtin_ir)
    for (start, (choices, answer)), item in zip(STARTS.items(), result.items, strict=True):
        expected = [log_likelihood(f"{start} ", choice) for choice in choices]
        shown = [float(line[2:].split(" ")[0]) for line in item.answer.splitlines()]
        assert shown == pytest.approx(expected, abs=2e-3)
        per_char = [value / len(choice) for value, choice in zip(expected, choices, strict=True)]
        assert item.scores == {
            "acc": expected.index(max(expected)) == answer,
            "acc_norm": per_char.index(max(per_char)) == answer,
        }
    assert identity.served_fingerprint == DIGEST
    assert len(identity.tokenizer_hash) == 64
