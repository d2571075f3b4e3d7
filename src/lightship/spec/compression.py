"""What variants are made with, besides the model."""

from __future__ import annotations

from pydantic import Field

from lightship.spec.base import StrictModel


class CompressionSpec(StrictModel):
    """Texts for calibration and training. None of them may be evaluated, too."""

    calibration_text: str = Field(
        default="builtin",
        min_length=1,
        max_length=4096,
        description="Texts that activations are watched on: `builtin`, or a .jsonl or .txt file (also .gz).",
    )
    training_text: str = Field(
        default="teacher",
        min_length=1,
        max_length=4096,
        description="Texts that distillation trains on: `teacher` lets the teacher write them, else a file as above.",
    )
