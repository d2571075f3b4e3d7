"""How near a student is to its teacher on text that it is not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from lightship.compression.training.corpus import TokenIds, evaluation_windows
from lightship.compression.training.losses import Objective, cross_entropy


@dataclass(frozen=True)
class HeldOutFigures:
    """Means over the held-out text: per token in nats, and per byte in bits."""

    loss: float
    divergence: float
    bits_per_byte: float


@dataclass(frozen=True)
class Pair:
    """A student and its teacher, and how their products are made.

    Args:
        student: float32, on the same device as the teacher.
        vocab_size: Columns of the logits that both mean the same by; those beyond are padding.
        arithmetic: Type of the student's products.
    """

    student: Any
    teacher: Any
    vocab_size: int
    arithmetic: torch.dtype

    def autocast(self) -> AbstractContextManager[Any]:
        """Where the student's products are made in `arithmetic`."""
        if self.arithmetic is torch.float32:
            return nullcontext()
        return torch.autocast(self.student.device.type, dtype=self.arithmetic)

    def student_head(self) -> torch.Tensor:
        """The student's output embedding of the columns that count."""
        return self.student.get_output_embeddings().weight[: self.vocab_size].to(self.arithmetic)

    def teacher_head(self) -> torch.Tensor:
        """The teacher's output embedding of the columns that count."""
        return self.teacher.get_output_embeddings().weight[: self.vocab_size]

    def student_logits(self, ids: torch.Tensor) -> torch.Tensor:
        """All logits at once."""
        with self.autocast():
            states = self.student.base_model(ids, use_cache=False).last_hidden_state
        return states.to(self.arithmetic) @ self.student_head().T

    def teacher_logits(self, ids: torch.Tensor) -> torch.Tensor:
        """All logits at once."""
        return self.teacher.base_model(ids, use_cache=False).last_hidden_state @ self.teacher_head().T


class HeldOutText:
    """Ids that are not trained on, in windows.

    Args:
        bytes_per_token: UTF-8 bytes of a token of this text.
    """

    def __init__(self, ids: TokenIds, *, bytes_per_token: float, context_tokens: int) -> None:
        self._ids, self._context_tokens = ids, context_tokens
        self._nats_to_bits_per_byte = 1 / math.log(2) / bytes_per_token

    @property
    def num_tokens(self) -> int:
        """How many there are."""
        return len(self._ids)

    @torch.inference_mode()
    def figures(self, pair: Pair, objective: Objective) -> HeldOutFigures:
        """The student's figures."""
        divergence, nats, count = 0.0, 0.0, 0
        for window in self._windows(pair):
            ids, targets = window[:, :-1], window[:, 1:]
            parts = objective.parts(pair.student_logits(ids), pair.teacher_logits(ids), targets)
            divergence += float(parts[0]) * targets.shape[1]
            nats += float(parts[1]) * targets.shape[1]
            count += targets.shape[1]
        divergence, nats = divergence / count, nats / count
        loss = objective.kl_weight * divergence + (1 - objective.kl_weight) * nats
        return HeldOutFigures(loss, divergence, nats * self._nats_to_bits_per_byte)

    @torch.inference_mode()
    def teacher_bits_per_byte(self, pair: Pair) -> float:
        """The teacher's own figure."""
        nats, count = 0.0, 0
        for window in self._windows(pair):
            targets = window[:, 1:]
            nats += float(cross_entropy(pair.teacher_logits(window[:, :-1]), targets)) * targets.shape[1]
            count += targets.shape[1]
        return nats / count * self._nats_to_bits_per_byte

    def _windows(self, pair: Pair) -> Iterator[torch.Tensor]:
        return evaluation_windows(self._ids, context_length=self._context_tokens, device=pair.student.device)
