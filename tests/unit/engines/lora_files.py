"""LoRA adapters as files, made by the safetensors library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


def write_adapter(
    folder: Path, *, rank: int = 4, num_inputs: int = 8, num_outputs: int = 8, config: dict[str, Any] | None = None
) -> Path:
    """An adapter of one matrix, in PEFT's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"], **(config or {})}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    tensors = {
        f"{MODULE}.lora_A.weight": np.zeros((rank, num_inputs), np.float32),
        f"{MODULE}.lora_B.weight": np.zeros((num_outputs, rank), np.float32),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
