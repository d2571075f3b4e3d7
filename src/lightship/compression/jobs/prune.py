"""Job `prune`: a checkpoint in, one with fewer blocks, FFN channels or KV groups out, `pruning.json` with the reasons.

Runs in the toolchain `train`. Which parts go is decided by `compression.pruning.depth` and `width` on scores that
`importance` measures on calibration text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from lightship.compression.job_texts import read_job_texts, token_windows
from lightship.compression.pruning.checkpoint_folder import (
    CONFIG,
    PRUNING,
    copy_accompanying,
    read_config,
    write_json,
    write_weights,
)
from lightship.compression.pruning.depth import (
    BlockChoice,
    choose_contiguous,
    choose_explicit,
    choose_greedy,
    renamed_tensor,
    shallower_config,
)
from lightship.compression.pruning.importance import Measure, ModelWatcher
from lightship.compression.pruning.width import WidthChoice, most_important


@dataclass(frozen=True)
class PruneJob:
    """The job file.

    Args:
        files: What makes the checkpoint, relative to its folder.
        num_layers: Blocks that stay; None to keep all.
        blocks: Blocks that go, by number, instead of a measured choice.
        num_channels: FFN channels that stay in each block; None to keep all.
        num_kv_groups: KV groups that stay in each block; None to keep all.
        calibration: JSON lines of texts, and their digest.
        num_threads: Threads of the arithmetic; None for as many as there are cores.
    """

    checkpoint: Path
    output: Path
    files: tuple[str, ...]
    calibration: Path
    calibration_digest: str
    calibration_tokens: int
    window_tokens: int
    num_threads: int | None
    dtype: Literal["float32", "bfloat16"]
    method: Literal["contiguous", "greedy"]
    importance: Measure
    num_layers: int | None
    blocks: tuple[int, ...]
    num_channels: int | None
    num_kv_groups: int | None
    notes: tuple[str, ...]

    @classmethod
    def from_json(cls, text: str) -> PruneJob:
        """Parses a job file."""
        raw: dict[str, Any] = json.loads(text)
        for name in ("checkpoint", "output", "calibration"):
            raw[name] = Path(raw[name])
        for name in ("files", "blocks", "notes"):
            raw[name] = tuple(raw[name])
        return cls(**raw)


def main(job_path: Path) -> None:
    """Entry point of the job."""
    job = PruneJob.from_json(job_path.read_text("utf-8"))
    torch.set_num_threads(job.num_threads or len(os.sched_getaffinity(0)))
    config = read_config(job.checkpoint)
    windows = calibration_windows(job)
    model = AutoModelForCausalLM.from_pretrained(
        job.checkpoint, dtype=getattr(torch, job.dtype), local_files_only=True, trust_remote_code=False
    )
    watcher = ModelWatcher(model, windows, _Progress(_num_passes(job, config) * len(windows)).advance)
    kept, depth_record = _choose_blocks(job, watcher, int(config["num_hidden_layers"]))
    width, width_record = _choose_width(job, watcher, kept, config, model)
    del watcher, model
    smaller = width.config(shallower_config(config, kept))

    def change(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor] | None:
        renamed = renamed_tensor(name, kept)
        if renamed is None:
            return None
        if (part := width.kept_of(renamed)) is not None:
            tensor = tensor.index_select(part[0], torch.from_numpy(part[1]))
        return renamed, tensor

    copy_accompanying(job.checkpoint, job.files, job.output)
    write_json(job.output / CONFIG, smaller)
    write_weights(job.checkpoint, job.output, change)
    write_json(
        job.output / PRUNING,
        {
            "blocks_of_source": _blocks_of_source(job.checkpoint, kept),
            "depth": depth_record,
            "width": width_record,
            "calibration": {"digest": job.calibration_digest, "num_tokens": sum(map(len, windows))},
            "notes": list(job.notes),
        },
    )
    check_loads(job.output)


def calibration_windows(job: PruneJob) -> list[list[int]]:
    """Windows of the calibration text; a text shorter than one window is one shorter window.

    Raises: ValueError: there are fewer than two tokens.
    """
    tokenizer = Tokenizer.from_file(str(job.checkpoint / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoded: list[str] = []
    num_tokens = 0
    for text in read_job_texts(job.calibration):
        encoded.append(text)
        num_tokens += len(tokenizer.encode(text).ids)
        if num_tokens >= job.calibration_tokens:
            break
    if num_tokens < 2:
        raise ValueError(f"the calibration text has {num_tokens} tokens; give more text")
    window = min(job.window_tokens, num_tokens)
    count = max(1, job.calibration_tokens // window)
    return token_windows(
        encoded, lambda text: list(tokenizer.encode(text).ids), num_windows=count, window_tokens=window
    )


def check_loads(folder: Path) -> None:
    """Returns when transformers finds every tensor it expects in the folder, in the shape it expects.

    Raises: ValueError: it does not (which tensor).
    """
    _, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, trust_remote_code=False, output_loading_info=True
    )
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if found := sorted(map(str, info.get(kind) or ())):
            raise ValueError(f"the pruned checkpoint does not load: {kind.replace('_', ' ')}: {found[0]}")


def _num_passes(job: PruneJob, config: dict[str, Any]) -> int:
    """How often the calibration text is read."""
    passes = int(job.num_layers is not None or bool(job.blocks))
    if job.num_layers is not None and job.method == "greedy":
        passes += int(config["num_hidden_layers"]) - job.num_layers
    return passes + int(job.num_channels is not None) + int(job.num_kv_groups is not None)


def _choose_blocks(
    job: PruneJob, watcher: ModelWatcher, num_layers: int
) -> tuple[tuple[int, ...], dict[str, Any] | None]:
    if job.num_layers is None and not job.blocks:
        return tuple(range(num_layers)), None
    distances = watcher.distances()
    choice: BlockChoice
    if job.num_layers is None:
        method, choice = "explicit", choose_explicit(job.blocks, num_layers=num_layers)
    elif job.method == "greedy":
        method = "greedy"
        choice = choose_greedy(watcher.influence_of, num_layers=num_layers, num_removed=num_layers - job.num_layers)
    else:
        method, choice = "contiguous", choose_contiguous(distances, num_removed=num_layers - job.num_layers)
    removed = [{"block": block, "reason": why} for block, why in zip(choice.removed, choice.reasons, strict=True)]
    return choice.kept, {
        "method": method,
        "block_influence": [round(distances[block][block + 1], 6) for block in range(num_layers)],
        "kept": list(choice.kept),
        "removed": removed,
    }


def _choose_width(
    job: PruneJob, watcher: ModelWatcher, kept: tuple[int, ...], config: dict[str, Any], model: Any
) -> tuple[WidthChoice, dict[str, Any] | None]:
    num_heads = int(config["num_attention_heads"])
    num_groups = int(config.get("num_key_value_heads") or num_heads)
    record: dict[str, Any] = {"importance": job.importance}
    channels: tuple[tuple[int, ...], ...] | None = None
    groups: tuple[tuple[int, ...], ...] | None = None
    if job.num_channels is not None:
        scores = watcher.channels(kept, job.importance)
        channels = tuple(most_important(one, job.num_channels) for one in scores)
        record["ffn_channels"] = _width_record(scores, channels, int(config["intermediate_size"]))
    if job.num_kv_groups is not None:
        scores = watcher.kv_groups(kept, job.importance, num_groups)
        groups = tuple(most_important(one, job.num_kv_groups) for one in scores)
        record["kv_groups"] = _width_record(scores, groups, num_groups)
    head_dim = int(model.model.layers[0].self_attn.head_dim)
    choice = WidthChoice(channels, groups, num_heads // num_groups, head_dim)
    return choice, record if len(record) > 1 else None


def _width_record(scores: Sequence[Any], kept: Sequence[Sequence[int]], before: int) -> dict[str, Any]:
    """Scores in four digits, and what share of their sum went: the reason is the rank, the same everywhere."""
    return {
        "before": before,
        "after": len(kept[0]),
        "reason": "the lowest scores of each block go",
        "kept": [list(one) for one in kept],
        "scores": [[float(f"{value:.4g}") for value in one] for one in scores],
        "share_of_importance_removed": [
            round(1 - float(one[list(stay)].sum() / one.sum()), 6) if one.sum() else 0.0
            for one, stay in zip(scores, kept, strict=True)
        ],
    }


def _blocks_of_source(checkpoint: Path, kept: Sequence[int]) -> list[int]:
    """Which blocks of the very first model are left, where the checkpoint was pruned before."""
    if not (checkpoint / PRUNING).exists():
        return list(kept)
    before = json.loads((checkpoint / PRUNING).read_text("utf-8"))["blocks_of_source"]
    return [int(before[block]) for block in kept]


class _Progress:
    """Prints how many windows have been read, of all that will be."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total

    def advance(self) -> None:
        """One more window."""
        self._done += 1
        line = {"event": "progress", "done": self._done, "total": self._total, "note": "reading calibration text"}
        print(json.dumps(line), flush=True)
