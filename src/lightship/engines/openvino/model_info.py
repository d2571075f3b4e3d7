"""What a variant's `config.json` says that a worker must know before it loads the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.errors import CheckpointError

KV_BLOCK_TOKENS = 32
"""Tokens per KV block on CPU; GPUs use 16, which makes the count of blocks below conservative there."""

REQUIRED_FILES = (
    "config.json",
    "openvino_model.xml",
    "openvino_model.bin",
    "openvino_tokenizer.xml",
    "openvino_detokenizer.xml",
)

_BYTES_PER_ELEMENT = {"auto": 2, "f32": 4, "bf16": 2, "f16": 2, "u8": 1}
_QUANTIZATION_BYTES = 8  # one scale with its zero point: two f32


class ModelInfo(msgspec.Struct, frozen=True):
    """Sizes of one model. `context_length` is what this worker serves: never more than the KV cache holds."""

    context_length: int
    vocab_size: int
    num_kv_blocks: int


def read_model_info(config: OpenVinoWorkerConfig) -> ModelInfo:
    """The sizes of the model in `config.folder` under `config.kv_cache_bytes`.

    Raises: CheckpointError: a file is missing or says nothing usable.
    """
    folder = Path(config.folder)
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"not an OpenVINO model: {', '.join(missing)} missing",
            where=str(folder),
            hint="Convert the checkpoint, or point to a folder that has these files.",
        )
    path = folder / "config.json"
    try:
        document = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        text = {**document, **document.get("text_config", {})}
        num_heads = int(text["num_attention_heads"])
        bytes_per_token = kv_cache_bytes_per_token(
            num_layers=int(text["num_hidden_layers"]),
            num_kv_heads=int(text.get("num_key_value_heads") or num_heads),
            head_dim=int(text.get("head_dim") or text["hidden_size"] // num_heads),
            precision=config.kv_cache_precision,
        )
        model_context = int(text["max_position_embeddings"])
        vocab_size = int(text["vocab_size"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"cannot tell the model's sizes: {error!r}", where=str(path)) from error
    num_kv_blocks = max(2, config.kv_cache_bytes // (bytes_per_token * KV_BLOCK_TOKENS))
    wanted = min(config.context_length or model_context, model_context)
    # one block stays free: a sequence that fills the cache to the last slot would be dropped when it needs the next
    context_length = min(wanted, (num_kv_blocks - 1) * KV_BLOCK_TOKENS)
    return ModelInfo(context_length=context_length, vocab_size=vocab_size, num_kv_blocks=num_kv_blocks)


def kv_cache_bytes_per_token(*, num_layers: int, num_kv_heads: int, head_dim: int, precision: str) -> int:
    """Memory one token adds to the KV cache, in bytes, never too low; `auto` is 16 bits in GenAI.

    With u8, values have a scale for each token and head; keys too on ARM, while on x86 they have one for each channel
    of a block, spread over its tokens here. The larger of the two counts.

    Source: openvinotoolkit/openvino pull requests 23908 (per token) and 29023 (per channel).

    >>> kv_cache_bytes_per_token(num_layers=2, num_kv_heads=4, head_dim=16, precision="f32")
    1024
    >>> kv_cache_bytes_per_token(num_layers=8, num_kv_heads=2, head_dim=64, precision="u8")
    2432
    """
    elements_bytes = 2 * head_dim * _BYTES_PER_ELEMENT[precision]
    if precision == "u8":
        per_channel_bytes = math.ceil(head_dim * _QUANTIZATION_BYTES / KV_BLOCK_TOKENS)
        elements_bytes += _QUANTIZATION_BYTES + max(_QUANTIZATION_BYTES, per_channel_bytes)
    return num_layers * num_kv_heads * elements_bytes
