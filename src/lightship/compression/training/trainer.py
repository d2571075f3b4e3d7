"""The training loop: pre-training, or distillation from a teacher with the same vocabulary.

A run is a folder. It can be killed at any moment and continued: the checkpoint is renamed into place, and what the
loop draws from the corpus depends on (seed, step) alone. Learning rate: warm-up, constant, linear decay to zero
(arXiv:2404.06395), so a run may be lengthened by raising `num_steps` before its decay has begun.
Matrices inside the blocks use Muon (arXiv:2502.16982), everything else AdamW.

It runs where the model lies, on a CPU or a CUDA device; the weights are float32, the arithmetic bf16 by autocast. A
checkpoint can be continued on the other kind of device. On a CPU a run gives the same bits each time; on CUDA, where
sums are made in no fixed order, nearly the same.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from lightship.compression.training.corpus import WindowSampler, evaluation_windows
from lightship.compression.training.losses import cross_entropy, forward_kl


@dataclass(frozen=True)
class ContextStage:
    """From `from_progress` (0..1 of the steps) on, windows are `context_length` tokens long."""

    from_progress: float
    context_length: int


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that decides a run's result, besides the data."""

    num_steps: int
    tokens_per_step: int
    peak_learning_rate: float
    weight_decay: float
    warmup_steps: int
    decay_fraction: float
    stages: tuple[ContextStage, ...]
    seed: int
    evaluate_every_steps: int
    evaluate_num_tokens: int  # the first ones of the validation text; the model card quotes the whole of it
    checkpoint_every_steps: int
    kl_weight: float = 0.0  # share of the distillation loss; the rest is cross-entropy
    temperature: float = 1.0

    def context_length(self, step: int) -> int:
        """Window length at `step`."""
        progress = step / self.num_steps
        return [s.context_length for s in self.stages if s.from_progress <= progress][-1]

    def learning_rate_factor(self, step: int) -> float:
        """Share of the peak learning rate at `step` (0-based)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        decay_steps = max(1, round(self.decay_fraction * self.num_steps))
        return min(1.0, max(0.0, (self.num_steps - step) / decay_steps))


@dataclass(frozen=True)
class CurvePoint:
    """One line of the training log."""

    step: int
    num_tokens: int
    train_loss_nats: float
    valid_bits_per_byte: float
    learning_rate_factor: float
    elapsed_s: float


def build_optimizers(model: LlamaForCausalLM, plan: TrainingPlan) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers." in n)]
    return [
        torch.optim.Muon(
            matrices,
            lr=plan.peak_learning_rate,
            weight_decay=plan.weight_decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=plan.peak_learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


@torch.inference_mode()
def mean_loss_nats(model: LlamaForCausalLM, stream: NDArray[np.uint16], *, context_length: int) -> float:
    """Mean next-token loss over consecutive windows of the stream, in nats per token."""
    model.eval()
    losses: list[tuple[torch.Tensor, int]] = []  # read at the end: each reading makes the host wait for the device
    for window in evaluation_windows(stream, context_length=context_length, device=model.device):
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            logits = model(window[:, :-1], use_cache=False).logits
        losses.append((cross_entropy(logits, window[:, 1:]), window.shape[1] - 1))
    model.train()
    return sum(float(loss) * count for loss, count in losses) / sum(count for _, count in losses)


class TrainingRun:
    """One run in one folder; owns model, optimizers and the step counter.

    Args:
        folder: Where checkpoint and log live; continues what it finds there.
        model: Trained in place, on the device it lies on.
        teacher: Frozen model for distillation, on the same device, or None.
        bytes_per_token: UTF-8 bytes per token of the validation text, to print bits per byte.
        is_compiled: Whether forward pass and loss are fused by `torch.compile`: a minute first, a faster step after.
    """

    def __init__(
        self,
        *,
        folder: Path,
        model: LlamaForCausalLM,
        plan: TrainingPlan,
        train_stream: NDArray[np.uint16],
        valid_stream: NDArray[np.uint16],
        bytes_per_token: float,
        teacher: LlamaForCausalLM | None = None,
        report: Callable[[CurvePoint], None],
        is_compiled: bool = False,
    ) -> None:
        self._folder = folder
        self._model = model
        self._plan = plan
        self._valid_stream = valid_stream
        self._bytes_per_token = bytes_per_token
        self._teacher = teacher
        self._report = report
        self._optimizers = build_optimizers(model, plan)
        self._loss = torch.compile(self._plain_loss, dynamic=False) if is_compiled else self._plain_loss
        self._samplers = {
            s.context_length: WindowSampler(
                train_stream, context_length=s.context_length, seed=plan.seed, device=model.device
            )
            for s in plan.stages
        }
        self._step = 0
        self._elapsed_s = 0.0
        self._resume()

    def run(self) -> list[CurvePoint]:
        """Trains to the plan's end and returns the curve.

        Effects: writes `checkpoint.pt` and appends to `curve.jsonl` in the folder.
        """
        started = time.monotonic() - self._elapsed_s
        recent: list[torch.Tensor] = []
        while self._step < self._plan.num_steps:
            recent.append(self._train_step())
            self._step += 1
            self._elapsed_s = time.monotonic() - started
            is_last = self._step == self._plan.num_steps
            if is_last or self._step % self._plan.evaluate_every_steps == 0:
                self._log(sum(float(loss) for loss in recent) / len(recent))
                recent.clear()
            if is_last or self._step % self._plan.checkpoint_every_steps == 0:
                self._save()
        return self.curve()

    def curve(self) -> list[CurvePoint]:
        """Points logged so far."""
        path = self._folder / "curve.jsonl"
        return (
            [CurvePoint(**json.loads(line)) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
        )

    def _train_step(self) -> torch.Tensor:
        """The loss, not yet fetched from the device: reading it would make the host wait at every step."""
        context_length = self._plan.context_length(self._step)
        num_windows = self._plan.tokens_per_step // context_length
        # Windows count in units of this stage's length, so a stage starts where the token count stands.
        batch = self._samplers[context_length].batch(first_window=self._step * num_windows, num_windows=num_windows)
        factor = self._plan.learning_rate_factor(self._step)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._plan.peak_learning_rate * factor
        loss = self._loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _plain_loss(self, batch: torch.Tensor) -> torch.Tensor:
        inputs, targets = batch[:, :-1], batch[:, 1:]
        device = self._model.device.type
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = self._model(inputs, use_cache=False).logits
        hard = cross_entropy(logits, targets)
        if self._teacher is None:
            return hard
        with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
            teacher_logits = self._teacher(inputs, use_cache=False).logits
        soft = forward_kl(logits, teacher_logits, temperature=self._plan.temperature)
        return self._plan.kl_weight * soft + (1 - self._plan.kl_weight) * hard

    def _log(self, train_loss_nats: float) -> None:
        longest = max(s.context_length for s in self._plan.stages)
        sample = self._valid_stream[: self._plan.evaluate_num_tokens]
        nats = mean_loss_nats(self._model, sample, context_length=longest)
        if not math.isfinite(nats):
            raise FloatingPointError(f"validation loss is {nats} at step {self._step}; lower peak_learning_rate")
        point = CurvePoint(
            step=self._step,
            num_tokens=self._step * self._plan.tokens_per_step,
            train_loss_nats=train_loss_nats,
            valid_bits_per_byte=nats / math.log(2) / self._bytes_per_token,
            learning_rate_factor=self._plan.learning_rate_factor(self._step - 1),
            elapsed_s=self._elapsed_s,
        )
        with (self._folder / "curve.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(asdict(point)) + "\n")
        self._report(point)

    def _save(self) -> None:
        state: dict[str, Any] = {
            "step": self._step,
            "elapsed_s": self._elapsed_s,
            "model": self._model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        partial = self._folder / "checkpoint.pt.partial"
        torch.save(state, partial)
        partial.replace(self._folder / "checkpoint.pt")

    def _resume(self) -> None:
        path = self._folder / "checkpoint.pt"
        if not path.exists():
            (self._folder / "curve.jsonl").unlink(missing_ok=True)
            return
        state = torch.load(path, weights_only=True, map_location=self._model.device)
        self._step, self._elapsed_s = int(state["step"]), float(state["elapsed_s"])
        self._model.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        kept = [point for point in self.curve() if point.step <= self._step]
        lines = "".join(json.dumps(asdict(point)) + "\n" for point in kept)
        (self._folder / "curve.jsonl").write_text(lines, encoding="utf-8")


def student_from_teacher(teacher: LlamaForCausalLM, *, layers: tuple[int, ...]) -> LlamaForCausalLM:
    """A shallower model that starts from the teacher's embeddings, final norm and the named blocks (0-based)."""
    config = LlamaConfig.from_dict({**teacher.config.to_dict(), "num_hidden_layers": len(layers)})
    student = LlamaForCausalLM(config)
    source = teacher.state_dict()
    renumbered = {f"model.layers.{old}.": f"model.layers.{new}." for new, old in enumerate(layers)}
    state = {name: tensor for name, tensor in source.items() if ".layers." not in name}
    for old, new in renumbered.items():
        state |= {new + name.removeprefix(old): tensor for name, tensor in source.items() if name.startswith(old)}
    student.load_state_dict(state)
    return student
