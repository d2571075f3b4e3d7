from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lightship.artifacts.checkpoint import inspect_checkpoint
from lightship.artifacts.digest import DigestCache
from lightship.errors import CheckpointError, UnsafeCheckpointError, UnsupportedModelError
from lightship.ports.variants import WeightFormat


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in (config | changes).items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))


def test_inspect_safetensors_folder_states_the_model(checkpoint: Path) -> None:
    found = inspect_checkpoint(checkpoint)
    assert (found.architecture, found.model_type) == ("LlamaForCausalLM", "llama")
    assert (found.num_parameters, found.weight_bytes, found.dtypes) == (320, 1280, ("F32",))
    assert (found.context_length, found.vocab_size, found.num_layers) == (64, 32, 2)
    assert (found.hidden_size, found.num_kv_heads, found.head_dim) == (8, 2, 2)
    assert (found.weight_format, found.has_chat_template) == (WeightFormat.SAFETENSORS, False)
    assert [entry.path for entry in found.files] == ["config.json", "model.safetensors", "tokenizer.json"]


def test_inspect_openvino_folder_counts_weights_without_scales_and_indices(openvino_folder: Path) -> None:
    found = inspect_checkpoint(openvino_folder)
    assert found.weight_format is WeightFormat.OPENVINO_IR
    assert (found.num_parameters, found.weight_bytes, found.dtypes) == (8, 32, ("f16",))


def test_inspect_digest_depends_on_content_only(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(checkpoint, copy)
    (copy / "README.md").write_text("Prose is not the model.")
    (copy / "training_curve.jsonl").write_text("{}")
    (copy / ".git").mkdir()
    (copy / ".git" / "config.json").write_text("{}")
    (copy / "pytorch_model.bin").write_bytes(b"a pickle beside safetensors is never read")
    assert inspect_checkpoint(copy).digest == inspect_checkpoint(checkpoint).digest
    change_config(copy, rope_theta=5.0)
    assert inspect_checkpoint(copy).digest != inspect_checkpoint(checkpoint).digest


def test_inspect_linked_files_are_the_files(checkpoint: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for path in checkpoint.iterdir():
        (links / path.name).symlink_to(path)
    assert inspect_checkpoint(links).digest == inspect_checkpoint(checkpoint).digest


def test_inspect_cache_gives_the_same_digest(checkpoint: Path, tmp_path: Path) -> None:
    plain = inspect_checkpoint(checkpoint)
    for _ in range(2):
        assert inspect_checkpoint(checkpoint, cache=DigestCache(tmp_path / "digests.json")) == plain


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja"])
def test_inspect_chat_template_is_found(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_text('{"chat_template": "{{ messages }}"}')
    assert inspect_checkpoint(checkpoint).has_chat_template


@dataclass(frozen=True)
class ConfigCase:
    id: str
    changes: dict[str, Any]
    expected: dict[str, int]


CONFIG_CASES = (
    ConfigCase("all-heads-have-keys", {"num_key_value_heads": ...}, {"num_kv_heads": 4}),
    ConfigCase("one-pair-of-keys", {"num_key_value_heads": ..., "multi_query": True}, {"num_kv_heads": 1}),
    ConfigCase("head-dim-is-stated", {"head_dim": 16}, {"head_dim": 16}),
    ConfigCase(
        "names-of-gpt2",
        {"max_position_embeddings": ..., "n_positions": 48, "num_hidden_layers": ..., "n_layer": 3}
        | {"hidden_size": ..., "n_embd": 12, "num_attention_heads": ..., "n_head": 3, "num_key_value_heads": ...},
        {"context_length": 48, "num_layers": 3, "hidden_size": 12, "num_kv_heads": 3, "head_dim": 4},
    ),
)


@pytest.mark.parametrize("case", CONFIG_CASES, ids=lambda case: case.id)
def test_inspect_config_names_of_families_are_understood(checkpoint: Path, case: ConfigCase) -> None:
    change_config(checkpoint, **case.changes)
    found = inspect_checkpoint(checkpoint)
    assert {name: getattr(found, name) for name in case.expected} == case.expected


Damage = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    id: str
    damage: Damage
    message: str
    error: type[CheckpointError] = field(default=CheckpointError)


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")


def write_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


CASES = (
    Case("no-config", lambda f: (f / "config.json").unlink(), "config.json is missing"),
    Case("config-not-json", lambda f: (f / "config.json").write_text("{"), "not JSON"),
    Case("config-not-an-object", lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
    Case("config-not-text", lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "not JSON"),
    Case("no-architecture", lambda f: change_config(f, architectures=[]), "architectures"),
    Case("no-context-length", lambda f: change_config(f, max_position_embeddings=...), "max_position_embeddings"),
    Case("context-length-text", lambda f: change_config(f, max_position_embeddings="64"), "is '64'"),
    Case("layers-zero", lambda f: change_config(f, num_hidden_layers=0), "is 0"),
    Case(
        "architecture-unknown",
        lambda f: change_config(f, architectures=["LlamoForCausalLM"]),
        r"LlamoForCausalLM.*LlamaForCausalLM",
        UnsupportedModelError,
    ),
    Case("pickle-only", only_pickle, "pickle", UnsafeCheckpointError),
    Case(
        "remote-code-in-config",
        lambda f: change_config(f, auto_map={"AutoModelForCausalLM": "modeling_x.X"}),
        "auto_map",
        UnsafeCheckpointError,
    ),
    Case(
        "remote-code-in-tokenizer",
        lambda f: (f / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["t.T", null]}}'),
        "auto_map",
        UnsafeCheckpointError,
    ),
    Case("python-file", lambda f: (f / "modeling_x.py").write_text("1"), "code of its own", UnsafeCheckpointError),
    Case(
        "pickle-named-safetensors",
        lambda f: (f / "model.safetensors").write_bytes(pickle.dumps([1] * 99)),
        "pickle",
        UnsafeCheckpointError,
    ),
    Case("no-weights", lambda f: (f / "model.safetensors").unlink(), "no weights"),
    Case("gguf-only", lambda f: (f / "model.safetensors").rename(f / "m.gguf"), "a folder with model.gguf"),
    Case("truncated", lambda f: truncate(f / "model.safetensors"), "truncated"),
    Case("no-tokenizer", lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    Case("tokenizer-not-json", lambda f: (f / "tokenizer.json").write_text(""), "not JSON"),
    Case("shard-missing", lambda f: write_index(f, {"embed": "a.safetensors"}), "shard a.safetensors is missing"),
    Case("tensor-absent", lambda f: write_index(f, {"lost": "model.safetensors"}), "'lost' is listed"),
    Case("index-empty", lambda f: write_index(f, {}), "weight_map"),
    Case("index-leaves-folder", lambda f: write_index(f, {"a": "../x.safetensors"}), "not a shard in this folder"),
    Case("tensor-twice", lambda f: shutil.copy(f / "model.safetensors", f / "n.safetensors"), "in two shards"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_inspect_bad_checkpoint_is_refused_with_place_and_hint(checkpoint: Path, case: Case) -> None:
    case.damage(checkpoint)
    with pytest.raises(case.error, match=case.message) as caught:
        inspect_checkpoint(checkpoint)
    assert type(caught.value) is case.error
    assert str(checkpoint) in str(caught.value.where)
    assert caught.value.hint


OPENVINO_CASES = (
    Case("weights-missing", lambda f: (f / "openvino_model.bin").unlink(), "openvino_model.bin is missing"),
    Case("weights-truncated", lambda f: truncate(f / "openvino_model.bin"), "it has 25 bytes.*needs 32"),
    Case("graph-not-xml", lambda f: (f / "openvino_model.xml").write_text("<net"), "not XML"),
    Case("graph-of-something-else", lambda f: (f / "openvino_model.xml").write_text("<html/>"), "not an OpenVINO"),
    Case("tokenizer-missing", lambda f: (f / "openvino_tokenizer.xml").unlink(), "openvino_tokenizer.xml is missing"),
    Case("tokenizer-truncated", lambda f: truncate(f / "openvino_tokenizer.bin"), "truncated"),
    Case("detokenizer-missing", lambda f: (f / "openvino_detokenizer.bin").unlink(), "detokenizer.bin is missing"),
    Case("no-config", lambda f: (f / "config.json").unlink(), "config.json is missing"),
    Case(
        "offset-not-a-number",
        lambda f: (f / "openvino_model.xml").write_text(
            '<net><layers><layer type="Const"><data offset="-1" size="4"/></layer></layers></net>'
        ),
        "offset '-1'",
    ),
    Case(
        "weights-are-a-pickle",
        lambda f: (f / "openvino_model.bin").write_bytes(pickle.dumps([1] * 99)),
        "pickle",
        UnsafeCheckpointError,
    ),
)


@pytest.mark.parametrize("case", OPENVINO_CASES, ids=lambda case: case.id)
def test_inspect_bad_openvino_folder_is_refused_with_place_and_hint(openvino_folder: Path, case: Case) -> None:
    case.damage(openvino_folder)
    with pytest.raises(case.error, match=case.message) as caught:
        inspect_checkpoint(openvino_folder)
    assert str(openvino_folder) in str(caught.value.where)
    assert caught.value.hint


def test_inspect_shards_with_index_are_read_together(checkpoint: Path, make_safetensors: Callable[..., bytes]) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "m-1.safetensors").write_bytes(make_safetensors({"embed": [32, 8]}))
    (checkpoint / "m-2.safetensors").write_bytes(make_safetensors({"layer": [8, 8]}))
    write_index(checkpoint, {"embed": "m-1.safetensors", "layer": "m-2.safetensors"})
    assert inspect_checkpoint(checkpoint).num_parameters == 320


@pytest.mark.parametrize(("name", "message"), [("missing", "does not exist"), ("file", "is not a folder")])
def test_inspect_no_folder_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=message):
        inspect_checkpoint(tmp_path / name)
