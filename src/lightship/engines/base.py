"""What Lightship asks of a program that serves variants, before any of it runs.

An engine adapter describes: what the engine can do, on what target it would run, and which command starts a worker.
It starts nothing itself (see `process.WorkerProcess`) and holds no model.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from lightship.ports.measurements import Target


class EngineFeature(StrEnum):
    """Something a client may ask for that not every engine can give."""

    COMPLETIONS = "completions"
    CHAT = "chat"
    LOGPROBS = "logprobs"
    TOP_LOGPROBS = "top_logprobs"
    PROMPT_LOGPROBS = "prompt_logprobs"
    SEED = "seed"
    MANY_CHOICES = "n"
    STRUCTURED_OUTPUT = "structured_output"
    TOOLS = "tools"
    EMBEDDINGS = "embeddings"


class WorkerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every worker needs to know, whatever its engine; written as JSON, read once at start.

    `variant_digest` is sent with every answer. `max_waiting_requests` bounds the queue behind the running requests.
    """

    model_name: str
    variant_name: str
    variant_digest: str
    folder: str
    host: str = "127.0.0.1"
    port: int = 0
    body_limit_bytes: int = 8 * 2**20
    request_timeout_s: float = 600.0
    drain_timeout_s: float = 30.0
    max_waiting_requests: int = 256

    @property
    def address(self) -> str:
        """Base URL of the worker."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


ConfigT_contra = TypeVar("ConfigT_contra", bound=WorkerConfig, contravariant=True)


class EngineAdapter(Protocol[ConfigT_contra]):
    """One engine, described."""

    @property
    def name(self) -> str:
        """Name used in specs and measurements."""
        ...

    @property
    def ready_path(self) -> str:
        """Path that its workers answer with status 200 once they can serve."""
        ...

    @property
    def features(self) -> frozenset[EngineFeature]:
        """What its workers can do."""
        ...

    def version(self) -> str:
        """Version of the engine that is installed here.

        Raises: EngineError: it is not installed.
        """
        ...

    def target(self, settings: ConfigT_contra) -> Target:
        """The target a worker with these settings would be on this machine."""
        ...

    def write_config(self, settings: ConfigT_contra, path: Path) -> None:
        """Effects: writes the file that `worker_command` names."""
        ...

    def worker_command(self, config_path: Path) -> list[str]:
        """The command that starts one worker, which ends when its standard input does."""
        ...

    def environment(self, settings: ConfigT_contra) -> dict[str, str]:
        """Variables that the worker needs besides those of this process."""
        ...
