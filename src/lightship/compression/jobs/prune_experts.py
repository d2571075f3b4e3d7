"""Job `prune_experts`: a mixture of experts in, the same with fewer experts in each layer out (REAP, llm-compressor).

Runs in the toolchain `compress`. Which experts stay is the modifier's decision. The result is written from the parent's
own tensors, in its own names and types, because a model whose experts were taken apart for calibration is saved under
names that not every layout has.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

# Before torch: nothing here is looked up in the network, and threads that tokenize collide with forks.
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
from llmcompressor import oneshot
from llmcompressor.modeling.moe.linearize import linearize_moe
from llmcompressor.modifiers.pruning import REAPPruningModifier
from transformers import AutoModelForCausalLM

from lightship.compression.moe.layouts import active_experts, num_experts_to_keep
from lightship.compression.moe.record import count_parameters, make_record, write_record
from lightship.compression.moe.retained import keep_experts, layer_of, with_num_experts
from lightship.compression.moe.shards import CheckpointTensors, write_shards
from lightship.compression.moe.windows import calibration_windows
from lightship.compression.quantization.checkpoint_io import finish_checkpoint, window_loader


def main(job_path: Path) -> None:
    """Entry point.

    Job fields: `checkpoint`, `output` (an existing empty folder), `calibration` (JSON lines), `num_experts` (that stay
    in each layer), `num_windows`, `window_tokens`.
    """
    job: dict[str, Any] = json.loads(job_path.read_text("utf-8"))
    checkpoint, output = Path(job["checkpoint"]), Path(job["output"])
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    kept = num_experts_to_keep(config, num_experts=job["num_experts"], keep_fraction=None)
    present, top_k = active_experts(config)
    _report(0, 2, f"watching {present} experts in each layer, {kept} will stay")
    retained = _choose(job, present=present, kept=kept)
    _report(1, 2, "writing what stays")
    source = CheckpointTensors(checkpoint)
    written: dict[str, int] = {}
    total = write_shards(_counted(keep_experts(source.names, source.read, retained), written), output)
    text = json.dumps(with_num_experts(config, kept), indent=2, sort_keys=True)
    (output / "config.json").write_text(text + "\n", encoding="utf-8")
    finish_checkpoint(checkpoint, output)
    parameters = count_parameters(
        total=total,
        per_expert=sum(written.values()) // (len(retained) * kept),
        num_layers=len(retained),
        num_experts=kept,
        top_k=top_k,
    )
    sizes = {"num_experts": kept, "num_experts_before": present, "top_k": top_k}
    record = make_record("prune-experts", sizes=sizes, parameters=parameters, retained_experts=retained)
    write_record(output, record)
    _report(2, 2, f"{kept} of {present} experts stay")


def _choose(job: dict[str, Any], *, present: int, kept: int) -> dict[int, list[int]]:
    """Experts that stay, by layer.

    Raises: ValueError: the modifier kept another number.
    """
    checkpoint, report_path = Path(job["checkpoint"]), Path(job["output"]) / "retained.json"
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype="auto", local_files_only=True, trust_remote_code=False
    ).eval()
    windows = calibration_windows(
        checkpoint,
        Path(job["calibration"]),
        num_windows=job["num_windows"],
        window_tokens=job["window_tokens"],
        context_length=int(model.config.max_position_embeddings),
    )
    # The modifier truncates experts * sparsity; half an expert more keeps the product from falling below the number.
    reap = REAPPruningModifier(sparsity=(present - kept + 0.5) / present, report_path=str(report_path))
    oneshot(
        model=linearize_moe(model),
        recipe=[reap],
        dataset=window_loader([torch.tensor([window]) for window in windows]),
        num_calibration_samples=len(windows),
        moe_calibrate_all_experts=False,
    )
    retained = {layer_of(name): experts for name, experts in json.loads(report_path.read_text("utf-8")).items()}
    report_path.unlink()
    wrong = [layer for layer, experts in retained.items() if len(experts) != kept]
    if wrong or not retained:
        raise ValueError(f"{kept} experts were to stay in each layer; REAP chose otherwise in layers {wrong or 'all'}")
    return dict(sorted(retained.items()))


def _counted(tensors: Any, experts: dict[str, int]) -> Any:
    """The same tensors; notes the sizes of those of routed experts."""
    for name, tensor in tensors:
        if ".experts." in name:
            experts[name] = tensor.numel()
        yield name, tensor


def _report(done: int, total: int, note: str) -> None:
    print(json.dumps({"event": "progress", "done": done, "total": total, "note": note}), flush=True)
