"""The step `draft` on the built-in model and its student."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import lightship.artifacts
from lightship.artifacts.checkpoint import Checkpoint, inspect_checkpoint
from lightship.artifacts.draft_file import Draft, read_draft
from lightship.compression.recipes import PRESETS
from lightship.compression.steps.base import CopyPlan, StepContext, TextFile
from lightship.compression.steps.draft import vocabulary
from lightship.compression.steps.registry import find_step
from lightship.errors import SpecError
from lightship.ports.variants import RecipeStep, WeightFormat

BUILTIN = Path(lightship.artifacts.__file__).parent / "builtin"
STUDENT = "fairytales-quarter"


@pytest.fixture(scope="module")
def tales() -> Checkpoint:
    """The built-in model."""
    return inspect_checkpoint(BUILTIN / "fairytales")


def made(tales: Checkpoint, output: Path, **options: str | int | float | bool) -> Path:
    """The step applied to the built-in model."""
    step = find_step("draft", WeightFormat.SAFETENSORS)
    context = StepContext(tales, {STUDENT: BUILTIN / STUDENT}, TextFile(Path("none.jsonl"), "sha256:0"))
    plan = step.plan(step.options(RecipeStep("draft", options)), tales, context)
    assert isinstance(plan, CopyPlan)
    output.mkdir()
    plan.write(output)
    return output


def test_draft_ngram_adds_one_file_and_changes_none(tales: Checkpoint, tmp_path: Path) -> None:
    folder = made(tales, tmp_path / "v", method="ngram", num_speculative_tokens=4, prompt_lookup_max=6)
    draft = Draft(method="ngram", num_speculative_tokens=4, prompt_lookup_min=2, prompt_lookup_max=6)
    assert read_draft(folder) == draft
    result = inspect_checkpoint(folder)
    assert {entry for entry in result.files if entry.path != "draft.json"} == set(tales.files)


def test_draft_student_lies_in_a_folder_of_its_own_and_counts_for_no_weights(tales: Checkpoint, tmp_path: Path) -> None:
    folder = made(tales, tmp_path / "v", method="model", student=STUDENT)
    result, student = inspect_checkpoint(folder), inspect_checkpoint(folder / "draft")
    assert (result.num_parameters, result.num_layers) == (tales.num_parameters, tales.num_layers)
    assert student.num_layers == 2  # a quarter of eight
    weights = {entry.path: entry.sha256 for entry in inspect_checkpoint(BUILTIN / STUDENT).files}
    assert {entry.path: entry.sha256 for entry in student.files}["model.safetensors"] == weights["model.safetensors"]


def test_draft_folder_of_ones_own_is_taken(tales: Checkpoint, tmp_path: Path) -> None:
    folder = made(tales, tmp_path / "v", method="model", folder=str(BUILTIN / STUDENT))
    assert inspect_checkpoint(folder / "draft").num_layers == 2


def test_draft_inputs_name_the_models_digest(tales: Checkpoint) -> None:
    step = find_step("draft", WeightFormat.SAFETENSORS)
    context = StepContext(tales, {STUDENT: BUILTIN / STUDENT}, TextFile(Path("none.jsonl"), "sha256:0"))
    options = step.options(RecipeStep("draft", {"method": "model", "student": STUDENT}))
    assert step.inputs(options, context) == {f"draft {STUDENT}": inspect_checkpoint(BUILTIN / STUDENT).digest}
    assert step.inputs(step.options(RecipeStep("draft", {"method": "ngram"})), context) == {}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "model"}, "exactly one"),
        ({"method": "model", "student": STUDENT, "folder": "/f"}, "exactly one"),
        ({"method": "model", "student": "half"}, f"Known: {STUDENT}"),
        ({"method": "model", "student": STUDENT, "prompt_lookup_min": 2}, "prompt_lookup_min is of method ngram"),
        ({"method": "ngram", "student": STUDENT}, "the method is ngram"),
        ({"method": "ngram", "prompt_lookup_min": 9}, "above prompt_lookup_max"),
        ({"method": "ngram", "num_speculative_tokens": 99}, "num_speculative_tokens"),
        ({"method": "ngram", "num_tokens": 3}, "has no option 'num_tokens'"),
        ({"method": "model", "folder": str(BUILTIN / "fairytales")}, "parameters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_draft_options_that_make_no_sense_are_refused(
    options: dict[str, str | int | float | bool], says: str, tales: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=says):
        made(tales, tmp_path / "v", **options)


def test_draft_model_with_other_token_ids_is_refused(tales: Checkpoint, tmp_path: Path) -> None:
    other = Path(shutil.copytree(BUILTIN / STUDENT, tmp_path / "other", copy_function=shutil.copyfile))
    content = json.loads((other / "tokenizer.json").read_text("utf-8"))
    ids = content["model"]["vocab"]
    first, second = list(ids)[-2:]
    ids[first], ids[second] = ids[second], ids[first]
    (other / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(SpecError, match="other ids"):
        made(tales, tmp_path / "v", method="model", folder=str(other))


def test_vocabulary_of_unigram_tokenizer_numbers_its_pairs(tmp_path: Path) -> None:
    content = {"model": {"vocab": [["<s>", 0.0], ["a", -1.5]]}, "added_tokens": [{"id": 2, "content": "<x>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert vocabulary(tmp_path) == {"<s>": 0, "a": 1, "<x>": 2}


@pytest.mark.parametrize("name", ["bf16", "ngram-draft", "student-draft"])
def test_presets_for_checkpoints_are_known_steps(name: str) -> None:
    (one,) = PRESETS[name].steps
    step = find_step(one.kind, WeightFormat.SAFETENSORS)
    assert step.result_format(step.options(one)) is WeightFormat.SAFETENSORS
