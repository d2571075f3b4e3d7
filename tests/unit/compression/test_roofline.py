"""The roofline against sums made by hand."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.artifacts.model_shape import ModelShape, read_model_shape
from lightship.artifacts.roofline import (
    Load,
    MachineSpeed,
    WeightBits,
    decode_step_s,
    estimate_speed,
    expected_experts,
    kv_bytes_per_token,
    prefill_s,
    weight_bytes,
)
from lightship.compression.machine_speed import arithmetic_ratio, measure_machine_speed
from lightship.errors import CheckpointError

# Two layers; attention 4 x 4 x 4 = 64 weights, FFN 3 x 4 x 8 = 96, so 320 in blocks; embedding 10 x 4 = 40.
TINY = ModelShape(
    num_layers=2, hidden_size=4, intermediate_size=8, num_heads=2, num_kv_heads=2, head_dim=2, vocab_size=10
)
MEMORY_BOUND = MachineSpeed(bandwidth_bytes_per_s=1000.0, flops_per_s=1e12)
COMPUTE_BOUND = MachineSpeed(bandwidth_bytes_per_s=1e12, flops_per_s=1000.0)


def test_weight_bytes_of_a_tied_model_store_the_embedding_once() -> None:
    tied = dataclasses.replace(TINY, is_tied=True)
    assert weight_bytes(TINY, WeightBits()) == 2 * (320 + 40 + 40)
    assert weight_bytes(tied, WeightBits(blocks=4.5, embedding=8.0, head=16.0)) == 320 * 4.5 / 8 + 40


def test_decode_step_that_is_bound_by_memory_reads_weights_once_and_each_cache() -> None:
    kv = kv_bytes_per_token(TINY, element_bytes=2.0)
    assert kv == 2 * 2 * 2 * 2 * 2
    read = 2 * 320 + 2 * 40 + 3 * 100 * kv  # the embedding is looked up, the head is read
    took = decode_step_s(TINY, WeightBits(), MEMORY_BOUND, num_sequences=3, context=100, kv_bytes=kv)
    assert took == pytest.approx(read / 1000)


def test_decode_step_that_is_bound_by_arithmetic_multiplies_once_per_sequence() -> None:
    took = decode_step_s(TINY, WeightBits(), COMPUTE_BOUND, num_sequences=3, context=100, kv_bytes=32)
    # Two operations a weight; attention four per layer, head, element and token before.
    assert took == pytest.approx(3 * (2 * 360 + 4 * 2 * 2 * 2 * 100) / 1000)


def test_prefill_computes_the_head_once_and_each_pair_of_tokens() -> None:
    took = prefill_s(TINY, WeightBits(), COMPUTE_BOUND, prompt_tokens=5, kv_bytes=32)
    assert took == pytest.approx((5 * 2 * 320 + 2 * 40 + 4 * 2 * 2 * 2 * 15) / 1000)


def test_estimate_speed_adds_prompts_one_by_one_and_steps_together() -> None:
    load = Load(concurrency=2, prompt_tokens=5, output_tokens=4)
    found = estimate_speed(TINY, WeightBits(), MEMORY_BOUND, load)
    prompt_s = (2 * 320 + 2 * 40 + 5 * 32) / 1000
    step_s = (2 * 320 + 2 * 40 + 2 * 7 * 32) / 1000
    assert found.ttft_ms == pytest.approx(1000 * prompt_s)
    assert found.tpot_ms == pytest.approx(1000 * step_s)
    assert found.tokens_per_s == pytest.approx(2 * 4 / (2 * prompt_s + 3 * step_s))
    assert found.weight_bytes == 800


def test_experts_of_a_batch_are_what_independent_choices_give() -> None:
    mixture = dataclasses.replace(TINY, num_experts=8, experts_per_token=2)
    assert expected_experts(mixture, 1) == pytest.approx(2)
    assert expected_experts(mixture, 2) == pytest.approx(8 * (1 - 0.75**2))
    assert expected_experts(mixture, 200) == pytest.approx(8)
    assert expected_experts(TINY, 3) == 1
    # the router, 4 x 8, is read like a shared part
    assert mixture.block_weights == 2 * (64 + 8 * 96 + 32)


@given(st.integers(1, 64), st.floats(2, 16), st.floats(2, 16))
def test_estimate_speed_fewer_bits_are_never_slower(concurrency: int, one: float, other: float) -> None:
    few, many = sorted((one, other))
    load = Load(concurrency, 128, 64)
    speed = MachineSpeed(1e6, 1e8)
    fast = estimate_speed(TINY, WeightBits(few, 16, 16), speed, load)
    slow = estimate_speed(TINY, WeightBits(many, 16, 16), speed, load)
    assert fast.tokens_per_s >= slow.tokens_per_s
    assert fast.weight_bytes <= slow.weight_bytes


def test_model_shape_of_the_built_in_model_has_its_parameters() -> None:
    config = {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "num_hidden_layers": 8,
        "vocab_size": 4096,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "model_type": "llama",
    }
    shape = read_model_shape(config)
    # attention 256 x (256 + 128 + 128 + 256), FFN 3 x 256 x 1024
    assert shape.block_weights == 8 * (256 * 768 + 3 * 256 * 1024)
    assert shape.num_weights == shape.block_weights + 4096 * 256
    assert shape.matrix_inputs == {256, 1024}
    assert shape.matrix_outputs == {128, 256, 1024}


def test_model_shape_of_a_mixture_takes_the_experts_width() -> None:
    config = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "moe_intermediate_size": 32,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "shared_expert_intermediate_size": 48,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 100,
        "hidden_act": "silu",
    }
    shape = read_model_shape(config)
    assert (shape.is_moe, shape.intermediate_size, shape.shared_intermediate_size) == (True, 32, 48)
    assert shape.expert_weights == 3 * 64 * 32


@pytest.mark.parametrize("value", ["8", -1, 2.5, True])
def test_model_shape_with_a_value_that_is_no_count_is_refused_by_name(value: object) -> None:
    config = {"hidden_size": value, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 100}
    with pytest.raises(CheckpointError, match="`hidden_size`"):
        read_model_shape(config)


def test_arithmetic_ratio_is_that_of_the_best_unit_there_is() -> None:
    assert arithmetic_ratio(("avx2",), is_int8=True) == 1.0
    assert arithmetic_ratio(("avx2", "avx512f", "avx512_vnni"), is_int8=True) == 4.0
    assert arithmetic_ratio(("avx2", "avx512f", "avx512_vnni"), is_int8=False) == 1.0
    assert arithmetic_ratio(("avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"), is_int8=False) == 16.0


def test_machine_speed_measured_here_is_that_of_a_computer() -> None:
    speed = measure_machine_speed(working_set_bytes=1, num_threads=1)
    # From a very slow board to far above any CPU.
    assert 1e8 < speed.bandwidth_bytes_per_s < 1e13
    assert 1e8 < speed.flops_per_s < 1e14


@pytest.mark.parametrize("values", [(0.0, 1.0), (1.0, float("inf"))])
def test_machine_speed_that_is_none_is_refused(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        MachineSpeed(*values)
