from __future__ import annotations

import pytest

from lightship.compression.quantization.schemes import (
    SCHEMES,
    LinearLayer,
    fitting_group_sizes,
    fused_groups,
    is_quantizable,
    linear_layers,
    shape_problem,
    stored_bits,
)

# 64 rows of 256 columns: 16,384 weights.
LAYER = LinearLayer("model.layers.0.mlp.down_proj", 64, 256)


@pytest.mark.parametrize(
    ("form", "group_size", "bits"),
    [
        ("bf16", 64, 16 * 16_384),
        ("w8a8", 64, 8 * 16_384 + 64 * 16),  # a scale for each row
        ("fp8_dynamic", 64, 8 * 16_384 + 64 * 16),
        ("w4a16", 64, 4 * 16_384 + 64 * 4 * 16),  # four groups a row
        ("w4a16", 128, 4 * 16_384 + 64 * 2 * 16),
        ("w4a16_asym", 64, 4 * 16_384 + 64 * 4 * 20),  # and four bits of zero point each
    ],
)
def test_stored_bits_count_weights_scales_and_zero_points(form: str, group_size: int, bits: int) -> None:
    assert stored_bits(form, LAYER, group_size=group_size) == bits


def test_linear_layers_leave_embeddings_norms_heads_and_routers_out() -> None:
    shapes = [
        ("model.embed_tokens.weight", (4096, 256)),
        ("model.layers.0.input_layernorm.weight", (256,)),
        ("model.layers.0.self_attn.q_proj.weight", (256, 256)),
        ("model.layers.0.self_attn.q_proj.bias", (256,)),
        ("model.layers.0.mlp.gate.weight", (8, 256)),
        ("model.layers.0.mlp.gate_proj.weight", (1024, 256)),
        ("lm_head.weight", (4096, 256)),
    ]
    assert linear_layers(shapes) == (
        LinearLayer("model.layers.0.self_attn.q_proj", 256, 256),
        LinearLayer("model.layers.0.mlp.gate_proj", 1024, 256),
    )


def test_fused_groups_tie_what_the_engine_runs_as_one_matrix() -> None:
    names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    attention = [LinearLayer(f"model.layers.1.self_attn.{name}", 32, 32) for name in names]
    mlp = [LinearLayer(f"model.layers.1.mlp.{name}", 32, 32) for name in ("gate_proj", "up_proj", "down_proj")]
    groups = fused_groups([*attention, *mlp])
    assert {name: [layer.name.rpartition(".")[2] for layer in group] for name, group in groups.items()} == {
        "model.layers.1.self_attn.qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "model.layers.1.self_attn.o_proj": ["o_proj"],
        "model.layers.1.mlp.gate_up_proj": ["gate_proj", "up_proj"],
        "model.layers.1.mlp.down_proj": ["down_proj"],
    }


@pytest.mark.parametrize(
    ("layer", "group_size", "words"),
    [
        (LinearLayer("odd", 100, 256), 64, "odd has 100 rows and 256 columns"),
        (LinearLayer("odd", 64, 40), 32, "multiples of 32 of both"),
        (LinearLayer("odd", 64, 96), 64, "groups of 64 do not divide"),
    ],
    ids=["rows", "columns", "groups"],
)
def test_shape_problem_unfit_layer_is_named(layer: LinearLayer, group_size: int, words: str) -> None:
    assert words in str(shape_problem([LAYER, layer], group_size=group_size))


@pytest.mark.parametrize(("num_columns", "sizes"), [(256, (128, 64, 32)), (192, (64, 32)), (96, (32,)), (100, ())])
def test_fitting_group_sizes_are_those_that_divide_the_columns(num_columns: int, sizes: tuple[int, ...]) -> None:
    assert fitting_group_sizes([LAYER, LinearLayer("other", 64, num_columns)]) == sizes


def test_schemes_every_algorithm_of_a_scheme_is_known_once() -> None:
    for scheme in SCHEMES.values():
        assert len(scheme.algorithms) == len(set(scheme.algorithms))
        assert "rtn" in scheme.algorithms
    assert is_quantizable("transformer.h.0.attn.c_attn")
