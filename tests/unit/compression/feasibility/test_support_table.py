"""The table is complete, every row has a source, and a machine is told by its instruction sets."""

from __future__ import annotations

import copy
from importlib import resources
from typing import Any

import pytest
import yaml

from lightship.artifacts.machine import Machine
from lightship.compression.feasibility.demands import recipe_demands, settings_demands, weight_features
from lightship.compression.feasibility.support_table import (
    ENGINE_OF_FORMAT,
    TITLES,
    Feature,
    Platform,
    Verdict,
    parse_support_table,
    platform_of,
    support_table,
)
from lightship.errors import SpecError
from lightship.ports.variants import RecipeStep

CONTENT: dict[str, Any] = yaml.safe_load(
    (resources.files("lightship.compression.feasibility") / "engine_support.yaml").read_text("utf-8")
)


def test_support_table_covers_every_engine_and_names_a_way_out_of_every_refusal() -> None:
    table = support_table()
    assert set(table.engines) == set(ENGINE_OF_FORMAT.values())
    assert set(TITLES) == set(Feature)
    for (engine, feature, platform), support in table.cells.items():
        assert support.source
        if support.verdict in {Verdict.REFUSED, Verdict.NO_GAIN}:
            assert len(support.how) > 10, (engine, feature, platform)
        if support.verdict is Verdict.REFUSED:
            others = [table.find(other, near, platform).verdict for other, near in table.nearest[feature]]
            assert set(others) & {Verdict.RUNS, Verdict.NO_GAIN, Verdict.UNTESTED}, (engine, feature, platform)


def test_support_table_says_what_the_wheel_was_seen_to_do() -> None:
    table = support_table()
    assert table.find("vllm", Feature.INT4_WEIGHTS, Platform.AVX2).verdict is Verdict.REFUSED
    assert table.find("vllm", Feature.INT4_WEIGHTS, Platform.AVX512).verdict is Verdict.RUNS
    assert table.find("vllm", Feature.INT8_ACTIVATIONS, Platform.AVX2).verdict is Verdict.RUNS
    assert table.find("vllm", Feature.INT4_WEIGHTS, Platform.NPU).verdict is Verdict.UNTESTED
    assert 16 not in table.cpu_head_sizes["vllm"]


@pytest.mark.parametrize("change", ["feature", "verdict", "platform", "engine", "source", "twice"])
def test_support_table_with_a_slip_is_refused(change: str) -> None:
    content = copy.deepcopy(CONTENT)
    row = content["rows"][0]
    match change:
        case "feature":
            row["feature"] = "int3"
        case "verdict":
            row["platforms"]["avx2"] = "maybe: who knows"
        case "platform":
            row["platforms"]["sse"] = "runs"
        case "engine":
            row["engine"] = "tgi"
        case "source":
            row["source"] = ""
        case _:
            content["rows"].append(row)
    with pytest.raises(ValueError, match=r"not a valid|unknown engine|no source|there twice"):
        parse_support_table(content)


@pytest.mark.parametrize(
    ("architecture", "sets", "device", "platform"),
    [
        ("x86_64", ("avx2",), "CPU", Platform.AVX2),
        ("x86_64", ("avx2", "avx_vnni"), "auto", Platform.AVX2),
        ("x86_64", ("avx2", "avx512f", "avx512_bf16"), "cpu", Platform.AVX512),
        ("x86_64", ("avx2", "avx512f", "amx_int8", "amx_bf16"), "cpu", Platform.AMX),
        ("x86_64", (), "cpu", Platform.OTHER),
        ("aarch64", ("neon", "i8mm"), "cpu", Platform.ARM),
        ("arm64", (), "cpu", Platform.ARM),
        ("x86_64", ("avx2",), "cuda", Platform.CUDA),
        ("x86_64", ("avx2",), "GPU.1", Platform.INTEL_GPU),
        ("x86_64", ("avx2",), "NPU", Platform.NPU),
    ],
)
def test_platform_is_what_executes(architecture: str, sets: tuple[str, ...], device: str, platform: Platform) -> None:
    assert platform_of(Machine("some", architecture, sets, 1, 1), device) is platform


def test_platform_of_an_unknown_device_is_refused() -> None:
    with pytest.raises(SpecError, match="'TPU' is not known"):
        platform_of(Machine("some", "x86_64", (), 1, 1), "TPU")


@pytest.mark.parametrize(
    ("scheme", "features"),
    [
        ("w8a8", [Feature.INT8_ACTIVATIONS]),
        ("w4a16_asym", [Feature.INT4_WEIGHTS]),
        ("w8a16", [Feature.INT8_WEIGHTS]),
        ("w6a16", [Feature.LOW_BIT_WEIGHTS]),
        ("mixed", [Feature.INT8_ACTIVATIONS, Feature.INT4_WEIGHTS]),
        ("fp8_dynamic", [Feature.FP8_WEIGHTS]),
        ("int8", [Feature.INT8_WEIGHTS]),
        ("int8-activations", [Feature.INT8_ACTIVATIONS]),
        ("int2", [Feature.LOW_BIT_WEIGHTS]),
        ("Q8_0", [Feature.INT8_WEIGHTS]),
        ("IQ4_XS", [Feature.INT4_WEIGHTS]),
        ("TQ1_0", [Feature.LOW_BIT_WEIGHTS]),
        ("bf16", [Feature.BITS_16]),
        ("fp32", [Feature.FP32]),
        ("surprise", []),
    ],
)
def test_weight_features_of_a_scheme_are_told_by_its_name(scheme: str, features: list[Feature]) -> None:
    assert list(weight_features(scheme)) == features


def test_recipe_demands_of_several_precisions_are_the_last_ones() -> None:
    steps = (RecipeStep("convert", {"weight_format": "fp32"}), RecipeStep("quantize", {"scheme": "int8"}))
    assert [one.feature for one in recipe_demands(steps)] == [Feature.INT8_WEIGHTS]
    assert [one.feature for one in recipe_demands(steps[:1])] == [Feature.FP32]
    assert [one.feature for one in recipe_demands((RecipeStep("adopt"),))] == [Feature.BITS_16]


def test_recipe_demands_of_drafts_are_told_apart() -> None:
    for method, feature in (("ngram", Feature.PROMPT_LOOKUP), ("model", Feature.DRAFT_MODEL)):
        assert feature in [one.feature for one in recipe_demands((RecipeStep("draft", {"method": method}),))]


def test_settings_demands_only_what_is_on() -> None:
    assert settings_demands({"kv_cache_precision": "auto", "threads": 2, "draft": True}) == ()
    assert [one.feature for one in settings_demands({"kv_cache_precision": "u8"})] == [Feature.KV_8_BIT]
    assert [one.feature for one in settings_demands({"speculative": "ngram"})] == [Feature.PROMPT_LOOKUP]
