"""Presets: recipes as data. A step is a kind and its options; steps compose in order.

Kinds known today:

- `convert`   Hugging Face folder -> OpenVINO IR; `weight_format` fp32 or fp16
- `quantize`  OpenVINO IR -> IR with compressed weights; `scheme` int8 or int4, `group_size` (int4)
- `distill`   checkpoint -> shallower checkpoint; `student` names one that ships with the built-in model
- `adopt`     ready-made OpenVINO IR -> the same, copied
"""

from __future__ import annotations

import difflib

from lightship.errors import SpecError
from lightship.ports.variants import Recipe, RecipeStep

_CONVERT_FP16 = RecipeStep("convert", {"weight_format": "fp16"})
_INT8 = RecipeStep("quantize", {"scheme": "int8"})
# Groups of 64: the smallest that still costs little (half a bit more per weight with an fp16 scale and a zero point),
# and it divides the hidden sizes of small models, where 128 does not.
_INT4 = RecipeStep("quantize", {"scheme": "int4", "group_size": 64})
_QUARTER = RecipeStep("distill", {"student": "fairytales-quarter"})

PRESETS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("fp32", (RecipeStep("convert", {"weight_format": "fp32"}),)),
        Recipe("fp16", (_CONVERT_FP16,)),
        Recipe("int8", (_CONVERT_FP16, _INT8)),
        Recipe("int4", (_CONVERT_FP16, _INT4)),
        Recipe("as-is", (RecipeStep("adopt"),)),
        Recipe("quarter-depth", (_QUARTER, _CONVERT_FP16)),
        Recipe("quarter-depth-int8", (_QUARTER, _CONVERT_FP16, _INT8)),
    )
}

REFERENCE_RECIPE = "fp16"
_AUTOMATIC = (REFERENCE_RECIPE, "int8", "int4")
_AUTOMATIC_WITH_STUDENT = (*_AUTOMATIC, "quarter-depth", "quarter-depth-int8")
_AUTOMATIC_NETWORK = ("as-is", "int8", "int4")
_UNCOMPRESSED = frozenset({"f32", "f16", "bf16"})  # OpenVINO's names


def choose_recipes(
    wanted: str | tuple[str, ...], *, has_student: bool, network_types: tuple[str, ...] | None = None
) -> tuple[Recipe, ...]:
    """The recipes to build.

    Args:
        wanted: `auto` or names of presets.
        has_student: Whether the model ships with a distilled student.
        network_types: Element types of the weights when the source is a ready-made OpenVINO network, which is not
            converted; None for a checkpoint.

    Raises: SpecError: an unknown preset, or one that this source does not allow.
    """
    if network_types is not None:
        return _network_recipes(wanted, is_compressed=not _UNCOMPRESSED.issuperset(network_types))
    names = (_AUTOMATIC_WITH_STUDENT if has_student else _AUTOMATIC) if isinstance(wanted, str) else wanted
    recipes = tuple(_preset(name) for name in names)
    for recipe in recipes:
        kinds = {step.kind for step in recipe.steps}
        if "distill" in kinds and not has_student:
            raise _not_here(recipe, "needs a student, and only the built-in model ships with one")
        if "adopt" in kinds:
            raise _not_here(recipe, "is for OpenVINO networks, and the source is a checkpoint to convert")
    return recipes


def _network_recipes(wanted: str | tuple[str, ...], *, is_compressed: bool) -> tuple[Recipe, ...]:
    """Recipes for a ready-made network: its conversion is left out of them."""
    names = (_AUTOMATIC_NETWORK[:1] if is_compressed else _AUTOMATIC_NETWORK) if isinstance(wanted, str) else wanted
    recipes = []
    for recipe in map(_preset, names):
        kinds = [step.kind for step in recipe.steps]
        if "distill" in kinds or kinds == ["convert"]:
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


def _preset(name: str) -> Recipe:
    if name in PRESETS:
        return PRESETS[name]
    nearest = difflib.get_close_matches(name, PRESETS, n=1)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    raise SpecError(f"unknown recipe {name!r}", where="variants", hint=f"{hint}Known: {', '.join(PRESETS)}.")
