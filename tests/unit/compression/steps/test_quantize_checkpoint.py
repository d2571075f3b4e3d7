from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lightship.artifacts.checkpoint import Checkpoint
from lightship.compression.recipes import PRESETS
from lightship.compression.steps.base import JobPlan, StepContext
from lightship.compression.steps.quantize_checkpoint import QuantizeCheckpoint
from lightship.compression.steps.registry import find_step, formats_along
from lightship.errors import SpecError
from lightship.ports.variants import RecipeStep, WeightFormat

STEP = QuantizeCheckpoint()
MakeCheckpoint = Callable[..., Checkpoint]
ContextOf = Callable[[Checkpoint], StepContext]
# Of the checkpoint that `make_checkpoint` makes.
NUM_LINEAR_WEIGHTS = 64 * 64 * 2 + 32 * 64 * 2 + 128 * 64 * 3


def plan(parent: Checkpoint, context_of: ContextOf, **options: Any) -> JobPlan:
    found = STEP.plan(STEP.options(RecipeStep("quantize", options)), parent, context_of(parent))
    assert isinstance(found, JobPlan)
    return found


@pytest.mark.parametrize(
    "name",
    ["w8a8-rtn", "w8a8", "w4a16-rtn", "w4a16", "w4a16-autoround", "w4a16-awq", "fp8", "mixed-6bit", "sparse-2of4"],
)
def test_presets_for_vllm_stay_checkpoints(name: str) -> None:
    assert formats_along(PRESETS[name], WeightFormat.SAFETENSORS) == (WeightFormat.SAFETENSORS,) * 2


def test_find_step_quantize_on_a_checkpoint_is_this_one() -> None:
    assert isinstance(find_step("quantize", WeightFormat.SAFETENSORS), QuantizeCheckpoint)


def test_plan_round_to_nearest_takes_no_calibration(make_checkpoint: MakeCheckpoint, context_of: ContextOf) -> None:
    parent = make_checkpoint()
    found = plan(parent, context_of, scheme="w8a8")
    assert (found.kind, found.job["calibration"], found.job["budget_bytes"]) == ("quantize_checkpoint", None, None)
    assert STEP.inputs(STEP.options(RecipeStep("quantize", {"scheme": "w8a8"})), context_of(parent)) == {}


@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "w4a16", "algorithm": "gptq"},
        {"scheme": "mixed", "budget_bits": 6},
        {"scheme": "w8a8", "kv_cache": "fp8"},
        {"scheme": "w4a16", "observer": "imatrix_mse"},
    ],
    ids=["gptq", "mixed", "kv cache", "importance"],
)
def test_plan_what_looks_at_activations_takes_calibration_and_says_so(
    options: dict[str, Any], make_checkpoint: MakeCheckpoint, context_of: ContextOf
) -> None:
    parent = make_checkpoint()
    context = context_of(parent)
    assert plan(parent, context_of, **options).job["calibration"] == str(context.calibration.path)
    assert STEP.inputs(STEP.options(RecipeStep("quantize", options)), context) == {"calibration": "sha256:calibration"}


def test_plan_windows_are_never_longer_than_the_context(make_checkpoint: MakeCheckpoint, context_of: ContextOf) -> None:
    assert plan(make_checkpoint(), context_of, scheme="w4a16", algorithm="gptq").job["sequence_tokens"] == 256


def test_plan_group_size_left_out_is_the_largest_that_fits(
    make_checkpoint: MakeCheckpoint, context_of: ContextOf
) -> None:
    assert plan(make_checkpoint(), context_of, scheme="w4a16").job["rounding"]["group_size"] == 64


def test_plan_calibrated_int4_weighs_errors_by_inputs(make_checkpoint: MakeCheckpoint, context_of: ContextOf) -> None:
    parent = make_checkpoint()
    rounding = plan(parent, context_of, scheme="w4a16", algorithm="gptq").job["rounding"]
    assert (rounding["observer"], rounding["activation_order"]) == ("imatrix_mse", "static")


def test_plan_budget_is_counted_in_bytes_of_the_linear_layers(
    make_checkpoint: MakeCheckpoint, context_of: ContextOf
) -> None:
    found = plan(make_checkpoint(), context_of, scheme="mixed", budget_bits=6)
    assert found.job["budget_bytes"] == NUM_LINEAR_WEIGHTS * 6 // 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scheme": "w8a8", "algorithm": "awq"}, "there is no awq for w8a8. There is: rtn, gptq, smoothquant-gptq"),
        ({"scheme": "fp8_dynamic", "algorithm": "gptq"}, "there is no gptq for fp8_dynamic"),
        ({"scheme": "mixed", "algorithm": "autoround", "budget_bits": 6}, "there is no autoround for mixed"),
        ({"scheme": "w4a16", "algorithm": "gptq", "activation_order": "group"}, "engines dropped it"),
        ({"scheme": "w4a16", "algorithm": "gptq", "activation_order": "best"}, "There is: static, none"),
        ({"scheme": "w4a16", "algorithm": "gptq", "desc_act": True}, "`desc_act` is not supported"),
        ({"scheme": "w8a8", "group_size": 64}, "option 'group_size' has no effect on w8a8 by rtn"),
        ({"scheme": "w4a16", "num_calibration_samples": 9}, "'num_calibration_samples' has no effect"),
        ({"scheme": "w8a8", "algorithm": "gptq", "smoothing_strength": 0.5}, "'smoothing_strength' has no effect"),
        ({"scheme": "w4a16", "dampening_fraction": 0.1}, "'dampening_fraction' has no effect"),
        ({"scheme": "w4a16", "num_iterations": 9}, "'num_iterations' has no effect"),
        ({"scheme": "w4a16", "budget_bits": 6}, "'budget_bits' has no effect"),
        ({"scheme": "w4a16", "algorithm": "autoround", "kv_cache": "fp8"}, "'kv_cache' has no effect"),
        ({"scheme": "mixed"}, "needs `budget_bits`"),
        ({"scheme": "w4a16", "group_size": 48}, "group_size"),
        ({"scheme": "w2a16"}, "Invalid enum value 'w2a16'"),
        ({"scheme": "w4a16", "groupsize": 64}, "Did you mean 'group_size'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        STEP.options(RecipeStep("quantize", options))
    assert words in str(caught.value)


def test_plan_groups_that_do_not_divide_name_the_layer_and_what_fits(
    make_checkpoint: MakeCheckpoint, context_of: ContextOf
) -> None:
    parent = make_checkpoint()
    with pytest.raises(
        SpecError, match=r"q_proj has 64 rows and 64 columns, which groups of 128.*Use `group_size: 64`"
    ):
        plan(parent, context_of, scheme="w4a16", group_size=128)


def test_plan_int4_of_odd_shapes_points_to_int8(make_checkpoint: MakeCheckpoint, context_of: ContextOf) -> None:
    parent = make_checkpoint(shapes={"model.layers.0.mlp.down_proj.weight": (64, 100)})
    with pytest.raises(SpecError, match=r"multiples of 32.*Use `scheme: w8a8`"):
        plan(parent, context_of, scheme="w4a16")
    assert plan(parent, context_of, scheme="w8a8").kind == "quantize_checkpoint"


def test_plan_budget_below_four_bits_and_scales_is_refused(
    make_checkpoint: MakeCheckpoint, context_of: ContextOf
) -> None:
    parent = make_checkpoint()
    with pytest.raises(SpecError, match=r"the layers take 4\.25 bits per weight"):
        plan(parent, context_of, scheme="mixed", budget_bits=4.2, group_size=64)


def test_plan_quantized_parent_is_refused(make_checkpoint: MakeCheckpoint, context_of: ContextOf) -> None:
    parent = make_checkpoint(quantization_config={"quant_method": "gptq"})
    with pytest.raises(SpecError, match="quantized already"):
        plan(parent, context_of, scheme="w8a8")


def test_plan_fp8_cache_of_small_heads_is_refused(make_checkpoint: MakeCheckpoint, context_of: ContextOf) -> None:
    parent = make_checkpoint(num_attention_heads=4)
    with pytest.raises(SpecError, match="multiple of 32 elements, these have 16"):
        plan(parent, context_of, scheme="w8a8", kv_cache="fp8")


def test_tool_versions_name_autoround_only_where_it_runs() -> None:
    def names(**options: Any) -> set[str]:
        return set(STEP.tool_versions(STEP.options(RecipeStep("quantize", options))))

    assert names(scheme="w4a16", algorithm="autoround") - names(scheme="w4a16", algorithm="gptq") == {"auto-round"}
