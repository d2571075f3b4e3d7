"""A real vLLM beyond one process and one model: split experts, and adapters through an attached gateway."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.contract.engines import ADAPTER, MODEL, RunningEngine, running, vllm, worker

from lightship.artifacts.checkpoint import inspect_checkpoint
from lightship.artifacts.home import artifact_root
from lightship.artifacts.sources.builtin import builtin_checkpoint
from lightship.artifacts.store import ArtifactStore
from lightship.compression.build import BuildContext, build_variant
from lightship.compression.calibration import builtin_calibration, write_text_file
from lightship.compression.recipes import PRESETS
from lightship.compression.toolchains.environment import ToolchainFolder
from lightship.engines.memory import group_members
from lightship.engines.process import free_port
from lightship.engines.vllm.adapter import VllmAdapter
from lightship.engines.vllm.config import VllmWorkerConfig
from lightship.errors import SpecError
from lightship.ports.clock import SystemClock
from lightship.ports.progress import SilentProgress
from lightship.testing.engine_contract.subject import EngineUnderTest

pytestmark = pytest.mark.toolchain


@pytest.fixture(scope="module")
def attached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """`lightship gateway` in front of a vLLM with an adapter, told nothing about it."""
    folder = tmp_path_factory.mktemp("attached")
    with vllm(folder) as behind:
        port = free_port()
        command = [sys.executable, "-m", "lightship", "gateway", f"{behind.under_test.base_url}#*"]
        command += ["--listen", f"127.0.0.1:{port}", "--file", str(empty_spec(folder))]
        under_test = EngineUnderTest(base_url=f"http://127.0.0.1:{port}", model=MODEL, features=frozenset())
        environment = {"LIGHTSHIP_HOME": str(folder / "home")}
        with running(
            "gateway", command, under_test, folder, ready_path="/health/ready", environment=environment
        ) as one:
            yield one


def empty_spec(folder: Path) -> Path:
    path = folder / "lightship.yaml"
    path.write_text("# nothing\n")
    return path


def test_attached_gateway_serves_model_and_adapter_under_their_names(attached: RunningEngine) -> None:
    asked = attached.under_test
    listed = {one["id"] for one in asked.ask("GET", "/v1/models").document["data"]}
    assert {MODEL, ADAPTER} <= listed
    fields: dict[str, Any] = {"max_tokens": 24, "temperature": 0, "ignore_eos": True}
    base, adapted = asked.complete(**fields), asked.complete(**{**fields, "model": ADAPTER})
    assert (base["model"], adapted["model"]) == (MODEL, ADAPTER)
    assert base["choices"][0]["text"] != adapted["choices"][0]["text"]


def test_attached_gateway_reads_the_load_of_vllm(attached: RunningEngine) -> None:
    with attached.under_test.streaming("/v1/completions", max_tokens=400, ignore_eos=True) as events:
        next(events)
        assert attached.under_test.num_requests() >= 1


@pytest.fixture(scope="module")
def experts(toolchain_root: Path, train_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model's feed-forward layers copied into experts."""
    del train_python  # it is installed now
    home = tmp_path_factory.mktemp("home")
    context = BuildContext(
        store=ArtifactStore(artifact_root(home), SystemClock()),
        toolchains=ToolchainFolder(toolchain_root),
        logs=home / "logs",
        work=home / "work",
        students={},
        calibration=write_text_file(builtin_calibration(), home / "texts"),
        progress=SilentProgress(),
    )
    checkpoint = inspect_checkpoint(builtin_checkpoint("fairytales"))
    return build_variant(PRESETS["upcycle-moe"], checkpoint, context, model_name=MODEL).folder


def test_experts_split_between_processes_say_what_one_process_says(
    experts: Path, vllm_python: Path, tmp_path: Path
) -> None:
    texts = {}
    for num_parts in (1, 2):
        config = VllmWorkerConfig(
            model_name=MODEL,
            variant_name="v",
            variant_digest="sha256:1",
            folder=str(experts),
            port=free_port(),
            python=str(vllm_python),
            dtype="float32",
            kv_cache_bytes=2**27,
            enforce_eager=True,
            tensor_parallel_size=num_parts,
        )
        folder = tmp_path / str(num_parts)
        folder.mkdir()
        with worker(VllmAdapter(), config, folder) as one:
            assert one.process.pid is not None
            # tether, HTTP server, engine core, one worker per part
            assert len(group_members(one.process.pid)) >= 3 + num_parts
            texts[num_parts] = one.under_test.text(max_tokens=24, temperature=0, ignore_eos=True)
        whole = msgspec.structs.replace(config, tensor_parallel_size=2, expert_parallel=True)
        with pytest.raises(SpecError, match="expect all of them in each process"):
            VllmAdapter().check(whole)
    assert texts[1] == texts[2]
