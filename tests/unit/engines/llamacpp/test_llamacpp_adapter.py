from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lightship.engines.base import WorkerConfig
from lightship.engines.llamacpp.adapter import LlamacppAdapter, program_version, server_command
from lightship.engines.llamacpp.config import LlamacppWorkerConfig, context_length, encode_config, read_config
from lightship.errors import CheckpointError, EngineError, UsageError


def config(**changes: Any) -> LlamacppWorkerConfig:
    fields: dict[str, Any] = {
        "model_name": "tales",
        "variant_name": "q8_0",
        "variant_digest": "sha256:1",
        "folder": "/variant",
        "program": "/tool/llama-server",
        "engine_version": "9",
        "port": 8000,
        "context_length": 512,
    }
    return LlamacppWorkerConfig(**fields | changes)


def options(settings: LlamacppWorkerConfig) -> dict[str, str]:
    """Options that have a value."""
    command = server_command(settings)
    return {name: value for name, value in pairwise(command) if name.startswith("--")}


def script(path: Path, content: str) -> str:
    path.write_text(f"#!/bin/sh\n{content}\n")
    path.chmod(0o755)
    return str(path)


def test_command_says_every_setting() -> None:
    found = options(config(num_threads=3, max_sequences=4, kv_cache_type="bf16", prompt_cache_bytes=5 * 2**20))
    assert found["--model"] == "/variant/model.gguf"
    assert (found["--alias"], found["--host"], found["--port"]) == ("tales", "127.0.0.1", "8000")
    assert (found["--threads"], found["--threads-batch"]) == ("3", "3")
    assert (found["--parallel"], found["--ctx-size"]) == ("4", "2048")  # 4 sequences of 512 tokens
    assert (found["--cache-type-k"], found["--cache-type-v"]) == ("bf16", "bf16")
    assert (found["--flash-attn"], found["--cache-ram"]) == ("off", "5")
    assert options(config(flash_attention=True))["--flash-attn"] == "on"
    assert server_command(config())[0] == "/tool/llama-server"


def test_target_holds_what_decides_about_speed() -> None:
    target = LlamacppAdapter().target(config(flash_attention=True, num_threads=2))
    assert (target.engine, target.engine_version, target.num_threads) == ("llamacpp", "9", 2)
    assert target.settings["flash_attention"] is True
    shared = {field.name for field in msgspec.structs.fields(WorkerConfig)}
    own = {field.name for field in msgspec.structs.fields(LlamacppWorkerConfig)} - shared
    unnamed = {"program", "engine_version", "num_threads", "sleep_after_s"}
    assert target.settings.keys() == own - unnamed
    assert LlamacppAdapter().target(config(sleep_after_s=60)).settings.keys() == own - unnamed | {"sleep_after_s"}


def test_environment_says_how_threads_wait() -> None:
    adapter = LlamacppAdapter()
    assert adapter.environment(config()) == {"OMP_WAIT_POLICY": "passive"}
    assert adapter.environment(config(busy_waiting=True)) == {"OMP_WAIT_POLICY": "active"}


def test_worker_command_is_tethered_and_reads_the_file_that_was_written(tmp_path: Path) -> None:
    adapter, path = LlamacppAdapter(), tmp_path / "worker.json"
    adapter.write_config(config(), path)
    command = adapter.worker_command(path)
    assert command[:3] == [sys.executable, "-m", "lightship.engines.tether"]
    assert command[3] == "--drain"
    drain = json.loads(command[4])
    assert (drain["metrics_url"], drain["timeout_s"]) == ("http://127.0.0.1:8000/metrics", 30.0)
    assert drain["is_signal_first"] is False
    assert command[5:] == server_command(config())


def test_command_sleeps_only_where_it_is_asked_to() -> None:
    assert "--sleep-idle-seconds" not in options(config())
    assert options(config(sleep_after_s=90))["--sleep-idle-seconds"] == "90"


def test_config_written_is_read_back_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "worker.json"
    path.write_bytes(encode_config(config()))
    assert read_config(path) == config()
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"worker\.json"):
        read_config(path)


def test_config_quantized_cache_without_flash_attention_is_refused() -> None:
    with pytest.raises(UsageError, match="needs flash attention"):
        config(kv_cache_type="q8_0")
    assert config(kv_cache_type="q8_0", flash_attention=True).kv_cache_type == "q8_0"


def test_context_length_comes_from_the_model_where_it_is_not_set(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    unset = config(folder=str(tmp_path), context_length=0)
    for content, problem in (("{}", "not known"), ("{", "not known"), ('{"max_position_embeddings": -1}', "is -1")):
        path.write_text(content)
        with pytest.raises(CheckpointError, match=problem):
            context_length(unset)
    path.write_text(json.dumps({"max_position_embeddings": 77}))
    assert (context_length(unset), context_length(config())) == (77, 512)


@pytest.mark.parametrize(
    ("words", "version"),
    [
        ("version: 0.5.0-dev (build 0, commit llama-cpp-python-0.3.36)", "llama-cpp-python-0.3.36 (0.5.0-dev)"),
        ("version: 7000", "7000"),
    ],
)
def test_version_is_what_the_program_says(tmp_path: Path, words: str, version: str) -> None:
    program = script(tmp_path / "llama-server", f"echo noise; echo '{words}' >&2; echo 'built with GNU'")
    assert program_version(program) == version
    assert LlamacppAdapter().target(config(program=program, engine_version="")).engine_version == version


@pytest.mark.parametrize("content", ["exit 1", "echo hello"])
def test_version_of_something_else_is_an_engine_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(EngineError, match="told no version"):
        program_version(script(tmp_path / "llama-server", content))


def test_version_without_the_program_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="does not start") as caught:
        LlamacppAdapter().version()
    assert "toolchain install gguf" in str(caught.value.hint)
