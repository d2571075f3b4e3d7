"""Presets: recipes as data. A step is a kind and its options; steps compose in order.

Kinds known today:

- `convert`   Hugging Face folder -> OpenVINO IR; `weight_format` fp32 or fp16
- `quantize`  OpenVINO IR -> IR with compressed weights; `scheme` int8 or int4, `group_size` (int4)
- `distill`   checkpoint -> shallower checkpoint; `student` names one that ships with the built-in model
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
        Recipe("quarter-depth", (_QUARTER, _CONVERT_FP16)),
        Recipe("quarter-depth-int8", (_QUARTER, _CONVERT_FP16, _INT8)),
    )
}

REFERENCE_RECIPE = "fp16"
_AUTOMATIC = (REFERENCE_RECIPE, "int8", "int4")
_AUTOMATIC_WITH_STUDENT = (*_AUTOMATIC, "quarter-depth", "quarter-depth-int8")


def choose_recipes(wanted: str | tuple[str, ...], *, has_student: bool) -> tuple[Recipe, ...]:
    """The recipes to build, the reference first.

    Args:
        wanted: `auto` or names of presets.
        has_student: Whether the model ships with a distilled student.

    Raises: SpecError: an unknown preset, or a student recipe for a model without one.
    """
    names = (_AUTOMATIC_WITH_STUDENT if has_student else _AUTOMATIC) if isinstance(wanted, str) else wanted
    recipes = tuple(_preset(name) for name in names)
    for recipe in recipes:
        if not has_student and any(step.kind == "distill" for step in recipe.steps):
            raise SpecError(
                f"recipe {recipe.name!r} needs a student, and only the built-in model ships with one",
                where="variants",
                hint="Remove it from the list.",
            )
    return recipes


def reference_recipe(recipes: tuple[Recipe, ...]) -> Recipe:
    """The recipe every other one is compared with: `fp32` or `fp16` where there is one, else the first."""
    by_name = {recipe.name: recipe for recipe in recipes}
    return by_name.get("fp32") or by_name.get(REFERENCE_RECIPE) or recipes[0]


def _preset(name: str) -> Recipe:
    if name in PRESETS:
        return PRESETS[name]
    nearest = difflib.get_close_matches(name, PRESETS, n=1)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    raise SpecError(f"unknown recipe {name!r}", where="variants", hint=f"{hint}Known: {', '.join(PRESETS)}.")
