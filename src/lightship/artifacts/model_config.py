"""What a checkpoint's `config.json` says of the model's shape, whichever names its family uses for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightship.errors import CheckpointError, UnsafeCheckpointError

# The common name first, then those of GPT-2, Bloom, MPT, Falcon and their relatives.
_CONTEXT_LENGTH = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
)
_NUM_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HIDDEN_SIZE = ("hidden_size", "n_embd", "d_model")
_NUM_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_NUM_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
_VOCAB_SIZE = ("vocab_size",)


@dataclass(frozen=True)
class ModelConfig:
    """The model's shape. `num_kv_heads` counts heads that the cache holds, after grouping."""

    architecture: str
    model_type: str
    context_length: int
    vocab_size: int
    num_layers: int
    hidden_size: int
    num_kv_heads: int
    head_dim: int


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises: CheckpointError: the file is missing, not JSON or not an object.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        hint = "A checkpoint is a folder in Hugging Face layout: config.json, *.safetensors, tokenizer.json."
        raise CheckpointError(f"{path.name} is missing", where=str(path.parent), hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not JSON: {error}", where=str(path), hint="Download or copy the file again.") from error
    if not isinstance(content, dict):
        raise CheckpointError("not a JSON object", where=str(path), hint="Download or copy the file again.")
    return content


def read_model_config(path: Path) -> ModelConfig:
    """The shape that `config.json` states.

    Raises: CheckpointError: the file cannot be read, or a needed value is missing or not a positive whole number.
    """
    config = read_json_object(path)
    hidden_size = _required(config, _HIDDEN_SIZE, path)
    num_heads = _required(config, _NUM_HEADS, path)
    # Falcon 7B and GPT-BigCode share one pair of keys and values among all heads and say it with a flag.
    default_kv_heads = 1 if config.get("multi_query") is True else num_heads
    return ModelConfig(
        architecture=_architecture(config, path),
        model_type=str(config.get("model_type", "")),
        context_length=_required(config, _CONTEXT_LENGTH, path),
        vocab_size=_required(config, _VOCAB_SIZE, path),
        num_layers=_required(config, _NUM_LAYERS, path),
        hidden_size=hidden_size,
        num_kv_heads=_optional(config, _NUM_KV_HEADS, path) or default_kv_heads,
        head_dim=_optional(config, ("head_dim",), path) or hidden_size // num_heads,
    )


def check_no_remote_code(path: Path) -> None:
    """Returns when the JSON file, if it exists, does not name classes that travel with the checkpoint.

    Raises: UnsafeCheckpointError: it has an `auto_map`. CheckpointError: it is not a JSON object.
    """
    if path.exists() and read_json_object(path).get("auto_map"):
        raise UnsafeCheckpointError(
            f"{path.name} asks for code that travels with the checkpoint (`auto_map`), which is never run",
            where=str(path),
            hint="If transformers knows this architecture by itself, remove `auto_map` from a copy of the folder.",
        )


def _architecture(config: dict[str, Any], path: Path) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise CheckpointError("`architectures` does not name one", where=str(path), hint="It is a list with one name.")
    return names[0]


def _required(config: dict[str, Any], names: tuple[str, ...], path: Path) -> int:
    value = _optional(config, names, path)
    if value is None:
        known = " or ".join(f"`{name}`" for name in names[:3])
        raise CheckpointError(f"{known} is missing", where=str(path), hint="Complete the file from the model's origin.")
    return value


def _optional(config: dict[str, Any], names: tuple[str, ...], path: Path) -> int | None:
    """The first of `names` that has a value."""
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if type(value) is not int or value < 1:
            raise CheckpointError(f"`{name}` is {value!r}", where=str(path), hint="It must be a positive whole number.")
        return value
    return None
