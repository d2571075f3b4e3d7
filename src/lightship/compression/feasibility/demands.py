"""What a recipe and an engine's settings demand of the engine, read from step kinds and options. Pure.

Options are read by name and not through the steps' own types, so that a scheme no step takes (`w8a16`) still gets the
answer that helps, and a step that grows an option does not have to be repeated here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lightship.compression.feasibility.support_table import WEIGHT_FEATURES, Feature
from lightship.ports.variants import RecipeStep

Options = Mapping[str, str | int | float | bool]

_SCHEME = re.compile(r"w(\d+)a(\d+)")
_GGUF_TYPE = re.compile(r"(?:I?Q|TQ)(\d)")
# nf4, int3, mxfp4, bf16, f32 and their like: bits of a weight, activations as they are.
_TYPE = re.compile(r"(?:u?int|nf|mxfp|nvfp|bf|fp|f)(\d+)")
_NAMED_SCHEMES = {
    # The allocator mixes what a CPU can run side by side: 16 bits, W8A8 and W4A16.
    "mixed": (Feature.INT8_ACTIVATIONS, Feature.INT4_WEIGHTS),
    "int8-activations": (Feature.INT8_ACTIVATIONS,),
    "int8_activations": (Feature.INT8_ACTIVATIONS,),
    "fp8": (Feature.FP8_WEIGHTS,),
    "fp8_dynamic": (Feature.FP8_WEIGHTS,),
    "fp8_e4m3": (Feature.FP8_WEIGHTS,),
    "mxfp8_e4m3": (Feature.FP8_WEIGHTS,),
}
_OFF = frozenset(
    {"", "none", "auto", "off", "no", "false", "f16", "fp16", "bf16", "f32", "fp32", "bfloat16", "float16"}
)
_EIGHT_BIT_CACHES = frozenset({"fp8", "fp8_e4m3", "fp8_e5m2", "u8", "i8", "int8", "q8_0"})
# Kinds and words that steps of speculative decoding use for drafts without a model.
_PROMPT_LOOKUP = frozenset({"ngram", "n-gram", "prompt-lookup", "prompt_lookup", "suffix"})
# Names that engines use for the type of the stored keys and values.
_CACHE_SETTINGS = ("kv_cache_dtype", "kv_cache_precision", "kv_cache_type", "cache_type_k", "cache_type_v", "kv_cache")
_DRAFT_SETTINGS = ("speculative", "speculative_method")


@dataclass(frozen=True)
class Demand:
    """One thing that an engine must have kernels for, and where it was asked for."""

    feature: Feature
    asked_by: str
    group_size: int | None = None


def weight_features(scheme: str) -> tuple[Feature, ...]:
    """What a scheme of weights demands; nothing for one whose name says nothing.

    >>> weight_features("w4a16_asym"), weight_features("Q6_K")
    ((<Feature.INT4_WEIGHTS: 'int4-weights'>,), (<Feature.LOW_BIT_WEIGHTS: 'low-bit-weights'>,))
    """
    lowered = scheme.lower()
    if (named := _NAMED_SCHEMES.get(lowered)) is not None:
        return named
    if found := _SCHEME.match(lowered):
        return _of_bits(int(found[1]), activation_bits=int(found[2]))
    if found := _GGUF_TYPE.match(scheme.upper()) or _TYPE.match(lowered):
        return _of_bits(int(found[1]), activation_bits=16)
    return (Feature.FP8_WEIGHTS,) if "fp8" in lowered else ()


def _of_bits(weight_bits: int, *, activation_bits: int) -> tuple[Feature, ...]:
    if weight_bits >= 16:
        return (Feature.FP32 if weight_bits > 16 else Feature.BITS_16,)
    if weight_bits == 8:
        return (Feature.INT8_ACTIVATIONS if activation_bits <= 8 else Feature.INT8_WEIGHTS,)
    return (Feature.INT4_WEIGHTS if weight_bits == 4 else Feature.LOW_BIT_WEIGHTS,)


def recipe_demands(steps: tuple[RecipeStep, ...]) -> tuple[Demand, ...]:
    """What the variant that these steps make demands.

    Of several steps that set the weights' precision, the last counts: a conversion to 16 bits before a quantization is
    never executed. Where no step sets one it is 16 bits, in which engines compute whatever the checkpoint stores.
    """
    weights: tuple[Demand, ...] = ()
    others: list[Demand] = []
    for step in steps:
        set_here = _step_weights(step)
        weights = set_here or weights
        others += _step_extras(step)
    return (*(weights or (Demand(Feature.BITS_16, "the source's weights"),)), *others)


def _step_weights(step: RecipeStep) -> tuple[Demand, ...]:
    scheme = next((step.options[name] for name in ("scheme", "weight_format", "type") if name in step.options), None)
    if step.kind not in {"quantize", "convert", "gguf"} or not isinstance(scheme, str):
        return ()
    group_size = step.options.get("group_size")
    size = group_size if isinstance(group_size, int) and not isinstance(group_size, bool) and group_size > 0 else None
    return tuple(Demand(one, f"scheme {scheme!r} of step {step.kind!r}", size) for one in weight_features(scheme))


def _step_extras(step: RecipeStep) -> list[Demand]:
    found = []
    asked = f"step {step.kind!r}"
    if _is_eight_bit_cache(step.options.get("kv_cache")):
        found.append(Demand(Feature.KV_8_BIT, f"option `kv_cache` of {asked}"))
    order = str(step.options.get("actorder", "")).lower()
    if _is_on(step.options.get("desc_act")) or order in {"group", "dynamic"}:
        found.append(Demand(Feature.ACTIVATION_ORDER, asked))
    if step.kind in {"sparsify", "sparsity"}:
        pattern = str(step.options.get("pattern", step.options.get("mask", ""))).replace("_", ":").replace("of", ":")
        is_structured = "2:4" in pattern
        found.append(Demand(Feature.SPARSITY_2OF4 if is_structured else Feature.SPARSITY_UNSTRUCTURED, asked))
    if step.kind == "draft":
        method = " ".join(str(value) for value in step.options.values()).lower()
        is_lookup = any(word in method for word in _PROMPT_LOOKUP)
        found.append(Demand(Feature.PROMPT_LOOKUP if is_lookup else Feature.DRAFT_MODEL, asked))
    return found


def settings_demands(settings: Options) -> tuple[Demand, ...]:
    """What settings of an engine demand: a KV cache of 8 bits, drafts."""
    found = [
        Demand(Feature.KV_8_BIT, f"setting `{name}: {settings[name]}`")
        for name in _CACHE_SETTINGS
        if _is_eight_bit_cache(settings.get(name))
    ]
    for name in _DRAFT_SETTINGS:
        value = settings.get(name)
        if _is_on(value):
            is_lookup = str(value).lower() in _PROMPT_LOOKUP
            feature = Feature.PROMPT_LOOKUP if is_lookup else Feature.DRAFT_MODEL
            found.append(Demand(feature, f"setting `{name}: {value}`"))
    return tuple(found)


def weight_feature(steps: tuple[RecipeStep, ...]) -> Feature:
    """The one feature that tells a recipe's precision best: the lowest of a mix."""
    found = [demand.feature for demand in recipe_demands(steps) if demand.feature in WEIGHT_FEATURES]
    return found[-1]


def _is_eight_bit_cache(value: object) -> bool:
    return value is True or str(value).lower() in _EIGHT_BIT_CACHES


def _is_on(value: object) -> bool:
    return value is not None and value is not False and str(value).lower() not in _OFF
