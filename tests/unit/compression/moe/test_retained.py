"""Which tensors stay when experts go."""

from __future__ import annotations

import numpy as np
import pytest

from lightship.compression.moe.retained import keep_experts, layer_of, with_num_experts

NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight" for layer in (0, 1) for expert in range(3)),
    *(f"model.layers.{layer}.mlp.gate.weight" for layer in (0, 1)),
    "model.layers.0.mlp.shared_expert.up_proj.weight",
    "model.layers.0.mlp.shared_expert_gate.weight",
]


def read(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Router rows are numbered; any other tensor is one number, its place in the list."""
    return np.array([[10], [11], [12]]) if name.endswith("mlp.gate.weight") else np.array([NAMES.index(name)])


def test_keep_experts_those_that_stay_are_renumbered_with_their_router_rows() -> None:
    kept = dict(keep_experts(NAMES, read, {0: [0, 2], 1: [1, 2]}))
    assert kept["model.layers.0.mlp.experts.0.up_proj.weight"] == NAMES.index(NAMES[1])
    assert kept["model.layers.0.mlp.experts.1.up_proj.weight"] == NAMES.index(NAMES[3])
    assert kept["model.layers.1.mlp.experts.0.up_proj.weight"] == NAMES.index(NAMES[5])
    assert kept["model.layers.1.mlp.experts.1.up_proj.weight"] == NAMES.index(NAMES[6])
    assert kept["model.layers.0.mlp.gate.weight"].tolist() == [[10], [12]]
    assert kept["model.layers.1.mlp.gate.weight"].tolist() == [[11], [12]]
    assert len(kept) == len(NAMES) - 2
    for name in (NAMES[0], *NAMES[-2:]):
        assert kept[name] == NAMES.index(name)


def test_keep_experts_dense_layers_between_stay_as_they_are() -> None:
    kept = dict(keep_experts(NAMES, read, {1: [0]}))
    assert len(kept["model.layers.0.mlp.gate.weight"]) == 3
    assert "model.layers.0.mlp.experts.2.up_proj.weight" in kept
    assert "model.layers.1.mlp.experts.1.up_proj.weight" not in kept


def test_keep_experts_stored_in_one_tensor_are_refused() -> None:
    names = ["model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.gate.weight"]
    with pytest.raises(ValueError, match="layer 0 does not store its experts one by one"):
        dict(keep_experts(names, lambda name: np.zeros((3, 1)), {0: [0, 2]}))


def test_keep_experts_router_of_another_name_is_refused() -> None:
    names = [name for name in NAMES if name != "model.layers.1.mlp.gate.weight"]
    with pytest.raises(ValueError, match="layer 1 does not store"):
        dict(keep_experts(names, read, {0: [0], 1: [0]}))


def test_layer_of_modules_of_several_families_is_found() -> None:
    assert layer_of("model.layers.12.block_sparse_moe") == 12
    assert layer_of("model.language_model.layers.3.mlp.experts") == 3
    with pytest.raises(ValueError, match="names no layer"):
        layer_of("model.norm")


def test_with_num_experts_only_the_name_that_is_there_changes() -> None:
    config = {"num_local_experts": 8, "num_experts_per_tok": 2}
    assert with_num_experts(config, 4) == {"num_local_experts": 4, "num_experts_per_tok": 2}
    assert config["num_local_experts"] == 8
