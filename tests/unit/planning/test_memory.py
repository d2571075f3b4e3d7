"""Memory of a worker: its counted parts against sums by hand, the rest by how it grows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightship.artifacts.model_shape import ModelShape
from lightship.planning.memory import EngineSettings, plan_memory
from lightship.ports.deployment import FigureSource

# Llama 3 8B, whose memory on a GPU is published.
LLAMA_8B = ModelShape(
    num_layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=128256,
)
WEIGHTS = 16_060_522_496
GIB = 2**30
OPENVINO = EngineSettings("openvino", GIB, "auto", 8192, max_sequences=16, step_tokens=64)
LLAMACPP = EngineSettings("llamacpp", 0, "f16", 4096, max_sequences=4, step_tokens=512)
VLLM = EngineSettings("vllm", 4 * GIB, "auto", 8192, max_sequences=256, step_tokens=8192, device="cuda")


def test_openvino_has_weights_twice_and_the_cache_as_configured() -> None:
    plan = plan_memory(LLAMA_8B, WEIGHTS, OPENVINO)
    assert plan.host["weights"].value == 2 * WEIGHTS
    assert plan.host["kv_cache"].value == GIB
    assert plan.kv_token_bytes.value == 131072
    assert plan.kv_tokens.value == 8192
    assert plan.host_total.value == sum(part.value for part in plan.host.values())
    assert plan.device_total.value == 0
    # the mapped copy can be read again from its file
    assert plan.reclaimable_bytes >= WEIGHTS


def test_openvino_takes_more_for_larger_steps() -> None:
    small = plan_memory(LLAMA_8B, WEIGHTS, OPENVINO).host["activations"].value
    large = plan_memory(LLAMA_8B, WEIGHTS, replace(OPENVINO, step_tokens=256)).host["activations"].value
    assert large > 4 * small


def test_llamacpp_cache_is_context_times_sequences() -> None:
    plan = plan_memory(LLAMA_8B, WEIGHTS, LLAMACPP)
    assert plan.host["weights"].value == WEIGHTS
    assert plan.host["kv_cache"].value == 131072 * 4096 * 4
    with_prompts = plan_memory(LLAMA_8B, WEIGHTS, replace(LLAMACPP, prompt_cache_bytes=1000))
    assert with_prompts.host["kv_cache"].value == 131072 * 4096 * 4 + 1000
    assert plan.kv_tokens.value == 4096 * 4


def test_llamacpp_scores_of_all_heads_are_kept_without_flash_attention() -> None:
    without = plan_memory(LLAMA_8B, WEIGHTS, LLAMACPP).host["activations"].value
    with_it = plan_memory(LLAMA_8B, WEIGHTS, replace(LLAMACPP, flash_attention=True)).host["activations"].value
    # scores: 4 bytes * 512 tokens * 4096 * 32 heads = 256 MiB; feed-forward: 4 * 512 * (2 * 14336 + 2 * 4096) = 72 MiB
    assert without - with_it == (256 - 72) * 2**20


def test_vllm_on_a_gpu_has_the_activations_that_vllm_reported() -> None:
    plan = plan_memory(LLAMA_8B, WEIGHTS, VLLM)
    # "PyTorch activation peak memory 1.26GiB", "model weights take 14.96GiB": vllm-project/vllm pull request 10511
    assert plan.device["activations"].value / GIB == pytest.approx(1.26, rel=0.05)
    assert plan.device["weights"].value / GIB == pytest.approx(14.96, rel=0.001)
    assert plan.device["code"].source is FigureSource.ASSUMED
    assert plan.device_total.source is FigureSource.ASSUMED


def test_vllm_tensor_parallel_halves_the_weights_and_doubles_the_tokens() -> None:
    one, two = plan_memory(LLAMA_8B, WEIGHTS, VLLM), plan_memory(LLAMA_8B, WEIGHTS, replace(VLLM, tensor_parallel=2))
    assert two.device["weights"].value == one.device["weights"].value / 2
    assert two.kv_tokens.value == 2 * one.kv_tokens.value
    assert two.host_total.value > one.host["code"].value


def test_vllm_eager_has_no_graphs() -> None:
    graphs, eager = (plan_memory(LLAMA_8B, WEIGHTS, replace(VLLM, is_eager=flag)) for flag in (False, True))
    assert graphs.device["code"].value - eager.device["code"].value == GIB


def test_vllm_cpu_data_parallel_copies_weights_cache_and_processes() -> None:
    cpu = replace(VLLM, device="CPU", step_tokens=512)
    one, two = plan_memory(LLAMA_8B, WEIGHTS, cpu), plan_memory(LLAMA_8B, WEIGHTS, replace(cpu, data_parallel=2))
    for part in ("weights", "kv_cache", "activations"):
        assert two.host[part].value == 2 * one.host[part].value
    assert two.host["code"].value > one.host["code"].value
    assert two.kv_tokens.value == one.kv_tokens.value
