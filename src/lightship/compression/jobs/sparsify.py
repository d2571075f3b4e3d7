"""Job `sparsify`: a checkpoint in, the same with zeros in its linear layers out, dense (llm-compressor).

Runs in the toolchain `compress`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning.sparsegpt import SparseGPTModifier
from llmcompressor.modifiers.pruning.wanda import WandaPruningModifier

from lightship.compression.quantization.checkpoint_io import (
    calibration_windows,
    load_model,
    load_tokenizer,
    window_loader,
    write_model,
)
from lightship.compression.quantization.progress import calibration_progress
from lightship.compression.quantization.schemes import is_quantizable

RESEARCH_NAME = "research.json"
_MASKS = {"unstructured": "0:0", "2:4": "2:4"}
_MODIFIERS: dict[str, Any] = {"sparsegpt": SparseGPTModifier, "wanda": WandaPruningModifier}
# Source: vllm-project/vllm pull request 36799, vllm-project/llm-compressor pull requests 2452, 2622 and 2720.
_BUYS = {
    "vllm": "nothing: its kernels for 2:4 were removed (vllm#36799)",
    "openvino": "nothing: zeros are multiplied like other numbers",
    "llamacpp": "nothing: zeros are multiplied like other numbers",
    "storage": "nothing: stored dense; the compressed format was removed (llm-compressor#2452, #2622, #2720)",
}


def main(job_path: Path) -> None:
    """Entry point.

    Job fields: `checkpoint`, `output` (an existing empty folder), `sparsity`, `pattern`, `algorithm`, `calibration`,
    `num_calibration_samples`, `sequence_tokens`.
    """
    job: dict[str, Any] = json.loads(job_path.read_text("utf-8"))
    checkpoint, output = Path(job["checkpoint"]), Path(job["output"])
    torch.manual_seed(0)
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    windows, _ = calibration_windows(
        Path(job["calibration"]),
        tokenizer,
        num_windows=job["num_calibration_samples"],
        window_tokens=job["sequence_tokens"],
    )
    layers = _prunable(model)
    modifier = _MODIFIERS[job["algorithm"]](
        sparsity=job["sparsity"],
        mask_structure=_MASKS[job["pattern"]],
        # By name: the modifiers look for the head under a name that no ignore list matches and prune it, and with it
        # the embeddings where they are one matrix.
        targets=list(layers),
    )
    with calibration_progress(int(model.config.num_hidden_layers) + 1):
        oneshot(model=model, recipe=[modifier], dataset=window_loader(windows), num_calibration_samples=len(windows))
    found = _zero_share(layers.values())
    if abs(found - job["sparsity"]) > 0.01:
        raise RuntimeError(f"{found:.1%} of the weights are zero after pruning, {job['sparsity']:.1%} were asked for")
    write_model(model, checkpoint, output, is_compressed=False)
    note = {
        "kind": "sparse mask",
        "pattern": job["pattern"],
        "algorithm": job["algorithm"],
        "zero_share": round(found, 4),
        "buys": _BUYS,
    }
    (output / RESEARCH_NAME).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def _prunable(model: Any) -> dict[str, Any]:
    """Linear layers of the decoder blocks, by name."""
    modules = model.named_modules()
    return {name: one for name, one in modules if isinstance(one, torch.nn.Linear) and is_quantizable(name)}


def _zero_share(layers: Iterable[Any]) -> float:
    weights = [layer.weight for layer in layers]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
