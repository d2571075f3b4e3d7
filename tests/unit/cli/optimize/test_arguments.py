"""What the options of `optimize` say."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from lightship.cli.optimize.arguments import SearchOptions, parse_rate, parse_slo, search_options
from lightship.cli.optimize.command import add_optimize_command
from lightship.errors import LightshipError, UsageError


def options(*argv: str) -> SearchOptions:
    parser = argparse.ArgumentParser()
    add_optimize_command(parser.add_subparsers())
    return search_options(parser.parse_args(["optimize", *argv]))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No spec of the folder the tests run in is read."""
    monkeypatch.chdir(tmp_path)


def test_options_the_whole_line_of_the_manual_is_understood() -> None:
    slo = ("--slo", "ttft=400ms,tpot=40ms")
    found = options("builtin:fairytales", "--budget", "1.2 GiB", "--floor", "0.97", *slo, "--rate", "2/s")
    budget = found.budget
    assert budget.max_bytes == round(1.2 * 2**30)
    assert (budget.quality_floor, budget.ttft_ms, budget.tpot_ms, budget.rate_per_s) == (0.97, 400, 40, 2)
    assert (budget.time_budget_s, budget.concurrency) == (3600, 32)
    assert found.engines == ("openvino",)


def test_options_left_out_take_the_specs_values(tmp_path: Path) -> None:
    (tmp_path / "lightship.yaml").write_text("slo: {ttft_ms: 123}\nquality: {floor: 0.9}\nengines: {vllm: {}}\n")
    found = options("--time", "30m")
    assert (found.budget.ttft_ms, found.budget.quality_floor, found.budget.time_budget_s) == (123, 0.9, 1800)
    assert found.engines == ("openvino", "vllm")


def test_options_measure_by_screening_unless_the_spec_names_a_protocol() -> None:
    assert options().spec.measurement.protocol == "screening"
    assert options("--set", "measurement.protocol=thorough").spec.measurement.protocol == "thorough"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--budget", "1.2 GB/s"), r"--budget: '1.2 GB/s' is not understood"),
        (("--budget", "0"), r"--budget: '0' is not above 0"),
        (("--floor", "97"), r"--floor: 97 is no share"),
        (("--slo", "ttft=400"), r"--slo: 'ttft=400' is no limit. Write ttft=400ms,tpot=40ms"),
        (("--slo", "e2e=4s"), r"--slo: 'e2e=4s' is no limit"),
        (("--slo", "ttft=1s,ttft=2s"), r"--slo: 'ttft=2s' is no limit"),
        (("--rate", "fast"), r"--rate: 'fast' is no rate"),
        (("--rate", "0/s"), r"--rate: '0/s' is no rate"),
        (("--time", "soon"), r"--time: 'soon' is not understood"),
        (("--engines", "openvino,vlm"), r"--engines: there is no engine 'vlm'"),
        (("--recipes", ","), r"--recipes: no name is given"),
        (("nowhere:thing",), r"nowhere:thing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_make_no_sense_say_which_and_why(argv: tuple[str, ...], words: str) -> None:
    with pytest.raises(LightshipError, match=words):
        options(*argv)


def test_parse_rate_per_minute_and_bare_number() -> None:
    assert parse_rate("90/min") == 1.5
    assert parse_rate(" 2 ") == 2.0
    with pytest.raises(UsageError):
        parse_rate("-1/s")


def test_parse_slo_one_limit_in_seconds() -> None:
    assert parse_slo("tpot=0.04s") == {"slo.tpot_ms": 40.0}
