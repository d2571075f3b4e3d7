"""`lightship plan` as a user runs it: on shapes, GPUs and the built-in model, and what bad input is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightship.cli.main import build_parser, main
from lightship.cli.plan.machine import machine_of
from lightship.errors import UsageError
from lightship.planning.hardware import Gpu, Hardware

GIB = 2**30
LLAMA_70B = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "num_hidden_layers": 80,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTSHIP_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def shape(tmp_path: Path) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_70B))
    return str(path)


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    memory = () if "--memory" in arguments else ("--memory", "64 GiB")
    code = main(["plan", "--json", *memory, *arguments])
    return code, json.loads(capsys.readouterr().out)


def test_plan_70b_on_one_h100_does_not_fit_and_says_what_would(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = planned(capsys, "--model-shape", shape, "--gpu", "h100-sxm")
    assert code == 1
    rung = found["rungs"][0]
    # 70.5e9 weights of 16 bits alone are more than twice the device
    assert rung["missing_bytes"] > 141e9 - 0.9 * 80e9
    enough = [change["what"] for change in rung["changes"] if change["is_enough"]]
    assert any("4 bits" in what for what in enough)
    assert any("tensor parallel over 4" in what for what in enough)
    assert f"{rung['missing_bytes']:.0f} bytes" in found["problems"][0]
    assert found["fleets"] == []


def test_plan_70b_on_four_h100_fits_and_costs(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = planned(
        capsys,
        *("--model-shape", shape, "--gpu", "h100-sxm", "--gpus", "4"),
        *("--set", "engines.vllm={tensor_parallel: 4}", "--slo", "ttft=2s,tpot=60ms"),
        *("--rate", "2/s", "--price", "10", "--cloud-price", "0.5/1.5"),
    )
    assert code == 0
    fleet = found["fleets"][0]
    assert fleet["usd_per_month"]["value"] == pytest.approx(fleet["num_replicas"]["value"] * 10 * 730)
    assert fleet["cloud_usd_per_month"]["value"] == pytest.approx(2 * 730 * 3600 * (256 * 0.5 + 128 * 1.5) / 1e6)
    assert found["rungs"][0]["needs"]["num_accelerators"] == 4
    assert found["figures"]["machine.bandwidth"]["source"] == "vendor"
    assert "https://" in found["figures"]["machine.bandwidth"]["how"]


def test_plan_builtin_model_that_was_never_built_is_planned_by_its_shape(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, found = planned(capsys, "--bandwidth", "50", "--tflops", "1", "--memory", "8 GiB")
    assert code == 0
    assert [rung["variant"] for rung in found["rungs"]][:3] == ["fp16", "int8", "int4"]
    # 8,917,248 parameters of 16 bits, norms left out
    assert found["figures"]["fp16@openvino.weight_bytes"]["value"] == pytest.approx(17.8e6, rel=0.01)
    assert found["figures"]["fp16@openvino.weight_bytes"]["source"] == "roofline"
    assert found["figures"]["machine.memory"] == {"value": 8 * GIB, "unit": "B", "source": "given", "how": "--memory"}
    assert found["traffic"]["source"] == "assumed"


def test_plan_table_and_explanation_name_sources(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "plan",
        "--model-shape",
        shape,
        "--gpu",
        "b200",
        "--bits",
        "8",
        "--explain",
        "--slo",
        "ttft=2s,tpot=60ms",
    ]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "8-bit@vllm" in out
    assert "[vendor] NVIDIA B200 SXM: https://" in out
    assert "[assumed] a rule of thumb" in out


def test_machine_of_auto_takes_the_gpus_of_this_machine() -> None:
    gpus = (Gpu("NVIDIA H200", 150_754_820_096, "9.0", "580.1"),) * 2
    hardware = Hardware("cpu", "x86_64", (), 4, 4, 4, memory_bytes=64 * GIB, gpus=gpus)
    args = build_parser().parse_args(["plan", "--gpu", "auto"])
    machine = machine_of(args, hardware, working_set_bytes=1)
    assert machine.accelerator is not None
    assert (machine.accelerator.id, machine.num_accelerators) == ("h200", 2)
    with pytest.raises(UsageError, match="no GPU was found here: none"):
        machine_of(args, replace(hardware, gpus=(), gpu_note="none"), working_set_bytes=1)


def test_plan_users_are_turned_into_a_rate(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = planned(
        capsys,
        *("--model-shape", shape, "--gpu", "b200", "--users", "8640", "--requests-per-user-day", "20"),
        *("--peak-factor", "4"),
    )
    assert found["traffic"]["mean_requests_per_s"] == pytest.approx(2.0)
    assert found["traffic"]["peak_requests_per_s"] == pytest.approx(8.0)


def test_plan_impossible_slo_is_told_with_the_roofline(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = planned(capsys, "--model-shape", shape, "--gpu", "b200", "--slo", "ttft=2s,tpot=1ms")
    assert code == 1
    # 141 GB over 8 TB/s is 17.6 ms a token
    assert "at the roofline itself, TPOT 17." in found["problems"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "h100-smx"], "Nearest: h100-sxm"),
        (["--rate", "0/s"], "must be finite and above 0"),
        (["--rate=-3/s"], "must be finite and above 0"),
        (["--rate", "inf"], "must be finite and above 0"),
        (["--rate", "nan"], "must be finite and above 0"),
        (["--users", "10"], "by half"),
        (["--users", "-1", "--requests-per-user-day", "1"], "must be finite and above 0"),
        (["--peak", "0.1/s"], "below the mean"),
        (["--engine", "llamacpp", "--gpu", "l4"], "not planned on NVIDIA or AMD GPUs"),
        (["--engine", "tgi"], "there is no engine 'tgi'"),
        (["--cloud-price", "1"], "no pair of prices"),
        (["--price", "nan"], "must be finite"),
        (["--bits", "x"], "no list of bits"),
        (["--efficiency", "1.5"], "no share"),
        (["--gpu", "l4", "--gpus", "0"], "0 GPUs"),
        (["--set", "variants=[nothing]"], "unknown recipe 'nothing'"),
        (["--memory", "much"], "no size"),
        (["--prompt-tokens", "0"], "at least 1"),
        (["--output-tokens", "9000"], "do not fit the context"),
        (["--model-shape", "nowhere.json"], "nowhere.json is missing"),
        (["--model-shape", "/proc"], "config.json is missing"),
        (["--set", "model.source=hf:org/name@main"], "planning downloads nothing"),
        (["--spare", "-1"], "-1 spare"),
    ],
)
def test_plan_bad_input_is_one_message_without_traceback(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["plan", "--bandwidth", "50", "--tflops", "1", *arguments])
    captured = capsys.readouterr()
    assert code in {2, 3}
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_plan_config_that_is_damaged_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "damaged.json"
    for content, message in (
        ("{", "not JSON"),
        (json.dumps({**LLAMA_70B, "num_hidden_layers": -1}), "`num_hidden_layers` is -1"),
        (json.dumps({**LLAMA_70B, "num_attention_heads": 9000}), "do not fit a hidden size"),
        (json.dumps({**LLAMA_70B, "max_position_embeddings": "8k"}), "`max_position_embeddings` is missing"),
    ):
        path.write_text(content)
        assert main(["plan", "--model-shape", str(path), "--gpu", "b200"]) == 3
        assert message in capsys.readouterr().err


def test_plan_engine_without_kernels_for_the_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.json"
    # 8 heads of 16: vLLM on a CPU has none of that size
    path.write_text(json.dumps({**LLAMA_70B, "hidden_size": 128, "num_attention_heads": 8}))
    assert main(["plan", "--model-shape", str(path), "--engine", "vllm", "--bandwidth", "50", "--tflops", "1"]) == 2
    assert "no kernels for heads of 16" in capsys.readouterr().err
