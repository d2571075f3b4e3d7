"""`lightship simulate` on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lightship.cli.main import main

SCENARIO = """\
name: a <small> service
duration_s: 30
ladder:
  - {name: top, profile: {preset: toy}, usd_per_replica_hour: 1.0, concurrency: 8, goodput_requests_per_s: 20}
  - {name: low, profile: {preset: toy, speed: 2}, quality_loss: 0.02, concurrency: 8, goodput_requests_per_s: 40}
regions:
  here: {traffic: {requests_per_s: 10}}
alternatives:
  crowded: {regions: {here: {traffic: {requests_per_s: 100}}}}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "service.yaml"
    path.write_text(SCENARIO, "utf-8")
    return path


def test_simulate_prints_tables_with_a_column_for_each_way(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(scenario), "--compare", "no-ladder", "--compare", "crowded"]) == 0
    seen = capsys.readouterr()
    assert "as written" in seen.out
    assert "no-ladder" in seen.out
    assert "goodput, requests/s" in seen.out
    assert "virtual hours took" in seen.err


def test_simulate_json_has_every_simulation_and_a_page_is_written(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    arguments = ["simulate", str(scenario), "--json", "--html", str(page), "--compare", "fixed", "--seed", "7"]
    assert main([*arguments, "--plots", str(tmp_path / "plots")]) == 0
    drawn = ElementTree.parse(tmp_path / "plots" / "requests-and-goodput.svg").getroot()
    assert [one.text for one in drawn.iter("{http://www.w3.org/2000/svg}text")][:4] == [
        "Requests and goodput", "as written", "fixed", "offered",
    ]  # fmt: skip
    found = json.loads(capsys.readouterr().out)["simulations"]
    assert [one["alternative"] for one in found] == ["", "fixed"]
    assert found[0]["seed"] == 7
    assert sum(found[0]["total"]["outcomes"].values()) == found[0]["total"]["num_requests"]
    html = page.read_text("utf-8")
    assert "a &lt;small&gt; service" in html
    assert html.count("<svg") > 10
    assert not re.search(r"<script|https?://|<link", html)


def test_simulate_changes_on_the_command_line_are_made(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(scenario), "--json", "--set", "duration_s=10"]) == 0
    assert json.loads(capsys.readouterr().out)["simulations"][0]["duration_s"] == 10


def test_simulate_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--schema"]) == 0
    assert "Scenario" in json.loads(capsys.readouterr().out)["$defs"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no scenario was given"),
        (["FILE", "--compare", "better"], "no way to run it is called 'better'"),
        (["FILE", "--html", "gone/page.html"], "the folder does not exist"),
        (["FILE", "--set", "slo.ttft_s=-1"], "slo.ttft_s: must be above 0"),
        (["FILE", "--set", "slo.ttft=1"], "Did you mean 'ttft_s'?"),
    ],
)
def test_simulate_bad_input_is_one_message_and_two(
    scenario: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *(str(scenario) if one == "FILE" else one for one in arguments)]) == 2
    seen = capsys.readouterr()
    assert says in seen.err
    assert "Traceback" not in seen.err
    assert seen.out == ""
