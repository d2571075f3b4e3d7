"""Step `moe`: what each method takes, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lightship.artifacts.checkpoint import Checkpoint
from lightship.compression.steps.base import JobPlan, StepContext
from lightship.compression.steps.moe import MakeMixture
from lightship.errors import SpecError
from lightship.ports.variants import RecipeStep

STEP = MakeMixture()
MakeCheckpoint = Callable[..., Checkpoint]
ContextOf = Callable[[Checkpoint], StepContext]


def plan(parent: Checkpoint, context_of: ContextOf, **options: Any) -> JobPlan:
    found = STEP.plan(STEP.options(RecipeStep("moe", options)), parent, context_of(parent))
    assert isinstance(found, JobPlan)
    return found


def test_plan_carve_defaults_to_three_quarters_active(make_checkpoint: MakeCheckpoint, context_of: ContextOf) -> None:
    parent = make_checkpoint(intermediate_size=128)
    found = plan(parent, context_of, method="carve")
    assert [found.job[name] for name in ("num_experts", "num_shared", "top_k")] == [8, 3, 3]
    assert found.kind == "carve_experts"
    assert found.toolchain is not None
    assert found.toolchain.name == "train"
    assert "75%" in found.title
    options = STEP.options(RecipeStep("moe", {"method": "carve"}))
    assert STEP.inputs(options, context_of(parent)) == {"calibration": "sha256:calibration"}


def test_plan_upcycle_estimates_the_copies_and_needs_no_text(
    make_checkpoint: MakeCheckpoint, context_of: ContextOf
) -> None:
    parent = make_checkpoint(intermediate_size=128)
    found = plan(parent, context_of, method="upcycle", num_experts=5)
    # Three matrices of 64 by 128 in two bytes, four times more than there were.
    assert found.estimate.disk_bytes == parent.weight_bytes + 4 * 3 * 64 * 128 * 2
    assert (found.job["num_experts"], found.job["top_k"], found.job["router_std"]) == (5, 2, 0.02)
    options = STEP.options(RecipeStep("moe", {"method": "upcycle"}))
    assert STEP.inputs(options, context_of(parent)) == {}


def test_plan_router_std_of_zero_is_zero_and_not_the_default(
    make_checkpoint: MakeCheckpoint, context_of: ContextOf
) -> None:
    parent = make_checkpoint(intermediate_size=128)
    assert plan(parent, context_of, method="upcycle", router_std=0).job["router_std"] == 0


def test_plan_prune_keeps_half_unless_told_and_runs_where_llm_compressor_is(
    make_checkpoint: MakeCheckpoint, context_of: ContextOf
) -> None:
    config = {"architectures": ["MixtralForCausalLM"], "num_local_experts": 8, "num_experts_per_tok": 2}
    parent = make_checkpoint(**config)
    found = plan(parent, context_of, method="prune-experts")
    assert found.job["num_experts"] == 4
    assert found.toolchain is not None
    assert found.toolchain.name == "compress"
    assert plan(parent, context_of, method="prune-experts", num_experts=6).job["num_experts"] == 6
    versions = STEP.tool_versions(STEP.options(RecipeStep("moe", {"method": "prune-experts"})))
    assert versions["llmcompressor"] == "0.14.0.1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "carve", "num_experts": 7}, "128 channels cannot be cut into 7 equal experts"),
        ({"method": "carve", "num_experts": 7}, "Nearest num_experts that divide them: 8"),
        ({"method": "carve", "top_k": 6}, "only 5 experts are routed"),
        ({"method": "upcycle", "num_experts": 2, "top_k": 3}, "there are 2 experts"),
        ({"method": "upcycle", "num_shared": 1}, "method 'upcycle' has no option 'num_shared'"),
        ({"method": "carve", "keep_fraction": 0.5}, "Its options: num_experts, num_shared, top_k"),
        ({"method": "prune-experts"}, "LlamaForCausalLM is dense"),
        ({"method": "prune-experts", "num_experts": 2, "keep_fraction": 0.5}, "Give one of them"),
        ({"method": "merge"}, "merge"),
        ({}, "method"),
        ({"method": "carve", "num_shared": 0}, ">= 1"),
    ],
)
def test_plan_what_cannot_be_made_is_refused_with_what_can(
    options: dict[str, Any], words: str, make_checkpoint: MakeCheckpoint, context_of: ContextOf
) -> None:
    parent = make_checkpoint(intermediate_size=128)
    with pytest.raises(SpecError) as refused:
        plan(parent, context_of, **options)
    assert words in str(refused.value)


def test_plan_config_without_intermediate_size_is_refused(
    make_checkpoint: MakeCheckpoint, context_of: ContextOf
) -> None:
    with pytest.raises(SpecError, match="`intermediate_size` is None"):
        plan(make_checkpoint(), context_of, method="carve")
