from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lightship.artifacts.checkpoint import Checkpoint
from lightship.compression.steps.base import JobPlan, StepContext
from lightship.compression.steps.sparsify import SparsifyCheckpoint
from lightship.errors import SpecError
from lightship.ports.variants import RecipeStep

STEP = SparsifyCheckpoint()
MakeCheckpoint = Callable[..., Checkpoint]
ContextOf = Callable[[Checkpoint], StepContext]


def plan(parent: Checkpoint, context_of: ContextOf, **options: Any) -> JobPlan:
    found = STEP.plan(STEP.options(RecipeStep("sparsify", options)), parent, context_of(parent))
    assert isinstance(found, JobPlan)
    return found


def test_plan_mask_is_calibrated_and_saves_no_bytes(make_checkpoint: MakeCheckpoint, context_of: ContextOf) -> None:
    parent = make_checkpoint()
    found = plan(parent, context_of, pattern="2:4", algorithm="wanda")
    assert (found.job["pattern"], found.job["algorithm"], found.job["sparsity"]) == ("2:4", "wanda", 0.5)
    assert found.estimate.disk_bytes == parent.weight_bytes
    assert STEP.inputs(STEP.options(RecipeStep("sparsify")), context_of(parent)) == {
        "calibration": "sha256:calibration"
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pattern": "2:4", "sparsity": 0.6}, "has a sparsity of 0.5, not 0.6"),
        ({"pattern": "4:8"}, "Invalid enum value '4:8'"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"algorithm": "magnitude"}, "Invalid enum value 'magnitude'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_options_no_such_mask_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        STEP.options(RecipeStep("sparsify", options))
    assert words in str(caught.value)


def test_plan_columns_that_blocks_of_four_do_not_divide_are_refused(
    make_checkpoint: MakeCheckpoint, context_of: ContextOf
) -> None:
    parent = make_checkpoint(shapes={"model.layers.0.mlp.down_proj.weight": (64, 126)})
    with pytest.raises(SpecError, match="down_proj has a number of columns that is no multiple of 4"):
        plan(parent, context_of, pattern="2:4")
    assert plan(parent, context_of, pattern="unstructured").kind == "sparsify"


def test_plan_quantized_parent_is_refused(make_checkpoint: MakeCheckpoint, context_of: ContextOf) -> None:
    parent = make_checkpoint(quantization_config={"quant_method": "compressed-tensors"})
    with pytest.raises(SpecError, match="quantized already"):
        plan(parent, context_of)
