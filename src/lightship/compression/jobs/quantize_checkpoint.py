"""Job `quantize_checkpoint`: a checkpoint in, the same with quantized linear layers out (compressed-tensors, for vLLM).

Runs in the toolchain `compress`: llm-compressor rounds, calibrated or not; AutoRound trains the rounding. With scheme
`mixed` the job measures first what each matrix loses in each format, and lets `allocation` choose.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before the libraries: nothing is looked up in the network, threads that tokenize collide with forks, and bars that are
# redrawn make a log unreadable.
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}

import torch
from llmcompressor import oneshot

from lightship.compression.allocation import allocate
from lightship.compression.quantization.checkpoint_io import (
    calibration_windows,
    finish_checkpoint,
    load_model,
    load_tokenizer,
    spread_texts,
    window_loader,
    write_model,
)
from lightship.compression.quantization.modifiers import RoundingPlan, build_modifiers
from lightship.compression.quantization.progress import calibration_progress, print_progress, training_progress
from lightship.compression.quantization.schemes import DENSE, MIXED, fused_groups, linear_layers
from lightship.compression.quantization.sensitivity import measure_choices

ALLOCATION_NAME = "allocation.json"


@dataclass(frozen=True)
class QuantizeJob:
    """The job file.

    Args:
        calibration: Texts as JSON lines; None where nothing is calibrated.
        num_iterations: Steps of AutoRound for each block.
        budget_bytes: What the linear layers may take together, for `mixed`.
        sensitivity_tokens: Of the calibration texts, on which the loss of each format is measured.
    """

    checkpoint: Path
    output: Path
    scheme: str
    rounding: RoundingPlan
    calibration: Path | None
    num_calibration_samples: int
    sequence_tokens: int
    num_iterations: int
    budget_bytes: int | None
    sensitivity_tokens: int

    @classmethod
    def from_json(cls, text: str) -> QuantizeJob:
        """Parses a job file.

        Raises: TypeError, KeyError: unknown or missing fields.
        """
        raw: dict[str, Any] = json.loads(text)
        raw["rounding"] = RoundingPlan(**raw["rounding"])
        raw["checkpoint"], raw["output"] = Path(raw["checkpoint"]), Path(raw["output"])
        raw["calibration"] = Path(raw["calibration"]) if raw["calibration"] else None
        return cls(**raw)


def main(job_path: Path) -> None:
    """Entry point of the job."""
    job = QuantizeJob.from_json(job_path.read_text("utf-8"))
    torch.manual_seed(0)
    model, tokenizer = load_model(job.checkpoint), load_tokenizer(job.checkpoint)
    windows: list[torch.Tensor] = []
    if job.calibration is not None:
        windows, window_tokens = calibration_windows(
            job.calibration, tokenizer, num_windows=job.num_calibration_samples, window_tokens=job.sequence_tokens
        )
        note = f"{len(windows)} windows of {window_tokens} tokens"
        print(json.dumps({"event": "calibration", "windows": len(windows), "window_tokens": window_tokens}), flush=True)
        print_progress(0, 1, note)
    if job.rounding.algorithm == "autoround":
        _round_by_training(job, model, tokenizer, windows)
    else:
        _round_by_llm_compressor(job, model, windows)
    _check_result(job.output)


def _round_by_llm_compressor(job: QuantizeJob, model: Any, windows: Sequence[torch.Tensor]) -> None:
    targets: Mapping[str, Sequence[str]] = {job.scheme: ["Linear"]}
    record: dict[str, Any] | None = None
    if job.scheme == MIXED:
        targets, record = _allocate(job, model, windows)
    modifiers = build_modifiers(targets, job.rounding)
    data = {"dataset": window_loader(windows), "num_calibration_samples": len(windows)} if windows else {}
    # A part for each layer and one for what follows the last, for each modifier that looks at data; else all at once.
    num_parts = int(model.config.num_hidden_layers) + 1
    with calibration_progress(sum(num_parts if one.requires_calibration_data else 1 for one in modifiers)):
        oneshot(model=model, recipe=modifiers, **data)
    write_model(model, job.checkpoint, job.output, is_compressed=True)
    if record is not None:
        (job.output / ALLOCATION_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _allocate(
    job: QuantizeJob, model: Any, windows: Sequence[torch.Tensor]
) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Modules by scheme, and the record of how they were chosen."""
    if job.budget_bytes is None:
        raise ValueError("a mixture needs a budget in bytes")
    shapes = ((f"{name}.weight", tuple(m.weight.shape)) for name, m in _linear_modules(model).items())
    groups = fused_groups(linear_layers(shapes))
    texts = spread_texts(windows, num_tokens=job.sensitivity_tokens)
    choices = measure_choices(model, groups, texts, group_size=job.rounding.group_size, report=_report_sensitivity)
    allocation = allocate(choices, job.budget_bytes)
    targets: dict[str, list[str]] = {}
    for name, choice in allocation.choices.items():
        if choice.format != DENSE:
            targets.setdefault(choice.format, []).extend(layer.name for layer in groups[name])
    if not targets:
        raise ValueError(
            f"the budget of {job.budget_bytes} bytes lets every layer stay in 16 bits; give less, or do not quantize"
        )
    num_weights = sum(layer.num_weights for group in groups.values() for layer in group)
    record = {
        "budget_bytes": job.budget_bytes,
        "num_bytes": allocation.num_bytes,
        "bits_per_weight": 8 * allocation.num_bytes / num_weights,
        "predicted_kl_nats": allocation.divergence,
        "sensitivity_tokens": sum(ids.shape[-1] for ids in texts),
        "groups": [
            {
                "name": group.name,
                "layers": [layer.name for layer in groups[group.name]],
                "format": allocation.choices[group.name].format,
                "reason": allocation.reasons[group.name],
                "measured": [
                    {"format": one.format, "num_bytes": one.num_bytes, "kl_nats": one.divergence}
                    for one in group.choices
                ],
            }
            for group in choices
        ],
    }
    return targets, record


def _linear_modules(model: Any) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


def _report_sensitivity(done: int, total: int) -> None:
    print_progress(done, total, "measuring what each matrix loses in each format")


def _round_by_training(job: QuantizeJob, model: Any, tokenizer: Any, windows: Sequence[torch.Tensor]) -> None:
    from auto_round import AutoRound

    rounding = AutoRound(
        model,
        tokenizer,
        scheme="W4A16",
        group_size=job.rounding.group_size,
        sym=job.scheme == "w4a16",
        dataset=list(windows),
        nsamples=len(windows),
        seqlen=windows[0].shape[-1],
        batch_size=min(8, len(windows)),
        iters=job.num_iterations,
        device_map="cpu",
        enable_torch_compile=False,  # compiling takes longer than it saves on CPUs, and needs a C++ compiler
    )
    with training_progress(int(model.config.num_hidden_layers)):
        rounding.quantize_and_save(str(job.output), format="llm_compressor")
    _move_up(job.output)
    finish_checkpoint(job.checkpoint, job.output)


def _move_up(output: Path) -> None:
    """AutoRound writes into a folder below the one it is given, named after model and scheme."""
    for path in sorted(output.glob("*/config.json")):
        for one in sorted(path.parent.iterdir()):
            one.replace(output / one.name)
        path.parent.rmdir()
    (output / "quantization_config.json").unlink(missing_ok=True)  # config.json has the same


def _check_result(output: Path) -> None:
    """Raises: RuntimeError: the library wrote something else than what was asked for."""
    config = json.loads((output / "config.json").read_text("utf-8"))
    method = config.get("quantization_config", {}).get("quant_method")
    if method != "compressed-tensors" or not list(output.glob("*.safetensors")):
        raise RuntimeError(f"no quantized checkpoint was written (quantization method {method!r})")
