from __future__ import annotations

import pytest

from lightship.compression.recipes import PRESETS, choose_recipes, read_recipe, reference_recipe, with_own_recipes
from lightship.compression.steps.registry import formats_along
from lightship.errors import SpecError
from lightship.ports.variants import Recipe, RecipeStep, WeightFormat


def test_choose_recipes_auto_without_student_starts_with_reference_and_has_no_distillation() -> None:
    recipes = choose_recipes("auto", has_student=False)
    assert [recipe.name for recipe in recipes] == ["fp16", "int8", "int4"]
    assert reference_recipe(recipes).name == "fp16"


def test_choose_recipes_auto_with_student_adds_the_student() -> None:
    names = [recipe.name for recipe in choose_recipes("auto", has_student=True)]
    assert names == ["fp16", "int8", "int4", "quarter-depth", "quarter-depth-int8"]


def test_choose_recipes_misspelt_name_suggests_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"unknown recipe 'in8'.*Did you mean 'int8'"):
        choose_recipes(("fp16", "in8"), has_student=False)


def test_choose_recipes_student_recipe_without_student_is_refused() -> None:
    with pytest.raises(SpecError, match="needs a student"):
        choose_recipes(("quarter-depth",), has_student=False)


def test_reference_recipe_fp32_is_preferred_over_fp16() -> None:
    assert reference_recipe((PRESETS["fp16"], PRESETS["int8"], PRESETS["fp32"])).name == "fp32"


def test_reference_recipe_no_plain_conversion_takes_the_first() -> None:
    assert reference_recipe((PRESETS["int4"], PRESETS["int8"])).name == "int4"


def test_choose_recipes_plain_network_is_taken_as_it_is_and_compressed() -> None:
    recipes = choose_recipes("auto", has_student=False, network_types=("f16", "f32"))
    assert [recipe.name for recipe in recipes] == ["as-is", "int8", "int4"]
    assert [[step.kind for step in recipe.steps] for recipe in recipes] == [["adopt"], ["quantize"], ["quantize"]]
    assert reference_recipe(recipes).name == "as-is"


def test_choose_recipes_compressed_network_is_only_taken_as_it_is() -> None:
    recipes = choose_recipes("auto", has_student=False, network_types=("f16", "u4"))
    assert [recipe.name for recipe in recipes] == ["as-is"]


@pytest.mark.parametrize(
    ("name", "types", "reason"),
    [("fp16", ("f16",), "OpenVINO network already"), ("int8", ("u8", "f16"), "compressed already")],
)
def test_choose_recipes_step_a_network_cannot_take_is_refused(name: str, types: tuple[str, ...], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        choose_recipes((name,), has_student=False, network_types=types)


def test_choose_recipes_as_is_for_a_checkpoint_is_refused() -> None:
    with pytest.raises(SpecError, match="is for OpenVINO networks"):
        choose_recipes(("as-is",), has_student=False)


def test_formats_along_step_after_a_draft_is_refused() -> None:
    """Once it was accepted, and the step behind left the draft's model out of the variant."""
    steps = (RecipeStep("draft", {"method": "ngram"}), RecipeStep("quantize", {"scheme": "w8a8"}))
    with pytest.raises(SpecError, match=r"'draft' is followed by 'quantize'.*Put `draft` last"):
        formats_along(Recipe("wrong", steps), WeightFormat.SAFETENSORS)
    assert formats_along(Recipe("right", steps[::-1]), WeightFormat.SAFETENSORS)[-1] is WeightFormat.SAFETENSORS


def test_own_recipe_with_a_presets_name_is_refused_and_others_stand_beside_the_presets() -> None:
    with pytest.raises(SpecError, match="'int8' is a preset's name"):
        with_own_recipes({"int8": [{"convert": {}}]})
    known = with_own_recipes({"mine": [{"convert": {"weight_format": "fp32"}}, {"quantize": {"scheme": "int8"}}]})
    assert known["mine"].steps == (
        RecipeStep("convert", {"weight_format": "fp32"}),
        RecipeStep("quantize", {"scheme": "int8"}),
    )
    assert known.keys() > PRESETS.keys()


@pytest.mark.parametrize("steps", [[], "convert", [{"convert": 1}], [{"convert": {}, "quantize": {}}], [7]])
def test_read_recipe_that_is_no_list_of_steps_is_refused(steps: object) -> None:
    with pytest.raises(SpecError, match=r"recipe 'mine'.*kind: \{option: value\}"):
        read_recipe("mine", steps)
