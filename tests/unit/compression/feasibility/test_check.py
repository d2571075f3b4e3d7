"""What is refused before any work, with the reason and the nearest thing that works; and what is not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.unit.compression.feasibility.subjects import AMX, AVX2, AVX512, CHECKPOINT, CONFIG

from lightship.artifacts.machine import Machine
from lightship.compression.feasibility.check import check_feasible
from lightship.compression.feasibility.verdicts import Feasibility, feasible, first_refusal, refusal_of, refused
from lightship.compression.recipes import PRESETS, SOURCES
from lightship.errors import UnsafeCheckpointError
from lightship.ports.variants import Recipe, RecipeStep, WeightFormat


def quantize(scheme: str, **options: str | int | float | bool) -> Recipe:
    return Recipe(scheme, (RecipeStep("quantize", {"scheme": scheme, **options}),))


def gguf(scheme: str) -> Recipe:
    convert = RecipeStep("convert", {"to": "gguf", "weight_format": "bf16"})
    return Recipe(scheme, (convert, RecipeStep("quantize", {"scheme": scheme})))


def network(scheme: str, **options: str | int) -> Recipe:
    convert = RecipeStep("convert", {"weight_format": "fp16"})
    return Recipe(scheme, (convert, RecipeStep("quantize", {"scheme": scheme, **options})))


@dataclass(frozen=True)
class Refused:
    """A recipe on a machine, words of the reason, words of the way out, and the preset suggested."""

    id: str
    recipe: Recipe
    machine: Machine
    reason: str
    nearest: str
    preset: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    head_dim: int = 64


REFUSED = [
    Refused("w4a16-avx2", quantize("w4a16"), AVX2, "cpu_gemm_wna16", "W8A8", preset="w8a8-rtn"),
    Refused("w4a16-avx2-second", quantize("w4a16"), AVX2, "on avx2", "`q4_k_m`", preset="w8a8-rtn"),
    Refused("mixed-avx2", quantize("mixed"), AVX2, "4-bit weights", "W8A8", preset="w8a8-rtn"),
    Refused("w8a16", quantize("w8a16"), AMX, "takes 4-bit weights only", "W8A8", preset="w8a8-rtn"),
    Refused("w3a16", quantize("w3a16"), AMX, "takes 4-bit weights only", "llama.cpp", preset="q3_k_m-imatrix"),
    Refused("desc-act", quantize("w4a16", desc_act=True), AMX, "desc_act", "W4A16", preset="w4a16-rtn"),
    Refused("actorder", quantize("w4a16", actorder="group"), AMX, "desc_act", "W4A16", preset="w4a16-rtn"),
    Refused("fp8-cache-avx2", quantize("w8a8", kv_cache="fp8"), AVX2, "AVX-512 or AMX", "OpenVINO"),
    Refused(
        "fp8-cache-setting",
        quantize("w8a8"),
        AVX2,
        "setting `kv_cache_precision: fp8`",
        "OpenVINO",
        settings={"kv_cache_precision": "fp8"},
    ),
    Refused("fp8-cache-heads", quantize("w8a8", kv_cache="fp8"), AMX, "multiple of 32", "16 bits", head_dim=80),
    Refused("small-heads", quantize("w8a8"), AMX, "no kernels for heads of 16", "llama.cpp", head_dim=16),
    Refused(
        "2of4",
        Recipe("sparse", (RecipeStep("sparsify", {"pattern": "2:4"}),)),
        AMX,
        "buys neither bytes nor speed",
        "W8A8",
        preset="w8a8-rtn",
    ),
    Refused(
        "unstructured",
        Recipe("sparse", (RecipeStep("sparsify"),)),
        AMX,
        "zeros are stored",
        "W8A8",
        preset="w8a8-rtn",
    ),
    Refused(
        "experts-without-amx",
        quantize("w4a16"),
        AVX512,
        "need AMX tiles",
        "llama.cpp",
        config={"num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    Refused(
        "made-experts-without-amx",
        Recipe("x", (RecipeStep("moe", {"method": "carve"}), RecipeStep("quantize", {"scheme": "w8a8"}))),
        AVX512,
        "need AMX tiles",
        "llama.cpp",
    ),
    Refused(
        "reap-dense",
        Recipe("x", (RecipeStep("moe", {"method": "prune-experts"}),)),
        AMX,
        "this model is dense",
        "depth or width",
    ),
    Refused(
        "group-size",
        quantize("w4a16", group_size=128),
        AMX,
        "groups of 128 do not divide",
        "`group_size: 64`",
        config={"intermediate_size": 960},
    ),
    Refused(
        "network-group-size",
        network("int4", group_size=64),
        AVX2,
        "groups of 64 do not divide",
        "`group_size: 16`",
        config={"intermediate_size": 1008},
    ),
    Refused(
        "odd-widths",
        quantize("w4a16"),
        AMX,
        "multiples of 32, and this model has some with 1000",
        "`w8a8`",
        preset="w8a8",
        config={"intermediate_size": 1000},
    ),
    Refused("unknown-step", Recipe("x", (RecipeStep("melt"),)), AMX, "there is no step 'melt'", "Known:"),
    Refused("unknown-option", quantize("w8a8", groupsize=64), AMX, "no option 'groupsize'", "Did you mean"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_check_feasible_refuses_with_reason_and_nearest(case: Refused) -> None:
    found = check_feasible(
        case.recipe,
        replace(CHECKPOINT, head_dim=case.head_dim),
        case.machine,
        case.settings,
        config={**CONFIG, **case.config},
    )
    assert not found.is_feasible
    assert case.reason in found.reason
    assert found.nearest is not None
    assert case.nearest in found.nearest
    assert found.nearest_preset == case.preset


def test_check_feasible_refusal_of_a_quantized_network_on_an_unknown_architecture_names_the_nearest() -> None:
    found = check_feasible(network("int8"), replace(CHECKPOINT, architecture="Llama9ForCausalLM"), AMX)
    assert not found.is_feasible
    assert "'Llama9ForCausalLM' cannot be converted" in found.reason
    assert found.nearest is not None
    assert found.nearest.startswith("The nearest known ones: LlamaForCausalLM, ")


@pytest.mark.parametrize("preset", [name for name, form in SOURCES.items() if form is WeightFormat.SAFETENSORS])
def test_check_feasible_every_preset_on_amx_is_made_or_refused_for_a_known_reason(preset: str) -> None:
    found = check_feasible(PRESETS[preset], CHECKPOINT, AMX, config=CONFIG)
    expected = {"sparse-2of4": "buys neither", "sparse-unstructured": "buys neither", "half-experts": "dense"}
    assert found.is_feasible or expected.get(preset, "-") in found.reason, found


@pytest.mark.parametrize(
    ("recipe", "machine"),
    [
        (quantize("w8a8"), AVX2),
        (quantize("w4a16"), AVX512),
        (quantize("w4a16_asym", group_size=64), AMX),
        (gguf("Q4_K_M"), AVX2),
        (network("int4", group_size=64), AVX2),
    ],
    ids=lambda value: value.name if isinstance(value, Recipe) else value.cpu_model,
)
def test_check_feasible_says_yes_and_names_the_engine(recipe: Recipe, machine: Machine) -> None:
    found = check_feasible(recipe, CHECKPOINT, machine, config=CONFIG)
    assert found.is_feasible, found.reason
    assert found.engine in {"vllm", "llamacpp", "openvino"}


def test_check_feasible_vllm_on_cuda_takes_what_the_cpu_does_not() -> None:
    assert check_feasible(quantize("w4a16"), replace(CHECKPOINT, head_dim=16), AVX2, {"device": "cuda"}).is_feasible


def test_check_feasible_sparsity_as_research_passes_with_a_note_on_what_it_does_not_buy() -> None:
    recipe = Recipe("sparse", (RecipeStep("sparsify", {"pattern": "2:4"}),))
    found = check_feasible(recipe, CHECKPOINT, AMX, config=CONFIG, allow_research=True)
    assert found.is_feasible
    assert any(note.startswith("research only: 2:4 sparsity buys neither bytes nor speed") for note in found.notes)


def test_check_feasible_notes_what_brings_nothing_and_what_nobody_tried() -> None:
    arm = Machine("arm", "aarch64", ("neon",), 4, 8)
    assert (
        "16-bit weights with vLLM on avx2: computed at the rate of 32 bits"
        in check_feasible(PRESETS["bf16"], CHECKPOINT, AVX2).notes
    )
    assert any("never tried" in note for note in check_feasible(quantize("w8a8"), CHECKPOINT, arm).notes)


def test_check_feasible_after_pruning_does_not_judge_widths_of_the_source() -> None:
    recipe = Recipe("x", (RecipeStep("prune", {"ffn_fraction": 0.5}), RecipeStep("quantize", {"scheme": "w4a16"})))
    config = {**CONFIG, "intermediate_size": 1000}
    assert "multiples of 32" not in check_feasible(recipe, CHECKPOINT, AMX, config=config).reason


def test_check_feasible_experts_that_a_step_before_made_may_be_pruned() -> None:
    """Once a dense source was refused whatever came before the pruning."""
    upcycle = RecipeStep("moe", {"method": "upcycle", "num_experts": 8})
    prune = RecipeStep("moe", {"method": "prune-experts"})
    assert check_feasible(Recipe("both", (upcycle, prune)), CHECKPOINT, AMX, config=CONFIG).is_feasible
    found = check_feasible(Recipe("alone", (prune, upcycle)), CHECKPOINT, AMX, config=CONFIG)
    assert "this model is dense" in found.reason


def test_refusal_of_an_error_keeps_its_place_reason_and_hint() -> None:
    error = UnsafeCheckpointError("the weights are pickled", where="/m/pytorch_model.bin", hint="Use safetensors.")
    assert refusal_of(error) == refused("/m/pytorch_model.bin: the weights are pickled", nearest="Use safetensors.")


def test_first_refusal_ends_at_the_first_and_gathers_notes_before_it() -> None:
    assert first_refusal(iter([feasible("a", engine="vllm"), feasible("a", "b")])) == feasible("a", "b", engine="vllm")
    assert first_refusal([feasible("a"), refused("no"), refused("never asked")]).reason == "no"


def test_feasibility_that_contradicts_itself_is_a_bug() -> None:
    for is_feasible, reason in ((True, "why"), (False, "")):
        with pytest.raises(ValueError, match="reason"):
            Feasibility(is_feasible=is_feasible, reason=reason)
