"""Whether a recipe can be made of a checkpoint and served on a machine, asked before any work. Pure.

What an engine executes is data (`engine_support.yaml`); here are the rules on shapes, and the order of the questions.
Pickled weights, code in a checkpoint and architectures nobody converts are refused earlier, when a checkpoint is looked
at (`artifacts.checkpoint`); `verdicts.refusal_of` makes the same kind of answer of those errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lightship.artifacts.architectures import CONVERTIBLE_ARCHITECTURES, nearest_architectures
from lightship.artifacts.checkpoint import Checkpoint
from lightship.artifacts.machine import Machine
from lightship.artifacts.model_shape import ModelShape, read_model_shape
from lightship.compression.feasibility.alternatives import suggest
from lightship.compression.feasibility.demands import Demand, Options, recipe_demands, settings_demands
from lightship.compression.feasibility.support_table import (
    ENGINE_OF_FORMAT,
    TITLES,
    WEIGHT_FEATURES,
    Feature,
    Platform,
    Support,
    SupportTable,
    Verdict,
    platform_of,
    support_table,
)
from lightship.compression.feasibility.verdicts import Feasibility, feasible, first_refusal, refusal_of, refused
from lightship.compression.recipes import PRESETS
from lightship.compression.steps.registry import find_step
from lightship.errors import SpecError
from lightship.ports.variants import Recipe, WeightFormat

# vLLM's CPU kernel for 4-bit weights works on blocks of 32 rows and columns. Source: vllm 0.32,
# kernels/linear/mixed_precision/cpu.py.
_VLLM_W4_BLOCK = 32
# llama.cpp's K-quants have super-blocks of 256 weights; matrices with other widths fall back to other types. Source:
# llama.cpp src/llama-quant.cpp tensor_type_fallback.
_SUPER_BLOCK = 256
_SPARSITY = frozenset({Feature.SPARSITY_2OF4, Feature.SPARSITY_UNSTRUCTURED})
_QUANTIZED = WEIGHT_FEATURES - {Feature.FP32, Feature.BITS_16}
# Groups worth suggesting, the largest first; vLLM's step takes no others.
_GROUP_SIZES = {"vllm": (128, 64, 32), "openvino": (128, 64, 32, 16)}
_CPU = frozenset({Platform.AVX2, Platform.AVX512, Platform.AMX, Platform.ARM, Platform.OTHER})


@dataclass(frozen=True)
class Surroundings:
    """Where a variant would be served, and what may be suggested instead.

    Args:
        machine: Whose instruction sets count.
        settings: The engine's: `device`, types of the KV cache, drafts.
        config: The object in the checkpoint's config.json; None where it is not known, and widths are not checked.
        allow_research: Whether sparsity, which buys neither bytes nor speed, may be made all the same.
        presets: What suggestions may name.
        table: What engines execute.
    """

    machine: Machine
    settings: Options
    config: Mapping[str, Any] | None
    allow_research: bool
    presets: Mapping[str, Recipe]
    table: SupportTable

    @property
    def platform(self) -> Platform:
        """What executes."""
        return platform_of(self.machine, str(self.settings.get("device", "cpu")))


def check_feasible(
    recipe: Recipe,
    checkpoint: Checkpoint,
    machine: Machine,
    settings: Options | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    allow_research: bool = False,
    presets: Mapping[str, Recipe] = PRESETS,
    table: SupportTable | None = None,
) -> Feasibility:
    """Whether this recipe of this checkpoint can be made, and served on this machine by the engine of its format.

    Args:
        recipe: Steps in order; options that no step takes are refused with what the step says.
        settings: Of the engine that would serve it (`device`, `kv_cache_precision`, ...).
        config: The object in the checkpoint's config.json.
        allow_research: Lets sparsity through, with a note on what it does not buy.

    Raises: CheckpointError: `config` states no shape.
    """
    around = Surroundings(machine, settings or {}, config, allow_research, presets, table or support_table())
    return first_refusal(_checks(recipe, checkpoint, around))


def _checks(recipe: Recipe, checkpoint: Checkpoint, around: Surroundings) -> Iterator[Feasibility]:
    final, misfit = _walk(recipe, checkpoint.weight_format)
    engine = ENGINE_OF_FORMAT[final]
    demands = (*recipe_demands(recipe.steps), *settings_demands(around.settings))
    shape = read_model_shape(around.config) if around.config is not None else None
    has_experts = _has_experts(recipe, checkpoint, shape)
    for demand in (*demands, *_expert_demands(demands, has_experts=has_experts)):
        yield check_demand(demand, engine, around, source=checkpoint.weight_format)
    yield _check_moe_steps(recipe, shape, engine=engine)
    if misfit is not None:
        yield refusal_of(misfit, engine=engine)
    if final is WeightFormat.OPENVINO_IR and checkpoint.weight_format is WeightFormat.SAFETENSORS:
        yield _check_architecture(checkpoint.architecture)
    yield check_heads(checkpoint.head_dim, demands, engine, around)
    if shape is not None and not _changes_widths(recipe):
        for demand in demands:
            yield check_widths(demand, shape, engine, around)


def _walk(recipe: Recipe, source: WeightFormat) -> tuple[WeightFormat, SpecError | None]:
    """The format that the recipe ends in as far as it goes, and the first step that does not fit."""
    form = source
    for one in recipe.steps:
        try:
            step = find_step(one.kind, form)
            form = step.result_format(step.options(one))
        except SpecError as error:
            return form, error
    return form, None


def check_demand(demand: Demand, engine: str, around: Surroundings, *, source: WeightFormat) -> Feasibility:
    """Whether the engine executes one thing that is demanded of it here."""
    support = around.table.find(engine, demand.feature, around.platform)
    title, (name, version) = TITLES[demand.feature], around.table.engines[engine]
    if demand.feature in _SPARSITY:
        return _check_sparsity(demand, support, engine, around, source)
    if support.verdict is Verdict.REFUSED:
        on = f"on {around.platform}" if around.platform in _CPU else f"on {around.platform} devices"
        reason = f"{name} {version} does not execute {title} {on}: {support.how} ({demand.asked_by})"
        return _refused_with_nearest(reason, demand.feature, engine, around, source)
    if support.verdict is Verdict.UNTESTED:
        return feasible(f"{title} with {name} on {around.platform} was never tried", engine=engine)
    if support.verdict is Verdict.NO_GAIN:
        return feasible(f"{title} with {name} on {around.platform}: {support.how}", engine=engine)
    return feasible(engine=engine)


def _check_sparsity(
    demand: Demand, support: Support, engine: str, around: Surroundings, source: WeightFormat
) -> Feasibility:
    title, (name, _) = TITLES[demand.feature], around.table.engines[engine]
    bought = f"{title} buys neither bytes nor speed on {name}: {support.how or 'it has no kernels for it'}"
    if around.allow_research:
        return feasible(f"research only: {bought}", engine=engine)
    return _refused_with_nearest(f"{bought} ({demand.asked_by})", demand.feature, engine, around, source)


def _refused_with_nearest(
    reason: str, feature: Feature, engine: str, around: Surroundings, source: WeightFormat
) -> Feasibility:
    found = suggest(
        feature,
        around.platform,
        around.table,
        presets=around.presets,
        source=source,
        excluded=frozenset({(engine, feature)}),
    )
    return refused(
        reason,
        nearest=found.sentence if found else None,
        preset=found.preset if found else None,
        engine=engine,
    )


def _has_experts(recipe: Recipe, checkpoint: Checkpoint, shape: ModelShape | None) -> bool:
    makes_experts = any(step.kind == "moe" and step.options.get("method") != "prune-experts" for step in recipe.steps)
    is_moe = shape.is_moe if shape is not None else _is_moe_name(checkpoint.architecture)
    return is_moe or makes_experts


def _is_moe_name(architecture: str) -> bool:
    known = ("Moe", "MoE", "Mixtral", "Dbrx", "GptOss", "DeepseekV2", "DeepseekV3")
    return any(word in architecture for word in known)


def _expert_demands(demands: tuple[Demand, ...], *, has_experts: bool) -> tuple[Demand, ...]:
    if not has_experts:
        return ()
    is_quantized = any(demand.feature in _QUANTIZED for demand in demands)
    return (Demand(Feature.QUANTIZED_EXPERTS if is_quantized else Feature.EXPERTS, "the model's experts"),)


def _check_moe_steps(recipe: Recipe, shape: ModelShape | None, *, engine: str) -> Feasibility:
    methods = [step.options.get("method") for step in recipe.steps if step.kind == "moe"]
    if (
        shape is None or shape.is_moe or methods[:1] != ["prune-experts"]
    ):  # after a step that makes some, there are some
        return feasible(engine=engine)
    return refused(
        "experts can only be pruned (REAP) where there are some, and this model is dense",
        nearest="Prune its depth or width instead (step `prune`), or carve its feed-forward layers into experts.",
        engine=engine,
    )


def _check_architecture(architecture: str) -> Feasibility:
    if architecture in CONVERTIBLE_ARCHITECTURES:
        return feasible()
    nearest = ", ".join(nearest_architectures(architecture))
    return refused(
        f"architecture {architecture!r} cannot be converted for OpenVINO",
        nearest=f"The nearest known ones: {nearest}.",
        engine="openvino",
    )


def check_heads(head_dim: int, demands: tuple[Demand, ...], engine: str, around: Surroundings) -> Feasibility:
    """Whether the engine's attention has kernels for heads of this size, and for an 8-bit cache of them."""
    if around.platform not in _CPU:
        return feasible(engine=engine)
    sizes = around.table.cpu_head_sizes.get(engine)
    if sizes is not None and head_dim not in sizes:
        known = ", ".join(map(str, sizes))
        return refused(
            f"{around.table.engines[engine][0]}'s attention on a CPU has no kernels for heads of {head_dim} (it has "
            f"{known})",
            nearest="Serve this model with OpenVINO or llama.cpp, which take heads of any size.",
            engine=engine,
        )
    wants_small_cache = any(demand.feature is Feature.KV_8_BIT for demand in demands)
    if engine == "vllm" and wants_small_cache and head_dim % 32:
        return refused(
            f"vLLM's FP8 KV cache on a CPU needs heads of a multiple of 32, and those of this model have {head_dim}",
            nearest="Leave the KV cache in 16 bits, or serve with OpenVINO (`kv_cache_precision: u8`).",
            engine=engine,
        )
    return feasible(engine=engine)


def _changes_widths(recipe: Recipe) -> bool:
    """Whether the widths of matrices may be others than the source's when they are quantized."""
    return any(step.kind in {"prune", "student", "moe", "distill"} for step in recipe.steps)


def check_widths(demand: Demand, shape: ModelShape, engine: str, around: Surroundings) -> Feasibility:
    """Whether the model's matrices divide into the groups and blocks that a precision needs."""
    size = demand.group_size
    is_grouped = demand.feature in {Feature.INT4_WEIGHTS, Feature.LOW_BIT_WEIGHTS}
    ragged = sorted(width for width in shape.matrix_inputs if size is not None and width % size)
    if engine == "vllm" and demand.feature is Feature.INT4_WEIGHTS and around.platform in _CPU:
        odd = sorted(width for width in shape.matrix_outputs if width % _VLLM_W4_BLOCK)
        if odd:
            return refused(
                f"vLLM's 4-bit kernel on a CPU takes matrices of multiples of {_VLLM_W4_BLOCK}, and this model has "
                f"some with {_enumerate(odd)}",
                nearest="Take 8-bit weights and activations (`w8a8`), which have no such limit.",
                preset="w8a8" if "w8a8" in around.presets else None,
                engine=engine,
            )
    if ragged and is_grouped:
        sizes = _GROUP_SIZES.get(engine, ())
        fitting = next((one for one in sizes if all(width % one == 0 for width in shape.matrix_inputs)), None)
        way_out = f"Take `group_size: {fitting}`." if fitting else "Take 8-bit weights, which are not grouped."
        return refused(
            f"groups of {size} do not divide the inputs of matrices with {_enumerate(ragged)} columns",
            nearest=way_out,
            engine=engine,
        )
    if engine == "llamacpp" and is_grouped and any(width % _SUPER_BLOCK for width in shape.matrix_inputs):
        return feasible(
            f"llama.cpp stores matrices whose width is no multiple of {_SUPER_BLOCK} in other types than asked for",
            engine=engine,
        )
    return feasible(engine=engine)


def _enumerate(numbers: list[int]) -> str:
    return " and ".join(map(str, numbers[:3]))
