"""Which channels and KV groups go, and which rows and columns that is."""

from __future__ import annotations

import numpy as np
import pytest

from lightship.compression.pruning.width import WidthChoice, channels_to_keep, most_important


@pytest.mark.parametrize(
    ("channels", "fraction", "kept"), [(1024, 0.5, 512), (1024, 0.7, 704), (11008, 0.75, 8256), (128, 0.3, 64)]
)
def test_channels_to_keep_is_a_multiple_of_64_within_the_share(channels: int, fraction: float, kept: int) -> None:
    assert channels_to_keep(channels, fraction) == kept


def test_channels_to_keep_fewer_than_a_kernel_takes_is_refused() -> None:
    with pytest.raises(ValueError, match="32 channels are fewer than the 64"):
        channels_to_keep(32, 0.5)


def test_most_important_keeps_order_and_the_first_of_equals() -> None:
    assert most_important([0.5, 3.0, 0.5, 2.0], 3) == (0, 1, 3)


def test_most_important_score_that_is_no_number_names_the_weights() -> None:
    with pytest.raises(ValueError, match="NaN or infinite weights"):
        most_important([1.0, float("nan")], 1)


# Two blocks, three FFN channels of which two stay; two groups of two query heads of size 2, of which one stays.
CHOICE = WidthChoice(channels=((0, 2), (1, 2)), kv_groups=((1,), (0,)), queries_per_group=2, head_dim=2)


@pytest.mark.parametrize(
    ("name", "dimension", "indices"),
    [
        ("model.layers.0.mlp.gate_proj.weight", 0, [0, 2]),
        ("model.layers.1.mlp.up_proj.weight", 0, [1, 2]),
        ("model.layers.1.mlp.up_proj.bias", 0, [1, 2]),
        ("model.layers.0.mlp.down_proj.weight", 1, [0, 2]),
        ("model.layers.0.self_attn.k_proj.weight", 0, [2, 3]),
        ("model.layers.0.self_attn.v_proj.bias", 0, [2, 3]),
        ("model.layers.0.self_attn.q_proj.weight", 0, [4, 5, 6, 7]),
        ("model.layers.1.self_attn.q_proj.bias", 0, [0, 1, 2, 3]),
        ("model.layers.0.self_attn.o_proj.weight", 1, [4, 5, 6, 7]),
    ],
)
def test_kept_of_projection_is_the_rows_or_columns_that_stay(name: str, dimension: int, indices: list[int]) -> None:
    found = CHOICE.kept_of(name)
    assert found is not None
    assert found[0] == dimension
    np.testing.assert_array_equal(found[1], indices)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.down_proj.bias",
        "model.layers.0.self_attn.o_proj.bias",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.input_layernorm.weight",
        "model.embed_tokens.weight",
    ],
)
def test_kept_of_what_is_as_wide_as_the_stream_or_a_head_stays_whole(name: str) -> None:
    assert CHOICE.kept_of(name) is None


def test_kept_of_kind_that_is_not_pruned_stays_whole() -> None:
    choice = WidthChoice(channels=None, kv_groups=None, queries_per_group=2, head_dim=2)
    assert choice.kept_of("model.layers.0.mlp.up_proj.weight") is None
    assert choice.kept_of("model.layers.0.self_attn.q_proj.weight") is None
    assert choice.config({"intermediate_size": 3}) == {"intermediate_size": 3}


def test_config_counts_what_stays_and_states_the_head_size() -> None:
    config = {"intermediate_size": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8}
    assert CHOICE.config(config) == {
        "intermediate_size": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 2,
        "hidden_size": 8,
    }
