from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lightship.artifacts.checkpoint import Checkpoint
from lightship.compression.recipes import PRESETS
from lightship.compression.steps.base import JobPlan, StepContext, TextFile
from lightship.compression.steps.registry import find_step, formats_along, tool_versions
from lightship.errors import SpecError
from lightship.ports.variants import Recipe, RecipeStep, WeightFormat

GGUF_PRESETS = ("gguf-bf16", "q8_0", "q4_k_m", "q4_k_m-imatrix", "q3_k_m-imatrix")
MakeCheckpoint = Callable[..., Checkpoint]


def plan(step: RecipeStep, parent: Checkpoint) -> JobPlan:
    found = find_step(step.kind, parent.weight_format)
    texts = TextFile(Path("/texts.jsonl"), "sha256:1")
    planned = found.plan(found.options(step), parent, StepContext(parent, {}, texts))
    assert isinstance(planned, JobPlan)
    return planned


def as_gguf(parent: Checkpoint, *dtypes: str) -> Checkpoint:
    return replace(parent, weight_format=WeightFormat.GGUF, dtypes=dtypes)


@pytest.mark.parametrize("name", GGUF_PRESETS)
def test_presets_for_llama_cpp_end_in_gguf(name: str) -> None:
    assert formats_along(PRESETS[name], WeightFormat.SAFETENSORS)[-1] is WeightFormat.GGUF


def test_convert_to_gguf_plans_a_job_with_the_files_beside_the_weights(make_checkpoint: MakeCheckpoint) -> None:
    parent = make_checkpoint()
    planned = plan(RecipeStep("convert", {"to": "gguf", "weight_format": "f16"}), parent)
    assert (planned.kind, planned.toolchain and planned.toolchain.name) == ("convert_gguf", "gguf")
    assert planned.job["weight_format"] == "f16"
    assert "config.json" in planned.job["files"]
    assert not any(name.endswith(".safetensors") for name in planned.job["files"])
    assert planned.estimate.disk_bytes > 2 * parent.num_parameters


def test_convert_default_type_follows_the_format(make_checkpoint: MakeCheckpoint) -> None:
    parent = make_checkpoint()
    assert plan(RecipeStep("convert", {"to": "gguf"}), parent).job["weight_format"] == "bf16"
    assert plan(RecipeStep("convert"), parent).job["weight_format"] == "fp16"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"to": "gguf", "weight_format": "fp16"}, "not one of gguf's: bf16, f16, f32"),
        ({"weight_format": "bf16"}, "not one of openvino's: fp16, fp32"),
        ({"to": "onnx"}, "onnx"),
        ({"two": "gguf"}, "no option 'two'"),
    ],
)
def test_convert_options_that_do_not_go_together_are_refused(
    options: dict[str, str | int | float | bool], reason: str
) -> None:
    with pytest.raises(SpecError, match=reason):
        formats_along(Recipe("r", (RecipeStep("convert", options),)), WeightFormat.SAFETENSORS)


def test_quantize_gguf_with_importance_takes_the_calibration_texts(make_checkpoint: MakeCheckpoint) -> None:
    parent = as_gguf(make_checkpoint(), "BF16", "F32")
    plain = plan(RecipeStep("quantize", {"scheme": "Q4_K_M"}), parent)
    watched = plan(RecipeStep("quantize", {"scheme": "Q4_K_M", "importance": True, "num_chunks": 7}), parent)
    assert plain.job["calibration"] is None
    assert (watched.job["calibration"], watched.job["num_chunks"]) == ("/texts.jsonl", 7)
    assert watched.job["chunk_tokens"] == 256  # the model's whole context
    assert watched.estimate.duration_s > plain.estimate.duration_s


def test_quantize_gguf_calibration_is_part_of_its_identity_where_it_counts(make_checkpoint: MakeCheckpoint) -> None:
    parent = make_checkpoint()
    context = StepContext(parent, {}, TextFile(Path("/t"), "sha256:1"))
    step = find_step("quantize", WeightFormat.GGUF)
    digests = [
        step.inputs(step.options(RecipeStep("quantize", {"scheme": "Q2_K", "importance": wanted})), context)
        for wanted in (False, True)
    ]
    assert digests == [{}, {"calibration": "sha256:1"}]


def test_quantize_gguf_twice_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(SpecError, match=r"quantized already \(Q8_0\)"):
        plan(RecipeStep("quantize", {"scheme": "Q4_0"}), as_gguf(make_checkpoint(), "F32", "Q8_0"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"scheme": "Q4_K"}, "Q4_K"), ({"scheme": "Q8_0", "num_chunks": 0}, "num_chunks"), ({}, "scheme")],
)
def test_quantize_gguf_bad_options_are_refused(options: dict[str, str | int | float | bool], reason: str) -> None:
    step = find_step("quantize", WeightFormat.GGUF)
    with pytest.raises(SpecError, match=reason):
        step.options(RecipeStep("quantize", options))


@pytest.mark.parametrize(
    ("kind", "form", "options", "known"),
    [
        ("quantize", WeightFormat.GGUF, {"scheme": "Q4_K"}, "Q4_K_M"),
        ("quantize", WeightFormat.OPENVINO_IR, {"scheme": "int5"}, "int4"),
        ("draft", WeightFormat.SAFETENSORS, {"method": "guess"}, "ngram, model"),
    ],
)
def test_options_of_a_step_value_that_is_none_of_the_known_lists_them(
    kind: str, form: WeightFormat, options: dict[str, str | int | float | bool], known: str
) -> None:
    """Once the message only said that it was invalid."""
    with pytest.raises(SpecError, match=rf"Known: .*{known}"):
        find_step(kind, form).options(RecipeStep(kind, options))


def test_tool_versions_of_gguf_recipes_name_the_sources() -> None:
    versions = tool_versions(PRESETS["q8_0"].steps, WeightFormat.SAFETENSORS)
    assert versions.keys() == {"llama-cpp-python", "transformers"}
