"""Losses against closed forms, and the job `distill` in its real toolchain on models that it takes seconds to train."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from tests.toolchain.tiny_models import VOCAB_SIZE, do_job, prune_fields, run_python, write_texts, write_tokenizer

from lightship.artifacts.sources.builtin import builtin_checkpoint
from lightship.compression.calibration import builtin_calibration
from lightship.compression.ir_template import SafetensorsFile
from lightship.compression.toolchains import bootstrap
from lightship.errors import ToolchainError

pytestmark = pytest.mark.toolchain

_LOSSES = """
from lightship.compression.training.losses import Objective, forward_kl, head_loss, jensen_shannon, reverse_kl
p, q = torch.tensor([[[0.5, 0.25, 0.25]]]).log(), torch.tensor([[[0.1, 0.1, 0.8]]]).log()
student = q.clone().requires_grad_()
found = {{
    "forward": forward_kl(student, p, temperature=1.0).item(),
    "forward_hot": forward_kl(student * 2, p * 2, temperature=2.0).item(),
    "reverse": reverse_kl(student, p, temperature=1.0).item(),
    "js": jensen_shannon(student, p, temperature=1.0).item(),
    "js_swapped": jensen_shannon(p, q, temperature=1.0).item(),
    "js_quarter": jensen_shannon(student, p, temperature=1.0, beta=0.25).item(),
    "nothing": [f(p, p, temperature=1.0).item() for f in (forward_kl, reverse_kl, jensen_shannon)],
}}
far = torch.tensor([[[300.0, -300.0, 0.0]]], requires_grad=True)
for name in ("forward_kl", "reverse_kl", "jensen_shannon"):
    Objective(name).divergence_of(far, -far.detach()).backward()
found["far_gradient"] = far.grad.flatten().tolist()

# The gradients that head_loss makes piece by piece are those that autograd makes of all logits at once.
import lightship.compression.training.losses as losses
losses._CHUNK_ELEMENTS = 37 * 20
hidden = torch.randn(3, 50, 8, requires_grad=True)
head = torch.randn(37, 8, requires_grad=True)
taught, teacher_head, targets = torch.randn(3, 50, 6), torch.randn(37, 6), torch.randint(0, 37, (3, 50))
objective = Objective("jensen_shannon", temperature=1.5, kl_weight=0.7, beta=0.3)
loss_of = lambda a, b, c: objective.mix(*objective.parts(a, b, c))
whole = loss_of(hidden @ head.T, taught @ teacher_head.T, targets)
expected = torch.autograd.grad(whole * 3, (hidden, head))
pieces = head_loss(hidden, head, taught, teacher_head, targets, loss_of=loss_of)
grads = torch.autograd.grad(pieces * 3, (hidden, head))
found["loss_error"] = abs(whole.item() - pieces.item())
found["gradient_error"] = max((a - b).abs().max().item() for a, b in zip(expected, grads))
print(json.dumps(found))
"""


def test_losses_equal_their_closed_forms(train_python: Path) -> None:
    found = run_python(train_python, _LOSSES.replace("{{", "{").replace("}}", "}"))
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.1, 0.8])  # teacher and student

    def kl(one: Any, other: Any) -> float:
        return float(np.sum(one * np.log(one / other)))

    assert found["forward"] == pytest.approx(kl(p, q), rel=1e-5)
    assert found["forward_hot"] == pytest.approx(4 * kl(p, q), rel=1e-5)
    assert found["reverse"] == pytest.approx(kl(q, p), rel=1e-5)
    middle, quarter = (p + q) / 2, 0.25 * p + 0.75 * q
    assert found["js"] == pytest.approx((kl(p, middle) + kl(q, middle)) / 2, rel=1e-5)
    assert found["js_swapped"] == pytest.approx(found["js"], rel=1e-5)
    assert found["js"] < math.log(2)
    assert found["js_quarter"] == pytest.approx(0.25 * kl(p, quarter) + 0.75 * kl(q, quarter), rel=1e-5)
    assert found["nothing"] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert all(math.isfinite(value) for value in found["far_gradient"])
    assert found["loss_error"] < 1e-6
    assert found["gradient_error"] < 1e-6


_MAKE = """
root = Path({root!r})
model = tiny("llama", tie_word_embeddings=True)
model.to(torch.bfloat16).save_pretrained(root / "teacher")
print("true")
"""


# A pruned model of random weights has little that a few steps can mend, so its last norm is put out of tune, too.
_DETUNE = """
from safetensors.torch import load_file, save_file
tensors = load_file({path!r})
tensors["model.norm.weight"] *= 1.5
save_file(tensors, {path!r}, metadata={{"format": "pt"}})
print("true")
"""


@pytest.fixture(scope="module")
def models(train_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `teacher`, `student` (two of its four blocks) and `texts.jsonl`."""
    root = tmp_path_factory.mktemp("models")
    run_python(train_python, _MAKE.format(root=str(root)))
    write_tokenizer(root / "teacher")
    write_texts(root / "texts.jsonl", num_texts=100)
    do_job(train_python, "prune", prune_fields(root / "teacher", root / "texts.jsonl", num_layers=2), root / "prune")
    shutil.move(root / "prune" / "out", root / "student")
    run_python(train_python, _DETUNE.format(path=str(root / "student" / "model.safetensors")))
    return root


def fields(models: Path, work: Path, **changes: Any) -> dict[str, Any]:
    work.mkdir(parents=True, exist_ok=True)
    student = Path(changes.get("student", models / "student"))
    job: dict[str, Any] = {
        "teacher": str(models / "teacher"),
        "student": str(student),
        "work_folder": str(work),
        "texts": str(models / "texts.jsonl"),
        "texts_digest": "sha256:0",
        "is_training_text": True,
        "files": sorted(path.name for path in student.iterdir()),
        "vocab_size": 59,
        "num_tokens": 12_800,
        "num_steps": 50,
        "tokens_per_step": 256,
        "context_tokens": 32,
        "held_out_tokens": 512,
        "sample_tokens": 4096,
        "evaluate_every_steps": 5,
        "learning_rate": 0.01,
        "divergence": "forward_kl",
        "beta": 0.5,
        "temperature": 1.0,
        "kl_weight": 1.0,
        "hidden_weight": 0.0,
        "early_stop_patience": 0,
        "seed": 3,
        "on_policy": False,
        "allow_cpu": False,
        "completion_tokens": 16,
        "num_threads": 1,
    }
    return job | changes


def curve(folder: Path) -> list[dict[str, float]]:
    """The curve without what the clock says."""
    rows = [json.loads(line) for line in (folder / "out" / "training_curve.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "elapsed_s"} for row in rows]


@pytest.fixture(scope="module")
def distilled(train_python: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `out`, made in one go."""
    folder = tmp_path_factory.mktemp("distilled")
    do_job(train_python, "distill", fields(models, folder / "work"), folder)
    return folder


def test_distill_student_comes_nearer_to_its_teacher(distilled: Path) -> None:
    points = curve(distilled)
    assert [point["step"] for point in points] == list(range(0, 51, 5))
    assert [point["num_tokens"] for point in points][-1] == 12_800
    assert points[-1]["held_out_divergence"] < 0.7 * points[0]["held_out_divergence"]
    record = json.loads((distilled / "out" / "distillation.json").read_text())
    assert record["held_out"]["after_bits_per_byte"] == points[-1]["held_out_bits_per_byte"]
    assert record["tokens_per_s"] > 0
    ElementTree.parse(distilled / "out" / "training_curve.svg")


def test_distill_artifact_is_the_student_with_other_weights(distilled: Path, models: Path) -> None:
    made, student = distilled / "out", models / "student"
    names = {path.name for path in student.iterdir()}
    extra = {"distillation.json", "training_curve.jsonl", "training_curve.svg"}
    assert {path.name for path in made.iterdir()} == names | extra
    for name in names - {"model.safetensors"}:
        assert (made / name).read_bytes() == (student / name).read_bytes(), name
    new, old = (SafetensorsFile(folder / "model.safetensors") for folder in (made, student))
    assert new.names == old.names
    assert (made / "model.safetensors").stat().st_size == (student / "model.safetensors").stat().st_size  # bf16 still
    assert any(np.abs(new.read_f32(name) - old.read_f32(name)).max() > 0 for name in new.names)


def test_distill_killed_goes_on_to_the_curve_and_weights_of_an_unbroken_run(
    train_python: Path, models: Path, distilled: Path, tmp_path: Path, processes: Any
) -> None:
    job = fields(models, tmp_path / "work")
    (tmp_path / "killed").mkdir()
    job_path = tmp_path / "killed.json"
    job_path.write_text(json.dumps(job | {"output": str(tmp_path / "killed")}))
    argv = [str(train_python), "-I", "-W", "ignore", bootstrap.__file__, "distill", str(job_path)]
    with (tmp_path / "killed.log").open("w") as log:
        killed = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        saved = tmp_path / "work" / "checkpoint.pt"
        processes.wait_until(lambda: saved.exists() or killed.poll() is not None)
    finally:
        killed.kill()
    assert killed.wait() == -signal.SIGKILL, (tmp_path / "killed.log").read_text()
    assert list((tmp_path / "killed").iterdir()) == []
    progress = do_job(train_python, "distill", job, tmp_path)
    assert progress.advances[0][0] > 0  # it did not begin anew
    assert curve(tmp_path) == curve(distilled)
    expected, found = (SafetensorsFile(folder / "out" / "model.safetensors") for folder in (distilled, tmp_path))
    for name in sorted(expected.names):
        np.testing.assert_array_equal(found.read_f32(name), expected.read_f32(name), err_msg=name)


def test_distill_from_what_the_teacher_writes_needs_no_text(train_python: Path, models: Path, tmp_path: Path) -> None:
    job = fields(models, tmp_path / "work", is_training_text=False, divergence="jensen_shannon", hidden_weight=0.1)
    do_job(train_python, "distill", job, tmp_path)
    points = curve(tmp_path)
    assert points[-1]["held_out_divergence"] < points[0]["held_out_divergence"]
    samples = np.concatenate([np.load(path) for path in sorted((tmp_path / "work").glob("samples-*.npy"))])
    assert len(samples) == 4096
    rows = samples.reshape(-1, 32)
    assert (rows[:, 0] == 0).all()  # each begins with the mark
    assert rows.max() < 59  # nothing of the vocabulary's padding
    ends = np.argwhere(rows[:, :-1] == 1)
    assert (rows[ends[:, 0], ends[:, 1] + 1] == 0).all()  # after an end a text begins


_SAMPLE = """
import numpy as np, tempfile
from lightship.compression.training.corpus import DocumentMarks
from lightship.compression.training.samples import teacher_samples
model = tiny("llama")
folder = Path(tempfile.mkdtemp())
ids = teacher_samples(
    model, num_tokens=64 * 400, row_tokens=2, vocab_size=96, marks=DocumentMarks(0, None), prefixes=[], seed=1,
    folder=folder,
).reshape(-1, 2)
with torch.no_grad():
    p = model(torch.tensor([[0]])).logits[0, -1].softmax(-1)
counts = np.bincount(ids[:, 1], minlength=96)
print(json.dumps([counts.tolist(), p.tolist()]))
"""


def test_teacher_samples_follow_the_teachers_distribution(train_python: Path) -> None:
    counts, probabilities = (np.array(values) for values in run_python(train_python, _SAMPLE))
    expected = probabilities * counts.sum()
    often = expected >= 5
    statistic = float(((counts - expected) ** 2 / expected)[often].sum())
    freedom = int(often.sum()) - 1
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)  # chi-squared: mean k, variance 2k


_PAD = """
model = AutoModelForCausalLM.from_pretrained({student!r})
model.resize_token_embeddings({vocab}, mean_resizing=False)
with torch.no_grad():
    model.get_input_embeddings().weight[96:] = 5.0
model.save_pretrained({folder!r})
print("true")
"""


def test_distill_vocabulary_padded_differently_has_the_same_curve(
    train_python: Path, models: Path, tmp_path: Path
) -> None:
    padded = tmp_path / "padded"
    shutil.copytree(models / "student", padded)
    run_python(train_python, _PAD.format(student=str(models / "student"), folder=str(padded), vocab=VOCAB_SIZE + 32))
    short = {"num_steps": 5, "num_tokens": 1280}
    do_job(train_python, "distill", fields(models, tmp_path / "a", **short), tmp_path / "a")
    do_job(train_python, "distill", fields(models, tmp_path / "b", student=str(padded), **short), tmp_path / "b")
    for plain, wide in zip(curve(tmp_path / "a"), curve(tmp_path / "b"), strict=True):
        assert wide["held_out_divergence"] == pytest.approx(plain["held_out_divergence"], rel=0.02)


def test_distill_without_progress_stops_early_with_the_best_weights(
    train_python: Path, models: Path, tmp_path: Path
) -> None:
    job = fields(models, tmp_path / "work", learning_rate=1.0, early_stop_patience=2, evaluate_every_steps=1)
    do_job(train_python, "distill", job, tmp_path)
    points, record = curve(tmp_path), json.loads((tmp_path / "out" / "distillation.json").read_text())
    losses = [point["held_out_loss"] for point in points]
    assert record["stopped_early"]
    assert len(points) < 51
    assert record["taken_step"] == losses.index(min(losses)) == len(points) - 3


def test_distill_loss_that_is_no_number_says_what_to_change(train_python: Path, models: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=r"loss is (nan|inf) at step \d+; give a lower learning_rate"):
        do_job(train_python, "distill", fields(models, tmp_path / "work", learning_rate=1e30), tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_distill_on_policy_without_an_accelerator_is_refused(train_python: Path, models: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=r"on_policy needs an accelerator.*allow_cpu: true"):
        do_job(train_python, "distill", fields(models, tmp_path / "work", on_policy=True), tmp_path)


def test_distill_on_policy_a_few_steps_on_a_cpu_bring_the_builtin_model_nearer(
    train_python: Path, tmp_path: Path
) -> None:
    teacher = builtin_checkpoint("fairytales")
    tales = [json.dumps({"text": document.text}) for document in builtin_calibration().documents]
    (tmp_path / "texts.jsonl").write_text("\n".join(tales))
    pruned = prune_fields(teacher, tmp_path / "texts.jsonl", blocks=[3, 4])
    do_job(train_python, "prune", pruned, tmp_path / "prune")
    job = fields(
        tmp_path,
        tmp_path / "work",
        teacher=str(teacher),
        student=str(tmp_path / "prune" / "out"),
        vocab_size=4096,
        on_policy=True,
        allow_cpu=True,
        num_steps=6,
        evaluate_every_steps=3,
        learning_rate=3e-4,
    )
    do_job(train_python, "distill", job, tmp_path)
    points = curve(tmp_path)
    assert [point["step"] for point in points] == [0, 3, 6]
    divergences = [point["held_out_divergence"] for point in points]
    assert divergences == sorted(divergences, reverse=True)
    assert divergences[-1] < 0.97 * divergences[0]


def test_distill_text_too_short_for_a_window_is_refused(train_python: Path, models: Path, tmp_path: Path) -> None:
    short = write_texts(tmp_path / "short.jsonl", num_texts=2, num_words=20)
    with pytest.raises(ToolchainError, match="the training text has 44 tokens; at least 320 are needed"):
        do_job(train_python, "distill", fields(models, tmp_path / "work", texts=str(short)), tmp_path)
