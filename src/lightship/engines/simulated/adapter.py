"""The engine `simulated`, described: version, target, features and the command that starts a worker."""

from __future__ import annotations

import sys
from pathlib import Path

from lightship import __version__
from lightship.artifacts.machine import this_machine
from lightship.engines.base import EngineFeature, EngineQuirk
from lightship.engines.simulated.config import SimulatedWorkerConfig, encode_config
from lightship.ports.measurements import Target


class SimulatedAdapter:
    """Describes the engine; starts nothing."""

    name = "simulated"
    ready_path = "/health/ready"
    features = frozenset(
        {
            EngineFeature.COMPLETIONS,
            EngineFeature.CHAT,
            EngineFeature.SEED,
            EngineFeature.MANY_CHOICES,
            EngineFeature.TOKENIZE,
            EngineFeature.CACHED_TOKENS,
            EngineFeature.RUNNING_USAGE,
            EngineFeature.NAMED_PARAMETERS,
            EngineFeature.VARIANT_HEADER,
            EngineFeature.DRAIN_ENDPOINT,
        }
    )
    quirks: frozenset[EngineQuirk] = frozenset()

    def version(self) -> str:
        """Version of Lightship: the engine is part of it."""
        return __version__

    def target(self, settings: SimulatedWorkerConfig) -> Target:
        """The target of a worker with these settings.

        It names the profile by its digest, so that no figure of a simulation can be taken for one of an engine, nor
        for one of another profile.
        """
        return Target(
            engine=self.name,
            engine_version=self.version(),
            device="simulated",
            instruction_set=this_machine().instruction_set,
            num_threads=1,
            settings={
                "profile": settings.profile.name,
                "profile_digest": settings.profile.digest,
                "max_waiting_requests": settings.max_waiting_requests,
                "mean_answer_tokens": settings.mean_answer_tokens,
            },
        )

    def write_config(self, settings: SimulatedWorkerConfig, path: Path) -> None:
        """Effects: writes the worker's config file."""
        path.write_bytes(encode_config(settings))

    def worker_command(self, config_path: Path) -> list[str]:
        """The command of a worker that ends with the process that holds its standard input."""
        return [sys.executable, "-m", "lightship.engines.simulated", str(config_path), "--exit-with-parent"]

    def environment(self, settings: SimulatedWorkerConfig) -> dict[str, str]:
        """None."""
        del settings
        return {}
