"""What recipes will store and cost, told from their options."""

from __future__ import annotations

import pytest

from lightship.artifacts.model_shape import ModelShape
from lightship.artifacts.roofline import WeightBits
from lightship.compression.recipes import PRESETS
from lightship.compression.search.precision import (
    expected_shape,
    family_of,
    nominal_bits,
    scheme_bits,
    stored_bits,
    tier_of,
)
from lightship.compression.search.records import Tier
from lightship.ports.variants import Recipe, RecipeStep

SHAPE = ModelShape(
    num_layers=8, hidden_size=256, intermediate_size=1024, num_heads=4, num_kv_heads=2, head_dim=64, vocab_size=4096
)


def quantize(scheme: str, **options: str | int | float | bool) -> Recipe:
    return Recipe(scheme, (RecipeStep("quantize", {"scheme": scheme, **options}),))


@pytest.mark.parametrize(
    ("preset", "tier"),
    [
        ("fp16", Tier.DATA_FREE),
        ("int4", Tier.DATA_FREE),
        ("quarter-depth-int8", Tier.DATA_FREE),
        ("w8a8-rtn", Tier.DATA_FREE),
        ("fp8", Tier.DATA_FREE),
        ("ngram-draft", Tier.SETTINGS),
        ("w8a8", Tier.CALIBRATED),
        ("w4a16-autoround", Tier.CALIBRATED),
        ("q4_k_m-imatrix", Tier.CALIBRATED),
        ("mixed-6bit", Tier.CALIBRATED),
        ("half-experts", Tier.CALIBRATED),
        ("carve-moe", Tier.TRAINED),
    ],
)
def test_tier_of_presets_is_what_they_need(preset: str, tier: Tier) -> None:
    assert tier_of(PRESETS[preset]) is tier


@pytest.mark.parametrize(
    ("one", "other", "engine"),
    [
        ("w8a8-rtn", "w8a8", "vllm"),
        ("w4a16-rtn", "w4a16-awq", "vllm"),
        ("q4_k_m", "q4_k_m-imatrix", "llamacpp"),
        ("bf16", "ngram-draft", "vllm"),
    ],
)
def test_family_is_one_for_the_same_precision_however_it_is_reached(one: str, other: str, engine: str) -> None:
    assert family_of(PRESETS[one], engine) == family_of(PRESETS[other], engine)


@pytest.mark.parametrize(
    ("one", "other", "engine"),
    [
        ("w8a8-rtn", "fp8", "vllm"),
        ("w8a8-rtn", "w4a16-rtn", "vllm"),
        ("int8", "quarter-depth-int8", "openvino"),
        ("q4_k_m", "q8_0", "llamacpp"),
    ],
)
def test_family_of_another_precision_shape_or_type_is_another(one: str, other: str, engine: str) -> None:
    assert family_of(PRESETS[one], engine) != family_of(PRESETS[other], engine)


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [("w4a16_asym", 4.0), ("Q6_K", 6.0), ("int8-activations", 8.0), ("fp8_dynamic", 8.0), ("mixed", None)],
)
def test_scheme_bits_are_told_by_the_name(scheme: str, bits: float | None) -> None:
    assert scheme_bits(scheme) == bits


def test_nominal_bits_of_a_changed_shape_are_unknown() -> None:
    assert nominal_bits(PRESETS["fp16"]) == 16.0
    assert nominal_bits(PRESETS["quarter-depth-int8"]) is None


@pytest.mark.parametrize(
    ("recipe", "engine", "bits"),
    [
        (PRESETS["fp32"], "openvino", WeightBits(32, 32, 32)),
        (PRESETS["fp16"], "openvino", WeightBits(16, 16, 16)),
        (PRESETS["int8"], "openvino", WeightBits(8, 8, 8)),
        # 16 bits of scale for 64 weights; OpenVINO's embedding and head stay at 8 bits, vLLM's at 16
        (PRESETS["int4"], "openvino", WeightBits(4.25, 8, 8)),
        (quantize("w4a16", group_size=128), "vllm", WeightBits(4.125, 16, 16)),
        # a block of 32 bytes and a 16-bit scale; 256 weights in 144 bytes
        (PRESETS["q8_0"], "llamacpp", WeightBits(8.5, 8.5, 8.5)),
        (PRESETS["q4_k_m"], "llamacpp", WeightBits(4.5, 4.5, 4.5)),
        (quantize("mixed"), "vllm", None),
    ],
    ids=["fp32", "fp16", "int8", "int4", "w4a16", "q8_0", "q4_k_m", "mixed"],
)
def test_stored_bits_count_scales_and_what_stays_as_it_is(recipe: Recipe, engine: str, bits: WeightBits | None) -> None:
    assert stored_bits(recipe, engine) == bits


def test_expected_shape_follows_pruning_and_gives_up_on_students() -> None:
    prune = RecipeStep("prune", {"depth_fraction": 0.5, "ffn_fraction": 0.25, "kv_groups": 1})
    pruned = expected_shape(Recipe("x", (prune,)), SHAPE)
    assert pruned is not None
    assert (pruned.num_layers, pruned.intermediate_size, pruned.num_kv_heads, pruned.num_heads) == (4, 256, 1, 2)
    assert expected_shape(Recipe("x", (RecipeStep("prune", {"drop": "3,4,5"}),)), SHAPE).num_layers == 5  # type: ignore[union-attr]
    assert expected_shape(PRESETS["quarter-depth"], SHAPE) is None
    assert expected_shape(PRESETS["int4"], SHAPE) == SHAPE
