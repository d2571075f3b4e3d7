"""Tiny checkpoints of several families, and code that runs inside a toolchain."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

from lightship.compression.toolchains import bootstrap
from lightship.compression.toolchains.jobs import JobSettings, run_job
from lightship.testing.recording_progress import RecordingProgress

VOCAB_SIZE = 96  # more than the tokenizer has: the rest is padding, as in many checkpoints
_WORDS = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeio"]
_MARKS = ("<s>", "</s>", "<unk>")

# The package becomes importable as it does for a job; models get weights large enough to have opinions.
PRELUDE = """
import json, runpy, sys
from pathlib import Path
runpy.run_path({bootstrap!r})["_make_lightship_importable"]()
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
from transformers import AutoConfig, AutoModelForCausalLM

def tiny(family, **more):
    config = AutoConfig.for_model(
        family, vocab_size={vocab}, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=128, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        initializer_range=0.2, **more,
    )
    return AutoModelForCausalLM.from_config(config).eval()

def logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(3, 51).reshape(2, 24)
    with torch.no_grad():
        return model(ids).logits
"""


def run_python(python: Path, code: str) -> Any:
    """Runs code after the prelude in a toolchain; what the last line of its output says as JSON."""
    prelude = PRELUDE.format(bootstrap=bootstrap.__file__, vocab=VOCAB_SIZE)
    argv = [str(python), "-I", "-W", "ignore", "-c", f"{prelude}\n{code}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of made-up syllables that begins each text with a mark."""
    vocab = {word: index for index, word in enumerate((*_MARKS, *_WORDS))}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": mark, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            | {"special": True}
            for index, mark in enumerate(_MARKS)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))


def write_texts(path: Path, *, num_texts: int, num_words: int = 40, seed: int = 0) -> Path:
    """Texts of these syllables as a job reads them."""
    choose = random.Random(seed)
    texts = (" ".join(choose.choices(_WORDS, k=num_words)) for _ in range(num_texts))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def do_job(python: Path, kind: str, fields: dict[str, Any], folder: Path) -> RecordingProgress:
    """Runs a job whose output is `folder/out`."""
    (folder / "out").mkdir(parents=True, exist_ok=True)
    progress = RecordingProgress()
    settings = JobSettings(python, kind, folder / f"{kind}.log", timeout_s=300.0)
    run_job(settings, {**fields, "output": str(folder / "out")}, title=kind, progress=progress)
    return progress


def prune_fields(checkpoint: Path, calibration: Path, **changes: Any) -> dict[str, Any]:
    """Fields of the job `prune` that keep everything."""
    fields: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "files": sorted(path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()),
        "calibration": str(calibration),
        "calibration_digest": "sha256:0",
        "calibration_tokens": 256,
        "window_tokens": 32,
        "num_threads": 1,
        "dtype": "float32",
        "method": "contiguous",
        "importance": "l2",
        "num_layers": None,
        "blocks": [],
        "num_channels": None,
        "num_kv_groups": None,
        "notes": [],
    }
    return fields | changes
