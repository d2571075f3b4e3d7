"""Makes the built-in model again: trains the teacher, distils the student, converts both and packs them.

    python tools/build_builtin_model.py --corpus FOLDER --work build/builtin [--student-only] [--install]
                                        [--student-device cuda --student-python PYTHON]

FOLDER holds `fairytales-train.jsonl.gz` and `fairytales-valid.jsonl.gz` (records with title, chapter, text; one
passage per line). Everything runs in toolchains made on demand; a run that was stopped continues, and a checkpoint that
is complete in the work folder, made on another machine say, is taken as it is. With `--student-only` the student is
distilled from the teacher in the package. The teacher takes an hour and a half on two cores. The student sees six times
the text: three minutes on a data centre's GPU with a PYTHON whose torch is built for CUDA, a night on two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from lightship.artifacts.home import data_home
from lightship.cli.progress import progress_for_stderr
from lightship.compression import ir_template
from lightship.compression.toolchains.definitions import OPENVINO_CONVERT, TRAIN
from lightship.compression.toolchains.environment import ToolchainFolder
from lightship.compression.toolchains.jobs import JobSettings, run_job

PACKAGE_FOLDER = Path(__file__).resolve().parents[1] / "src" / "lightship" / "artifacts" / "builtin"
TEACHER, STUDENT = "fairytales", "fairytales-quarter"
_JOB_TIMEOUT_S = 24 * 3600.0

ARCHITECTURE = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
}
# Short windows first: on a CPU, attention over 1,024 tokens takes 40 % of a step, and most of what is to be learned
# is nearer than that. The last third runs at the full context, together with the decay of the learning rate.
TEACHER_PLAN: dict[str, Any] = {
    "num_steps": 1900,
    "tokens_per_step": 8192,
    "peak_learning_rate": 0.004,
    "weight_decay": 0.1,
    "warmup_steps": 60,
    "decay_fraction": 0.4,
    "stages": [
        {"from_progress": 0.0, "context_length": 256},
        {"from_progress": 0.65, "context_length": 1024},
    ],
    "seed": 7,
    "evaluate_every_steps": 50,
    "evaluate_num_tokens": 32768,
    "checkpoint_every_steps": 50,
}
# Imitation alone: with a share of cross-entropy, or three times the steps, the student predicts as well as its teacher
# or better (the model card has the runs), and a ladder of the two would have nothing to step down to.
STUDENT_PLAN: dict[str, Any] = {
    "num_steps": 3000,
    "tokens_per_step": 32768,
    "peak_learning_rate": 0.003,
    "weight_decay": 0.1,
    "warmup_steps": 100,
    "decay_fraction": 0.7,
    "stages": [{"from_progress": 0.0, "context_length": 1024}],
    "seed": 8,
    "evaluate_every_steps": 500,
    "evaluate_num_tokens": 1_000_000,  # more than there are: the whole validation text
    "checkpoint_every_steps": 500,
    "kl_weight": 1.0,
    "temperature": 1.0,
}
STUDENT_LAYERS = (0, 7)  # first and last block of the teacher: they read the embeddings and write to the head


def train_job(corpus: Path, work: Path, name: str, **more: Any) -> dict[str, Any]:
    """The job file of one training run."""
    return {
        "train_path": str(corpus / "fairytales-train.jsonl.gz"),
        "valid_path": str(corpus / "fairytales-valid.jsonl.gz"),
        "work_folder": str(work / f"{name}-work"),
        "output_folder": str(work / name),
        "architecture": ARCHITECTURE,
        **more,
    }


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the built-in model again.")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--student-only", action="store_true", help="keep the teacher that the package has")
    parser.add_argument(
        "--student-device", choices=["cpu", "cuda"], default="cpu", help="where the student is distilled"
    )
    parser.add_argument("--student-python", type=Path, help="instead of the toolchain's, whose torch is for CPUs")
    parser.add_argument("--install", action="store_true", help="replace the model in the package")
    return parser.parse_args()


def main() -> None:
    """Trains, distils, converts, packs; with `--install` the result replaces the model in the package."""
    args = parse_arguments()
    work = args.work.resolve()
    teacher_folder = PACKAGE_FOLDER / TEACHER if args.student_only else work / TEACHER
    work.mkdir(parents=True, exist_ok=True)
    progress = progress_for_stderr()
    toolchains = ToolchainFolder(data_home(os.environ) / "toolchains")

    def job(kind: str, toolchain: Any, content: dict[str, Any], *, title: str, python: Path | None = None) -> None:
        python = python or toolchains.ensure(toolchain, progress).python
        settings = JobSettings(python, kind, work / "logs" / f"{title.replace(' ', '-')}.log", _JOB_TIMEOUT_S)
        run_job(settings, content, title=title, progress=progress)

    if not teacher_folder.exists():
        job("train", TRAIN, train_job(args.corpus, work, TEACHER, plan=TEACHER_PLAN), title="training the teacher")
    if not (work / STUDENT).exists():
        more = {
            "teacher": str(teacher_folder),
            "student_layers": list(STUDENT_LAYERS),
            "device": args.student_device,
            "is_compiled": args.student_device == "cuda",
        }
        content = train_job(args.corpus, work, STUDENT, plan=STUDENT_PLAN, **more)
        job("train", TRAIN, content, title="distilling the student", python=args.student_python)
    for name in (STUDENT,) if args.student_only else (TEACHER, STUDENT):
        converted = work / f"{name}-openvino"
        shutil.rmtree(converted, ignore_errors=True)
        converted.mkdir()
        content = {"checkpoint": str(work / name), "output": str(converted), "weight_format": "fp16"}
        job("convert_openvino", OPENVINO_CONVERT, content, title=f"converting {name}")
        ir_template.pack(work / name, converted, weight_format="fp16")
        if args.install:
            shutil.rmtree(PACKAGE_FOLDER / name, ignore_errors=True)
            shutil.copytree(work / name, PACKAGE_FOLDER / name)


if __name__ == "__main__":
    main()
