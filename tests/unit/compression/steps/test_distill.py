"""What the step `distill` makes of its options, and what it refuses."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightship.artifacts.checkpoint import Checkpoint, inspect_checkpoint
from lightship.compression.steps.base import JobPlan, StepContext, TextFile
from lightship.compression.steps.distill import DistillCheckpoint, shared_vocabulary
from lightship.errors import SpecError
from lightship.ports.variants import RecipeStep, WeightFormat

STEP = DistillCheckpoint()
TOKENS = {"<s>": 0, "a": 1, "b": 2, "ab": 3}


def checkpoint(folder: Path, *, tokens: Any = None, **config: Any) -> Checkpoint:
    folder.mkdir()
    shape = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 4,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
    }
    (folder / "config.json").write_text(json.dumps(shape | config))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": tokens or TOKENS}}))
    header = json.dumps({"w": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    return inspect_checkpoint(folder)


def plan(teacher: Checkpoint, student: Checkpoint, options: Mapping[str, Any], *, has_text: bool = True) -> JobPlan:
    texts = TextFile(Path("training.jsonl"), "sha256:2")
    context = StepContext(teacher, {}, TextFile(Path("calibration.jsonl"), "sha256:1"), texts if has_text else None)
    made = STEP.plan(STEP.options(RecipeStep("distill", dict(options))), student, context)
    assert isinstance(made, JobPlan)
    assert STEP.inputs(STEP.options(RecipeStep("distill", dict(options))), context) == (
        {"training": "sha256:2"} if has_text else {"calibration": "sha256:1"}
    )
    return made


@pytest.fixture
def teacher(tmp_path: Path) -> Checkpoint:
    return checkpoint(tmp_path / "teacher")


@pytest.fixture
def student(tmp_path: Path) -> Checkpoint:
    return checkpoint(tmp_path / "student", num_hidden_layers=1)


def test_plan_with_text_trains_on_it_and_mixes_in_cross_entropy(teacher: Checkpoint, student: Checkpoint) -> None:
    made = plan(teacher, student, {"num_tokens": 10_000, "tokens_per_step": 1000})
    assert made.has_work_folder
    assert (made.job["teacher"], made.job["student"]) == (str(teacher.folder), str(student.folder))
    assert (made.job["texts"], made.job["kl_weight"], made.job["num_steps"]) == ("training.jsonl", 0.6, 10)
    assert made.job["context_tokens"] == 128  # the model has no more
    assert "texts" in made.title


def test_plan_without_text_lets_the_teacher_write(teacher: Checkpoint, student: Checkpoint) -> None:
    made = plan(teacher, student, {"num_tokens": 10_000}, has_text=False)
    assert (made.job["texts"], made.job["kl_weight"], made.job["sample_tokens"]) == ("calibration.jsonl", 1.0, 2500)
    assert "what the teacher writes" in made.title


@pytest.mark.parametrize(("hidden_size", "rate"), [(64, 3e-3), (256, 3e-3), (1024, 7.5e-4)])
def test_plan_rate_falls_with_the_width(
    hidden_size: int, rate: float, teacher: Checkpoint, student: Checkpoint
) -> None:
    wide = replace(student, hidden_size=hidden_size)
    assert plan(teacher, wide, {}).job["learning_rate"] == pytest.approx(rate)
    assert plan(teacher, wide, {"learning_rate": 0.01}).job["learning_rate"] == 0.01


def test_shared_vocabulary_padded_differently_counts_the_tokens_alone(teacher: Checkpoint, tmp_path: Path) -> None:
    padded = checkpoint(tmp_path / "padded", vocab_size=64, num_hidden_layers=1)
    assert shared_vocabulary(teacher, padded) == 4
    assert shared_vocabulary(padded, padded) == 4


def test_shared_vocabulary_unigram_of_the_same_tokens_is_the_same(teacher: Checkpoint, tmp_path: Path) -> None:
    unigram = checkpoint(tmp_path / "unigram", tokens=[[token, -1.0] for token in TOKENS])
    assert shared_vocabulary(teacher, unigram) == 4


def test_plan_other_tokenizer_is_refused_with_both_sizes_and_the_way_out(teacher: Checkpoint, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other", tokens={**TOKENS, "c": 4}, vocab_size=8)
    with pytest.raises(SpecError, match=r"has 4 entries \(vocab_size 4\), the student's 5 \(vocab_size 8\).*GOLD"):
        plan(teacher, other, {})


def test_plan_same_size_but_other_tokens_is_refused(teacher: Checkpoint, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other", tokens={**TOKENS, "a": 2, "b": 1})
    with pytest.raises(SpecError, match="not the same tokens"):
        plan(teacher, other, {})


def test_plan_student_that_is_its_teacher_is_refused(teacher: Checkpoint) -> None:
    with pytest.raises(SpecError, match=r"the student is the teacher itself.*such as `prune`"):
        plan(teacher, teacher, {})


def test_plan_teacher_that_is_no_checkpoint_is_refused(teacher: Checkpoint, student: Checkpoint) -> None:
    network = replace(teacher, weight_format=WeightFormat.OPENVINO_IR)
    with pytest.raises(SpecError, match="a teacher must be a checkpoint"):
        plan(network, student, {})


@pytest.mark.parametrize(
    ("config", "words"),
    [({"quantization_config": {"bits": 4}}, "these are quantized"), ({"final_logit_softcapping": 30.0}, "softcapping")],
)
def test_plan_model_that_cannot_be_trained_here_is_refused(
    config: dict[str, Any], words: str, teacher: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=words):
        plan(teacher, checkpoint(tmp_path / "other", **config), {})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": 0.3}, "beta counts for jensen_shannon"),
        ({"sample_tokens": 2000}, "here it writes nothing"),
        ({"tokens_per_step": 32}, "less than one window"),
        ({"allow_cpu": True}, "allow_cpu counts for on_policy alone"),
        ({"on_policy": True, "hidden_weight": 1.0, "kl_weight": 0.5}, "hidden_weight and kl_weight cannot be had"),
        ({"num_token": 5000}, "Did you mean 'num_tokens'"),
        ({"temperature": 0.0}, "temperature"),
        ({"divergence": "kl"}, "divergence"),
    ],
)
def test_plan_options_that_would_be_ignored_or_cannot_be_are_refused(
    options: dict[str, Any], words: str, teacher: Checkpoint, student: Checkpoint
) -> None:
    with pytest.raises(SpecError, match=words):
        plan(teacher, student, options)
