"""The engine `openvino`, described: version, target, features and the command that starts a worker."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lightship.artifacts.machine import this_machine
from lightship.engines.base import EngineFeature, EngineQuirk
from lightship.engines.openvino.config import OpenVinoWorkerConfig, encode_config
from lightship.engines.openvino.runtime import installed_version
from lightship.ports.measurements import Target


class OpenVinoAdapter:
    """Describes the engine; starts nothing."""

    name = "openvino"
    ready_path = "/health/ready"
    features = frozenset(
        {
            EngineFeature.COMPLETIONS,
            EngineFeature.CHAT,
            EngineFeature.LOGPROBS,
            EngineFeature.TOP_LOGPROBS,
            EngineFeature.PROMPT_LOGPROBS,
            EngineFeature.SEED,
            EngineFeature.MANY_CHOICES,
            EngineFeature.TOKENIZE,
            EngineFeature.RUNNING_USAGE,
            EngineFeature.NAMED_PARAMETERS,
            EngineFeature.VARIANT_HEADER,
            EngineFeature.DRAIN_ENDPOINT,
        }
    )
    quirks: frozenset[EngineQuirk] = frozenset()

    def version(self) -> str:
        """Version of OpenVINO GenAI. Raises: EngineError: it is not installed."""
        return installed_version()

    def target(self, settings: OpenVinoWorkerConfig) -> Target:
        """The target of a worker with these settings on this machine.

        A group size that is left to the device is not named, so that figures from before it was a setting still count.
        """
        group_size = settings.dynamic_quantization_group_size
        return Target(
            engine=self.name,
            engine_version=self.version(),
            device=settings.device,
            instruction_set=this_machine().instruction_set,
            num_threads=settings.num_threads or len(os.sched_getaffinity(0)),
            settings={
                "precision": settings.precision,
                "kv_cache_precision": settings.kv_cache_precision,
                "kv_cache_bytes": settings.kv_cache_bytes,
                "max_batched_tokens": settings.max_batched_tokens,
                "max_sequences": settings.max_sequences,
                "prefix_caching": settings.prefix_caching,
                **({} if group_size is None else {"dynamic_quantization_group_size": group_size}),
            },
        )

    def write_config(self, settings: OpenVinoWorkerConfig, path: Path) -> None:
        """Effects: writes the worker's config file."""
        path.write_bytes(encode_config(settings))

    def worker_command(self, config_path: Path) -> list[str]:
        """The command of a worker that ends with the process that holds its standard input."""
        return [sys.executable, "-m", "lightship.engines.openvino", str(config_path), "--exit-with-parent"]

    def environment(self, settings: OpenVinoWorkerConfig) -> dict[str, str]:
        """None."""
        del settings
        return {}
