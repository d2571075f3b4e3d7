"""Loss functions over logits of shape (batch, tokens, vocabulary)."""

from __future__ import annotations

import torch
from torch.nn import functional


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy in nats; `targets` has shape (batch, tokens)."""
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def forward_kl(student: torch.Tensor, teacher: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Mean KL(teacher || student) per token in nats at `temperature`, times its square.

    The factor keeps gradients comparable over temperatures.
    Source: Hinton et al., arXiv:1503.02531, section 2.
    """
    log_student = functional.log_softmax(student.flatten(0, 1).float() / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher.flatten(0, 1).float() / temperature, dim=-1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2
