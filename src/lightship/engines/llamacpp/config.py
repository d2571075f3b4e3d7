"""Settings of one llama-server, as a JSON file that names everything the worker will do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from lightship.engines.base import WorkerConfig
from lightship.errors import CheckpointError, UsageError

KvCacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[int, msgspec.Meta(ge=0)]

MODEL_NAME = "model.gguf"
_UNQUANTIZED = frozenset({"f32", "f16", "bf16"})


class LlamacppWorkerConfig(WorkerConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one llama-server.

    It has no limits for bodies and waiting requests; what stands before it (the gateway) keeps those.

    Args:
        folder: `model.gguf` and `config.json`.
        program: Path of `llama-server`.
        engine_version: What measurements call its version; "" asks the program.
        num_threads: Threads for inference; 0 is one per core that this process may use.
        flash_attention: Whether attention is computed in one fused pass. On CPUs it is often slower in a crowd.
        context_length: Tokens of prompt and output together of each sequence; 0 takes it from `config.json`.
        max_sequences: Sequences that run at the same time; each has its own part of the KV cache.
        kv_cache_type: Type of stored keys and values; a quantized one needs flash attention.
        max_batched_tokens: Tokens of one batch of prompts.
        max_step_tokens: Tokens computed in one pass; a batch is split into such passes.
        prompt_cache_bytes: Memory for KV caches of earlier prompts that no sequence holds any more.
        busy_waiting: Whether its threads wait for each other by spinning. That can be faster where nothing else runs;
            where the cores are shared, each wait takes a time slice of whoever has the core.
        sleep_after_s: Time without a request after which the model's memory is freed until the next one, which waits
            for it to be loaded again; 0 never. Probes of health and metrics do not count as requests.
    """

    program: str
    engine_version: str = ""
    num_threads: NonNegative = 0
    flash_attention: bool = False
    context_length: NonNegative = 0
    max_sequences: Positive = 32
    kv_cache_type: KvCacheType = "f16"
    max_batched_tokens: Positive = 2048
    max_step_tokens: Positive = 512
    prompt_cache_bytes: NonNegative = 256 * 2**20
    busy_waiting: bool = False
    sleep_after_s: NonNegative = 0

    def __post_init__(self) -> None:
        if self.kv_cache_type not in _UNQUANTIZED and not self.flash_attention:
            raise UsageError(
                f"a KV cache of type {self.kv_cache_type} needs flash attention in llama.cpp",
                where="llamacpp",
                hint="Turn flash_attention on, or take f16.",
            )


def context_length(config: LlamacppWorkerConfig) -> int:
    """Tokens of one sequence: as set, else as the model's `config.json` says.

    Raises: CheckpointError: it is not set, and the file does not say it.
    """
    if config.context_length:
        return config.context_length
    path = Path(config.folder) / "config.json"
    try:
        found = json.loads(path.read_bytes())["max_position_embeddings"]
        if type(found) is int and found > 0:
            return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the model's context length is not known: {error!r}", where=str(path)) from error
    raise CheckpointError(f"`max_position_embeddings` is {found!r}", where=str(path))


def encode_config(config: LlamacppWorkerConfig) -> bytes:
    """The config as JSON for people and for `read_config`."""
    return msgspec.json.format(msgspec.json.encode(config), indent=2)


def read_config(path: Path) -> LlamacppWorkerConfig:
    """The settings in a file.

    Raises: UsageError: it cannot be read, or a field is missing, unknown or out of range.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=LlamacppWorkerConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"not a worker config: {error}", where=str(path)) from error
