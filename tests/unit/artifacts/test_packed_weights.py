from __future__ import annotations

from typing import Any

from lightship.artifacts.packed_weights import CountedWeights, count_quantized_weights
from lightship.artifacts.safetensors_header import TensorEntry


def tensor(name: str, dtype: str, *shape: int) -> TensorEntry:
    return TensorEntry(name, dtype, shape, 0, 0)


def config(*bits: int) -> dict[str, Any]:
    groups = {f"group_{index}": {"weights": {"num_bits": one}} for index, one in enumerate(bits)}
    return {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}


EMBEDDING = tensor("model.embed_tokens.weight", "BF16", 32, 64)  # 2,048 weights
INT4 = [
    tensor("model.layers.0.mlp.up_proj.weight_packed", "I32", 128, 8),  # 128 x 64 weights, eight in each number
    tensor("model.layers.0.mlp.up_proj.weight_scale", "BF16", 128, 1),
    tensor("model.layers.0.mlp.up_proj.weight_zero_point", "I32", 16, 1),
]
INT8 = [
    tensor("model.layers.0.mlp.down_proj.weight", "I8", 64, 128),
    tensor("model.layers.0.mlp.down_proj.weight_scale", "BF16", 64, 1),
    tensor("model.layers.0.self_attn.k_scale", "BF16", 1),
]


def test_count_packed_int4_counts_weights_not_the_numbers_they_are_packed_in() -> None:
    found = count_quantized_weights([EMBEDDING, *INT4], config(4))
    assert found == CountedWeights(2_048 + 128 * 64, ("BF16", "I4"))


def test_count_int8_leaves_scales_out() -> None:
    assert count_quantized_weights([EMBEDDING, *INT8], config(8)) == CountedWeights(2_048 + 64 * 128, ("BF16", "I8"))


def test_count_mixture_takes_each_tensor_for_what_it_is() -> None:
    found = count_quantized_weights([EMBEDDING, *INT4, *INT8], config(8, 4))
    assert found == CountedWeights(2_048 + 128 * 64 + 64 * 128, ("BF16", "I4", "I8"))


def test_count_other_checkpoints_are_left_to_the_plain_count() -> None:
    assert count_quantized_weights([EMBEDDING], {}) is None
    assert count_quantized_weights([EMBEDDING], {"quantization_config": {"quant_method": "gptq"}}) is None
    assert count_quantized_weights([EMBEDDING], {"quantization_config": "int4"}) is None
