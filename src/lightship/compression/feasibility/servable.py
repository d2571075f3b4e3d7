"""Both questions at once: what a recipe demands of its engine, and what a source demands that is quantized already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightship.artifacts.checkpoint import Checkpoint
from lightship.artifacts.machine import Machine
from lightship.compression.feasibility.check import check_feasible
from lightship.compression.feasibility.demands import Options
from lightship.compression.feasibility.quantized_checkpoint import check_quantized_checkpoint
from lightship.compression.feasibility.verdicts import Feasibility, first_refusal
from lightship.ports.variants import Recipe, WeightFormat


def check_servable(
    recipe: Recipe,
    checkpoint: Checkpoint,
    machine: Machine,
    settings: Options,
    *,
    config: Mapping[str, Any],
    engine: str,
    allow_research: bool = False,
) -> Feasibility:
    """Whether this recipe of this checkpoint can be made, and served on this machine.

    Args:
        settings: Of the engine (`device`, `kv_cache_precision`, ...).
        config: The object in the checkpoint's config.json.
        engine: The one of the format that the recipe ends in.
        allow_research: Lets through what buys neither bytes nor speed, with a note that says so.

    Raises: CheckpointError: `config` states no shape. SpecError: a device nobody knows.
    """

    def checks() -> Iterator[Feasibility]:
        if checkpoint.weight_format is WeightFormat.SAFETENSORS:
            yield check_quantized_checkpoint(config, engine, machine, settings)
        yield check_feasible(recipe, checkpoint, machine, settings, config=config, allow_research=allow_research)

    return first_refusal(checks())
