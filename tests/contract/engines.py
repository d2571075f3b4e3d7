"""Real workers of every engine, for the contract and for tests of their own: started, asked, stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from lightship.artifacts.checkpoint import inspect_checkpoint
from lightship.artifacts.home import artifact_root, data_home
from lightship.artifacts.sources.builtin import builtin_checkpoint
from lightship.artifacts.store import ArtifactStore
from lightship.compression.build import BuildContext, build_variant
from lightship.compression.calibration import builtin_calibration, write_text_file
from lightship.compression.recipes import PRESETS
from lightship.compression.toolchains.definitions import GGUF, VLLM
from lightship.compression.toolchains.environment import ToolchainFolder
from lightship.engines.base import EngineAdapter, EngineFeature, WorkerConfig
from lightship.engines.llamacpp.adapter import LlamacppAdapter
from lightship.engines.llamacpp.config import LlamacppWorkerConfig
from lightship.engines.memory import group_members
from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.engines.process import WorkerProcess, free_port
from lightship.engines.simulated.adapter import SimulatedAdapter
from lightship.engines.simulated.config import SimulatedWorkerConfig
from lightship.engines.vllm.adapter import VllmAdapter
from lightship.engines.vllm.config import VllmWorkerConfig
from lightship.gateway.config import GatewayConfig, ReplicaConfig, encode_config
from lightship.ports.clock import SystemClock
from lightship.ports.engine_profile import EngineLimits, EngineProfile, ProfileOrigin, ProfileSource, StepCosts
from lightship.ports.progress import SilentProgress
from lightship.testing.engine_contract.subject import EngineUnderTest

MODEL = "tiny"
ADAPTER = "tiny-pirate"
STARTUP_TIMEOUT_S = 300.0
_COMMON: dict[str, Any] = {"model_name": MODEL, "variant_name": "v", "variant_digest": "sha256:" + "ab" * 32}
_RANK = 4
_LOG_TAIL_CHARS = 16_000


@dataclass
class RunningEngine:
    """A running process, the loop its object lives on, and the engine as the contract sees it."""

    under_test: EngineUnderTest
    process: WorkerProcess
    loop: asyncio.AbstractEventLoop

    def terminate(self) -> None:
        """SIGTERM, to the process alone."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGTERM)

    def end_parent(self) -> None:
        """What the system does when the process that started it dies."""
        assert self.process._process is not None
        assert self.process._process.stdin is not None
        self.process._process.stdin.close()

    def log_tail(self) -> str:
        """The end of what it wrote, long enough for a traceback through an engine."""
        return self.process.log_path.read_text("utf-8", errors="replace")[-_LOG_TAIL_CHARS:]

    def is_gone(self) -> bool:
        """Whether the process and all its helpers have ended."""
        assert self.process.pid is not None
        self.loop.run_until_complete(asyncio.sleep(0.01))  # its end is noticed here
        return self.process.returncode is not None and not group_members(self.process.pid)


@contextmanager
def running(
    name: str, command: list[str], under_test: EngineUnderTest, folder: Path, *, ready_path: str, environment: Any
) -> Iterator[RunningEngine]:
    """The process while the block runs."""
    process = WorkerProcess(
        name=name,
        command=command,
        base_url=under_test.base_url,
        log_path=folder / f"{name}.log",
        environment=environment,
        ready_path=ready_path,
    )
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(process.start(startup_timeout_s=STARTUP_TIMEOUT_S))
        yield RunningEngine(under_test, process, loop)
    finally:
        loop.run_until_complete(process.stop(drain_timeout_s=5.0))
        loop.close()


def worker(adapter: EngineAdapter[Any], config: WorkerConfig, folder: Path, *, adapters: tuple[str, ...] = ()) -> Any:
    """A worker of an engine, as `running`."""
    path = folder / f"worker-{config.port}.json"
    adapter.write_config(config, path)
    features = adapter.features - (frozenset() if adapters else {EngineFeature.LORA})
    under_test = EngineUnderTest(
        base_url=config.address, model=MODEL, features=features, quirks=adapter.quirks, adapters=adapters
    )
    return running(
        adapter.name,
        adapter.worker_command(path),
        under_test,
        folder,
        ready_path=adapter.ready_path,
        environment=adapter.environment(config),
    )


def simulated(folder: Path) -> Any:
    """The simulated engine, as fast as a small model."""
    profile = EngineProfile(
        name="test",
        costs=StepCosts(step_s=0.005, prefill_token_s=1e-6, decode_token_s=1e-6),
        limits=EngineLimits(max_batched_tokens=2048, kv_block_tokens=16, context_length=1024),
        source=ProfileSource(origin=ProfileOrigin.ASSUMED, description="test"),
    )
    return worker(SimulatedAdapter(), SimulatedWorkerConfig(**_COMMON, port=free_port(), profile=profile), folder)


def openvino(folder: Path, builtin_ir: Path) -> Any:
    """OpenVINO with the built-in model in 32 bits."""
    config = OpenVinoWorkerConfig(
        **_COMMON,
        folder=str(builtin_ir),
        port=free_port(),
        precision="f32",
        kv_cache_precision="f32",
        kv_cache_bytes=2**28,
    )
    return worker(OpenVinoAdapter(), config, folder)


def llamacpp(folder: Path) -> Any:
    """llama-server with the built-in model in 16 bits, converted by the toolchain."""
    toolchains = ToolchainFolder(toolchain_root())
    toolchains.ensure(GGUF, SilentProgress())
    context = BuildContext(
        store=ArtifactStore(artifact_root(folder), SystemClock()),
        toolchains=toolchains,
        logs=folder / "logs",
        work=folder / "work",
        students={},
        calibration=write_text_file(builtin_calibration(), folder / "texts"),
        progress=SilentProgress(),
    )
    checkpoint = inspect_checkpoint(builtin_checkpoint("fairytales"))
    variant = build_variant(PRESETS["gguf-bf16"], checkpoint, context, model_name=MODEL)
    config = LlamacppWorkerConfig(
        **_COMMON,
        folder=str(variant.folder),
        port=free_port(),
        program=str(toolchains.program(GGUF, "llama-server")),
        max_sequences=16,
    )
    return worker(LlamacppAdapter(), config, folder)


def vllm(folder: Path) -> Any:
    """vLLM for CPUs with the built-in model in 32 bits and one adapter of random numbers."""
    config = VllmWorkerConfig(
        **_COMMON,
        folder=str(builtin_checkpoint("fairytales")),
        port=free_port(),
        python=str(ToolchainFolder(toolchain_root()).ensure(VLLM, SilentProgress()).python),
        dtype="float32",
        kv_cache_bytes=2**27,
        enforce_eager=True,
        lora={ADAPTER: str(random_adapter(folder / "adapter", builtin_checkpoint("fairytales")))},
    )
    return worker(VllmAdapter(), config, folder, adapters=(ADAPTER,))


@contextmanager
def remote(folder: Path) -> Iterator[RunningEngine]:
    """A gateway in front of a simulated worker: all that `RemoteEngine` does lies between."""
    with simulated(folder) as behind:
        port = free_port()
        replica = ReplicaConfig(
            name="r", base_url=behind.under_test.base_url, model_name=MODEL, variant_name="v", variant_digest=""
        )
        config = GatewayConfig(model_name=MODEL, port=port, replicas=(replica,))
        path = folder / "gateway.json"
        path.write_bytes(encode_config(config))
        # the gateway has no such paths, and says by other headers what was served
        features = behind.under_test.features - {EngineFeature.TOKENIZE, EngineFeature.DRAIN_ENDPOINT}
        under_test = EngineUnderTest(base_url=f"http://127.0.0.1:{port}", model=MODEL, features=features)
        command = [sys.executable, "-m", "lightship.gateway", str(path), "--exit-with-parent"]
        with running("gateway", command, under_test, folder, ready_path="/health/ready", environment={}) as gateway:
            yield gateway


def toolchain_root() -> Path:
    """Folder of toolchains that outlives the test run, as in tests/toolchain."""
    named = os.environ.get("LIGHTSHIP_TEST_TOOLCHAINS")
    return Path(named) if named else data_home(os.environ) / "toolchains"


def random_adapter(folder: Path, checkpoint: Path) -> Path:
    """A LoRA adapter of the model's query and value matrices that changes what it says."""
    config = json.loads((checkpoint / "config.json").read_bytes())
    hidden, num_layers = config["hidden_size"], config["num_hidden_layers"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    outputs = {
        "q_proj": head_dim * config["num_attention_heads"],
        "v_proj": head_dim * config["num_key_value_heads"],
    }
    generator = np.random.default_rng(0)
    tensors = {}
    for layer in range(num_layers):
        for module, num_outputs in outputs.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = generator.normal(0, 0.5, (_RANK, hidden)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = generator.normal(0, 0.5, (num_outputs, _RANK)).astype(np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": _RANK, "lora_alpha": _RANK, "target_modules": sorted(outputs), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder
