"""From a variant's files and stored figures to memory and cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lightship.artifacts.machine import Machine
from lightship.artifacts.measurements import MeasurementStore
from lightship.cli.resources import energy_meter, gpu_memory_figures, memory_figures, resource_figures, uses_nvidia
from lightship.evaluation.cost.from_measurements import NO_PRICE_NOTE
from lightship.evaluation.nvml import Unavailable, UsedMemory
from lightship.evaluation.resource_figures import ResourceFigures
from lightship.ports.clock import SystemClock
from lightship.ports.measurements import Measurement, Metric, Target
from lightship.ports.variants import Manifest, Recipe, Variant, WeightFormat
from lightship.spec.cost import CostSpec

SETTINGS: dict[str, str | int | float | bool] = {
    "kv_cache_precision": "u8",
    "kv_cache_bytes": 1_000_000,
    "max_batched_tokens": 16,
    "max_sequences": 4,
}
TARGET = Target("openvino", "2026.4.1", "CPU", "avx2", 2, SETTINGS)
MACHINE = Machine("Xeon", "x86_64", ("avx2",), 2, 8)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 512,
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    manifest = Manifest(
        digest="sha256:int4",
        name="int4",
        model_name="m",
        weight_format=WeightFormat.OPENVINO_IR,
        parent_digest="sha256:source",
        recipe=Recipe("int4", ()),
        build_key="k",
        tool_versions={},
        files=(),
        weight_bytes=34_000,
        num_parameters=64_000,
        context_length=512,
        created_unix_s=0.0,
        source="s",
    )
    return Variant(manifest, tmp_path)


def measurement(metric: Metric, value: float, *, users: int = 0) -> Measurement:
    return Measurement(
        metric=metric,
        value=value,
        variant_digest="sha256:int4",
        target=TARGET,
        protocol="p",
        num_items=3,
        interval=None,
        measured_unix_s=7.0,
        machine=MACHINE.fingerprint,
        concurrency=users,
        details={"mean_prompt_tokens": 64.0, "mean_output_tokens": 32.0} if users else {},
    )


def by_metric(found: ResourceFigures) -> dict[Metric, Measurement]:
    return {one.metric: one for one in found.measurements}


def test_memory_figures_bits_kv_bytes_and_the_residual_of_the_estimate(variant: Variant) -> None:
    found = memory_figures(variant, TARGET, machine="m", measured_unix_s=7.0, peak_rss_bytes=200_000_000.0)
    assert found.notes == ()
    figures = by_metric(found)
    assert figures[Metric.WEIGHT_BITS_PER_PARAMETER].value == 4.25
    # 2 layers * 2 heads * (16 + 16 * 8 / 32 for the key, 16 + 8 for the value)
    assert figures[Metric.KV_BYTES_PER_TOKEN].value == 2 * 2 * (20 + 24)
    assert figures[Metric.KV_BYTES_PER_TOKEN].protocol == "kv-formula-1/u8"
    estimate = figures[Metric.ESTIMATED_MEMORY_BYTES]
    parts = {name: estimate.details[f"{name}_bytes"] for name in ("weight", "kv_cache", "activation", "runtime")}
    assert estimate.value == sum(parts.values())
    assert parts["weight"] == 2 * 34_000  # mapped, and in the kernels' layout
    assert parts["kv_cache"] == 1_000_000
    assert estimate.details["kv_cache_tokens"] == 5681.0  # 1_000_000 / 176, whole tokens
    assert estimate.details["measured_peak_bytes"] == 200_000_000.0
    assert estimate.details["residual_bytes"] == 200_000_000.0 - estimate.value


def test_memory_figures_unknown_peak_has_no_residual(variant: Variant) -> None:
    for unknown in (None, 0.0):
        found = memory_figures(variant, TARGET, machine="m", measured_unix_s=7.0, peak_rss_bytes=unknown)
        assert "residual_bytes" not in by_metric(found)[Metric.ESTIMATED_MEMORY_BYTES].details


def test_memory_figures_without_config_tell_bits_and_the_reason(variant: Variant) -> None:
    (variant.folder / "config.json").unlink()
    found = memory_figures(variant, TARGET, machine="m", measured_unix_s=7.0)
    assert set(by_metric(found)) == {Metric.WEIGHT_BITS_PER_PARAMETER}
    assert "config.json is missing" in found.notes[0]


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (replace(TARGET, engine="remote"), "how remote stores keys"),
        (replace(TARGET, device="GPU"), "how GPU stores keys"),
        (replace(TARGET, settings={**SETTINGS, "kv_cache_bytes": "much"}), "does not say kv_cache_bytes"),
    ],
)
def test_memory_figures_target_that_says_too_little_is_told_not_guessed(
    variant: Variant, target: Target, told: str
) -> None:
    found = memory_figures(variant, target, machine="m", measured_unix_s=7.0)
    assert Metric.ESTIMATED_MEMORY_BYTES not in by_metric(found)
    assert told in found.notes[0]


def test_memory_figures_uncounted_parameters_are_told(variant: Variant) -> None:
    uncounted = replace(variant, manifest=replace(variant.manifest, num_parameters=0))
    found = memory_figures(uncounted, TARGET, machine="m", measured_unix_s=7.0)
    assert Metric.WEIGHT_BITS_PER_PARAMETER not in by_metric(found)
    assert found.notes[0].startswith("No bits per weight of int4: ")


def test_gpu_memory_figures_protocol_says_whose_memory_it_is() -> None:
    peak_rss = measurement(Metric.PEAK_RSS_BYTES, 5.0)
    found = gpu_memory_figures(UsedMemory(70, is_of_processes=False), peak_rss)
    assert [(one.metric, one.value, one.protocol) for one in found.measurements] == [
        (Metric.PEAK_GPU_BYTES, 70.0, "nvml-sampled-1/whole-device/p")
    ]
    assert gpu_memory_figures(Unavailable("No driver."), peak_rss).notes == ("No GPU memory: No driver.",)


def test_resource_figures_memory_and_cost_can_be_stored(variant: Variant, tmp_path: Path) -> None:
    figures = [
        measurement(Metric.PEAK_RSS_BYTES, 3e8),
        measurement(Metric.DECODE_TOKENS_PER_S, 250.0, users=8),
        measurement(Metric.GOODPUT_REQUESTS_PER_S, 2.0, users=8),
    ]
    cost = CostSpec(usd_per_hour=3.6, utilisation=0.5)
    found = resource_figures(cost, [(variant, TARGET)], figures, machine=MACHINE, now_unix_s=1_795_478_399)
    assert set(by_metric(found)) == {
        Metric.WEIGHT_BITS_PER_PARAMETER,
        Metric.KV_BYTES_PER_TOKEN,
        Metric.ESTIMATED_MEMORY_BYTES,
        Metric.COST_USD_PER_1M_OUTPUT_TOKENS,
        Metric.COST_USD_PER_1M_GOOD_TOKENS,
        Metric.PROMPT_PHASE_USD_PER_1M_INPUT_TOKENS,
        Metric.GENERATION_PHASE_USD_PER_1M_OUTPUT_TOKENS,
    }
    store = MeasurementStore(tmp_path / "measurements.sqlite")
    store.append(found.measurements)
    assert store.find() == list(found.measurements)


def test_resource_figures_variant_without_figures_and_spec_without_price_have_none(variant: Variant) -> None:
    found = resource_figures(CostSpec(), [(variant, TARGET)], [], machine=MACHINE, now_unix_s=0.0)
    assert found == ResourceFigures(notes=(NO_PRICE_NOTE,))


def test_resource_figures_added_up_tell_each_sentence_once() -> None:
    one, other = ResourceFigures(notes=("a", "b")), ResourceFigures(notes=("b", "c"))
    assert (one + other).notes == ("a", "b", "c")


@pytest.mark.parametrize(("device", "expected"), [("CPU", False), ("GPU", False), ("cuda", True), ("cuda:0", True)])
def test_uses_nvidia_openvinos_gpu_is_not(device: str, expected: bool) -> None:
    assert uses_nvidia(device) is expected


def test_energy_meter_cpu_target_reads_packages_and_no_gpu(tmp_path: Path) -> None:
    with energy_meter("CPU", SystemClock(), powercap=tmp_path) as meter:
        assert meter.source == "rapl-package"
    with energy_meter("cuda", SystemClock(), powercap=tmp_path) as meter:
        assert meter.source == "rapl-package+nvml"
