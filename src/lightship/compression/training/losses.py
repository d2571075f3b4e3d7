"""Loss functions over logits of shape (batch, tokens, vocabulary), and the mix of them that distillation minimises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

Divergence = Literal["forward_kl", "reverse_kl", "jensen_shannon"]

# Logits that exist at a time: 2^20 elements are 4 MiB in float32, most of which stay in a core's cache from the product
# that makes them to their gradient. All logits of 4,096 positions at once (vocabulary 4,096) took a core 1.46 s for a
# step of the student, such pieces 0.73 s; with a vocabulary of 150,000 they would take gigabytes.
_CHUNK_ELEMENTS = 2**20


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy in nats; `targets` has shape (batch, tokens)."""
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def forward_kl(student: torch.Tensor, teacher: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Mean KL(teacher || student) per token in nats at `temperature`, times its square.

    The factor keeps gradients comparable over temperatures.
    Source: Hinton et al., arXiv:1503.02531, section 2.
    """
    log_student, log_teacher = _log_probabilities(student, teacher, temperature)
    return _mean_kl(log_teacher, log_student) * temperature**2


def reverse_kl(student: torch.Tensor, teacher: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Mean KL(student || teacher) per token in nats at `temperature`, times its square.

    Where the student cannot be everything its teacher is, this one has it be a part of it well.
    Source: arXiv:2306.08543.
    """
    log_student, log_teacher = _log_probabilities(student, teacher, temperature)
    return _mean_kl(log_student, log_teacher) * temperature**2


def jensen_shannon(
    student: torch.Tensor, teacher: torch.Tensor, *, temperature: float, beta: float = 0.5
) -> torch.Tensor:
    """Mean generalised Jensen-Shannon divergence per token in nats at `temperature`, times its square.

    beta KL(teacher || mixture) + (1 - beta) KL(student || mixture), mixture = beta teacher + (1 - beta) student.
    Symmetric at beta 0.5, and never above ln 2 there.
    Source: arXiv:2306.13649, equation 1.
    """
    log_student, log_teacher = _log_probabilities(student, teacher, temperature)
    share = torch.tensor(beta, dtype=log_student.dtype, device=log_student.device)
    log_mixture = torch.logaddexp(log_teacher + share.log(), log_student + (1 - share).log())
    teacher_part = _mean_kl(log_teacher, log_mixture)
    return (beta * teacher_part + (1 - beta) * _mean_kl(log_student, log_mixture)) * temperature**2


def _log_probabilities(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        functional.log_softmax(student.flatten(0, -2).float() / temperature, dim=-1),
        functional.log_softmax(teacher.flatten(0, -2).float() / temperature, dim=-1),
    )


def _mean_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Mean over rows of KL(p || q)."""
    return functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class Objective:
    """What distillation minimises: `kl_weight` of the divergence, the rest cross-entropy with the text.

    Args:
        beta: Share of the teacher in the mixture; counts for Jensen-Shannon.
    """

    divergence: Divergence = "forward_kl"
    temperature: float = 1.0
    kl_weight: float = 1.0
    beta: float = 0.5

    def divergence_of(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The divergence alone."""
        if self.divergence == "jensen_shannon":
            return jensen_shannon(student, teacher, temperature=self.temperature, beta=self.beta)
        function = forward_kl if self.divergence == "forward_kl" else reverse_kl
        return function(student, teacher, temperature=self.temperature)

    def parts(
        self, student: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Divergence and cross-entropy, means over the positions."""
        return self.divergence_of(student, teacher), cross_entropy(student, targets)

    def mix(self, divergence: torch.Tensor, cross_entropy_nats: torch.Tensor) -> torch.Tensor:
        """The value that is minimised."""
        return self.kl_weight * divergence + (1 - self.kl_weight) * cross_entropy_nats


ChunkLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class _HeadLoss(torch.autograd.Function):
    """A mean of losses of logits, whose gradients are made chunk by chunk while the logits are there."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd functions take their arguments in order
        ctx: torch.autograd.function.FunctionCtx,
        hidden: torch.Tensor,
        head: torch.Tensor,
        teacher_hidden: torch.Tensor,
        teacher_head: torch.Tensor,
        targets: torch.Tensor,
        loss_of: ChunkLoss,
    ) -> torch.Tensor:
        num_rows, total = hidden.shape[0], hidden.new_zeros((), dtype=torch.float32)
        hidden_gradient = torch.empty_like(hidden)
        head_gradient = torch.zeros_like(head, dtype=torch.float32)
        rows = max(16, _CHUNK_ELEMENTS // head.shape[0])
        for start in range(0, num_rows, rows):
            part = slice(start, start + rows)
            states = hidden[part].detach()
            teacher_logits = teacher_hidden[part] @ teacher_head.T
            with torch.enable_grad():
                logits = (states @ head.detach().T).requires_grad_()
                share = len(states) / num_rows
                loss = loss_of(logits[None], teacher_logits[None], targets[None, part]) * share
                (gradient,) = torch.autograd.grad(loss, logits)
            hidden_gradient[part] = gradient @ head
            head_gradient += gradient.T @ states
            total += loss.detach()
        ctx.save_for_backward(hidden_gradient, head_gradient.to(head.dtype))
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_gradient, head_gradient = ctx.saved_tensors
        return hidden_gradient * outputs[0], head_gradient * outputs[0], None, None, None, None


def head_loss(
    hidden: torch.Tensor,
    head: torch.Tensor,
    teacher_hidden: torch.Tensor,
    teacher_head: torch.Tensor,
    targets: torch.Tensor,
    *,
    loss_of: ChunkLoss,
) -> torch.Tensor:
    """Mean of `loss_of(logits, teacher logits, targets)` without all logits ever being there at once.

    Args:
        head: Output embedding of the student, of the columns that count, in the type the product is to be made in.
        loss_of: Mean over the positions of a chunk.

    Shapes: hidden states (batch, tokens, width), heads (vocabulary, width), targets (batch, tokens).
    """
    return _HeadLoss.apply(
        hidden.flatten(0, 1), head, teacher_hidden.flatten(0, 1), teacher_head, targets.flatten(), loss_of
    )
