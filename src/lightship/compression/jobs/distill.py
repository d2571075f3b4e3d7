"""Job `distill`: teacher and student in, the student trained towards the teacher out, with its curve.

Runs in the toolchain `train`, on an accelerator where there is one that its torch can use. The work folder keeps what a
stopped run goes on from: the teacher's samples batch by batch, the training's checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightship.compression.job_texts import read_job_texts
from lightship.compression.pruning.checkpoint_folder import (
    CONFIG,
    PRUNING,
    copy_accompanying,
    read_config,
    tensors_of,
    write_json,
    write_weights,
)
from lightship.compression.training.corpus import DocumentMarks, TokenIds, token_ids
from lightship.compression.training.curve_plot import draw_curves
from lightship.compression.training.distiller import Distillation, DistillationPlan, DistillationPoint
from lightship.compression.training.held_out import HeldOutText, Pair
from lightship.compression.training.hidden_states import HiddenMatch
from lightship.compression.training.layer_map import layer_map
from lightship.compression.training.losses import Divergence, Objective
from lightship.compression.training.samples import teacher_samples

_PROMPT_TOKENS = 16


@dataclass(frozen=True)
class DistillJob:
    """The job file; fields that the step's options have, too, are described there.

    Args:
        texts: JSON lines of texts: to train on, or for their first words.
        vocab_size: Ids that both models mean the same by.
        num_threads: Threads of the arithmetic; None for as many as there are cores.
    """

    teacher: Path
    student: Path
    output: Path
    work_folder: Path
    texts: Path
    texts_digest: str
    is_training_text: bool
    files: tuple[str, ...]
    vocab_size: int
    num_tokens: int
    num_steps: int
    tokens_per_step: int
    context_tokens: int
    held_out_tokens: int
    sample_tokens: int
    evaluate_every_steps: int
    learning_rate: float
    divergence: Divergence
    beta: float
    temperature: float
    kl_weight: float
    hidden_weight: float
    early_stop_patience: int
    seed: int
    on_policy: bool
    allow_cpu: bool
    completion_tokens: int
    num_threads: int | None

    @classmethod
    def from_json(cls, text: str) -> DistillJob:
        """Parses a job file."""
        raw: dict[str, Any] = json.loads(text)
        for name in ("teacher", "student", "output", "work_folder", "texts"):
            raw[name] = Path(raw[name])
        return cls(**{**raw, "files": tuple(raw["files"])})

    @property
    def objective(self) -> Objective:
        """What is minimised."""
        return Objective(self.divergence, self.temperature, self.kl_weight, self.beta)


def main(job_path: Path) -> None:
    """Entry point of the job."""
    job = DistillJob.from_json(job_path.read_text("utf-8"))
    torch.set_num_threads(job.num_threads or len(os.sched_getaffinity(0)))
    torch.manual_seed(job.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if job.on_policy and device.type == "cpu" and not job.allow_cpu:
        raise ValueError(
            "on_policy needs an accelerator, and torch finds none here: the student would write for days; leave "
            "on_policy out, or set allow_cpu: true to do it all the same"
        )
    arithmetic = torch.bfloat16 if _has_bf16(device) else torch.float32
    pair = Pair(
        _load(job.student, torch.float32, device), _load(job.teacher, arithmetic, device), job.vocab_size, arithmetic
    )
    tokenizer = read_tokenizer(job.student)
    train, held_out = text_streams(job, pair, tokenizer)
    held_out_text = HeldOutText(
        held_out, bytes_per_token=_bytes_per_token(tokenizer, held_out), context_tokens=job.context_tokens
    )
    teacher_bits_per_byte = held_out_text.teacher_bits_per_byte(pair)
    points = (_distil_on_policy if job.on_policy else _distil)(job, pair, train, held_out_text)
    _write(job, pair, points, {"teacher": teacher_bits_per_byte, "held_out_tokens": held_out_text.num_tokens})


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer, which neither cuts nor pads."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def document_marks(tokenizer: Any, config: dict[str, Any]) -> DocumentMarks:
    """What the tokenizer itself writes before a text, and the id that the model ends with."""
    first = tokenizer.encode("").ids
    eos = config.get("eos_token_id")
    if isinstance(eos, list):
        eos = eos[0] if eos else None
    return DocumentMarks(bos_id=first[0] if first and first[0] != eos else None, eos_id=eos)


def text_streams(job: DistillJob, pair: Pair, tokenizer: Any) -> tuple[TokenIds, TokenIds]:
    """Ids to train on, and ids that are held out.

    Raises: ValueError: the text is too short for one window of each.
    """
    texts = read_job_texts(job.texts)
    marks = document_marks(tokenizer, read_config(job.student))
    if job.is_training_text or job.on_policy:
        order = np.random.default_rng(job.seed).permutation(len(texts))
        wanted = job.num_tokens + job.held_out_tokens
        stream = encode_texts([texts[index] for index in order], tokenizer, marks, wanted, job.vocab_size)
    else:
        stream = teacher_samples(
            pair.teacher,
            num_tokens=job.sample_tokens,
            row_tokens=job.context_tokens,
            vocab_size=job.vocab_size,
            marks=marks,
            prefixes=[encoding.ids for encoding in tokenizer.encode_batch(texts)],
            seed=job.seed,
            folder=job.work_folder,
            report=lambda count: _report(count, job.sample_tokens, "the teacher writes"),
        )
    num_held_out = min(job.held_out_tokens, len(stream) // 10)
    if num_held_out < 32 or len(stream) - num_held_out < 2 * job.context_tokens + 2:
        raise ValueError(
            f"the training text has {len(stream)} tokens; at least {max(320, 3 * job.context_tokens)} are needed: give "
            "more text or a smaller context_tokens"
        )
    return stream[:-num_held_out], stream[-num_held_out:]


def encode_texts(
    texts: Sequence[str], tokenizer: Any, marks: DocumentMarks, num_tokens: int, vocab_size: int
) -> TokenIds:
    """The texts as one stream with marks between them; stops when so many ids are there."""
    ids: list[int] = []
    for start in range(0, len(texts), 256):
        for encoding in tokenizer.encode_batch(list(texts[start : start + 256])):
            ids += marks.around(encoding.ids)
        if len(ids) >= num_tokens:
            break
    return token_ids(ids[:num_tokens], vocab_size=vocab_size)


def _distil(job: DistillJob, pair: Pair, train: TokenIds, held_out: HeldOutText) -> list[DistillationPoint]:
    hidden = _hidden_match(job, pair) if job.hidden_weight else None
    distillation = Distillation(
        folder=job.work_folder,
        pair=pair,
        plan=DistillationPlan(
            num_steps=job.num_steps,
            tokens_per_step=job.tokens_per_step,
            context_tokens=job.context_tokens,
            learning_rate=job.learning_rate,
            seed=job.seed,
            evaluate_every_steps=job.evaluate_every_steps,
            objective=job.objective,
            hidden_weight=job.hidden_weight,
            early_stop_patience=job.early_stop_patience,
            warmup_steps=min(10, max(1, job.num_steps // 10)),
        ),
        stream=train,
        held_out=held_out,
        hidden=hidden,
        report=lambda point: _report_point(point, job.num_steps),
    )
    return distillation.run()


def _distil_on_policy(job: DistillJob, pair: Pair, train: TokenIds, held_out: HeldOutText) -> list[DistillationPoint]:
    from lightship.compression.training.on_policy import OnPolicyPlan, distil_on_policy

    if pair.student.config.vocab_size != pair.teacher.config.vocab_size:
        raise ValueError(
            f"on_policy needs logits of equal width, and vocab_size is {pair.teacher.config.vocab_size} of the teacher "
            f"and {pair.student.config.vocab_size} of the student; without on_policy the padding is masked"
        )
    tokenizer = AutoTokenizer.from_pretrained(job.student, local_files_only=True, trust_remote_code=False)
    windows = train[: len(train) // _PROMPT_TOKENS * _PROMPT_TOKENS].reshape(-1, _PROMPT_TOKENS)
    prompts = [text for text in tokenizer.batch_decode(windows.tolist(), skip_special_tokens=True) if text.strip()]
    path, points = job.work_folder / "curve.jsonl", {}
    if path.exists():
        points = {
            row["step"]: DistillationPoint(**row) for row in map(json.loads, path.read_text("utf-8").splitlines())
        }

    def evaluate(step: int, train_loss: float) -> None:
        figures = held_out.figures(pair, job.objective)
        point = DistillationPoint(
            step=step,
            num_tokens=step * job.tokens_per_step,
            train_loss=train_loss,
            held_out_loss=figures.loss,
            held_out_divergence=figures.divergence,
            held_out_bits_per_byte=figures.bits_per_byte,
            learning_rate_factor=1 - (step - 1) / job.num_steps if step else 0.0,
            elapsed_s=0.0,
        )
        points[step] = point
        path.write_text("".join(json.dumps(asdict(points[at])) + "\n" for at in sorted(points)), encoding="utf-8")
        _report_point(point, job.num_steps)

    if 0 not in points:
        evaluate(0, held_out.figures(pair, job.objective).loss)
    plan = OnPolicyPlan(
        num_steps=job.num_steps,
        rows_per_step=max(1, job.tokens_per_step // job.completion_tokens),
        completion_tokens=job.completion_tokens,
        learning_rate=job.learning_rate,
        temperature=job.temperature,
        divergence=job.divergence,
        beta=job.beta,
        seed=job.seed,
        evaluate_every_steps=job.evaluate_every_steps,
    )
    folder = job.work_folder / "trl"
    distil_on_policy(pair.student, pair.teacher, tokenizer, plan, prompts=prompts, folder=folder, evaluate=evaluate)
    return [points[step] for step in sorted(points)]


def _hidden_match(job: DistillJob, pair: Pair) -> HiddenMatch:
    kept: list[int] | None = None
    if (job.student / PRUNING).exists():
        kept = json.loads((job.student / PRUNING).read_text("utf-8"))["blocks_of_source"]
    student, teacher = pair.student.config, pair.teacher.config
    pairs = layer_map(student_layers=student.num_hidden_layers, teacher_layers=teacher.num_hidden_layers, kept=kept)
    match = HiddenMatch(pairs, student_width=student.hidden_size, teacher_width=teacher.hidden_size)
    return match.to(pair.student.device)


def _write(job: DistillJob, pair: Pair, points: Sequence[DistillationPoint], figures: dict[str, float]) -> None:
    """The artifact: tensors under the names and in the types that they have in the student's checkpoint."""
    copy_accompanying(job.student, job.files, job.output)
    trained = {name: tensor.detach().cpu() for name, tensor in pair.student.state_dict().items()}
    if all(name in trained for name, _ in tensors_of(job.student)):
        write_json(job.output / CONFIG, read_config(job.student))
        write_weights(job.student, job.output, lambda name, tensor: (name, trained[name].to(tensor.dtype)))
    else:  # a family whose tensors transformers joins when it reads them: it knows how to write them
        stored = next(tensor.dtype for _, tensor in tensors_of(job.student) if tensor.is_floating_point())
        pair.student.to("cpu", stored).save_pretrained(job.output)
    rows = "".join(json.dumps(asdict(point)) + "\n" for point in points)
    (job.output / "training_curve.jsonl").write_text(rows, encoding="utf-8")
    curve = [(point.num_tokens / 1e6, point.held_out_bits_per_byte) for point in points]
    plot = draw_curves(
        [("student", curve)],
        x_title="million tokens",
        y_title="bits per byte of held-out text (lower is better)",
        levels=[("teacher", figures["teacher"])],
    )
    (job.output / "training_curve.svg").write_text(plot, encoding="utf-8")
    best = min(points, key=lambda point: point.held_out_loss) if job.early_stop_patience else points[-1]
    tokens_per_s = points[-1].num_tokens / points[-1].elapsed_s if points[-1].elapsed_s else None
    settings = {name: value for name, value in asdict(job).items() if isinstance(value, int | float | bool | str)}
    record = {
        "settings": {name: value for name, value in settings.items() if name != "texts_digest"},
        "text": {"source": "file" if job.is_training_text else "teacher", "digest": job.texts_digest},
        "held_out": {
            "num_tokens": figures["held_out_tokens"],
            "teacher_bits_per_byte": figures["teacher"],
            "before_bits_per_byte": points[0].held_out_bits_per_byte,
            "after_bits_per_byte": best.held_out_bits_per_byte,
        },
        "taken_step": best.step,
        "stopped_early": points[-1].step < job.num_steps,
        "tokens_per_s": tokens_per_s,
        "num_threads": torch.get_num_threads(),
    }
    write_json(job.output / "distillation.json", record)


def _load(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, trust_remote_code=False)
    return model.to(device).eval()


def _has_bf16(device: torch.device) -> bool:
    """Whether bf16 products are quicker than float32 ones here; without instructions for them they are far slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    try:
        flags = Path("/proc/cpuinfo").read_text("ascii", errors="replace")
    except OSError:
        return sys.platform == "darwin"
    return "avx512_bf16" in flags or "amx_bf16" in flags or " bf16" in flags


def _bytes_per_token(tokenizer: Any, ids: TokenIds) -> float:
    return max(1, len(tokenizer.decode(ids.tolist(), skip_special_tokens=True).encode())) / len(ids)


def _report(done: int, total: int, note: str) -> None:
    print(json.dumps({"event": "progress", "done": min(done, total), "total": total, "note": note}), flush=True)


def _report_point(point: DistillationPoint, num_steps: int) -> None:
    _report(point.step, num_steps, f"{point.held_out_bits_per_byte:.4f} bits/byte held out")
