"""The distance between hidden states of a student and its teacher, through a learned projection where widths differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class HiddenMatch(nn.Module):
    """Mean over pairs of positions of ||P student - teacher||^2 / ||teacher||^2.

    Relative, because the residual stream grows along the blocks and the last pairs would drown the first ones.

    Args:
        pairs: Positions of student and teacher, see `layer_map`.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], *, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self._pairs = tuple(pairs)
        is_same = student_width == teacher_width
        self.projections = nn.ModuleList(
            nn.Identity() if is_same else nn.Linear(student_width, teacher_width, bias=False) for _ in pairs
        )

    def forward(self, student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.Tensor:
        """The distance; `student[i]` and `teacher[i]` are what leaves block i, of shape (batch, tokens, width)."""
        distances = []
        for projection, (mine, theirs) in zip(self.projections, self._pairs, strict=True):
            wanted = teacher[theirs].float()
            distances.append((projection(student[mine].float()) - wanted).square().mean() / wanted.square().mean())
        return torch.stack(distances).mean()
