"""Low-rank adapters (LoRA, arXiv:2106.09685) in PEFT's layout, looked at before a server is told to load them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightship.artifacts.digest import file_sha256
from lightship.artifacts.file_rules import is_pickle_name
from lightship.artifacts.model_config import read_json_object
from lightship.artifacts.safetensors_header import TensorEntry, read_safetensors_header
from lightship.errors import CheckpointError, UnsafeCheckpointError

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
# Variations of LoRA that compute something else, and that no engine here has. Source: vllm 0.32, lora/peft_helper.py.
_OTHER_METHODS = {
    "use_dora": "weight-decomposed (DoRA)",
    "lora_bias": "with biases",
    "alora_invocation_tokens": "activated by tokens (aLoRA)",
    "layer_replication": "of replicated layers",
    "use_bdlora": "block-diagonal",
    "use_qalora": "quantization-aware (QALoRA)",
}
_MODULE_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoraAdapter:
    """One adapter: its name is that of the model it makes of its base.

    `rank` is the largest of its matrices, `digest` that of its weights.
    """

    name: str
    folder: Path
    rank: int
    digest: str


def read_adapter(name: str, folder: Path, *, base: Mapping[str, tuple[int, ...]]) -> LoraAdapter:
    """The adapter in a folder, checked against the model it is for.

    Args:
        name: What clients will call it.
        folder: `adapter_config.json` and `adapter_model.safetensors`.
        base: Shapes of the base model's tensors by name; those it does not name are not checked.

    Raises:
        CheckpointError: missing or damaged files, another method than LoRA, or an adapter of another model.
        UnsafeCheckpointError: its weights are pickled.
    """
    config = read_json_object(folder / CONFIG_NAME)
    if config.get("peft_type", "LORA") != "LORA":
        raise _unfit(name, folder, f"it is a {config['peft_type']} adapter", "Only LoRA adapters are served.")
    for key, method in _OTHER_METHODS.items():
        if config.get(key):
            raise _unfit(name, folder, f"it is {method} (`{key}`)", "Merge it into the checkpoint and serve that.")
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        if any(is_pickle_name(one.name) for one in folder.iterdir()):
            what = f"the adapter {name!r} is pickled, which runs code when it is read"
            raise UnsafeCheckpointError(what, where=str(folder), hint=f"Save it as {WEIGHTS_NAME}.")
        raise _unfit(name, folder, f"{WEIGHTS_NAME} is missing", "Save the adapter with PEFT's save_pretrained().")
    entries = read_safetensors_header(path)
    _check_fits(name, path, entries, base)
    return LoraAdapter(name, folder, _rank(config, name, folder), file_sha256(path))


def _rank(config: Mapping[str, Any], name: str, folder: Path) -> int:
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [None])]
    if not all(type(rank) is int and rank > 0 for rank in ranks):
        raise _unfit(name, folder, f"its rank `r` is {config.get('r')!r}", "Take one with a rank above 0.")
    return max(rank for rank in ranks if type(rank) is int)


def _check_fits(name: str, path: Path, entries: tuple[TensorEntry, ...], base: Mapping[str, tuple[int, ...]]) -> None:
    """The inputs of A and the outputs of B are those of the matrix they are added to: W + B A."""
    for entry in entries:
        module, dot, kind = entry.name.removeprefix(_MODULE_PREFIX).partition(".lora_")
        shape = base.get(f"{module}.weight")
        if not dot or shape is None or len(shape) != 2 or len(entry.shape) != 2:
            continue
        place, side = (1, "inputs") if kind.startswith("A") else (0, "outputs")
        if entry.shape[place] != shape[place]:
            raise _unfit(
                name,
                path,
                f"{module} has {shape[place]} {side}, and the adapter's matrix {entry.shape[place]}",
                "It was made for another model.",
            )


def _unfit(name: str, where: Path, what: str, hint: str) -> CheckpointError:
    return CheckpointError(f"the adapter {name!r} cannot be served: {what}", where=str(where), hint=hint)
