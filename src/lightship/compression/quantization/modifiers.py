"""llm-compressor's modifiers for a plan: which scheme on which modules, rounded how. Runs in `compress`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from llmcompressor.pipelines.cache import IntermediatesCache

from lightship.compression.quantization.schemes import IGNORED_MODULES

_PRESETS = {"w8a8": "W8A8", "w4a16": "W4A16", "w4a16_asym": "W4A16_ASYM", "fp8_dynamic": "FP8_DYNAMIC"}
_OBSERVERS = {"minmax": "memoryless_minmax", "mse": "memoryless_mse", "imatrix_mse": "imatrix_mse"}


@dataclass(frozen=True)
class RoundingPlan:
    """How weights are rounded.

    Args:
        algorithm: rtn, gptq, smoothquant-gptq or awq.
        group_size: Weights per scale where the scheme has groups.
        observer: How the range of a group is chosen: minmax, mse or imatrix_mse.
        activation_order: static (columns in order of their activations) or none; GPTQ only.
        dampening_fraction: Of the Hessian's mean diagonal, added to its diagonal; GPTQ only.
        smoothing_strength: Share of the activations' range that moves into the weights; SmoothQuant only.
        kv_cache: none or fp8.
    """

    algorithm: str
    group_size: int
    observer: str
    activation_order: str
    dampening_fraction: float
    smoothing_strength: float
    kv_cache: str


def build_modifiers(targets: Mapping[str, Sequence[str]], plan: RoundingPlan) -> list[Any]:
    """Modifiers in the order they run.

    Args:
        targets: Names of linear modules (or the class `Linear`) by scheme.
    """
    groups = {f"group_{index}": _scheme(name, modules, plan) for index, (name, modules) in enumerate(targets.items())}
    cache = QuantizationArgs(num_bits=8, type="float", strategy="tensor", dynamic=False, symmetric=True)
    common: dict[str, Any] = {
        "config_groups": groups,
        "ignore": list(IGNORED_MODULES),
        "kv_cache_scheme": cache if plan.kv_cache == "fp8" else None,
    }
    modifiers: list[Any] = []
    if plan.algorithm == "smoothquant-gptq":
        modifiers.append(SmoothQuantModifier(smoothing_strength=plan.smoothing_strength))
    if plan.algorithm == "awq":
        _leave_memory_unpinned()
        modifiers.append(AWQModifier(duo_scaling="both"))
    if plan.algorithm in {"gptq", "smoothquant-gptq"}:
        order = None if plan.activation_order == "none" else plan.activation_order
        modifiers.append(GPTQModifier(**common, dampening_frac=plan.dampening_fraction, actorder=order))
    else:
        modifiers.append(QuantizationModifier(**common))
    return modifiers


def _scheme(name: str, modules: Sequence[str], plan: RoundingPlan) -> QuantizationScheme:
    scheme = preset_name_to_scheme(_PRESETS[name], list(modules))
    if scheme.weights.group_size is not None:
        scheme.weights.group_size = plan.group_size
    scheme.weights.observer = _OBSERVERS[plan.observer]
    return scheme


def _leave_memory_unpinned() -> None:
    """AWQ pins its cache for copies to an accelerator, which fails where there is none."""
    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_args, **_kwargs: None
