"""The distillation loop: a student learns its teacher's next-token distributions over a stream of text.

A run is a folder. It can be killed at any moment and continued to the same curve: the checkpoint is renamed into place,
and what the loop draws from the text depends on (seed, step) alone. Rate: warm-up, constant, linear decay to zero;
Muon for the matrices of the blocks, AdamW for the rest, as in `trainer`. It is a loop of its own, and not the
trainer's, because checkpoints of any size and family come here: logits are made piece by piece (`losses.head_loss`),
vocabularies may be padded differently, and the run may end early.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightship.compression.training.corpus import TokenIds, WindowSampler
from lightship.compression.training.held_out import HeldOutText, Pair
from lightship.compression.training.hidden_states import HiddenMatch
from lightship.compression.training.losses import Objective, head_loss
from lightship.compression.training.trainer import TrainingPlan, build_optimizers

# Positions whose activations are kept for one backward pass; a step of more tokens is several passes.
_PASS_TOKENS = 4096


@dataclass(frozen=True)
class DistillationPlan:
    """Everything that decides a run's result, besides models and text.

    Args:
        hidden_weight: Weight of the distance between hidden states, added to the objective.
        early_stop_patience: Evaluations without a better held-out loss after which the run ends, with the weights of
            the best one; 0 for never.
    """

    num_steps: int
    tokens_per_step: int
    context_tokens: int
    learning_rate: float
    seed: int
    evaluate_every_steps: int
    objective: Objective
    hidden_weight: float = 0.0
    early_stop_patience: int = 0
    weight_decay: float = 0.1
    warmup_steps: int = 10
    decay_fraction: float = 0.7

    def learning_rate_factor(self, step: int) -> float:
        """Share of the learning rate at `step` (0-based)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return min(1.0, (self.num_steps - step) / max(1, round(self.decay_fraction * self.num_steps)))


@dataclass(frozen=True)
class DistillationPoint:
    """One line of the curve. `held_out_*` are of text that is not trained on."""

    step: int
    num_tokens: int
    train_loss: float
    held_out_loss: float
    held_out_divergence: float
    held_out_bits_per_byte: float
    learning_rate_factor: float
    elapsed_s: float


@dataclass
class _Progress:
    step: int = 0
    elapsed_s: float = 0.0
    points: list[DistillationPoint] = field(default_factory=list)

    @property
    def best(self) -> DistillationPoint:
        return min(self.points, key=lambda point: point.held_out_loss)

    def evaluations_since_best(self) -> int:
        return len(self.points) - 1 - self.points.index(self.best)


class Distillation:
    """One run in one folder; owns student, optimizers and the step counter.

    Args:
        folder: Where checkpoint and curve lie; continues what it finds there.
        pair: The student is trained in place, without dropout.
        stream: Ids to train on.
        hidden: Distance between hidden states, trained along; None for none.
        report: Told each point of the curve.
    """

    def __init__(
        self,
        *,
        folder: Path,
        pair: Pair,
        plan: DistillationPlan,
        stream: TokenIds,
        held_out: HeldOutText,
        hidden: HiddenMatch | None,
        report: Callable[[DistillationPoint], None],
    ) -> None:
        self._folder, self._pair, self._student = folder, pair, pair.student.eval()
        self._plan, self._held_out, self._hidden, self._report = plan, held_out, hidden, report
        device = self._student.device
        trained = self._student if hidden is None else nn.ModuleDict({"student": self._student, "hidden": hidden})
        self._optimizers = build_optimizers(trained, _rates(plan))
        self._parameters = list(trained.parameters())
        self._sampler = WindowSampler(stream, context_length=plan.context_tokens, seed=plan.seed, device=device)
        self._state = _Progress()
        self._resume()

    @property
    def points(self) -> list[DistillationPoint]:
        """The curve so far."""
        return list(self._state.points)

    def run(self) -> list[DistillationPoint]:
        """Trains to the plan's end, or until patience is over; the curve, the student's weights being the result's.

        Raises: FloatingPointError: the loss is not finite (says what to change).
        Effects: writes `checkpoint.pt`, `best.pt` and `curve.jsonl` in the folder.
        """
        started_s = time.monotonic() - self._state.elapsed_s
        if not self._state.points:
            self._evaluate(float("nan"))
        recent: list[torch.Tensor] = []
        while self._state.step < self._plan.num_steps and not self._is_patience_over():
            recent.append(self._train_step())
            self._state.step += 1
            self._state.elapsed_s = time.monotonic() - started_s
            if self._state.step % self._plan.evaluate_every_steps == 0 or self._state.step == self._plan.num_steps:
                self._evaluate(sum(float(loss) for loss in recent) / len(recent))
                self._save()
                recent.clear()
        if self._plan.early_stop_patience and self._state.evaluations_since_best():
            self._student.load_state_dict(torch.load(self._folder / "best.pt", weights_only=True))
        return self.points

    def _is_patience_over(self) -> bool:
        patience = self._plan.early_stop_patience
        return bool(patience) and self._state.evaluations_since_best() >= patience

    def _train_step(self) -> torch.Tensor:
        plan, step = self._plan, self._state.step
        num_windows = max(1, plan.tokens_per_step // plan.context_tokens)
        batch = self._sampler.batch(first_window=step * num_windows, num_windows=num_windows)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * plan.learning_rate_factor(step)
        total = torch.zeros((), device=batch.device)
        for part in batch.split(max(1, _PASS_TOKENS // plan.context_tokens)):
            loss = self._loss(part) * (len(part) / len(batch))
            loss.backward()
            total += loss.detach()
        if not math.isfinite(float(total)):
            raise FloatingPointError(
                f"the loss is {float(total)} at step {step}; give a lower learning_rate than {plan.learning_rate:g}"
            )
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return total

    def _loss(self, windows: torch.Tensor) -> torch.Tensor:
        ids, targets = windows[:, :-1], windows[:, 1:]
        is_matched = self._hidden is not None
        with torch.no_grad():
            taught = self._pair.teacher.base_model(ids, use_cache=False, output_hidden_states=is_matched)
        with self._pair.autocast():
            learnt = self._student.base_model(ids, use_cache=False, output_hidden_states=is_matched)
        loss = head_loss(
            learnt.last_hidden_state.to(self._pair.arithmetic),
            self._pair.student_head(),
            taught.last_hidden_state,
            self._pair.teacher_head(),
            targets,
            loss_of=lambda student, teacher, ids: self._plan.objective.mix(
                *self._plan.objective.parts(student, teacher, ids)
            ),
        )
        if self._hidden is None:
            return loss
        return loss + self._plan.hidden_weight * self._hidden(learnt.hidden_states, taught.hidden_states)

    def _evaluate(self, train_loss: float) -> None:
        plan, step = self._plan, self._state.step
        figures = self._held_out.figures(self._pair, plan.objective)
        if not math.isfinite(figures.loss):
            raise FloatingPointError(
                f"the held-out loss is {figures.loss} at step {step}; "
                + ("the student's or the teacher's weights are broken" if step == 0 else "give a lower learning_rate")
            )
        point = DistillationPoint(
            step=step,
            num_tokens=step * max(1, plan.tokens_per_step // plan.context_tokens) * plan.context_tokens,
            train_loss=figures.loss if math.isnan(train_loss) else train_loss,
            held_out_loss=figures.loss,
            held_out_divergence=figures.divergence,
            held_out_bits_per_byte=figures.bits_per_byte,
            learning_rate_factor=plan.learning_rate_factor(max(0, step - 1)),
            elapsed_s=self._state.elapsed_s,
        )
        self._state.points.append(point)
        if plan.early_stop_patience and self._state.best is point:
            _write_state(self._student.state_dict(), self._folder / "best.pt")
        self._report(point)

    def _save(self) -> None:
        state = {
            "step": self._state.step,
            "elapsed_s": self._state.elapsed_s,
            "student": self._student.state_dict(),
            "hidden": self._hidden.state_dict() if self._hidden is not None else {},
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "points": [asdict(point) for point in self._state.points],
        }
        _write_state(state, self._folder / "checkpoint.pt")
        lines = "".join(json.dumps(asdict(point)) + "\n" for point in self._state.points)
        (self._folder / "curve.jsonl").write_text(lines, encoding="utf-8")

    def _resume(self) -> None:
        path = self._folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True, map_location=self._student.device)
        points = [DistillationPoint(**point) for point in state["points"]]
        self._state = _Progress(int(state["step"]), float(state["elapsed_s"]), points)
        self._student.load_state_dict(state["student"])
        if self._hidden is not None:
            self._hidden.load_state_dict(state["hidden"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def _rates(plan: DistillationPlan) -> TrainingPlan:
    """What `build_optimizers` reads."""
    return TrainingPlan(
        num_steps=plan.num_steps,
        tokens_per_step=plan.tokens_per_step,
        peak_learning_rate=plan.learning_rate,
        weight_decay=plan.weight_decay,
        warmup_steps=plan.warmup_steps,
        decay_fraction=plan.decay_fraction,
        stages=(),
        seed=plan.seed,
        evaluate_every_steps=plan.evaluate_every_steps,
        evaluate_num_tokens=0,
        checkpoint_every_steps=plan.evaluate_every_steps,
    )


def _write_state(state: dict[str, Any], path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)
