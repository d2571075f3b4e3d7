"""What can be told of recipes before anything is made: engines that a spec leaves out, what this machine cannot run."""

from __future__ import annotations

from collections.abc import Sequence

from lightship.artifacts.checkpoint import CONFIG_NAME, Checkpoint
from lightship.artifacts.machine import Machine
from lightship.artifacts.model_config import read_json_object
from lightship.compression.feasibility.servable import check_servable
from lightship.compression.feasibility.support_table import ENGINE_OF_FORMAT
from lightship.compression.steps.registry import formats_along
from lightship.errors import SpecError
from lightship.ports.variants import Recipe
from lightship.spec.document import Spec


def check_recipes(spec: Spec, recipes: Sequence[Recipe], checkpoint: Checkpoint, machine: Machine) -> tuple[str, ...]:
    """What to know of the recipes although they can be made and served here; a sentence each, none for most.

    A recipe that somebody names may be one that only research wants; the note says what it does not buy.

    Raises: SpecError: a recipe is for an engine that the spec leaves out, or demands what that engine does not execute
        on this machine. CheckpointError: the model's config states no shape.
    """
    config = read_json_object(checkpoint.folder / CONFIG_NAME)
    notes: list[str] = []
    for recipe in recipes:
        engine = ENGINE_OF_FORMAT[formats_along(recipe, checkpoint.weight_format)[-1]]
        if engine not in spec.engines.enabled:
            raise SpecError(
                f"recipe {recipe.name!r} is served by {engine}, which is not among the engines",
                where="variants",
                hint=f"Add `{engine}: {{}}` to `engines`, or take a recipe for another one (`lightship recipes ls`).",
            )
        settings = getattr(spec.engines, engine).model_dump(mode="json", exclude_none=True)
        found = check_servable(recipe, checkpoint, machine, settings, config=config, engine=engine, allow_research=True)
        if not found.is_feasible:
            raise SpecError(
                f"recipe {recipe.name!r} cannot be served here: {found.reason}", where="variants", hint=found.nearest
            )
        notes += (f"{recipe.name}: {note}" for note in found.notes)
    return tuple(dict.fromkeys(notes))
