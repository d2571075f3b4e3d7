"""What a recipe's steps are expected to take, before the first one runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.compression.feasibility.subjects import CHECKPOINT

from lightship.compression.estimates import estimate_steps
from lightship.compression.recipes import PRESETS
from lightship.compression.steps.base import StepContext, TextFile
from lightship.errors import SpecError
from lightship.ports.variants import Recipe, RecipeStep

CONTEXT = StepContext(source=CHECKPOINT, students={}, calibration=TextFile(Path("/texts"), "sha256:0"))
BIG = replace(CHECKPOINT, num_parameters=300_000_000, weight_bytes=600_000_000)


def test_estimate_steps_of_a_later_step_are_for_the_size_that_the_one_before_leaves() -> None:
    converted, quantized = estimate_steps(PRESETS["int8"], BIG, CONTEXT)
    assert converted is not None
    assert quantized is not None
    # The documented rules of the two steps, with fp16 weights between them.
    assert converted.disk_bytes == 600_000_000
    assert converted.duration_s == pytest.approx(15 + 300_000_000 / 3e7)
    assert quantized.memory_bytes >= 2 * 600_000_000


def test_estimate_steps_of_a_copy_are_unknown() -> None:
    assert estimate_steps(PRESETS["bf16"], CHECKPOINT, CONTEXT) == (None,)


def test_estimate_steps_of_a_step_that_does_not_suit_the_model_are_refused() -> None:
    with pytest.raises(SpecError, match="no student 'other'"):
        estimate_steps(Recipe("x", (RecipeStep("student", {"name": "other"}),)), CHECKPOINT, CONTEXT)
