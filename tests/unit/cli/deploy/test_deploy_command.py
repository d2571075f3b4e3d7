"""`lightship deploy` as users run it: what it prints and writes, and how it refuses what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightship.cli.main import main


@pytest.fixture(autouse=True)
def _own_home(deploy_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIGHTSHIP_HOME", str(deploy_home))
    monkeypatch.chdir(tmp_path)


def write_spec(text: str) -> str:
    Path("spec.yaml").write_text(text, "utf-8")
    return "spec.yaml"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says on standard error; it must end with 2, print no data and write nothing."""
    assert main(["deploy", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    return output.err


def test_deploy_empty_spec_writes_a_folder_and_tells_that_nothing_was_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["deploy", "kubernetes", "-o", "out"]) == 0
    output = capsys.readouterr()
    listed = set(output.out.split())
    assert "out/20-gateway.yaml" in listed
    assert {str(path) for path in Path("out").rglob("*.yaml")} <= listed
    assert "Nothing was measured" in output.err


def test_deploy_json_lists_documents_numbers_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "compose", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["platform"] == "compose"
    assert "compose.yaml" in [one["path"] for one in told["documents"]]
    assert all(one["num_bytes"] > 0 and len(one["sha256"]) == 64 for one in told["documents"])
    assert told["notes"]


def test_deploy_explain_shows_the_arithmetic_of_the_startup_budget(capsys: pytest.CaptureFixture[str]) -> None:
    """16 GB at 100 MB/s is 160 s, twice is 320 s, and 120 s of warm-up make 440 s: 88 probes of 5 s."""
    spec = write_spec(
        "model: {source: 'hf:acme/m@main'}\nvariants: [bf16]\nengines: {vllm: {device: cuda}}\n"
        "deploy: {weight_size: 16 GB}\n"
    )
    assert main(["deploy", "kubernetes", spec, "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (budget,) = [line for line in lines if line.startswith("m-bf16: startup budget")]
    assert budget.startswith("m-bf16: startup budget: 440 s = 16,000 MB / 100 MB/s x 2 + 120 s")
    assert "m-bf16: startup failureThreshold: 88 = 440 s / 5 s between two probes, rounded up" in lines


def test_deploy_without_output_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert "-o DIR" in refused(capsys, "kubernetes")


def test_deploy_name_over_63_characters_is_refused_with_the_room_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "kubernetes", "-o", "out", "--set", f"deploy.name={'a' * 60}")
    assert "platforms allow 63" in told
    assert "at most 48 characters" in told  # 63 - len("-gateway-config")
    assert not Path("out").exists()


def test_deploy_model_name_that_makes_a_long_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "deploy.name" in refused(capsys, "compose", "-o", "out", "--set", f"model.name={'b' * 60}")


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("org/gateway", "has neither tag nor digest; write org/gateway:TAG"),
        ("host:5000/gateway", "has neither tag nor digest"),
        ("org/gateway:latest", "has the tag `latest`"),
        ("Org/Gateway:1", "is no image reference"),
        ("org/gateway@sha256:abc", "is no image reference"),
    ],
)
def test_deploy_image_that_is_not_pinned_is_refused(image: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "kubernetes", "-o", "out", "--set", f"deploy.images.gateway={image}")
    assert told in said
    assert "deploy.images.gateway" in said


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("deploy.kubernetes.autoscaler=vpa", "one of gateway, hpa, keda, none"),
        ("deploy.kubernetes.namespace=My_Space", "deploy.kubernetes.namespace"),
        ("deploy.kubernetes.namespace=" + "n" * 64, "deploy.kubernetes.namespace"),
        ("deploy.engine_port=8080", "port 8080 is that of the gateway and of the engine of fp16"),
        ("gateway.listen=127.0.0.1:0", "the gateway's port is 0"),
        ("deploy.kubernetes.version=v1.34", "on by default from Kubernetes 1.35"),
        ("deploy.ray.service=true", "needs an image"),
        ("deploy.kserve.storage=claim", "need each other"),
        ("gateway.access_log.file=/var/log/a", "a container logs to standard error"),
    ],
)
def test_deploy_setting_that_cannot_be_is_refused_by_path(
    setting: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, "kubernetes", "-o", "out", "--set", setting)


def test_deploy_prometheus_on_the_gateways_port_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "compose", "-o", "out", "--set", "deploy.compose.prometheus_port=8080")
    assert "deploy.compose.prometheus_port" in told


@pytest.mark.parametrize("platform", ["kserve", "ray"])
@pytest.mark.parametrize("variant", ["q8_0", "fp16"])
def test_deploy_engine_that_a_platform_cannot_run_is_refused_with_the_reason(
    platform: str, variant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(f"variants: [{variant}]\nengines: {{llamacpp: {{}}}}\n")
    engine = {"q8_0": "llamacpp", "fp16": "openvino"}[variant]
    assert f"with vLLM, and {variant} runs on {engine}" in refused(capsys, platform, spec, "-o", "out")


def test_deploy_folder_of_others_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/theirs.txt").write_text("theirs", "utf-8")
    assert "was not written by `lightship deploy`" in refused(capsys, "kubernetes", "-o", "out")
    assert [path.name for path in Path("out").iterdir()] == ["theirs.txt"]


def test_deploy_model_that_is_not_here_needs_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec("model: {source: 'hf:acme/m@main'}\nvariants: [bf16]\nengines: {vllm: {}}\n")
    assert "Set deploy.weight_size" in refused(capsys, "kubernetes", spec, "-o", "out")


def test_deploy_gpus_that_do_not_come_out_even_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(
        "model: {source: 'hf:acme/m@main'}\nvariants: [bf16]\ndeploy: {weight_size: 1 GB, gpus_per_node: 2}\n"
        "engines: {vllm: {device: cuda, tensor_parallel: 3}}\n"
    )
    assert "3 GPUs are not the same number on each of 2 machines" in refused(capsys, "kubernetes", spec, "-o", "out")


def test_deploy_variant_for_an_engine_that_is_left_out_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec("variants: [q8_0]\n")
    assert "llamacpp, which is not among the engines" in refused(capsys, "compose", spec, "-o", "out")


def test_deploy_upstream_that_nothing_uses_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec("upstreams: [{name: cloud, base_url: 'https://example.com/v1'}]\n")
    assert "is not where requests spill to" in refused(capsys, "compose", spec, "-o", "out")


def test_deploy_missing_spec_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no such file" in refused(capsys, "compose", "nowhere.yaml", "-o", "out")


def test_deploy_without_the_extra_local_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightship.cli.model_commands.find_spec", lambda name: None)
    told = refused(capsys, "kubernetes", "-o", "out")
    assert "numpy missing" in told
    assert "lightship[local]" in told


def test_deploy_adapters_of_this_machine_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(
        "model: {source: 'hf:acme/m@main'}\nvariants: [bf16]\ndeploy: {weight_size: 1 GB}\n"
        "engines: {vllm: {device: cuda, lora: {tales: ./tales}}}\n"
    )
    assert "engines.vllm.lora" in refused(capsys, "kubernetes", spec, "-o", "out")


def test_deploy_spec_that_sleeps_and_scales_is_accepted_as_users_write_it(capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec("replicas: {min: 0, max: 4, idle_after_s: 300}\n")
    assert main(["deploy", "kubernetes", spec, "-o", "out"]) == 0
    assert "replicas:" not in Path("out/50-engine-0.yaml").read_text(), "the gateway owns their number"
    capsys.readouterr()
