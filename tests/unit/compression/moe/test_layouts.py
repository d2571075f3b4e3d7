"""Which checkpoints fit which layout, and into what they can be cut."""

from __future__ import annotations

from typing import Any

import pytest

from lightship.compression.moe.layouts import (
    MIXTRAL,
    QWEN2_MOE,
    QWEN3_MOE,
    Carving,
    active_experts,
    carve_layout,
    check_carving,
    check_upcycling,
    nearest_divisors,
    num_experts_to_keep,
    upcycle_layout,
)
from lightship.errors import SpecError


def dense(architecture: str = "LlamaForCausalLM", **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": [architecture],
        "hidden_size": 64,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 128,
    }
    return {**config, **changes}


def test_layouts_dense_families_have_the_relative_with_experts() -> None:
    assert upcycle_layout(dense()) is MIXTRAL
    assert upcycle_layout(dense("MistralForCausalLM")) is MIXTRAL
    assert upcycle_layout(dense("Qwen3ForCausalLM")) is QWEN3_MOE
    assert carve_layout(dense()) is QWEN2_MOE
    assert carve_layout(dense("Qwen2ForCausalLM")) is QWEN2_MOE


def test_layouts_names_are_those_of_the_published_checkpoints() -> None:
    # As in mistralai/Mixtral-8x7B-v0.1 and Qwen/Qwen1.5-MoE-A2.7B.
    assert MIXTRAL.expert(3, 5, "down_proj") == "model.layers.3.block_sparse_moe.experts.5.w2.weight"
    assert MIXTRAL.expert(3, 5, "up_proj") == "model.layers.3.block_sparse_moe.experts.5.w3.weight"
    assert MIXTRAL.router(0) == "model.layers.0.block_sparse_moe.gate.weight"
    assert QWEN2_MOE.expert(1, 0, "gate_proj") == "model.layers.1.mlp.experts.0.gate_proj.weight"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dense(attention_bias=True), "attention has biases"),
        (dense(mlp_bias=True), "mlp has biases"),
        (dense(hidden_act="gelu"), "activation is 'gelu'"),
        (dense(quantization_config={"quant_method": "gptq"}), "quantized already"),
        (dense(head_dim=32), "head size"),
        (dense("MistralForCausalLM", sliding_window=64), "window of 64 tokens"),
        (dense("Qwen3ForCausalLM"), "no stock layout"),
        (dense("GPT2LMHeadModel"), "GPT2LMHeadModel cannot be carved"),
        (dense("MixtralForCausalLM", num_local_experts=8), "a mixture of experts already"),
    ],
)
def test_carve_layout_what_the_layout_cannot_say_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        carve_layout(config)


def test_carve_layout_window_as_long_as_the_context_or_unused_is_no_window() -> None:
    assert carve_layout(dense("MistralForCausalLM", sliding_window=128)) is QWEN2_MOE
    assert carve_layout(dense("Qwen2ForCausalLM", sliding_window=8, use_sliding_window=False)) is QWEN2_MOE


def test_upcycle_layout_mixture_or_biases_are_refused() -> None:
    with pytest.raises(SpecError, match="mixture of experts already"):
        upcycle_layout(dense("Qwen3MoeForCausalLM", num_experts=8))
    with pytest.raises(SpecError, match="attention has biases"):
        upcycle_layout(dense(attention_bias=True))
    with pytest.raises(SpecError, match="Qwen2ForCausalLM cannot be upcycled"):
        upcycle_layout(dense("Qwen2ForCausalLM"))


@pytest.mark.parametrize(
    ("carving", "message"),
    [
        (Carving(7, 2, 2), "384 channels cannot be cut into 7 equal experts.*6 and 8"),
        (Carving(4, 4, 1), "none is left to choose among.*1 to 3"),
        (Carving(8, 3, 6), "only 5 experts are routed.*1 to 5"),
        (Carving(500, 1, 1), "Nearest num_experts that divide them: 384\\."),
    ],
)
def test_check_carving_sizes_that_do_not_fit_are_refused_with_those_that_do(carving: Carving, message: str) -> None:
    with pytest.raises(SpecError) as refused:
        check_carving(carving, intermediate_size=384)
    refused.match(message)


def test_check_carving_sizes_that_fit_pass() -> None:
    check_carving(Carving(8, 3, 3), intermediate_size=384)
    check_carving(Carving(8, 3, 5), intermediate_size=384)
    assert Carving(8, 3, 3).active_fraction == 0.75


def test_nearest_divisors_leave_room_for_shared_and_chosen_experts() -> None:
    # 10 = 1, 2, 5, 10 parts; below 6 only 5 divides, and 5 parts are too few for 3 shared and 3 chosen.
    assert nearest_divisors(10, Carving(6, 3, 3)) == (10,)
    assert nearest_divisors(10, Carving(6, 2, 2)) == (5, 10)


def test_check_upcycling_more_chosen_than_there_are_is_refused() -> None:
    check_upcycling(num_experts=2, top_k=2)
    with pytest.raises(SpecError, match="top_k is 3, and there are 2 experts"):
        check_upcycling(num_experts=2, top_k=3)


def mixture(**changes: Any) -> dict[str, Any]:
    return dense("Qwen3MoeForCausalLM", **{"num_experts": 16, "num_experts_per_tok": 4, **changes})


def test_num_experts_to_keep_count_and_fraction_say_the_same() -> None:
    assert num_experts_to_keep(mixture(), num_experts=8, keep_fraction=None) == 8
    assert num_experts_to_keep(mixture(), num_experts=None, keep_fraction=0.5) == 8
    assert num_experts_to_keep(mixture(), num_experts=None, keep_fraction=0.7) == 11
    assert active_experts({"num_local_experts": 8, "num_experts_per_tok": 2}) == (8, 2)


@pytest.mark.parametrize(
    ("config", "num_experts", "message"),
    [
        (dense(), 4, "LlamaForCausalLM is dense"),
        (mixture(), 16, "16 of 16 experts would be kept.*Keep 4 to 15"),
        (mixture(), 3, "3 of 16 experts would be kept, and each token uses 4.*keep_fraction of 0.25 or more"),
    ],
)
def test_num_experts_to_keep_what_removes_nothing_or_too_much_is_refused(
    config: dict[str, Any], num_experts: int, message: str
) -> None:
    with pytest.raises(SpecError) as refused:
        num_experts_to_keep(config, num_experts=num_experts, keep_fraction=None)
    refused.match(message)
