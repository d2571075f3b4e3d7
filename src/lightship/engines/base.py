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
    TOKENIZE = "tokenize"  # `/tokenize` and `/detokenize`, as vLLM has them
    CACHED_TOKENS = "cached_tokens"  # usage tells how much of a prompt was found in the prefix cache
    RUNNING_USAGE = "running_usage"  # `stream_options.continuous_usage_stats`
    NAMED_PARAMETERS = "named_parameters"  # a refusal names the parameter that is wrong
    LORA = "lora"  # adapters, each under a model name of its own
    VARIANT_HEADER = "variant_header"  # answers say the digest of the variant
    DRAIN_ENDPOINT = "drain_endpoint"  # `POST /drain`, after which `/health/ready` is 503


class EngineQuirk(StrEnum):
    """Where an engine does something else than the API it speaks asks for.

    Each is checked like a feature (`testing.engine_contract`): one that an engine no longer has fails there, too.
    """

    IGNORES_UNKNOWN_FIELDS = "ignores_unknown_fields"  # a parameter nobody knows is no error
    LENIENT_VALUES = "lenient_values"  # values that make no sense (top_p: 7) are taken for others
    ANY_MODEL_NAME = "any_model_name"  # a model that it does not have is answered by the one it has
    CUTS_LONG_OUTPUTS = "cuts_long_outputs"  # max_tokens beyond the context is taken for what is left of it
    CHAT_SHAPED_LOGPROBS = "chat_shaped_logprobs"  # log-probabilities of completions come as those of chats
    USAGE_OF_ONE_CHOICE = "usage_of_one_choice"  # of several choices or prompts, usage counts one
    USAGE_WITH_LAST_TEXT = "usage_with_last_text"  # streamed completions tell usage in their last piece, asked or not
    PLAIN_ERRORS = "plain_errors"  # unknown paths and unreadable bodies get no OpenAI error object
    CLIENT_ERRORS_AS_500 = "client_errors_as_500"  # some bodies that make no sense are called the server's fault
    SERVES_WHILE_DRAINING = "serves_while_draining"  # takes new requests until those under way have ended


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

    @property
    def quirks(self) -> frozenset[EngineQuirk]:
        """Where its workers do something else than the API asks for."""
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
