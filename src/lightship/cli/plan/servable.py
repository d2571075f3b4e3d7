"""Whether an engine executes a model at all, by the same table that recipes are judged by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightship.artifacts.machine import Machine
from lightship.artifacts.model_shape import ModelShape
from lightship.compression.feasibility.check import Surroundings, check_demand, check_heads
from lightship.compression.feasibility.demands import recipe_demands, settings_demands
from lightship.compression.feasibility.quantized_checkpoint import check_quantized_checkpoint
from lightship.compression.feasibility.support_table import support_table
from lightship.compression.feasibility.verdicts import Feasibility, first_refusal
from lightship.compression.recipes import PRESETS
from lightship.ports.variants import Recipe, WeightFormat
from lightship.spec.document import Spec
from lightship.spec.engines import LlamacppEngineSpec, VllmEngineSpec


def servable(
    engine: str,
    shape: ModelShape,
    *,
    spec: Spec,
    machine: Machine,
    on_gpu: bool,
    config: Mapping[str, Any] | None = None,
    recipe: Recipe | None = None,
) -> Feasibility:
    """Whether this engine executes a model of this shape under the spec's settings.

    Args:
        machine: Whose instruction sets count, where it runs on a CPU.
        config: The object in `config.json` of a checkpoint that is served as it is; it may be quantized already.
        recipe: What is made of it before; None where it is served as it is.

    Raises: CheckpointError: `config` states no shape.
    """
    settings = engine_options(spec, engine, on_gpu=on_gpu)
    around = Surroundings(machine, settings, None, True, PRESETS, support_table())
    demands = (*recipe_demands(recipe.steps if recipe else ()), *settings_demands(settings))

    def checks() -> Iterator[Feasibility]:
        if config is not None:
            yield check_quantized_checkpoint(config, engine, machine, settings)
        for demand in demands:
            yield check_demand(demand, engine, around, source=WeightFormat.SAFETENSORS)
        yield check_heads(shape.head_dim, demands, engine, around)

    return first_refusal(checks())


def engine_options(spec: Spec, engine: str, *, on_gpu: bool) -> dict[str, Any]:
    """The engine's section of the spec, with its defaults where it is left out."""
    sections = {
        "openvino": spec.engines.openvino,
        "vllm": spec.engines.vllm or VllmEngineSpec(),
        "llamacpp": spec.engines.llamacpp or LlamacppEngineSpec(),
    }
    options = sections[engine].model_dump(mode="json", exclude_none=True)
    return {**options, "device": "cuda"} if on_gpu else options
