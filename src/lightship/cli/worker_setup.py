"""Which engine serves a variant, and with which settings: the one place that knows all engines.

The format of a variant's weights says the engine: an OpenVINO network runs on `openvino`, a checkpoint on `vllm`, a
GGUF file on `llamacpp`. The latter two live in toolchains, which are installed when a worker is first started.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

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
    """The setup of a worker that serves `variant` as the spec's engine sections say."""
    match variant.manifest.weight_format:
        case WeightFormat.OPENVINO_IR:
            return WorkerSetup(OpenVinoAdapter(), openvino_settings(spec, variant, port=port), None)
        case WeightFormat.SAFETENSORS:
            python = around.toolchains.python(VLLM)
            return WorkerSetup(VllmAdapter(), vllm_settings(spec, variant, port=port, python=python), VLLM)
        case WeightFormat.GGUF:
            program = around.toolchains.program(GGUF, "llama-server")
            return WorkerSetup(LlamacppAdapter(), llamacpp_settings(spec, variant, port=port, program=program), GGUF)


def scoring_endpoint(engine: str, base_url: str, *, model: str, session: aiohttp.ClientSession) -> ScoringEndpoint:
    """What scores prompts on a worker of this engine."""
    if engine == "llamacpp":  # it does not return the log-probabilities of a prompt, only those of what follows it
        return PrefixScoringEndpoint(base_url, model=model, session=session)
    return CompletionEndpoint(base_url, model=model, session=session)
