"""Job `train`: a corpus and a training plan in, a checkpoint in Hugging Face layout out.

With `teacher` set it is distillation: the student keeps the teacher's tokenizer and, where `student_layers` says so,
starts from some of its blocks. `device: cuda` needs a Python whose torch was built for it; the toolchain's is for CPUs.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from lightship.compression.training.corpus import BOS_ID, EOS_ID, Tale, encode_tales, read_tales
from lightship.compression.training.tokenizer import train_tokenizer, write_tokenizer
from lightship.compression.training.trainer import (
    ContextStage,
    CurvePoint,
    TrainingPlan,
    TrainingRun,
    student_from_teacher,
)


@dataclass(frozen=True)
class TrainJob:
    """The job file. `work_folder` keeps checkpoints between runs; `output_folder` appears only when complete.

    Args:
        num_threads: Threads of the CPU's arithmetic.
        device: Where the model is trained; a run may be continued on the other one.
        is_compiled: Fuses each step with `torch.compile`, which takes a minute first and needs a C++ compiler. Steps of
            such small models are bound by memory, so a GPU then does more than twice as many.
    """

    train_path: Path
    valid_path: Path
    work_folder: Path
    output_folder: Path
    plan: TrainingPlan
    architecture: dict[str, Any]
    teacher: Path | None = None
    student_layers: tuple[int, ...] = ()
    num_threads: int = 2
    device: Literal["cpu", "cuda"] = "cpu"
    is_compiled: bool = False

    @classmethod
    def from_json(cls, text: str) -> TrainJob:
        """Parses a job file.

        Raises: TypeError, KeyError: unknown or missing fields.
        """
        raw: dict[str, Any] = json.loads(text)
        plan = raw.pop("plan")
        stages = tuple(ContextStage(**stage) for stage in plan.pop("stages"))
        paths = {"train_path", "valid_path", "work_folder", "output_folder", "teacher"}
        fields: dict[str, Any] = {
            name: Path(value) if name in paths and value else value for name, value in raw.items()
        }
        fields["student_layers"] = tuple(fields.get("student_layers", ()))
        return cls(plan=TrainingPlan(stages=stages, **plan), **fields)


def run(job: TrainJob) -> None:
    """Trains and writes the checkpoint.

    Effects: fills `work_folder`; renames `output_folder` into place at the end.
    """
    device = _device(job.device)
    torch.set_num_threads(job.num_threads)
    torch.manual_seed(job.plan.seed)
    job.work_folder.mkdir(parents=True, exist_ok=True)
    train_tales, valid_tales = read_tales(job.train_path), read_tales(job.valid_path)
    tokenizer = _tokenizer(job, train_tales)
    valid_stream = encode_tales(valid_tales, tokenizer)
    valid_bytes = sum(len(tale.document.encode()) for tale in valid_tales)
    teacher = LlamaForCausalLM.from_pretrained(job.teacher, dtype=torch.float32).eval() if job.teacher else None
    model = _initial_model(job, teacher, tokenizer).to(device)
    print(json.dumps({"event": "start", "num_parameters": model.num_parameters(), "device": job.device}), flush=True)
    training = TrainingRun(
        folder=job.work_folder,
        model=model,
        plan=job.plan,
        train_stream=encode_tales(train_tales, tokenizer),
        valid_stream=valid_stream,
        bytes_per_token=valid_bytes / len(valid_stream),
        teacher=teacher.to(device) if teacher is not None else None,
        report=_print_progress(job.plan.num_steps),
        is_compiled=job.is_compiled,
    )
    curve = training.run()
    _write_checkpoint(job, model, tokenizer, curve)


def _device(name: str) -> torch.device:
    if name not in {"cpu", "cuda"}:
        raise ValueError(f"device must be cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device is cuda, but torch {torch.__version__} of {sys.executable} finds no CUDA device; "
            "use a Python with a CUDA build of torch on a machine with such a device, or device: cpu"
        )
    return torch.device(name)


def _tokenizer(job: TrainJob, tales: list[Tale]) -> Tokenizer:
    if job.teacher:
        return Tokenizer.from_file(str(job.teacher / "tokenizer.json"))
    path = job.work_folder / "tokenizer.json"
    if not path.exists():
        tokenizer = train_tokenizer((tale.document for tale in tales), vocab_size=job.architecture["vocab_size"])
        tokenizer.save(str(path))
    return Tokenizer.from_file(str(path))


def _initial_model(job: TrainJob, teacher: LlamaForCausalLM | None, tokenizer: Tokenizer) -> LlamaForCausalLM:
    if teacher is not None and job.student_layers:
        return student_from_teacher(teacher, layers=job.student_layers)
    config = LlamaConfig(
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=0,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        **job.architecture,
    )
    if config.vocab_size != tokenizer.get_vocab_size():
        raise ValueError(f"vocab_size is {config.vocab_size}, the tokenizer has {tokenizer.get_vocab_size()} entries")
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # residual outputs start smaller, as in GPT-2, so depth does not inflate the stream
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(1 / math.sqrt(2 * config.num_hidden_layers))
    return model


def _print_progress(num_steps: int) -> Any:
    def report(point: CurvePoint) -> None:
        line = {
            "event": "progress",
            "done": point.step,
            "total": num_steps,
            "valid_bits_per_byte": round(point.valid_bits_per_byte, 4),
            "train_loss_nats": round(point.train_loss_nats, 4),
            "elapsed_s": round(point.elapsed_s),
        }
        print(json.dumps(line), flush=True)

    return report


def _write_checkpoint(job: TrainJob, model: LlamaForCausalLM, tokenizer: Tokenizer, curve: list[CurvePoint]) -> None:
    partial = job.output_folder.with_name(job.output_folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.generation_config = GenerationConfig(bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=0)
    model.to("cpu", torch.bfloat16).save_pretrained(partial)
    write_tokenizer(tokenizer, partial, context_length=model.config.max_position_embeddings)
    shutil.copyfile(job.work_folder / "curve.jsonl", partial / "training_curve.jsonl")
    final = {"event": "done", "valid_bits_per_byte": curve[-1].valid_bits_per_byte, "steps": curve[-1].step}
    shutil.rmtree(job.output_folder, ignore_errors=True)
    partial.replace(job.output_folder)
    print(json.dumps(final), flush=True)


def main(job_path: Path) -> None:
    """Entry point of the job."""
    run(TrainJob.from_json(job_path.read_text("utf-8")))
