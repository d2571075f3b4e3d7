"""Distillation on what the student itself writes, by TRL: it learns from its teacher where its own words lead it.

For machines with an accelerator: every step first samples from the student. The loop is TRL's `DistillationTrainer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import DistillationConfig, DistillationTrainer

from lightship.compression.training.losses import Divergence

_ROWS_PER_PASS = 8


@dataclass(frozen=True)
class OnPolicyPlan:
    """What decides a run.

    Args:
        rows_per_step: Prompts that one step completes.
        completion_tokens: At most so many are written for each.
    """

    num_steps: int
    rows_per_step: int
    completion_tokens: int
    learning_rate: float
    temperature: float
    divergence: Divergence
    beta: float
    seed: int
    evaluate_every_steps: int

    @property
    def trl_beta(self) -> float:
        """The divergence as TRL's `beta`: 0 is forward KL, 1 reverse KL, between them Jensen-Shannon."""
        return {"forward_kl": 0.0, "reverse_kl": 1.0}.get(self.divergence, self.beta)


class _Evaluating(TrainerCallback):
    """Calls `evaluate(step, mean loss since the last time)` every few steps."""

    def __init__(self, every_steps: int, evaluate: Callable[[int, float], None]) -> None:
        self._every_steps, self._evaluate = every_steps, evaluate
        self._losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Keeps the loss, which TRL logs at each step."""
        del args, control
        if logs and "loss" in logs:
            self._losses.append(float(logs["loss"]))
            if state.global_step % self._every_steps == 0 or state.global_step == state.max_steps:
                self._evaluate(state.global_step, sum(self._losses) / len(self._losses))
                self._losses.clear()


def distil_on_policy(
    student: Any,
    teacher: Any,
    tokenizer: Any,
    plan: OnPolicyPlan,
    *,
    prompts: Sequence[str],
    folder: Path,
    evaluate: Callable[[int, float], None],
) -> None:
    """Trains the student in place, and continues a run that was stopped.

    Args:
        prompts: Beginnings that the student completes.
        evaluate: Called every few steps with the step and the mean loss.

    Effects: TRL's checkpoints in the folder.
    """
    has_accelerator = torch.cuda.is_available()
    rows = min(_ROWS_PER_PASS, plan.rows_per_step)
    arguments = DistillationConfig(
        output_dir=str(folder),
        max_steps=plan.num_steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=max(1, plan.rows_per_step // rows),
        learning_rate=plan.learning_rate,
        max_completion_length=plan.completion_tokens,
        temperature=plan.temperature,
        beta=plan.trl_beta,
        seed=plan.seed,
        logging_steps=1,
        save_steps=plan.evaluate_every_steps,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not has_accelerator,
        bf16=has_accelerator,
        gradient_checkpointing=False,
        dataloader_pin_memory=has_accelerator,
    )
    trainer = DistillationTrainer(
        model=student,
        teacher_model=teacher,
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": list(prompts)}),
        processing_class=tokenizer,
        callbacks=[_Evaluating(plan.evaluate_every_steps, evaluate)],
    )
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
