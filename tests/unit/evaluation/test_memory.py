"""Memory by hand, for the shape of Llama 3.1 8B (32 layers, 8 KV heads of 128) among others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightship.artifacts.model_config import ModelConfig
from lightship.errors import MeasurementError
from lightship.evaluation.memory import (
    KvStorage,
    MemoryEstimate,
    Scales,
    estimate_memory,
    kv_bytes_per_token,
    openvino_kv_storage,
    weight_bits_per_parameter,
)

LLAMA_8B = ModelConfig("LlamaForCausalLM", "llama", 131072, 128256, 32, 4096, num_kv_heads=8, head_dim=128)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("f32", 262144),  # 2 * 32 * 8 * 128 * 4
        ("bf16", 131072),
        ("f16", 131072),
        ("auto", 131072),
        # 32 * 8 * (key 128 + 128 * 8 / 32 = 160, value 128 + 8 = 136)
        ("u8", 75776),
    ],
)
def test_kv_bytes_per_token_openvino_on_x86(precision: str, expected: int) -> None:
    storage = openvino_kv_storage(precision, device="CPU", instruction_set="amx_bf16")
    assert kv_bytes_per_token(LLAMA_8B, storage) == expected


@pytest.mark.parametrize("instruction_set", ["neon", "sve", "i8mm", "bf16", "aarch64"])
def test_kv_bytes_per_token_u8_on_arm_has_scales_per_token_for_both(instruction_set: str) -> None:
    storage = openvino_kv_storage("u8", device="CPU", instruction_set=instruction_set)
    assert kv_bytes_per_token(LLAMA_8B, storage) == 32 * 8 * (136 + 136)


@pytest.mark.parametrize("instruction_set", ["avx2", "avx_vnni", "avx512_vnni", "amx_int8", "x86_64"])
def test_openvino_kv_storage_x86_has_keys_per_channel(instruction_set: str) -> None:
    assert openvino_kv_storage("u8", device="CPU", instruction_set=instruction_set).key_scales is Scales.PER_CHANNEL


def test_kv_bytes_per_token_fewer_kv_heads_need_proportionally_less() -> None:
    multi_query = replace(LLAMA_8B, num_kv_heads=1)
    assert kv_bytes_per_token(multi_query, KvStorage(2)) == 131072 / 8


def test_openvino_kv_storage_unknown_layout_is_not_guessed() -> None:
    with pytest.raises(MeasurementError, match="GPU stores keys and values as auto"):
        openvino_kv_storage("auto", device="GPU", instruction_set="avx2")
    with pytest.raises(MeasurementError, match="'u4'"):
        openvino_kv_storage("u4", device="CPU", instruction_set="avx2")
    assert openvino_kv_storage("f16", device="GPU", instruction_set="avx2") == KvStorage(2)


def test_estimate_memory_is_the_sum_of_its_parts() -> None:
    model = replace(LLAMA_8B, hidden_size=10, vocab_size=1000)
    estimate = estimate_memory(
        model, weight_bytes=500, kv_cache_bytes=2000, max_batched_tokens=16, max_sequences=4, runtime_bytes=70
    )
    # f32: 16 tokens * 12 widths of 10, and logits of 4 sequences
    assert estimate == MemoryEstimate(500, 2000, 4 * (16 * 120 + 4 * 1000), 70)
    assert estimate.total_bytes == 500 + 2000 + 23680 + 70
    assert estimate.residual_bytes(30_000) == 3750
    assert estimate.residual_bytes(20_000) == -6250


def test_estimate_memory_a_step_has_no_more_sequences_than_tokens() -> None:
    model = replace(LLAMA_8B, hidden_size=10, vocab_size=1000)
    estimate = estimate_memory(model, weight_bytes=0, kv_cache_bytes=0, max_batched_tokens=2, max_sequences=256)
    assert estimate.activation_bytes == 4 * (2 * 120 + 2 * 1000)


def test_weight_bits_per_parameter_counts_scales() -> None:
    # 64 weights of 4 bits and one f16 scale: 34 bytes
    assert weight_bits_per_parameter(weight_bytes=34, num_parameters=64) == 4.25


@pytest.mark.parametrize(("num_bytes", "num_parameters"), [(10, 0), (10, -1), (-1, 10)])
def test_weight_bits_per_parameter_without_parameters_is_refused(num_bytes: int, num_parameters: int) -> None:
    with pytest.raises(MeasurementError):
        weight_bits_per_parameter(weight_bytes=num_bytes, num_parameters=num_parameters)
