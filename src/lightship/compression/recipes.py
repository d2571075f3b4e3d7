"""Recipes: presets read from `presets.yaml`, and which of them a spec asks for.

A preset is data. What its steps and options may be is checked by the steps themselves (`steps/registry.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import yaml

from lightship.errors import SpecError
from lightship.ports.variants import Recipe, RecipeStep, WeightFormat

_STEP_HINT = "Write `- kind: {option: value}`."


def read_recipe(name: str, steps: Any) -> Recipe:
    """The recipe that a list of one-key mappings `{kind: {option: value}}` states.

    Raises: SpecError: it is not such a list.
    """
    if not isinstance(steps, list) or not steps:
        raise SpecError(f"recipe {name!r} has no list of steps", where="recipe", hint=_STEP_HINT)
    return Recipe(name, tuple(_read_step(name, one) for one in steps))


def _read_step(name: str, one: Any) -> RecipeStep:
    if isinstance(one, str):
        return RecipeStep(one)
    if isinstance(one, dict) and len(one) == 1:
        (kind, options), *_ = one.items()
        is_plain = isinstance(options, dict) and all(isinstance(value, str | int | float) for value in options.values())
        if isinstance(kind, str) and is_plain:
            return RecipeStep(kind, dict(options))
    raise SpecError(f"recipe {name!r}: {one!r} is not a step", where="recipe", hint=_STEP_HINT)


_CONTENT: dict[str, dict[str, Any]] = yaml.safe_load((resources.files(__package__) / "presets.yaml").read_text("utf-8"))
PRESETS = {name: read_recipe(name, preset["steps"]) for name, preset in _CONTENT.items()}
SUMMARIES = {name: str(preset["summary"]) for name, preset in _CONTENT.items()}
# What a preset begins with: a checkpoint, unless it says otherwise.
SOURCES = {name: WeightFormat(preset.get("source", WeightFormat.SAFETENSORS)) for name, preset in _CONTENT.items()}

REFERENCE_RECIPE = "fp16"
_AUTOMATIC = (REFERENCE_RECIPE, "int8", "int4")
_AUTOMATIC_WITH_STUDENT = (*_AUTOMATIC, "quarter-depth", "quarter-depth-int8")
_AUTOMATIC_NETWORK = ("as-is", "int8", "int4")
_UNCOMPRESSED = frozenset({"f32", "f16", "bf16"})  # OpenVINO's names


def with_own_recipes(own: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Recipe]:
    """The presets and the user's own recipes, by name.

    Raises: SpecError: a recipe has a preset's name, or is no list of steps.
    """
    if taken := sorted(own.keys() & PRESETS.keys()):
        raise SpecError(f"{taken[0]!r} is a preset's name", where="recipes", hint="Give your recipe another one.")
    return PRESETS | {name: read_recipe(name, [dict(one) for one in steps]) for name, steps in own.items()}


def choose_recipes(
    wanted: str | tuple[str, ...],
    *,
    has_student: bool,
    network_types: tuple[str, ...] | None = None,
    known: Mapping[str, Recipe] = PRESETS,
) -> tuple[Recipe, ...]:
    """The recipes to build.

    Args:
        wanted: `auto` or names of presets.
        has_student: Whether the model ships with a distilled student.
        network_types: Element types of the weights when the source is a ready-made OpenVINO network, which is not
            converted; None for a checkpoint.
        known: Recipes by name.

    Raises: SpecError: an unknown preset, or one that this source does not allow.
    """
    if network_types is not None:
        return _network_recipes(wanted, known, is_compressed=not _UNCOMPRESSED.issuperset(network_types))
    names = (_AUTOMATIC_WITH_STUDENT if has_student else _AUTOMATIC) if isinstance(wanted, str) else wanted
    recipes = tuple(_named(name, known) for name in names)
    for recipe in recipes:
        kinds = {step.kind for step in recipe.steps}
        if "student" in kinds and not has_student:
            raise _not_here(recipe, "needs a student, and only the built-in model ships with one")
        if SOURCES.get(recipe.name) is WeightFormat.OPENVINO_IR:
            raise _not_here(recipe, "is for OpenVINO networks, and the source is a checkpoint to convert")
    return recipes


def _network_recipes(
    wanted: str | tuple[str, ...], known: Mapping[str, Recipe], *, is_compressed: bool
) -> tuple[Recipe, ...]:
    """Recipes for a ready-made network: its conversion is left out of them."""
    names = (_AUTOMATIC_NETWORK[:1] if is_compressed else _AUTOMATIC_NETWORK) if isinstance(wanted, str) else wanted
    recipes = []
    for recipe in (_named(name, known) for name in names):
        kinds = [step.kind for step in recipe.steps]
        if "student" in kinds or kinds == ["convert"]:
            raise _not_here(recipe, "converts a checkpoint, and the source is an OpenVINO network already")
        if "quantize" in kinds and is_compressed:
            raise _not_here(recipe, "compresses weights, and those of the source are compressed already")
        recipes.append(Recipe(recipe.name, tuple(step for step in recipe.steps if step.kind != "convert")))
    return tuple(recipes)


def _not_here(recipe: Recipe, reason: str) -> SpecError:
    return SpecError(f"recipe {recipe.name!r} {reason}", where="variants", hint="Remove it from the list.")


def reference_recipe(recipes: tuple[Recipe, ...]) -> Recipe:
    """The recipe every other one is compared with: the plainest there is, else the first."""
    by_name = {recipe.name: recipe for recipe in recipes}
    return next((by_name[name] for name in ("fp32", REFERENCE_RECIPE, "as-is") if name in by_name), recipes[0])


def _named(name: str, known: Mapping[str, Recipe]) -> Recipe:
    if name in known:
        return known[name]
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    raise SpecError(f"unknown recipe {name!r}", where="variants", hint=f"{hint}Known: {', '.join(known)}.")
