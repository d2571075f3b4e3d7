"""What a recipe will store and how dear it is, as far as its options tell before anything is made. Pure."""

from __future__ import annotations

import dataclasses
import re

from lightship.artifacts.model_shape import ModelShape
from lightship.artifacts.roofline import WeightBits
from lightship.compression.search.records import Tier
from lightship.ports.variants import Recipe, RecipeStep

# Bits of a weight by GGUF type, from the sizes of ggml's blocks. A mix (`_M`, `_S`) is taken for its main type.
# Source: llama.cpp ggml/src/ggml-common.h.
_GGUF_BITS = {
    "Q8_0": 8.5,
    "Q6_K": 6.5625,
    "Q5_K": 5.5,
    "Q5_0": 5.5,
    "Q5_1": 6.0,
    "Q4_K": 4.5,
    "Q4_0": 4.5,
    "Q4_1": 5.0,
    "IQ4_XS": 4.25,
    "IQ4_NL": 4.5,
    "Q3_K": 3.4375,
    "Q2_K": 2.625,
}
_SCALE_BITS = 16
# llm-compressor's presets and NNCF's usual groups, where a recipe names none.
_DEFAULT_GROUP = {"vllm": 128, "openvino": 64}
# Kinds of steps that change the shape, so that bits alone say nothing of quality.
STRUCTURAL = frozenset({"prune", "student", "distill", "moe", "sparsify"})
# Kinds of steps that train, and words in options that mean work on calibration text.
_TRAINING = frozenset({"distill"})
DRAFT = "draft"
_CALIBRATING_OPTIONS = ("awq", "scale_estimation", "gptq", "importance", "smoothquant", "lora_correction")
_DATA_FREE_ALGORITHMS = frozenset({"", "rtn", "none", "nearest"})
_CALIBRATED_SCHEMES = frozenset({"int8-activations", "int8_activations", "mixed"})


def tier_of(recipe: Recipe) -> Tier:
    """What making it costs: nothing but rounding, work on calibration text, or training."""
    if any(step.kind in _TRAINING for step in recipe.steps):
        return Tier.TRAINED
    if any(_calibrates(step) for step in recipe.steps):
        return Tier.CALIBRATED
    # A draft changes no weight of the model: it is tried, like a setting, for what did well without it.
    return Tier.SETTINGS if any(step.kind == DRAFT for step in recipe.steps) else Tier.DATA_FREE


def _calibrates(step: RecipeStep) -> bool:
    algorithm = str(step.options.get("algorithm", "")).lower()
    is_asked = any(step.options.get(name) not in {None, False, "none"} for name in _CALIBRATING_OPTIONS)
    is_scheme = str(step.options.get("scheme", "")).lower() in _CALIBRATED_SCHEMES
    return step.kind in {"prune", "sparsify", "moe"} or algorithm not in _DATA_FREE_ALGORITHMS or is_asked or is_scheme


def scheme_of(recipe: Recipe) -> str | None:
    """The scheme of the last quantization; None where there is none."""
    schemes = [
        str(step.options["scheme"]) for step in recipe.steps if step.kind == "quantize" and "scheme" in step.options
    ]
    return schemes[-1] if schemes else None


def nominal_bits(recipe: Recipe) -> float | None:
    """Bits of a weight by the scheme, at most 16; None where the recipe changes the shape as well, or nobody knows."""
    if any(step.kind in STRUCTURAL for step in recipe.steps):
        return None
    scheme = scheme_of(recipe)
    return 16.0 if scheme is None else scheme_bits(scheme)


def scheme_bits(scheme: str) -> float | None:
    """Bits of a weight by a scheme's name, scales apart; None for one whose name says nothing.

    >>> scheme_bits("w4a16_asym"), scheme_bits("Q6_K"), scheme_bits("int8-activations"), scheme_bits("mixed")
    (4.0, 6.0, 8.0, None)
    """
    found = re.match(r"(?:w|u?int|i?q|tq|nf|mxfp|fp|f|bf)(\d+)", scheme.lower())
    return float(min(int(found[1]), 16)) if found else None


def family_of(recipe: Recipe, engine: str) -> str:
    """Equal for recipes that differ in how the same precision and shape are reached: the algorithm and its options."""
    parts = [engine]
    for step in recipe.steps:
        if step.kind == "quantize" and "scheme" in step.options:
            bits = scheme_bits(str(step.options["scheme"]))
            is_activations = "activations" in str(step.options["scheme"]) or "a8" in str(step.options["scheme"])
            # Only exact types of GGUF have one name in all algorithms.
            precision = str(step.options["scheme"]) if bits is None or engine == "llamacpp" else f"{bits:g}"
            parts.append(f"quantize {precision}{' a8' if is_activations else ''} {step.options.get('kv_cache', '')}")
        elif step.kind not in {"convert", "adopt", DRAFT}:
            parts.append(f"{step.kind} {sorted(step.options.items())}")
    return "; ".join(parts)


def stored_bits(recipe: Recipe, engine: str) -> WeightBits | None:
    """Bits by part of the model, scales included; None where the scheme's name does not tell.

    OpenVINO's embedding and head stay at 8 bits under int4; vLLM's stay at 16 under every scheme; llama.cpp's have at
    least the type's.
    """
    scheme = scheme_of(recipe)
    if scheme is None:
        formats = [str(step.options["weight_format"]) for step in recipe.steps if "weight_format" in step.options]
        bits = 32.0 if formats and formats[-1] in {"fp32", "f32"} else 16.0
        return WeightBits(bits, bits, bits)
    nominal = scheme_bits(scheme)
    if nominal is None:
        return None
    if engine == "llamacpp":
        key = scheme.upper().removesuffix("_M").removesuffix("_S").removesuffix("_L")
        bits = _GGUF_BITS.get(key, nominal + 0.25)
        return WeightBits(bits, bits, bits)
    blocks = nominal + _overhead_bits(recipe, engine) if nominal < 8 else nominal
    outer = 16.0 if engine == "vllm" else max(8.0, nominal)
    return WeightBits(blocks, outer, outer)


def _overhead_bits(recipe: Recipe, engine: str) -> float:
    """Bits of scales per weight of grouped schemes; zero points only add to this, and a bound leaves them out."""
    sizes = [step.options.get("group_size") for step in recipe.steps if step.kind == "quantize"]
    size = next((one for one in reversed(sizes) if isinstance(one, int) and one > 0), _DEFAULT_GROUP.get(engine, 128))
    return _SCALE_BITS / size


def expected_shape(recipe: Recipe, shape: ModelShape) -> ModelShape | None:
    """The shape after the recipe; None where its steps do not tell (a student, experts)."""
    for step in recipe.steps:
        if step.kind == "prune":
            pruned = _pruned(step, shape)
            if pruned is None:
                return None
            shape = pruned
        elif step.kind in {"student", "moe", "draft"}:
            return None
    return shape


def _pruned(step: RecipeStep, shape: ModelShape) -> ModelShape | None:
    options = step.options
    num_layers, intermediate, kv_heads = shape.num_layers, shape.intermediate_size, shape.num_kv_heads
    if isinstance(share := options.get("depth_fraction"), float):
        num_layers = max(1, round(share * num_layers))
    elif isinstance(count := options.get("num_layers"), int):
        num_layers = count
    elif "drop" in options:
        num_layers -= len(set(str(options["drop"]).split(",")))
    if isinstance(share := options.get("ffn_fraction"), float):
        intermediate = max(1, round(share * intermediate))
    if isinstance(groups := options.get("kv_groups"), int):
        kv_heads = groups
    if num_layers < 1 or kv_heads < 1:
        return None
    return dataclasses.replace(
        shape,
        num_layers=num_layers,
        intermediate_size=intermediate,
        num_kv_heads=kv_heads,
        num_heads=shape.num_heads * kv_heads // shape.num_kv_heads,
    )
