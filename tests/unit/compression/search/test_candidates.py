"""Which candidates a search starts with, from presets, engines and a machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.unit.compression.feasibility.subjects import AVX2, AVX512, CHECKPOINT, CONFIG

from lightship.artifacts.roofline import Load, MachineSpeed
from lightship.compression.recipes import PRESETS
from lightship.compression.search.candidates import VARIATIONS, EngineOffer, Premises, propose_candidates
from lightship.compression.search.records import Candidate, CostEstimates, Proposal, Tier
from lightship.ports.variants import Recipe, RecipeStep, WeightFormat


def costs(candidate: Candidate) -> CostEstimates:
    return CostEstimates(steps_s=tuple(10.0 for _ in candidate.recipe.steps), quality_s=1.0, speed_s=2.0)


def premises(**changes: Any) -> Premises:
    engines = {
        "openvino": EngineOffer({"threads": 2}, VARIATIONS["openvino"]),
        "vllm": EngineOffer({}, VARIATIONS["vllm"]),
    }
    plain = Premises(checkpoint=CHECKPOINT, config=CONFIG, machine=AVX512, engines=engines, estimate_costs=costs)
    return replace(plain, **changes)


def propose(*names: str, **changes: Any) -> dict[str, Proposal]:
    recipes = [PRESETS[name] for name in names]
    return {one.candidate.name: one for one in propose_candidates(recipes, premises(**changes))}


def test_proposals_are_recipes_on_their_engine_and_then_its_variations() -> None:
    found = propose("fp16", "w8a8-rtn")
    assert set(found) == {
        "fp16@openvino",
        "fp16@openvino (kv_cache_precision=u8)",
        "w8a8-rtn@vllm",
        "w8a8-rtn@vllm (kv_cache_precision=fp8)",
    }
    varied = found["fp16@openvino (kv_cache_precision=u8)"].candidate
    assert varied.settings == {"threads": 2, "kv_cache_precision": "u8"}
    assert varied.tier is Tier.SETTINGS
    assert varied.grows_from == ("fp16@openvino",)
    assert varied.build_key == found["fp16@openvino"].candidate.build_key


def test_proposals_groups_of_inputs_are_varied_only_where_weights_are_compressed() -> None:
    change = {"dynamic_quantization_group_size": 64}
    found = propose("fp16", "int4", engines={"openvino": EngineOffer(variations=(change,))})
    assert set(found) == {
        "fp16@openvino",
        "int4@openvino",
        "int4@openvino (dynamic_quantization_group_size=64)",
    }


def test_proposals_of_dearer_algorithms_grow_from_the_cheap_one_of_their_precision() -> None:
    found = propose("w4a16-rtn", "w4a16", "w4a16-autoround", "w8a8", "bf16", "ngram-draft")
    assert found["w4a16@vllm"].candidate.grows_from == ("w4a16-rtn@vllm",)
    assert found["w4a16-autoround@vllm"].candidate.grows_from == ("w4a16-rtn@vllm",)
    assert found["w8a8@vllm"].candidate.grows_from == ()
    assert found["ngram-draft@vllm"].candidate.grows_from == ("bf16@vllm",)


def test_proposals_come_by_tier_and_then_by_cost() -> None:
    tiers = [one.candidate.tier for one in propose("w4a16", "int4", "fp16", "carve-moe").values()]
    assert tiers == sorted(tiers)
    assert next(iter(propose("int4", "fp16"))) == "fp16@openvino"


def test_proposals_that_cannot_be_done_say_why() -> None:
    found = propose("w4a16-rtn", "q8_0", "quarter-depth", "sparse-2of4", machine=AVX2)
    reasons = {name: one.feasibility.reason for name, one in found.items() if "(" not in name}
    assert "cpu_gemm_wna16" in reasons["w4a16-rtn@vllm"]
    assert "not among the engines" in reasons["q8_0@llamacpp"]
    assert "needs a student" in reasons["quarter-depth@openvino"]
    assert "buys neither bytes nor speed" in reasons["sparse-2of4@vllm"]


def test_proposals_of_a_recipe_with_an_unknown_option_are_refused_not_lost() -> None:
    recipe = Recipe("own", (RecipeStep("convert"), RecipeStep("quantize", {"scheme": "int5"})))
    found = propose_candidates([recipe], premises())
    assert not found[0].feasibility.is_feasible
    assert found[0].candidate.name == "own@openvino"


def test_proposals_for_a_ready_made_network_leave_the_conversion_out() -> None:
    network = replace(CHECKPOINT, weight_format=WeightFormat.OPENVINO_IR)
    found = propose("fp16", "int8", "w8a8", "q8_0", "as-is", checkpoint=network, engines={"openvino": EngineOffer()})
    assert set(found) == {"int8@openvino", "as-is@openvino"}
    assert [step.kind for step in found["int8@openvino"].candidate.recipe.steps] == ["quantize"]
    assert set(propose("as-is")) == set()


def test_proposals_with_a_machines_speed_have_rooflines_of_their_bytes() -> None:
    speed = MachineSpeed(bandwidth_bytes_per_s=1e9, flops_per_s=1e12)
    found = propose("fp16", "int8", "quarter-depth", speed=speed, load=Load(4, 16, 16))
    fp16, int8 = found["fp16@openvino"], found["int8@openvino"]
    assert fp16.roofline is not None
    assert int8.roofline is not None
    # 8 x (256 x 768 + 3 x 256 x 1024) + 4096 x 256 weights, tied by default
    assert fp16.roofline.weight_bytes == 2 * (8 * (256 * 768 + 3 * 256 * 1024) + 4096 * 256)
    assert int8.roofline.weight_bytes == fp16.roofline.weight_bytes // 2
    assert fp16.alone is not None
    assert fp16.alone.tpot_ms < fp16.roofline.tpot_ms
    assert found["quarter-depth@openvino"].roofline is None
    assert propose("fp16")["fp16@openvino"].roofline is None


def test_proposals_of_all_presets_are_decided_or_costed_without_an_error() -> None:
    found = propose_candidates(PRESETS.values(), premises(students=frozenset({"fairytales-quarter"})))
    assert len(found) > 20
    assert len({one.candidate.name for one in found}) == len(found)
    for one in found:
        assert one.feasibility.is_feasible or one.feasibility.reason
