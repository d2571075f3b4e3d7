"""From a spec to a deployment: commands as engine adapters make them, figures with arithmetic done by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.deploy_cases import CASES, input_of, spec_of

from lightship.cli.deploy.estimates import in_flight_of, memory_of, startup_of, weight_bytes_of
from lightship.cli.deploy.gateway import Site, deployed_gateway, secrets_of
from lightship.cli.deploy.inputs import python_pins
from lightship.cli.deploy.ladder import ChosenRung, choose_rungs
from lightship.cli.prepare import Surroundings
from lightship.cli.progress import progress_for_stderr
from lightship.deploy.placeholders import filled_command, filled_files, gateway_places, rung_places
from lightship.engines.llamacpp.adapter import server_command
from lightship.engines.llamacpp.config import LlamacppWorkerConfig
from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.engines.openvino.config import read_config as read_openvino_config
from lightship.engines.vllm.adapter import serve_arguments
from lightship.engines.vllm.config import VllmWorkerConfig
from lightship.gateway.config import decode_config
from lightship.ports.clock import SystemClock
from lightship.ports.measurements import Interval, Measurement, Metric, Target
from lightship.spec.document import Spec

TARGET = Target("openvino", "1", "CPU", "avx2", 2)
MIB = 2**20


def around(home: Path) -> Surroundings:
    return Surroundings(home, SystemClock(), progress_for_stderr())


def chosen(spec: Spec, home: Path) -> ChosenRung:
    return choose_rungs(spec, around(home)).rungs[0]


def measured(metric: Metric, value: float, *, concurrency: int = 0, high: float | None = None) -> Measurement:
    interval = None if high is None else Interval(value, high, 0.95)
    return Measurement(metric, value, "sha256:0", TARGET, "p", 1, interval, 0.0, "m", concurrency)


def test_openvino_command_is_the_adapters_without_the_tie_to_a_parent(deploy_home: Path, tmp_path: Path) -> None:
    rung = input_of(spec_of(CASES["cpu"]), deploy_home).deployment.rungs[0]
    places = rung_places(rung, host="0.0.0.0", model="/models", config="/etc/engine", python="python3", program="")
    command = ["python3", "-m", "lightship.engines.openvino", "/etc/engine/worker.json"]
    assert filled_command(rung.command, places) == command
    (tmp_path / "worker.json").write_text(filled_files(rung.config_files, places)["worker.json"], "utf-8")
    assert read_openvino_config(tmp_path / "worker.json") == OpenVinoWorkerConfig(
        model_name="storyteller",
        variant_name="fp16",
        variant_digest="",
        folder="/models",
        host="0.0.0.0",
        port=8100,
        num_threads=2,
        max_batched_tokens=256,
    )


def test_vllm_command_has_the_arguments_of_the_adapter(deploy_home: Path) -> None:
    rung = input_of(spec_of(CASES["gpu"]), deploy_home).deployment.rungs[0]
    places = rung_places(rung, host="0.0.0.0", model="/models", config="", python="python3", program="")
    settings = VllmWorkerConfig(
        model_name="acme/chat-8b",
        variant_name="bf16",
        variant_digest="",
        folder="/models",
        host="0.0.0.0",
        port=8100,
        python="python3",
        kv_cache_bytes=20 * 2**30,
        tensor_parallel_size=2,
        use_draft=False,
    )
    module = "vllm.entrypoints.openai.api_server"
    expected = ["python3", "-I", "-W", "ignore", "-m", module, *serve_arguments(settings)]
    assert filled_command(rung.command, places) == expected


def test_vllm_on_cpus_names_no_file_of_this_machine(deploy_home: Path) -> None:
    rungs = input_of(spec_of(CASES["gpu"]), deploy_home).other_hardware["cpu"]
    assert "LD_PRELOAD" not in rungs[0].environment
    assert rungs[0].environment["OMP_NUM_THREADS"] == "4"  # eight threads, two processes


def test_llamacpp_command_is_the_adapters(deploy_home: Path) -> None:
    rung = input_of(spec_of(CASES["edge"]), deploy_home).deployment.rungs[0]
    places = rung_places(rung, host="127.0.0.1", model="/models", config="", python="", program="/bin/llama-server")
    settings = LlamacppWorkerConfig(
        model_name="storyteller",
        variant_name="q8_0",
        variant_digest="",
        folder="/models",
        port=8100,
        program="/bin/llama-server",
        num_threads=3,
        context_length=1024,
        max_sequences=4,
    )
    assert filled_command(rung.command, places) == server_command(settings)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("site", Site)
def test_gateway_configuration_is_one_that_the_gateway_reads(case: str, site: Site, deploy_home: Path) -> None:
    spec = spec_of(CASES[case])
    ladder = choose_rungs(spec, around(deploy_home))
    gateway = deployed_gateway(spec, ladder.rungs, site)
    urls = [f"http://engine-{position}:8100" for position in range(len(ladder.rungs))]
    places = gateway_places(gateway, urls, host="0.0.0.0", config="/c", state="/state", tls="/tls", python="python3")
    config = decode_config(filled_files(gateway.config_files, places)["gateway.json"].encode(), where="test")
    assert [one.base_url for one in config.replicas][: len(urls)] == urls
    assert config.tenants.keys_path == "/state/keys.sqlite"
    if case == "edge":
        assert config.server.tls is not None
        assert config.server.tls.cert_file == "/tls/tls.crt"
    devices = {one.device for one in config.replicas if one.name != "cloud"}
    assert len(devices) == (len(urls) if site is Site.CLUSTER else 1)


def test_gateway_secrets_are_those_of_the_upstream_and_of_redis() -> None:
    spec = spec_of(CASES["cpu"], gateway__state={"redis_url_env": "REDIS_URL"})
    assert secrets_of(spec) == ("CLOUD_KEY", "REDIS_URL")


@pytest.mark.parametrize(
    ("changes", "keeps", "shares"),
    [
        ({"keys": {"required": True}}, True, True),
        ({"limits": {"default": {"requests_per_min": 60}}}, False, False),
        ({"limits": {"default": {"daily_tokens": 1000}}}, True, False),
        ({"limits": {"default": {"daily_tokens": 1000}}, "state": {"redis_url": "redis://r:6379/0"}}, False, True),
        ({}, False, True),
    ],
)
def test_gateway_state_that_must_outlast_or_be_shared(
    changes: dict[str, Any], keeps: bool, shares: bool, deploy_home: Path
) -> None:
    spec = spec_of("variants: [fp16]", gateway=changes)
    gateway = deployed_gateway(spec, (chosen(spec, deploy_home),), Site.CLUSTER)
    assert (gateway.keeps_state, gateway.shares_state) == (keeps, shares)


def test_memory_measured_is_the_highest_peak_with_margin_and_the_cache_that_may_fill(deploy_home: Path) -> None:
    """600 MiB x 1.2 + 1024 MiB of KV cache + the weights once more, for scoring."""
    spec = spec_of("variants: [fp16]")
    rung = replace(chosen(spec, deploy_home), figures=(measured(Metric.PEAK_RSS_BYTES, 500 * MIB, high=600 * MIB),))
    weights = replace(weight_bytes_of(spec_of("deploy: {weight_size: 100 MiB}"), rung, None), value=100.0 * MIB)
    memory = memory_of(spec, rung, weights, None, on_gpu=False)
    assert memory.value == (600 * 1.2 + 1024 + 100) * MIB


def test_memory_on_a_gpu_has_no_kv_cache_on_the_host(deploy_home: Path) -> None:
    """(16 GB + 4 GiB) x 1.2."""
    spec = spec_of(CASES["gpu"])
    rung = chosen(spec, deploy_home)
    weights = weight_bytes_of(spec, rung, None)
    assert weights.value == 16e9
    assert memory_of(spec, rung, weights, None, on_gpu=True).value == pytest.approx((16e9 + 4 * 2**30) * 1.2)


def test_in_flight_is_the_most_that_kept_the_promise(deploy_home: Path) -> None:
    spec = spec_of("variants: [fp16]")
    shares = {1: 1.0, 8: 0.97, 32: 0.6}
    figures = tuple(measured(Metric.SLO_ATTAINMENT, share, concurrency=n) for n, share in shares.items())
    assert in_flight_of(spec, replace(chosen(spec, deploy_home), figures=figures)).value == 8
    assert in_flight_of(spec, chosen(spec, deploy_home)).value == 32  # measurement.target_concurrency


def test_in_flight_is_bounded_by_what_the_engine_runs_at_a_time(deploy_home: Path) -> None:
    spec = spec_of(CASES["edge"])
    assert in_flight_of(spec, chosen(spec, deploy_home)).value == 4


def test_startup_measured_is_taken_as_it_is(deploy_home: Path) -> None:
    spec = spec_of("variants: [fp16]")
    rung = replace(chosen(spec, deploy_home), figures=(measured(Metric.STARTUP_S, 2.5),))
    ladder = choose_rungs(spec, around(deploy_home))
    weights = weight_bytes_of(spec, rung, ladder.checkpoint)
    assert startup_of(spec, rung, weights, on_gpu=False).value == 2.5


def test_weights_that_are_not_built_are_bounded_by_the_source(deploy_home: Path) -> None:
    spec = spec_of("variants: [fp16]")
    checkpoint = choose_rungs(spec, around(deploy_home)).checkpoint
    assert checkpoint is not None
    on_disk = sum((checkpoint.folder / one.path).stat().st_size for one in checkpoint.files)
    assert weight_bytes_of(spec, chosen(spec, deploy_home), checkpoint).value == on_disk


def test_ladder_of_the_spec_is_taken_in_its_order(deploy_home: Path) -> None:
    ladder = choose_rungs(spec_of(CASES["cpu"]), around(deploy_home))
    assert [(one.recipe.name, one.engine) for one in ladder.rungs] == [("fp16", "openvino"), ("int8", "openvino")]
    assert "Nothing was measured (not built: fp16, int8)" in ladder.notes[0]


def test_ladder_without_figures_is_its_top(deploy_home: Path) -> None:
    ladder = choose_rungs(spec_of("variants: [int8, fp16, int4]"), around(deploy_home))
    assert [one.recipe.name for one in ladder.rungs] == ["fp16"]
    assert "Of the ladder only its top, fp16" in ladder.notes[0]


def test_pins_are_of_what_is_installed_here_and_name_each_package_once() -> None:
    pins = dict(pin.split("==") for pin in python_pins())
    assert len(pins) == len(python_pins())
    assert {"pydantic", "uvicorn", "msgspec", "anyio"} <= pins.keys()  # anyio only through starlette
    assert "pytest" not in pins
