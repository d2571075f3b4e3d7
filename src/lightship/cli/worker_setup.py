"""Which engine serves a variant, and with which settings: the one place that knows all engines.

The format of a variant's weights says the engine: an OpenVINO network runs on `openvino`, a checkpoint on `vllm`, a
GGUF file on `llamacpp`. The latter two live in toolchains, which are installed when a worker is first started.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from lightship.cli.prepare import Surroundings
from lightship.cli.worker_settings import llamacpp_settings, openvino_settings, vllm_settings
from lightship.compression.toolchains.definitions import GGUF, VLLM, Toolchain
from lightship.engines.base import EngineAdapter, WorkerConfig
from lightship.engines.llamacpp.adapter import LlamacppAdapter
from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.process import WorkerProcess
from lightship.engines.vllm.adapter import VllmAdapter
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.prefix_scoring import PrefixScoringEndpoint
from lightship.evaluation.scoring_endpoint import ScoringEndpoint
from lightship.gateway.config import ReplicaConfig
from lightship.ports.measurements import Target
from lightship.ports.variants import Variant, WeightFormat
from lightship.spec.document import Spec


@dataclass(frozen=True)
class WorkerSetup:
    """A variant's engine and the settings of a worker for it; `toolchain` holds the engine, None where it is here."""

    adapter: EngineAdapter[Any]
    settings: WorkerConfig
    toolchain: Toolchain | None

    @property
    def target(self) -> Target:
        """The target such a worker is on this machine."""
        return self.adapter.target(self.settings)

    def install(self, around: Surroundings) -> None:
        """Effects: installs the engine's toolchain if it is not there. Raises: ToolchainError, StorageFullError."""
        if self.toolchain is not None:
            around.toolchains.ensure(self.toolchain, around.progress)

    def process(
        self, name: str, *, config_path: Path, log_path: Path, cores: frozenset[int] | None = None
    ) -> WorkerProcess:
        """An unstarted worker process, on these cores or all. Effects: writes its configuration."""
        config_path.parent.mkdir(parents=True, exist_ok=True)
        self.adapter.write_config(self.settings, config_path)
        return WorkerProcess(
            name=name,
            command=self.adapter.worker_command(config_path),
            base_url=self.settings.address,
            log_path=log_path,
            environment=self.adapter.environment(self.settings),
            ready_path=self.adapter.ready_path,
            cores=cores,
        )


def worker_setup(spec: Spec, variant: Variant, around: Surroundings, *, port: int = 0) -> WorkerSetup:
    """The setup of a worker that serves `variant` as the spec's engine sections say.

    Raises:
        SpecError: what they ask for cannot work with this model on this machine.
        CheckpointError: an adapter cannot be served.
    """
    match variant.manifest.weight_format:
        case WeightFormat.OPENVINO_IR:
            return WorkerSetup(OpenVinoAdapter(), openvino_settings(spec, variant, port=port), None)
        case WeightFormat.SAFETENSORS:
            return _vllm_setup(spec, variant, around, port=port)
        case WeightFormat.GGUF:
            program = around.toolchains.program(GGUF, "llama-server")
            return WorkerSetup(LlamacppAdapter(), llamacpp_settings(spec, variant, port=port, program=program), GGUF)


def _vllm_setup(spec: Spec, variant: Variant, around: Surroundings, *, port: int) -> WorkerSetup:
    settings = vllm_settings(spec, variant, port=port, python=around.toolchains.python(VLLM))
    adapter = VllmAdapter()
    adapter.check(settings)
    is_own = spec.engines.vllm is not None and spec.engines.vllm.python is not None
    return WorkerSetup(adapter, settings, None if is_own else VLLM)


def adapter_replicas(spec: Spec, replica: ReplicaConfig) -> list[ReplicaConfig]:
    """One more replica for each LoRA adapter of a worker: the same process, under the adapter's model name.

    They share the worker's device, so that its load is one, and they have a ladder of one rung of their own.

    Args:
        spec: Whose `engines.vllm.lora` names them.
        replica: A worker of the engine `vllm`.
    """
    adapters = spec.engines.vllm.lora if spec.engines.vllm is not None else {}
    return [
        msgspec.structs.replace(
            replica,
            name=f"{replica.name}/{name}",
            model_name=name,
            served_model=name,
            rung=0,
            # not the variant's: another model answers
            variant_name=f"{replica.variant_name}+{name}",
            variant_digest="",
            device=replica.device or replica.name,
        )
        for name in adapters
    ]


def scoring_endpoint(engine: str, base_url: str, *, model: str, session: aiohttp.ClientSession) -> ScoringEndpoint:
    """What scores prompts on a worker of this engine."""
    if engine == "llamacpp":  # it does not return the log-probabilities of a prompt, only those of what follows it
        return PrefixScoringEndpoint(base_url, model=model, session=session)
    return CompletionEndpoint(base_url, model=model, session=session)
