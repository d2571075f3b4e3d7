"""Bytes of keys and values by hand, for the shape of Llama 3.1 8B (32 layers, 8 KV heads of 128) among others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightship.artifacts.model_config import ModelConfig
from lightship.errors import MeasurementError
from lightship.planning.kv_cache import (
    KvStorage,
    Scales,
    kv_bytes_per_token,
    llamacpp_kv_storage,
    openvino_kv_storage,
    vllm_kv_storage,
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


@pytest.mark.parametrize(
    ("cache_type", "expected"),
    # 2 * 32 layers * 8 heads * 128 elements = 65536: in blocks of 32 of 64, 34 and 18 bytes
    [("f16", 131072), ("bf16", 131072), ("f32", 262144), ("q8_0", 69632), ("q4_0", 36864)],
)
def test_kv_bytes_per_token_llamacpp_counts_the_scales_of_blocks(cache_type: str, expected: int) -> None:
    assert kv_bytes_per_token(LLAMA_8B, llamacpp_kv_storage(cache_type)) == expected


def test_kv_bytes_per_token_vllm_halves_with_fp8() -> None:
    assert kv_bytes_per_token(LLAMA_8B, vllm_kv_storage("auto", device="cuda")) == 131072
    assert kv_bytes_per_token(LLAMA_8B, vllm_kv_storage("fp8", device="cpu")) == 65536


def test_kv_storage_unknown_type_is_not_guessed() -> None:
    with pytest.raises(MeasurementError, match="'q2'"):
        llamacpp_kv_storage("q2")
    with pytest.raises(MeasurementError, match="'int4'"):
        vllm_kv_storage("int4", device="cuda")
