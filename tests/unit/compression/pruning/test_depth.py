"""Which blocks go, on scores made by hand."""

from __future__ import annotations

import pytest

from lightship.compression.pruning.depth import (
    blocks_to_keep,
    choose_contiguous,
    choose_explicit,
    choose_greedy,
    parse_blocks,
    renamed_tensor,
    shallower_config,
)

# Four blocks. Rows and columns are the places before the blocks and after the last one.
DISTANCES = [
    [0.0, 0.9, 0.9, 0.9, 0.9],
    [0.9, 0.0, 0.2, 0.5, 0.7],
    [0.9, 0.2, 0.0, 0.1, 0.3],
    [0.9, 0.5, 0.1, 0.0, 0.4],
    [0.9, 0.7, 0.3, 0.4, 0.0],
]


@pytest.mark.parametrize(("num_removed", "removed"), [(1, (2,)), (2, (2, 3)), (3, (1, 2, 3))])
def test_choose_contiguous_takes_the_run_whose_ends_are_nearest(num_removed: int, removed: tuple[int, ...]) -> None:
    # one block: min(0.9, 0.2, 0.1, 0.4); two: min(0.9, 0.5, 0.3); three: min(0.9, 0.7)
    choice = choose_contiguous(DISTANCES, num_removed=num_removed)
    assert choice.removed == removed
    assert sorted((*choice.kept, *choice.removed)) == [0, 1, 2, 3]
    assert len(choice.reasons) == num_removed


def test_choose_contiguous_equal_runs_takes_the_first() -> None:
    flat = [[0.0 if row == column else 0.5 for column in range(4)] for row in range(4)]
    assert choose_contiguous(flat, num_removed=2).removed == (0, 1)


def test_choose_greedy_measures_again_what_is_left() -> None:
    # Alone, block 1 is least, then block 2. Without block 1, block 2 is needed and block 3 is not.
    scores = {(0, 1, 2, 3): [0.9, 0.1, 0.2, 0.3], (0, 2, 3): [0.9, 0.8, 0.4]}
    choice = choose_greedy(lambda kept: scores[kept], num_layers=4, num_removed=2)
    assert (choice.kept, choice.removed) == ((0, 2), (1, 3))
    assert choice.reasons == ("least influence in round 1, 0.1000", "least influence in round 2, 0.4000")


def test_choose_explicit_takes_what_is_named_in_any_order() -> None:
    assert choose_explicit((3, 1), num_layers=4).kept == (0, 2)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [((4,), "no block 4; the model has blocks 0 to 3"), ((1, 1), "named twice"), ((0, 1, 2, 3), "cannot be removed")],
)
def test_choose_explicit_impossible_is_refused(blocks: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        choose_explicit(blocks, num_layers=4)


@pytest.mark.parametrize("num_removed", [0, 4])
def test_choose_contiguous_nothing_to_go_or_to_stay_is_refused(num_removed: int) -> None:
    with pytest.raises(ValueError, match="at least one goes and one stays"):
        choose_contiguous(DISTANCES, num_removed=num_removed)


def test_parse_blocks_reads_a_list_and_refuses_anything_else() -> None:
    assert parse_blocks("3, 4,5") == (3, 4, 5)
    for text in ("", "3-5", "-1", "3,,4"):
        with pytest.raises(ValueError, match="not a list of block numbers"):
            parse_blocks(text)


@pytest.mark.parametrize(("layers", "fraction", "kept"), [(8, 0.5, 4), (8, 0.7, 6), (3, 0.1, 1)])
def test_blocks_to_keep_rounds_and_leaves_one(layers: int, fraction: float, kept: int) -> None:
    assert blocks_to_keep(layers, fraction) == kept


@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        ("model.layers.7.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"),
        ("model.layers.0.input_layernorm.weight", "model.layers.0.input_layernorm.weight"),
        ("model.layers.3.mlp.up_proj.weight", None),
        ("model.layers.70.mlp.up_proj.weight", None),
        ("model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_renamed_tensor_numbers_kept_blocks_anew(name: str, renamed: str | None) -> None:
    assert renamed_tensor(name, (0, 1, 7)) == renamed


def test_shallower_config_cuts_lists_of_blocks_and_counts_sliding_ones() -> None:
    config = {
        "num_hidden_layers": 4,
        "layer_types": ["a", "b", "c", "d"],
        "max_window_layers": 3,
        "eos_token_id": [1, 2, 3, 4],
        "hidden_size": 8,
    }
    assert shallower_config(config, (0, 3)) == {
        "num_hidden_layers": 2,
        "layer_types": ["a", "d"],
        "max_window_layers": 1,
        "eos_token_id": [1, 2, 3, 4],
        "hidden_size": 8,
    }
    assert config["num_hidden_layers"] == 4
