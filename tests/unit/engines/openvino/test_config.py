"""The worker's config file, the model's sizes, and frames."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.openvino.config import OpenVinoWorkerConfig, encode_config, read_config
from lightship.engines.openvino.frames import Add, Cancel, Command, FrameSplitter, encode_frame
from lightship.engines.openvino.model_info import REQUIRED_FILES, read_model_info
from lightship.engines.openvino.prompts import prompt_tokens
from lightship.engines.openvino.runtime import device_properties, load_openvino
from lightship.errors import CheckpointError, UsageError
from lightship.wire.errors import ApiError

CONFIG = OpenVinoWorkerConfig(model_name="m", variant_name="v", variant_digest="sha256:1", folder="/f", port=8000)
# 2 layers, 4 KV heads of 16: 256 elements per token for keys and values
MODEL = {
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_size": 128,
    "max_position_embeddings": 512,
    "vocab_size": 2048,
}


def write_model(folder: Path, document: object) -> OpenVinoWorkerConfig:
    for name in REQUIRED_FILES:
        (folder / name).write_text("")
    (folder / "config.json").write_text(json.dumps(document))
    return msgspec.structs.replace(CONFIG, folder=str(folder))


def test_config_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "worker.json"
    path.write_bytes(encode_config(CONFIG))
    assert read_config(path) == CONFIG
    assert CONFIG.address == "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    "document",
    ["{", "[]", '{"model_name": "m"}', '{"model_name":"m","variant_name":"v","variant_digest":"d","folder":"f","x":1}'],
)
def test_config_that_is_not_one_names_the_file(tmp_path: Path, document: str) -> None:
    path = tmp_path / "worker.json"
    path.write_text(document)
    with pytest.raises(UsageError, match=r"worker\.json"):
        read_config(path)


def test_config_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_config(tmp_path / "none.json")


def test_model_info_counts_blocks_of_the_cache(tmp_path: Path) -> None:
    config = msgspec.structs.replace(write_model(tmp_path, MODEL), kv_cache_bytes=2**20, kv_cache_precision="f32")
    info = read_model_info(config)
    # 2**20 bytes / (256 elements * 4 bytes * 32 tokens)
    assert (info.num_kv_blocks, info.vocab_size, info.context_length) == (32, 2048, 512)


def test_model_info_context_never_exceeds_what_the_cache_holds(tmp_path: Path) -> None:
    large = {**MODEL, "max_position_embeddings": 10**6}
    config = msgspec.structs.replace(write_model(tmp_path, large), kv_cache_bytes=2**20, kv_cache_precision="f32")
    assert read_model_info(config).context_length == 31 * 32


def test_model_info_smaller_context_is_kept(tmp_path: Path) -> None:
    config = msgspec.structs.replace(write_model(tmp_path, MODEL), context_length=100)
    assert read_model_info(config).context_length == 100


def test_model_info_missing_files_are_named(tmp_path: Path) -> None:
    config = write_model(tmp_path, MODEL)
    (tmp_path / "openvino_detokenizer.xml").unlink()
    with pytest.raises(CheckpointError, match=r"openvino_detokenizer\.xml missing"):
        read_model_info(config)


@pytest.mark.parametrize("document", [{}, [], {**MODEL, "vocab_size": "many"}, {**MODEL, "num_attention_heads": None}])
def test_model_info_unusable_config_names_the_file(tmp_path: Path, document: object) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_model_info(write_model(tmp_path, document))


COMMANDS: list[Command] = [Add(1, [1, 2, 3], {"max_new_tokens": 5, "temperature": 0.5}), Cancel(1), Add(2, [], {})]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=10))
def test_frames_any_borders_give_the_same_records(sizes: list[int]) -> None:
    stream = b"".join(encode_frame(command) for command in COMMANDS)
    splitter, payloads, begin, step = FrameSplitter(), [], 0, 0
    while begin < len(stream):
        size = sizes[step % len(sizes)]
        payloads += splitter.feed(stream[begin : begin + size])
        begin, step = begin + size, step + 1
    assert [msgspec.msgpack.decode(payload, type=Command) for payload in payloads] == COMMANDS


class FakeTokenizer:
    """One token per character; a special token 0 in front."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [0] * add_special_tokens + [ord(char) for char in text]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [[0, 97, 98]]),
        (["a", "b"], [[0, 97], [0, 98]]),
        ([5, 6], [[5, 6]]),
        ([[5], [6, 7]], [[5], [6, 7]]),
    ],
)
def test_prompt_tokens_four_forms(prompt: str | list[str | int | list[int]], expected: list[list[int]]) -> None:
    assert prompt_tokens(prompt, FakeTokenizer(), vocab_size=128, add_special_tokens=True) == expected


@pytest.mark.parametrize("prompt", [[], [[]], [5, "a"], [128], [-1], ["a"] * 257])
def test_prompt_tokens_unusable_prompt_is_refused(prompt: list[str | int | list[int]]) -> None:
    with pytest.raises(ApiError) as refusal:
        prompt_tokens(prompt, FakeTokenizer(), vocab_size=128, add_special_tokens=True)
    assert (refusal.value.status, refusal.value.param) == (400, "prompt")


@pytest.mark.parametrize("group_size", [None, 0, 128])
def test_device_properties_group_size_is_told_to_the_device_unless_left_to_it(group_size: int | None) -> None:
    config = msgspec.structs.replace(CONFIG, dynamic_quantization_group_size=group_size)
    expected = {} if group_size is None else {"DYNAMIC_QUANTIZATION_GROUP_SIZE": group_size}
    assert device_properties(config) == expected


@pytest.mark.local
def test_target_names_the_group_size_only_where_it_is_set() -> None:
    """Figures that were measured before it could be set have targets without it."""
    set_to_off = msgspec.structs.replace(CONFIG, dynamic_quantization_group_size=0)
    usual, off = OpenVinoAdapter().target(CONFIG).settings, OpenVinoAdapter().target(set_to_off).settings
    assert "dynamic_quantization_group_size" not in usual
    assert off == {**usual, "dynamic_quantization_group_size": 0}


@pytest.mark.local
@pytest.mark.parametrize("group_size", [0, 64])
def test_device_properties_group_size_is_what_the_compiled_network_has(builtin_ir: Path, group_size: int) -> None:
    config = msgspec.structs.replace(CONFIG, dynamic_quantization_group_size=group_size)
    core = load_openvino().Core()
    compiled = core.compile_model(builtin_ir / "openvino_model.xml", "CPU", device_properties(config))
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == group_size
