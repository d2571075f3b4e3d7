from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightship.artifacts.checkpoint import Checkpoint, inspect_checkpoint
from lightship.compression.openvino.matrices import WeightMatrix, block_matrices, nearest_group_size
from lightship.compression.recipes import PRESETS
from lightship.compression.steps.base import JobPlan, StepContext, TextFile
from lightship.compression.steps.quantize_openvino import QuantizeNetwork
from lightship.compression.steps.registry import find_step, formats_along
from lightship.errors import CheckpointError, SpecError
from lightship.ports.variants import RecipeStep, WeightFormat

STEP = QuantizeNetwork()
NAMES = ["int8", "int4", "int8-sym", "int4-calibrated", "int4-awq", "int8-activations"]


@pytest.fixture(scope="module")
def network(builtin_ir: Path) -> Checkpoint:
    return inspect_checkpoint(builtin_ir)


def context_of(network: Checkpoint) -> StepContext:
    return StepContext(source=network, students={}, calibration=TextFile(Path("/texts.jsonl"), "sha256:ab"))


def plan(network: Checkpoint, **options: Any) -> JobPlan:
    found = STEP.plan(STEP.options(RecipeStep("quantize", options)), network, context_of(network))
    assert isinstance(found, JobPlan)
    return found


def told(found: JobPlan) -> dict[str, Any]:
    return {name: value for name, value in found.job.items() if name not in {"source", "files"}}


@pytest.mark.parametrize("name", NAMES)
def test_presets_end_as_networks_and_can_be_planned(name: str, network: Checkpoint) -> None:
    assert formats_along(PRESETS[name], WeightFormat.SAFETENSORS)[-1] is WeightFormat.OPENVINO_IR
    assert plan(network, **PRESETS[name].steps[-1].options).kind == "quantize_openvino"


def test_find_step_quantize_on_a_network_is_this_one() -> None:
    assert isinstance(find_step("quantize", WeightFormat.OPENVINO_IR), QuantizeNetwork)


def test_plan_plain_int8_asks_for_nothing_but_the_scheme(network: Checkpoint) -> None:
    assert told(plan(network, scheme="int8")) == {"scheme": "int8", "mode": None}


def test_plan_plain_int4_is_symmetric_by_groups_of_64_without_texts(network: Checkpoint) -> None:
    fields = told(plan(network, scheme="int4"))
    assert fields == {"scheme": "int4", "mode": None, "group_size": 64, "ratio": 1.0, "methods": []}


@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "int4", "gptq": True},
        {"scheme": "int4", "awq": True, "scale_estimation": True},
        {"scheme": "int4", "lora_correction": True},
        {"scheme": "int4", "ratio": 0.8},
        {"scheme": "int8-activations"},
    ],
)
def test_plan_what_watches_texts_is_given_them_and_named_after_them(
    options: dict[str, Any], network: Checkpoint
) -> None:
    fields = told(plan(network, **options, num_samples=3, sequence_tokens=32))
    assert (fields["calibration"], fields["num_samples"], fields["sequence_tokens"]) == ("/texts.jsonl", 3, 32)
    read = STEP.options(RecipeStep("quantize", options))
    assert STEP.inputs(read, context_of(network)) == {"calibration": "sha256:ab"}


@pytest.mark.parametrize("options", [{"scheme": "int8"}, {"scheme": "int4"}, {"scheme": "int4", "gptq": False}])
def test_inputs_without_a_method_that_watches_texts_are_none(options: dict[str, Any], network: Checkpoint) -> None:
    assert STEP.inputs(STEP.options(RecipeStep("quantize", options)), context_of(network)) == {}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"scheme": "int8", "group_size": 64}, "scheme 'int8' does not read group_size. It reads mode"),
        ({"scheme": "int8", "awq": True}, "scheme 'int8' does not read awq"),
        ({"scheme": "int8", "num_samples": 8}, "scheme 'int8' does not read num_samples"),
        ({"scheme": "int8-activations", "gptq": True, "ratio": 0.5}, "does not read gptq, ratio"),
        ({"scheme": "int4", "smooth_quant_alpha": 0.5}, "does not read smooth_quant_alpha"),
        ({"scheme": "int4", "gptq": True, "lora_correction": True}, "exclude each other"),
        ({"scheme": "int4", "num_samples": 8}, "num_samples: without a method that watches texts.*Add one of awq"),
        ({"scheme": "int4", "gptq": False, "sequence_tokens": 64}, "sequence_tokens: without a method"),
        ({"scheme": "int4", "group_size": 8}, "at least 16, or -1 for one scale per channel, got 8"),
        ({"scheme": "int4", "group_size": 0}, "at least 16"),
        ({"scheme": "int4", "ratio": 1.5}, r"step 'quantize' on openvino-ir: .*<= 1"),
        ({"scheme": "int2"}, r"step 'quantize' on openvino-ir: .*int2"),
    ],
)
def test_options_that_would_not_count_or_cannot_be_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        STEP.options(RecipeStep("quantize", options))


def test_plan_group_size_that_does_not_divide_names_the_matrix_and_the_nearest(network: Checkpoint) -> None:
    problem = r"group_size 96 does not divide the 256 inputs of \S*layers\.0\.\S*\. The nearest .* is 64; or -1"
    with pytest.raises(SpecError, match=problem):
        plan(network, scheme="int4", group_size=96)


def test_plan_one_scale_per_channel_fits_every_matrix(network: Checkpoint) -> None:
    assert plan(network, scheme="int4", group_size=-1).job["group_size"] == -1


def test_plan_window_longer_than_the_context_is_refused(network: Checkpoint) -> None:
    with pytest.raises(SpecError, match="sequence_tokens 2048 is more than the model's context of 1024"):
        plan(network, scheme="int4", gptq=True, sequence_tokens=2048)


def test_plan_calibration_is_expected_to_take_more_than_rounding(network: Checkpoint) -> None:
    plain, watched = plan(network, scheme="int4"), plan(network, scheme="int4", gptq=True)
    assert watched.estimate.duration_s > plain.estimate.duration_s
    assert watched.estimate.memory_bytes > plain.estimate.memory_bytes


def test_block_matrices_of_the_builtin_model_are_what_its_config_says(builtin_ir: Path) -> None:
    config = json.loads((builtin_ir / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    of_a_block = [hidden] * 6 + [inner]  # query, key, value, output, gate, up; and down
    found = block_matrices(builtin_ir / "openvino_model.xml")
    assert sorted(matrix.num_inputs for matrix in found) == sorted(of_a_block * config["num_hidden_layers"])
    assert not any("lm_head" in matrix.name for matrix in found)


def test_block_matrices_without_transposition_are_summed_over_rows(tmp_path: Path) -> None:
    products = "".join(
        f'<layer id="w{n}" name="w{n}" type="Const"><data element_type="f16" shape="48, 80"/></layer>'
        f'<layer id="p{n}" name="p{n}" type="MatMul"><data transpose_b="{flag}"/></layer>'
        for n, flag in enumerate(("false", "true", "true"))
    )
    edges = "".join(f'<edge from-layer="w{n}" from-port="0" to-layer="p{n}" to-port="1"/>' for n in range(3))
    graph = tmp_path / "openvino_model.xml"
    graph.write_text(f"<net><layers>{products}</layers><edges>{edges}</edges></net>")
    assert block_matrices(graph) == (WeightMatrix("p0", 48), WeightMatrix("p1", 80))  # the last is the head


def test_block_matrices_of_what_is_no_network_says_so(tmp_path: Path) -> None:
    graph = tmp_path / "openvino_model.xml"
    graph.write_text("<net><layers>")
    with pytest.raises(CheckpointError, match="not one of a network"):
        block_matrices(graph)


@pytest.mark.parametrize(("wanted", "nearest"), [(96, 64), (20, 16), (4096, 128), (127, 128)])
def test_nearest_group_size_divides_all_and_is_nearest(wanted: int, nearest: int) -> None:
    matrices = [WeightMatrix("query", 896), WeightMatrix("down", 4864)]  # 2^7 * 7 and 2^8 * 19: 128 at most
    assert nearest_group_size(matrices, wanted) == nearest


def test_nearest_group_size_where_nothing_of_16_divides_is_none() -> None:
    assert nearest_group_size([WeightMatrix("query", 30), WeightMatrix("down", 26)], 64) is None
