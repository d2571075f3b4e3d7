"""From stored measurements to the loads that a plan goes by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lightship.artifacts.machine import Machine
from lightship.cli.plan.needs import needs_of_variant
from lightship.cli.plan.rungs import measured_loads
from lightship.cli.plan.settings import engine_settings
from lightship.cli.prepare import Surroundings
from lightship.cli.worker_settings import llamacpp_settings, openvino_settings
from lightship.planning.latency import MeasuredLoad, Promise, Tokens
from lightship.ports.clock import SystemClock
from lightship.ports.deployment import Figure, FigureSource
from lightship.ports.measurements import Measurement, Metric, Target
from lightship.ports.progress import SilentProgress
from lightship.ports.variants import Manifest, Recipe, Variant, WeightFormat
from lightship.spec.load import parse_spec

PROMISE = Promise(500, 50, 0.95)
LOAD = "closed-loop-1/screening/p64-o32/c1-8-32/1x3s"
SLO = "/slo-ttft500ms-tpot50ms"
MANIFEST = Manifest(
    digest="sha256:a",
    name="v",
    model_name="m",
    weight_format=WeightFormat.GGUF,
    parent_digest="sha256:b",
    recipe=Recipe("v", ()),
    build_key="k",
    tool_versions={},
    files=(),
    weight_bytes=1,
    num_parameters=1,
    context_length=512,
    created_unix_s=0.0,
    source="s",
)
TARGET = Target("openvino", "1", "CPU", "avx2", 2)


def figure(metric: Metric, value: float, protocol: str, *, at: float = 1.0) -> Measurement:
    return Measurement(
        metric=metric,
        value=value,
        variant_digest="sha256:a",
        target=TARGET,
        protocol=protocol,
        num_items=10,
        interval=None,
        measured_unix_s=at,
        machine="m",
        concurrency=8,
        details={"mean_prompt_tokens": 64.0, "mean_output_tokens": 32.0},
    )


def load_figures(goodput: float, slo: str, *, at: float = 1.0) -> list[Measurement]:
    return [
        figure(Metric.GOODPUT_REQUESTS_PER_S, goodput, LOAD + slo, at=at),
        figure(Metric.SLO_ATTAINMENT, 0.99, LOAD + slo, at=at),
        figure(Metric.TTFT_MS, 20.0, LOAD, at=at),
        figure(Metric.TPOT_MS, 5.0, LOAD, at=at),
    ]


def test_measured_loads_are_those_of_this_promise_the_latest_first() -> None:
    figures = load_figures(100.0, SLO, at=1.0) + load_figures(120.0, SLO, at=2.0)
    assert measured_loads(figures, PROMISE) == (MeasuredLoad(8, 20.0, 5.0, 120.0, 0.99, Tokens(64, 32)),)


def test_measured_loads_of_another_promise_do_not_count() -> None:
    assert measured_loads(load_figures(100.0, "/slo-ttft400ms-tpot40ms"), PROMISE) == ()


def test_measured_loads_without_latencies_do_not_count() -> None:
    assert measured_loads(load_figures(100.0, SLO)[:2], PROMISE) == ()


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    folder = tmp_path / "variant"
    folder.mkdir()
    shape = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "vocab_size": 100,
        "max_position_embeddings": 1000,
        "intermediate_size": 128,
    }
    (folder / "config.json").write_text(json.dumps(shape))
    manifest = replace(MANIFEST, weight_bytes=10**9, weight_format=WeightFormat.GGUF, context_length=1000)
    return Variant(manifest, folder)


def test_needs_of_variant_without_measurements_are_told_from_its_files(variant: Variant, tmp_path: Path) -> None:
    around = Surroundings(home=tmp_path / "home", clock=SystemClock(), progress=SilentProgress())
    machine = Machine("cpu", "x86_64", ("avx2",), num_cores=4, memory_gib=16)
    spec = parse_spec("", overrides=["engines.llamacpp={max_sequences: 2}", "slo.tpot_ms=50"]).spec
    needs = needs_of_variant(variant, spec, machine, around)
    # 1 GB at 100 MB/s twice, and llama.cpp's warm-up of a minute
    assert needs.startup_budget_s.value == 80
    assert needs.drain_s.value == 50  # 1000 tokens of 50 ms
    assert needs.num_cores.value == 4
    # keys and values: 2 layers x 2 heads x 16 x 2 x 2 B for 2 sequences of 1000 tokens, and 256 MiB of earlier prompts
    assert needs.memory_bytes.value > 10**9 + 2 * 1000 * 256 + 256 * 2**20
    faster = Figure(1e9, "B/s", FigureSource.GIVEN, "NVMe")
    assert needs_of_variant(variant, spec, machine, around, read_bytes_per_s=faster).startup_budget_s.value == 62


def test_engine_settings_are_those_that_workers_get() -> None:
    spec = parse_spec(
        "",
        overrides=[
            "engines.openvino.kv_cache_size=64 MiB",
            "engines.openvino.max_batched_tokens=32",
            "engines.llamacpp={max_sequences: 3, context_length: 256, kv_cache_precision: bf16}",
        ],
    ).spec
    variant = Variant(MANIFEST, Path("/nowhere"))
    worker = openvino_settings(spec, variant)
    planned = engine_settings(spec, "openvino", context_length=512, instruction_set="avx2")
    assert (planned.kv_cache_bytes, planned.max_sequences) == (worker.kv_cache_bytes, worker.max_sequences)
    # a step has a token of each sequence at least
    assert planned.step_tokens == max(worker.max_batched_tokens, worker.max_sequences)
    server = llamacpp_settings(spec, variant, program=Path("/nowhere"))
    planned = engine_settings(spec, "llamacpp", context_length=512, instruction_set="avx2")
    assert (planned.context_length, planned.max_sequences) == (server.context_length, server.max_sequences)
    assert (planned.kv_cache_type, planned.step_tokens) == (server.kv_cache_type, server.max_step_tokens)
    assert planned.prompt_cache_bytes == server.prompt_cache_bytes
