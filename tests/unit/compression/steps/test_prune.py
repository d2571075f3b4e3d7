"""What the step `prune` makes of its options, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lightship.compression.steps.base import JobPlan, StepContext, TextFile
from lightship.compression.steps.prune import PruneCheckpoint
from lightship.errors import SpecError
from lightship.ports.variants import RecipeStep

STEP = PruneCheckpoint()
EIGHT_BLOCKS = {
    "num_hidden_layers": 8,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
}


def plan(make_checkpoint: Any, options: Mapping[str, Any], **config: Any) -> JobPlan:
    checkpoint = make_checkpoint(**{**EIGHT_BLOCKS, **config})
    texts = TextFile(checkpoint.folder.parent / "texts.jsonl", "sha256:1")
    made = STEP.plan(STEP.options(RecipeStep("prune", dict(options))), checkpoint, StepContext(checkpoint, {}, texts))
    assert isinstance(made, JobPlan)
    return made


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"depth_fraction": 0.5}, {"num_layers": 4, "blocks": []}),
        ({"num_layers": 6}, {"num_layers": 6, "blocks": []}),
        ({"drop": "3,4"}, {"num_layers": None, "blocks": [3, 4]}),
        ({"ffn_fraction": 0.7}, {"num_layers": None, "num_channels": 704, "num_kv_groups": None}),
        ({"kv_groups": 2}, {"num_channels": None, "num_kv_groups": 2}),
    ],
)
def test_plan_option_becomes_what_stays(
    options: dict[str, Any], expected: dict[str, Any], make_checkpoint: Any
) -> None:
    job = plan(make_checkpoint, options).job
    assert {name: job[name] for name in expected} == expected


def test_plan_more_than_a_third_says_that_training_is_needed(make_checkpoint: Any) -> None:
    assert "50% goes; above a third a model needs training" in plan(make_checkpoint, {"depth_fraction": 0.5}).title


def test_plan_less_than_a_third_says_nothing(make_checkpoint: Any) -> None:
    made = plan(make_checkpoint, {"num_layers": 6})
    assert (made.title, made.job["notes"]) == ("pruning", [])


@pytest.mark.parametrize(
    ("options", "config", "words"),
    [
        ({}, {}, "no option says what stays"),
        ({"depth_fraction": 0.5, "drop": "1"}, {}, "depth_fraction and drop say the same in two ways"),
        ({"num_layers": 8}, {}, "8 of 8 blocks would stay, so none goes"),
        ({"num_layers": 1}, {}, "1 of 8 blocks would stay; more than three quarters.*Keep at least 2"),
        ({"drop": "0,1,2,3,4,5,6"}, {}, "more than three quarters"),
        ({"drop": "8"}, {}, "drop: there is no block 8; the model has blocks 0 to 7"),
        ({"drop": "last"}, {}, "not a list of block numbers"),
        ({"ffn_fraction": 0.2}, {}, "192 of 1024 FFN channels would stay; more than three quarters"),
        ({"ffn_fraction": 0.9}, {"intermediate_size": 64}, "all would stay, since only multiples of 64 go"),
        ({"ffn_fraction": 0.5}, {"intermediate_size": 32}, "32 channels are fewer than the 64"),
        ({"kv_groups": 4}, {}, "kv_groups is 4, and the model has 4, so none goes"),
        ({"kv_groups": 2}, {"model_type": "qwen2"}, "vLLM computes the head size of 'qwen2'"),
        ({"num_layers": 4}, {"model_type": "gpt2"}, "this model's family is 'gpt2'.*llama, mistral, qwen2, qwen3"),
        ({"num_layers": 4}, {"quantization_config": {"quant_method": "x"}}, "quantized already.*before `quantize`"),
    ],
)
def test_plan_what_cannot_be_is_refused_with_the_way_out(
    options: dict[str, Any], config: dict[str, Any], words: str, make_checkpoint: Any
) -> None:
    with pytest.raises(SpecError, match=words):
        plan(make_checkpoint, options, **config)


@pytest.mark.parametrize("options", [{"depth_fraction": 1.0}, {"depth_fraction": 0.0}, {"depth": 0.5}])
def test_options_out_of_range_or_unknown_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        STEP.options(RecipeStep("prune", dict(options)))


def test_inputs_name_the_calibration_texts(make_checkpoint: Any) -> None:
    checkpoint = make_checkpoint(**EIGHT_BLOCKS)
    context = StepContext(checkpoint, {}, TextFile(checkpoint.folder / "texts.jsonl", "sha256:1"))
    assert STEP.inputs(STEP.options(RecipeStep("prune", {"num_layers": 4})), context) == {"calibration": "sha256:1"}
