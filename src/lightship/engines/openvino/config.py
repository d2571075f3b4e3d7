"""Settings of one OpenVINO worker, as a JSON file that names everything the worker will do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from lightship.engines.base import WorkerConfig
from lightship.errors import UsageError

Precision = Literal["auto", "f32", "bf16", "f16"]
KvCachePrecision = Literal["auto", "f32", "bf16", "f16", "u8"]
Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[int, msgspec.Meta(ge=0)]

GIB = 2**30


class OpenVinoWorkerConfig(WorkerConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one OpenVINO worker.

    Args:
        folder: OpenVINO IR with tokenizer and detokenizer IRs and `config.json`.
        device: OpenVINO device name, for example `CPU` or `GPU`.
        num_threads: Inference threads; 0 leaves the choice to OpenVINO.
        precision: Arithmetic of the model; `auto` is the device's default.
        kv_cache_precision: Type of the KV cache; `auto` is the device's default.
        dynamic_quantization_group_size: Inputs of compressed weights that are quantized to 8 bits by one scale while
            the model runs; 0 computes with 16-bit inputs, None is the device's default. OpenVINO treats a size that
            does not fit a matrix (its inputs, or the groups of its weights) like 0.
        kv_cache_bytes: Memory of the KV cache, shared by all requests and the prefix cache.
        max_batched_tokens: Tokens per step; longer prompts are split over steps.
        max_sequences: Sequences that run at the same time.
        prefix_caching: Whether KV blocks are kept for prompts that begin alike.
        context_length: Tokens of prompt and output together; 0 takes it from `config.json`.
    """

    device: str = "CPU"
    num_threads: NonNegative = 0
    precision: Precision = "auto"
    kv_cache_precision: KvCachePrecision = "auto"
    dynamic_quantization_group_size: NonNegative | None = None
    kv_cache_bytes: Annotated[int, msgspec.Meta(ge=2**20)] = GIB
    max_batched_tokens: Positive = 2048
    max_sequences: Positive = 256
    prefix_caching: bool = True
    context_length: NonNegative = 0


def encode_config(config: OpenVinoWorkerConfig) -> bytes:
    """The config as JSON for people and for `read_config`."""
    return msgspec.json.format(msgspec.json.encode(config), indent=2)


def read_config(path: Path) -> OpenVinoWorkerConfig:
    """The settings in a file.

    Raises: UsageError: it cannot be read, or a field is missing, unknown or out of range.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=OpenVinoWorkerConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"not a worker config: {error}", where=str(path)) from error
