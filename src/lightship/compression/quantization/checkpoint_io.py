"""Reads a checkpoint and calibration windows for llm-compressor, writes what came of it. Runs in a toolchain."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightship.compression.job_texts import read_job_texts, token_windows

# Below, a second thread waits for the first more than it works, and on a busy machine most of the time goes there: a
# job of 9 million parameters took 90 s with one thread and over 600 s with two where 20 processes shared two cores.
_ONE_THREAD_BELOW_PARAMETERS = 50_000_000
# Shorter windows show activations of beginnings of texts only, and a Hessian of fewer tokens says next to nothing.
MIN_WINDOW_TOKENS = 64
# What a model needs besides its weights; whatever a library leaves out is copied from the parent.
_ACCOMPANYING = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
    "NOTICE",
)


def load_model(folder: Path) -> Any:
    """The checkpoint as a model in bfloat16, which is what vLLM computes in: scales are then fitted to what it runs.

    Raises: ValueError: a weight is NaN or infinite.
    Effects: small models are computed by one thread from here on.
    """
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, local_files_only=True, trust_remote_code=False
    )
    if model.num_parameters() < _ONE_THREAD_BELOW_PARAMETERS:
        torch.set_num_threads(1)
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(f"{name} holds NaN or infinite values; the checkpoint is damaged or overflows bfloat16")
    return model.eval()


def load_tokenizer(folder: Path) -> Any:
    """The checkpoint's tokenizer."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def calibration_windows(
    path: Path, tokenizer: Any, *, num_windows: int, window_tokens: int
) -> tuple[list[torch.Tensor], int]:
    """Token ids of calibration windows, each of shape (1, tokens), and the tokens of one.

    Fewer windows where the text is short, and a shorter one where it does not fill a single window.

    Raises: ValueError: it does not even make a window of `MIN_WINDOW_TOKENS`.
    """
    texts = read_job_texts(path)
    ids = [tokenizer(text, add_special_tokens=True)["input_ids"] for text in texts]
    num_tokens = sum(map(len, ids))
    if num_tokens < MIN_WINDOW_TOKENS:
        raise ValueError(
            f"the calibration texts make {num_tokens} tokens, and at least {MIN_WINDOW_TOKENS} are needed; "
            "give more text, or use the algorithm rtn, which needs none"
        )
    window_tokens = min(window_tokens, num_tokens)
    by_text = dict(zip(texts, ids, strict=True))
    windows = token_windows(texts, by_text.__getitem__, num_windows=num_windows, window_tokens=window_tokens)
    return [torch.tensor([window]) for window in windows], window_tokens


def spread_texts(windows: Sequence[torch.Tensor], *, num_tokens: int) -> list[torch.Tensor]:
    """Some of the windows, evenly spread over all, of about `num_tokens` together; at least one."""
    wanted = max(1, min(len(windows), num_tokens // windows[0].shape[-1]))
    return [windows[index * len(windows) // wanted] for index in range(wanted)]


def window_loader(windows: Sequence[torch.Tensor]) -> Any:
    """The windows as llm-compressor wants them, one a batch, in order."""
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in windows]
    return torch.utils.data.DataLoader(batches, batch_size=None)


def write_model(model: Any, parent: Path, output: Path, *, is_compressed: bool) -> None:
    """Writes weights and config of the model, and what accompanies them in `parent`.

    Effects: fills `output`.
    """
    model.save_pretrained(output, save_compressed=is_compressed)
    finish_checkpoint(parent, output)


def finish_checkpoint(parent: Path, output: Path) -> None:
    """Makes the written folder whole: the parent's tokenizer as it was, no recipe files, a config that says bfloat16.

    llm-compressor keeps the parent's config, type and all, and engines compute in the type that the config names.

    Effects: copies files into `output`, removes those that are no part of a model, rewrites `config.json`.
    """
    for name in _ACCOMPANYING:
        if (parent / name).is_file():
            shutil.copyfile(parent / name, output / name)
    for path in output.glob("*.yaml"):  # llm-compressor's recipe; the variant's manifest has ours
        path.unlink()
    path = output / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config.pop("torch_dtype", None)  # the older name of the same
    config["dtype"] = "bfloat16"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
