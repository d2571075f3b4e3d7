"""The job `train` in its real toolchain, on a made-up corpus that a model of a few thousand weights learns at once."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightship.compression.ir_template import SafetensorsFile
from lightship.compression.toolchains import bootstrap
from lightship.compression.toolchains.jobs import JobSettings, run_job
from lightship.errors import ToolchainError
from lightship.testing.recording_progress import RecordingProgress

pytestmark = pytest.mark.toolchain

NUM_STEPS = 48
CHECKPOINT_EVERY_STEPS = 4
# Muon and AdamW state must both be continued, and the learning rate must be in a ramp on either side of the stop.
PLAN: dict[str, Any] = {
    "num_steps": NUM_STEPS,
    "tokens_per_step": 256,
    "peak_learning_rate": 0.01,
    "weight_decay": 0.1,
    "warmup_steps": 8,
    "decay_fraction": 0.9,
    "stages": [
        {"from_progress": 0.0, "context_length": 32},
        {"from_progress": 0.5, "context_length": 64},
    ],
    "seed": 7,
    "evaluate_every_steps": 2,
    "evaluate_num_tokens": 400,
    "checkpoint_every_steps": CHECKPOINT_EVERY_STEPS,
}
ARCHITECTURE = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def write_corpus(path: Path, *, num_tales: int, seed: int) -> None:
    """Tales of words made of syllables, in an order that only depends on the word before: learnable, and nobody's."""
    choose = random.Random(seed)
    shared = random.Random(0)
    words = ["".join(shared.choice("bdklmnrst") + shared.choice("aeiou") for _ in range(2)) for _ in range(24)]
    followers = {word: shared.sample(words, 3) for word in words}
    with path.open("w", encoding="utf-8") as lines:
        for number in range(num_tales):
            word, text = choose.choice(words), []
            for _ in range(60):
                text.append(word)
                word = choose.choice(followers[word])
            record = {"title": "made up", "author": "a seed", "chapter": f"Tale {number}", "text": " ".join(text)}
            lines.write(json.dumps(record) + "\n")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "train.jsonl", num_tales=60, seed=1)
    write_corpus(folder / "valid.jsonl", num_tales=8, seed=2)
    return folder


def job(corpus: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Job fields; everything the job writes lies below `folder`."""
    fields = {
        "train_path": str(corpus / "train.jsonl"),
        "valid_path": str(corpus / "valid.jsonl"),
        "work_folder": str(folder / "work"),
        "output_folder": str(folder / "checkpoint"),
        "plan": PLAN,
        "architecture": ARCHITECTURE,
        "num_threads": 1,
    }
    return {**fields, **changes}


def train(python: Path, fields: dict[str, Any], folder: Path) -> RecordingProgress:
    progress = RecordingProgress()
    settings = JobSettings(python, "train", folder / "train.log", timeout_s=300.0)
    run_job(settings, fields, title="training", progress=progress)
    return progress


@pytest.fixture(scope="module")
def teacher(train_python: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint made in one go."""
    folder = tmp_path_factory.mktemp("teacher")
    progress = train(train_python, job(corpus, folder), folder)
    assert progress.advances[-1] == (float(NUM_STEPS), float(NUM_STEPS))
    return folder / "checkpoint"


def curve(checkpoint: Path) -> list[dict[str, float]]:
    lines = (checkpoint / "training_curve.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_train_made_up_language_is_learned(teacher: Path) -> None:
    bits = [point["valid_bits_per_byte"] for point in curve(teacher)]
    # 300 tokens drawn evenly cost 8.2 bits each; the language has 3 followers per word, about 0.3 bits per byte
    assert bits[-1] < 0.75 * bits[0]
    config = json.loads((teacher / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert sorted(path.name for path in teacher.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_curve.jsonl",
    ]


def kill_after_first_checkpoint(python: Path, fields: dict[str, Any], folder: Path, processes: Any) -> None:
    """Starts the job and kills it as soon as it has something to continue from."""
    job_path = folder / "killed.json"
    job_path.write_text(json.dumps(fields))
    argv = [str(python), "-I", "-W", "ignore", bootstrap.__file__, "train", str(job_path)]
    with (folder / "killed.log").open("w") as log:
        killed = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        saved = folder / "work" / "checkpoint.pt"
        processes.wait_until(lambda: saved.exists() or killed.poll() is not None)
    finally:
        killed.kill()
    assert killed.wait() == -signal.SIGKILL, (folder / "killed.log").read_text()
    assert list(folder.glob("checkpoint*")) == []


def assert_continued_to_the_end(progress: RecordingProgress) -> None:
    """It did not begin anew, and it ended."""
    steps = [done for done, _ in progress.advances]
    assert steps[0] > CHECKPOINT_EVERY_STEPS
    assert steps[-1] == NUM_STEPS


def test_train_killed_leaves_no_checkpoint_and_goes_on_to_the_weights_of_an_unbroken_run(
    train_python: Path, corpus: Path, teacher: Path, tmp_path: Path, processes: Any
) -> None:
    fields = job(corpus, tmp_path)
    kill_after_first_checkpoint(train_python, fields, tmp_path, processes)
    continued = train(train_python, fields, tmp_path)
    assert_continued_to_the_end(continued)
    expected = SafetensorsFile(teacher / "model.safetensors")
    found = SafetensorsFile(tmp_path / "checkpoint" / "model.safetensors")
    assert found.names == expected.names
    for name in sorted(expected.names):  # it ends where it would have ended
        np.testing.assert_array_equal(found.read_f32(name), expected.read_f32(name), err_msg=name)
    bits = {(point["step"], point["valid_bits_per_byte"]) for point in curve(tmp_path / "checkpoint")}
    assert bits == {(point["step"], point["valid_bits_per_byte"]) for point in curve(teacher)}


def test_train_student_keeps_the_tokenizer_and_comes_nearer_to_its_teacher(
    train_python: Path, corpus: Path, teacher: Path, tmp_path: Path
) -> None:
    plan = {**PLAN, "num_steps": 24, "evaluate_every_steps": 1, "kl_weight": 0.5, "temperature": 2.0, "warmup_steps": 1}
    distill = job(corpus, tmp_path, plan=plan, architecture={}, teacher=str(teacher), student_layers=[0, 3])
    train(train_python, distill, tmp_path)
    student = tmp_path / "checkpoint"
    assert json.loads((student / "config.json").read_text())["num_hidden_layers"] == 2
    tokenizers = [json.loads((folder / "tokenizer.json").read_text()) for folder in (student, teacher)]
    assert tokenizers[0] == tokenizers[1]
    bits = [point["valid_bits_per_byte"] for point in curve(student)]
    assert bits[-1] < bits[0]
    names = SafetensorsFile(student / "model.safetensors").names
    assert {name.split(".")[2] for name in names if ".layers." in name} == {"0", "1"}


@pytest.mark.skipif(shutil.which("g++") is None, reason="NOT TESTED: torch.compile needs a C++ compiler")
def test_train_compiled_learns_what_the_plain_run_does(
    train_python: Path, corpus: Path, teacher: Path, tmp_path: Path
) -> None:
    train(train_python, job(corpus, tmp_path, is_compiled=True), tmp_path)
    found = [point["valid_bits_per_byte"] for point in curve(tmp_path / "checkpoint")]
    expected = [point["valid_bits_per_byte"] for point in curve(teacher)]
    np.testing.assert_allclose(found, expected, rtol=0.03)  # the same steps, rounded elsewhere


def test_train_killed_on_cuda_goes_on_on_a_cpu_to_about_the_same_loss(
    cuda_python: Path, corpus: Path, tmp_path: Path, processes: Any
) -> None:
    fields = job(corpus, tmp_path, device="cuda")
    kill_after_first_checkpoint(cuda_python, fields, tmp_path, processes)
    assert_continued_to_the_end(train(cuda_python, {**fields, "device": "cpu"}, tmp_path))
    unbroken = job(corpus, tmp_path / "cpu")
    train(cuda_python, unbroken, tmp_path / "cpu")
    found = [point["valid_bits_per_byte"] for point in curve(tmp_path / "checkpoint")]
    expected = [point["valid_bits_per_byte"] for point in curve(tmp_path / "cpu" / "checkpoint")]
    np.testing.assert_allclose(found, expected, rtol=0.03)  # the same steps, sums in another order


def test_train_student_on_cuda_comes_nearer_to_its_teacher(cuda_python: Path, corpus: Path, tmp_path: Path) -> None:
    train(cuda_python, job(corpus, tmp_path / "teacher", device="cuda"), tmp_path / "teacher")
    plan = {**PLAN, "num_steps": 24, "evaluate_every_steps": 1, "kl_weight": 0.5, "temperature": 2.0, "warmup_steps": 1}
    folder = tmp_path / "teacher" / "checkpoint"
    fields = job(corpus, tmp_path, plan=plan, architecture={}, teacher=str(folder), student_layers=[0, 3])
    train(cuda_python, {**fields, "device": "cuda"}, tmp_path)
    bits = [point["valid_bits_per_byte"] for point in curve(tmp_path / "checkpoint")]
    assert bits[-1] < bits[0]
    tensors = SafetensorsFile(tmp_path / "checkpoint" / "model.safetensors")
    assert {name.split(".")[2] for name in tensors.names if ".layers." in name} == {"0", "1"}


def test_train_broken_corpus_line_is_named(train_python: Path, corpus: Path, tmp_path: Path) -> None:
    lines = (corpus / "train.jsonl").read_text().splitlines()
    broken = tmp_path / "broken.jsonl"
    broken.write_text("\n".join([*lines[:2], '{"title": "cut o', *lines[2:]]) + "\n")
    with pytest.raises(ToolchainError) as caught:
        train(train_python, job(corpus, tmp_path, train_path=str(broken)), tmp_path)
    assert f"{broken}:3: not a corpus record" in caught.value.what
    assert "Traceback" not in str(caught.value)
    assert str(tmp_path / "train.log") in str(caught.value)
    assert "Traceback" in (tmp_path / "train.log").read_text()  # where people look for more


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 3}, "epochs"),
        ({"architecture": {**ARCHITECTURE, "vocab_size": 5000}}, "vocab_size is 5000"),
        ({"train_path": "/nowhere/train.jsonl"}, "/nowhere/train.jsonl"),
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
        ({"device": "cuda"}, "finds no CUDA device"),  # the toolchain's torch is built for CPUs
    ],
    ids=["unknown field", "vocabulary larger than the corpus gives", "no corpus", "unknown device", "no such device"],
)
def test_train_job_that_makes_no_sense_says_why(
    changes: dict[str, Any], words: str, train_python: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(ToolchainError) as caught:
        train(train_python, job(corpus, tmp_path, **changes), tmp_path)
    assert words in caught.value.what
    assert not (tmp_path / "checkpoint").exists()
