"""Whether an engine can execute a checkpoint that somebody else quantized, by what its config.json says. Pure.

Formats: compressed-tensors (llm-compressor, AutoRound), GPTQ, AWQ, FP8, and some that are known only to be refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lightship.artifacts.machine import Machine
from lightship.artifacts.model_shape import ModelShape, read_model_shape
from lightship.compression.feasibility.check import Surroundings, check_demand, check_heads, check_widths
from lightship.compression.feasibility.demands import Demand, Options
from lightship.compression.feasibility.support_table import (
    ENGINE_OF_FORMAT,
    TITLES,
    WEIGHT_FEATURES,
    Feature,
    SupportTable,
    support_table,
)
from lightship.compression.feasibility.verdicts import Feasibility, feasible, first_refusal, refused
from lightship.compression.recipes import PRESETS
from lightship.errors import UsageError
from lightship.ports.variants import Recipe, WeightFormat

_UNQUANTIZED = "Use the unquantized checkpoint it was made from, and quantize it here."
_CONFIG = "quantization_config"
# Formats of compressed-tensors whose kernels are gone. Source: vllm#36799, llm-compressor#2452.
_SPARSE_FORMATS = frozenset({"marlin-24", "sparse-24-bitmask", "sparse-bitmask"})
_GROUPED_METHODS = frozenset({"gptq", "gptq-marlin", "auto-gptq", "awq", "awq-marlin", "auto-round", "inc"})
_PLAIN_METHODS = {
    "fp8": Feature.FP8_WEIGHTS,
    "fbgemm-fp8": Feature.FP8_WEIGHTS,
    "bitsandbytes": Feature.BITSANDBYTES,
    "gguf": Feature.GGUF_FILES,
}
# Only vLLM reads quantized safetensors as they are.
_READER = "vllm"


@dataclass(frozen=True)
class _Finding:
    """What a quantization demands, or why it cannot be read at all."""

    demands: tuple[Demand, ...] = ()
    refusal: Feasibility | None = None


def check_quantized_checkpoint(
    config: Mapping[str, Any],
    engine: str,
    machine: Machine,
    settings: Options | None = None,
    *,
    presets: Mapping[str, Recipe] = PRESETS,
    table: SupportTable | None = None,
) -> Feasibility:
    """Whether `engine` executes this checkpoint on this machine, judged by the same table as what is made here.

    Args:
        config: The object in config.json; one without `quantization_config` is feasible as far as this goes.
        engine: `openvino`, `vllm` or `llamacpp`.

    Raises: UsageError: an unknown engine. CheckpointError: `config` states no shape.
    """
    if engine not in ENGINE_OF_FORMAT.values():
        known = ", ".join(ENGINE_OF_FORMAT.values())
        raise UsageError(f"engine {engine!r} is not known", where="engine", hint=f"Known: {known}.")
    quantization = config.get(_CONFIG)
    if not isinstance(quantization, Mapping) or not quantization:
        return feasible(engine=engine)
    around = Surroundings(machine, settings or {}, config, False, presets, table or support_table())
    return first_refusal(_checks(quantization, engine, around, read_model_shape(config)))


def _checks(
    quantization: Mapping[str, Any], engine: str, around: Surroundings, shape: ModelShape
) -> Iterator[Feasibility]:
    finding = _read(quantization)
    if finding.refusal is not None:
        yield finding.refusal
    if engine != _READER:
        title = around.table.engines[engine][0]
        yield refused(
            f"{title} is served from conversions of unquantized checkpoints, and this one is quantized "
            f"({_method(quantization) or 'by an unnamed method'})",
            nearest=f"{_UNQUANTIZED} Or serve it as it is with vLLM.",
            engine=engine,
        )
    for demand in finding.demands:
        yield check_demand(demand, engine, around, source=WeightFormat.SAFETENSORS)
    if shape.is_moe and any(demand.feature in WEIGHT_FEATURES for demand in finding.demands):
        experts = Demand(Feature.QUANTIZED_EXPERTS, "the model's experts")
        yield check_demand(experts, engine, around, source=WeightFormat.SAFETENSORS)
    yield check_heads(shape.head_dim, finding.demands, engine, around)
    for demand in finding.demands:
        yield check_widths(demand, shape, engine, around)


def _method(quantization: Mapping[str, Any]) -> str:
    return str(quantization.get("quant_method", "")).lower().removeprefix("intel/").replace("_", "-")


def _read(quantization: Mapping[str, Any]) -> _Finding:
    method = _method(quantization)
    if method == "compressed-tensors":
        return _read_compressed_tensors(quantization)
    if method in _GROUPED_METHODS:
        return _read_grouped(quantization)
    if (feature := _PLAIN_METHODS.get(method)) is not None:
        return _Finding((Demand(feature, f"quant_method {method!r}"),))
    if not method:
        return _unreadable("`quantization_config` names no `quant_method`")
    return _unreadable(f"nobody here knows what engines do with quant_method {method!r}")


def _unreadable(reason: str) -> _Finding:
    return _Finding(refusal=refused(reason, nearest=_UNQUANTIZED))


def _read_grouped(quantization: Mapping[str, Any]) -> _Finding:
    """GPTQ, AWQ and AutoRound's own format: bits, group size, activation order."""
    method = _method(quantization)
    bits = quantization.get("bits", quantization.get("w_bit"))
    if type(bits) is not int:
        return _unreadable(f"`bits` of quant_method {method!r} is {bits!r}, not a whole number")
    group_size = quantization.get("group_size", quantization.get("q_group_size"))
    demands = [_of_bits(bits, f"quant_method {method!r} with {bits} bits", group_size, activation_bits=16)]
    # With one group for a whole row the order changes nothing, and vLLM ignores it.
    if quantization.get("desc_act") is True and group_size != -1:
        demands.append(Demand(Feature.ACTIVATION_ORDER, "`desc_act` of the checkpoint"))
    return _Finding(tuple(demands))


def _read_compressed_tensors(quantization: Mapping[str, Any]) -> _Finding:
    demands: list[Demand] = []
    form = str(quantization.get("format", ""))
    sparsity = quantization.get("sparsity_config")
    has_sparsity = isinstance(sparsity, Mapping) and sparsity.get("format") not in {None, "dense"}
    if has_sparsity or form in _SPARSE_FORMATS:
        named = str(sparsity.get("format")) if isinstance(sparsity, Mapping) and has_sparsity else form
        return _unreadable(f"its weights are stored sparse ({named}), and the kernels that read them were removed")
    groups = quantization.get("config_groups")
    if groups is not None and not isinstance(groups, Mapping):
        return _unreadable("`config_groups` is no object")
    for name, group in (groups or {}).items():
        found = _read_group(f"group {name!r} of the checkpoint", group)
        if isinstance(found, Feasibility):
            return _Finding(refusal=found)
        demands += found
    cache = quantization.get("kv_cache_scheme")
    if isinstance(cache, Mapping) and cache.get("num_bits") == 8:
        demands.append(Demand(Feature.KV_8_BIT, "`kv_cache_scheme` of the checkpoint"))
    return _Finding(tuple(demands))


def _read_group(asked_by: str, group: object) -> list[Demand] | Feasibility:
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping) or type(weights.get("num_bits")) is not int:
        return refused(f"{asked_by} states no bits of weights", nearest=_UNQUANTIZED)
    inputs = group.get("input_activations") if isinstance(group, Mapping) else None
    activation_bits = int(inputs.get("num_bits", 16)) if isinstance(inputs, Mapping) else 16
    bits = weights["num_bits"]
    if weights.get("type") == "float" and bits != 8:
        return refused(
            f"{asked_by} has {bits}-bit floats, which were never tried here", nearest=_UNQUANTIZED, engine=_READER
        )
    if weights.get("type") == "float":
        found = [Demand(Feature.FP8_WEIGHTS, asked_by)]
    else:
        found = [_of_bits(bits, asked_by, weights.get("group_size"), activation_bits=activation_bits)]
    if str(weights.get("actorder", "")).lower() in {"group", "dynamic"}:
        found.append(Demand(Feature.ACTIVATION_ORDER, f"`actorder` of {asked_by}"))
    return found


def _of_bits(bits: int, asked_by: str, group_size: object, *, activation_bits: int) -> Demand:
    size = group_size if type(group_size) is int and group_size > 0 else None
    if bits == 8:
        feature = Feature.INT8_ACTIVATIONS if activation_bits <= 8 else Feature.INT8_WEIGHTS
    else:
        feature = Feature.INT4_WEIGHTS if bits == 4 else Feature.LOW_BIT_WEIGHTS
    return Demand(feature, f"{asked_by}: {TITLES[feature]}", size)
