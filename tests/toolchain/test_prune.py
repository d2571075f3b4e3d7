"""The job `prune` in its real toolchain: what does nothing is what goes, and the model is the same without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.toolchain.tiny_models import do_job, prune_fields, run_python, write_texts, write_tokenizer

from lightship.compression.ir_template import SafetensorsFile
from lightship.errors import ToolchainError

pytestmark = pytest.mark.toolchain

# Block 2 passes its input on, in every block half of the channels and one KV group send nothing: they can go unnoticed.
# One family each with tied embeddings, with untied ones, with norms on heads, with biases; bf16, float32 and shards.
_MAKE = """
root = Path({root!r})
chosen = {{}}
for family, more, dtype, shard in (
    ("llama", {{"tie_word_embeddings": True}}, torch.bfloat16, "5GB"),
    ("mistral", {{"tie_word_embeddings": False, "sliding_window": None}}, torch.float32, "100KB"),
    ("qwen3", {{"tie_word_embeddings": False, "use_sliding_window": False}}, torch.float32, "5GB"),
    ("qwen2", {{"tie_word_embeddings": True, "use_sliding_window": False}}, torch.float32, "5GB"),
):
    model = tiny(family, **more)
    chosen[family] = {{"channels": [], "groups": []}}
    with torch.no_grad():
        for number, block in enumerate(model.model.layers):
            channels = sorted(torch.randperm(128)[:64].tolist())
            group = number % 2
            block.mlp.up_proj.weight[channels] = 0
            block.self_attn.v_proj.weight[group * 16 : group * 16 + 16] = 0
            if block.self_attn.v_proj.bias is not None:
                block.self_attn.v_proj.bias[group * 16 : group * 16 + 16] = 0
            if number == 2:
                block.self_attn.o_proj.weight.zero_()
                block.mlp.down_proj.weight.zero_()
            chosen[family]["channels"].append([c for c in range(128) if c not in channels])
            chosen[family]["groups"].append([1 - group])
    model.to(dtype).save_pretrained(root / family, max_shard_size=shard)
print(json.dumps(chosen))
"""
_COMPARE = """
print(json.dumps(float((logits({one!r}) - logits({other!r})).abs().max() / logits({one!r}).abs().max())))
"""


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "calibration.jsonl", num_texts=8)


@pytest.fixture(scope="module")
def models(train_python: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder of checkpoints by family, and what of them matters."""
    root = tmp_path_factory.mktemp("models")
    chosen: dict[str, Any] = run_python(train_python, _MAKE.format(root=str(root)))
    for family in chosen:
        write_tokenizer(root / family)
        (root / family / "openvino").mkdir()
        (root / family / "openvino" / "constants.json").write_text("{}")
    return root, chosen


def assert_same_logits(python: Path, one: Path, other: Path) -> None:
    # float32 sums in another order: products are narrower, so other kernels make them
    assert run_python(python, _COMPARE.format(one=str(one), other=str(other))) < 1e-5


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_prune_what_does_nothing_is_what_goes(
    family: str, models: tuple[Path, dict[str, Any]], calibration: Path, train_python: Path, tmp_path: Path
) -> None:
    root, chosen = models
    fields = prune_fields(root / family, calibration, num_layers=3, num_channels=64, num_kv_groups=1)
    progress = do_job(train_python, "prune", fields, tmp_path)
    assert progress.advances[-1][0] == progress.advances[-1][1]
    pruned = tmp_path / "out"
    record = json.loads((pruned / "pruning.json").read_text())
    assert record["depth"]["kept"] == record["blocks_of_source"] == [0, 1, 3]
    assert record["depth"]["block_influence"][2] == pytest.approx(0.0, abs=1e-6)
    assert record["width"]["ffn_channels"]["kept"] == [chosen[family]["channels"][block] for block in (0, 1, 3)]
    assert record["width"]["kv_groups"]["kept"] == [chosen[family]["groups"][block] for block in (0, 1, 3)]
    config = json.loads((pruned / "config.json").read_text())
    shape = ("num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    assert [config[name] for name in shape] == [3, 64, 2, 1, 16]
    assert len(config.get("layer_types", [0, 0, 0])) == 3
    assert_same_logits(train_python, root / family, pruned)


def test_prune_biases_go_with_their_channels_and_greedy_finds_the_idle_block(
    models: tuple[Path, dict[str, Any]], calibration: Path, train_python: Path, tmp_path: Path
) -> None:
    root, _ = models
    fields = prune_fields(root / "qwen2", calibration, num_layers=3, method="greedy", num_channels=64)
    do_job(train_python, "prune", {**fields, "importance": "mean_abs"}, tmp_path)
    record = json.loads((tmp_path / "out" / "pruning.json").read_text())
    assert record["depth"]["removed"] == [{"block": 2, "reason": "least influence in round 1, 0.0000"}]
    assert_same_logits(train_python, root / "qwen2", tmp_path / "out")


def test_prune_types_shards_and_files_are_those_of_the_parent(
    models: tuple[Path, dict[str, Any]], calibration: Path, train_python: Path, tmp_path: Path
) -> None:
    root, _ = models
    do_job(train_python, "prune", prune_fields(root / "mistral", calibration, blocks=[2]), tmp_path / "m")
    shards = sorted(path.name for path in (tmp_path / "m" / "out").glob("*.safetensors"))
    where = json.loads((tmp_path / "m" / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(shards) > 1
    assert sorted(set(where.values())) == shards
    found = {name for shard in shards for name in SafetensorsFile(tmp_path / "m" / "out" / shard).names}
    assert found == set(where)
    assert "lm_head.weight" in found
    do_job(train_python, "prune", prune_fields(root / "llama", calibration, blocks=[2]), tmp_path / "l")
    tied = SafetensorsFile(tmp_path / "l" / "out" / "model.safetensors")
    assert "lm_head.weight" not in tied.names
    header = (tmp_path / "l" / "out" / "model.safetensors").read_bytes()[8:2000]
    assert b'"BF16"' in header
    assert b'"F32"' not in header
    names = sorted(path.relative_to(tmp_path / "l" / "out").as_posix() for path in (tmp_path / "l" / "out").rglob("*"))
    expected = ["config.json", "generation_config.json", "model.safetensors", "pruning.json"]
    assert names == [*expected, "tokenizer.json", "tokenizer_config.json"]


def test_prune_twice_remembers_the_blocks_of_the_first_model(
    models: tuple[Path, dict[str, Any]], calibration: Path, train_python: Path, tmp_path: Path
) -> None:
    root, _ = models
    do_job(train_python, "prune", prune_fields(root / "llama", calibration, blocks=[1]), tmp_path / "once")
    fields = prune_fields(tmp_path / "once" / "out", calibration, blocks=[1])
    do_job(train_python, "prune", fields, tmp_path / "twice")
    record = json.loads((tmp_path / "twice" / "out" / "pruning.json").read_text())
    assert record["blocks_of_source"] == [0, 3]


_BREAK = """
from safetensors.torch import load_file, save_file
tensors = load_file({path!r})
tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
save_file(tensors, {path!r}, metadata={{"format": "pt"}})
print("true")
"""


def test_prune_weights_that_are_not_numbers_are_found(
    models: tuple[Path, dict[str, Any]], calibration: Path, train_python: Path, tmp_path: Path
) -> None:
    root, _ = models
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (root / "llama").iterdir():
        if path.is_file():
            (broken / path.name).write_bytes(path.read_bytes())
    run_python(train_python, _BREAK.format(path=str(broken / "model.safetensors")))
    with pytest.raises(ToolchainError, match="activations are not finite: the checkpoint holds NaN"):
        do_job(train_python, "prune", prune_fields(broken, calibration, num_layers=3), tmp_path)


def test_prune_calibration_text_without_words_is_refused(
    models: tuple[Path, dict[str, Any]], train_python: Path, tmp_path: Path
) -> None:
    root, _ = models
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": ""}\n')
    with pytest.raises(ToolchainError, match="the calibration text has 1 tokens; give more text"):
        do_job(train_python, "prune", prune_fields(root / "llama", empty, num_layers=3), tmp_path)
