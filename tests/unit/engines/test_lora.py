"""Adapters are looked at before a server is told to load them."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engines.lora_files import write_adapter

from lightship.engines.lora import read_adapter
from lightship.errors import CheckpointError, UnsafeCheckpointError

BASE = {"model.layers.0.self_attn.q_proj.weight": (8, 8)}


def test_adapter_says_its_largest_rank_and_the_digest_of_its_weights(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, config={"rank_pattern": {"v_proj": 24}})
    found = read_adapter("pirate", folder, base=BASE)
    expected = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert (found.name, found.rank, found.digest) == ("pirate", 24, expected)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_inputs": 9}, "has 8 inputs, and the adapter's matrix 9"),
        ({"num_outputs": 7}, "has 8 outputs, and the adapter's matrix 7"),
        ({"config": {"peft_type": "IA3"}}, "IA3"),
        ({"config": {"use_dora": True}}, "DoRA"),
        ({"config": {"r": 0}}, "rank `r` is 0"),
        ({"config": {"rank_pattern": {"x": "four"}}}, "rank"),
    ],
)
def test_adapter_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(CheckpointError, match=problem):
        read_adapter("pirate", write_adapter(tmp_path, **changes), base=BASE)


def test_adapter_without_weights_and_a_pickled_one_are_told_apart(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        read_adapter("pirate", folder, base=BASE)
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(UnsafeCheckpointError, match="pickled"):
        read_adapter("pirate", folder, base=BASE)


def test_adapter_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is missing"):
        read_adapter("pirate", tmp_path / "nowhere", base=BASE)
