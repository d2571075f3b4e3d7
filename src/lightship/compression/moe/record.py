"""`moe.json`: what was done to make or thin a mixture of experts, what it costs to run, what it still has to learn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD_NAME = "moe.json"

TRAINING_NEEDED: Mapping[str, Mapping[str, Any]] = {
    "upcycle": {
        "tokens": "1e9 to 1e12",
        "why": "experts start as copies and only differ by training; untrained it is the dense model at a higher price",
        "sources": ["arXiv:2212.05055", "arXiv:2410.07524"],
    },
    "carve": {
        "tokens": "none at 75 % of the channels active; at 25 % LoRA on 2,000 samples brings back 76 % of the accuracy",
        "why": "channels that are left out are missed; the router is fitted on calibration text alone",
        "sources": ["arXiv:2502.04416"],
    },
    "prune-experts": {
        "tokens": "none for some models, and no amount was tried for others: measure each",
        "why": "how much the removed experts knew depends on the model: with half of them cut, llm-compressor reports "
        "99.8 % of GSM8K kept by one model and 17 % by another",
        "sources": ["arXiv:2510.13999"],
    },
}


def make_record(
    method: str, *, sizes: Mapping[str, int], parameters: Mapping[str, int], **details: Any
) -> dict[str, Any]:
    """The record of a step just done, in which nothing was trained.

    It is copied along when the model is distilled, so it says where to look and not that nothing ever was.
    """
    return {
        "method": method,
        **sizes,
        "parameters": dict(parameters),
        **details,
        "training_needed": dict(TRAINING_NEEDED[method]),
        "is_trained": "not in this step; `distillation.json`, where it lies beside this file, tells of training since",
    }


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Effects: writes `moe.json`."""
    (folder / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def count_parameters(*, total: int, per_expert: int, num_layers: int, num_experts: int, top_k: int) -> dict[str, int]:
    """Weights that are stored, and those that one token uses: all but the experts that are not chosen.

    Args:
        total: Stored weights, all experts included.
        per_expert: Of one routed expert in one layer.
        num_layers: Layers with experts.
    """
    idle = num_layers * (num_experts - top_k) * per_expert
    return {"total": total, "active_per_token": total - idle}
