"""Scenarios that make no sense: one clear message each, which names the place and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.unit.simulation.scenarios import rung, small

from lightship.errors import UsageError
from lightship.simulation.profiles import resolve_profile
from lightship.simulation.reading import load_scenario, merged, scenario_of, scenario_schema


@dataclass(frozen=True)
class Case:
    """A change, and what the message says."""

    name: str
    change: dict[str, Any]
    says: str


def region(**changes: Any) -> dict[str, Any]:
    return {"regions": {"here": changes}}


def traffic(**changes: Any) -> dict[str, Any]:
    return {"regions": {"here": {"traffic": {"requests_per_s": None, **changes}}}}


CASES = (
    Case("unknown key", {"durations_s": 3}, "unknown key 'durations_s'. Did you mean 'duration_s'?"),
    Case("unknown key inside", {"slo": {"ttf_s": 3}}, "Did you mean 'ttft_s'?"),
    Case("unknown key in a region", region(trafic={}), "Did you mean 'traffic'?"),
    Case("unknown key in traffic", traffic(request_per_s=3), "Did you mean 'requests_per_s'?"),
    Case("wrong type", {"duration_s": "long"}, "duration_s: expected `float`, got `str`"),
    Case("infinite", {"duration_s": float("inf")}, "duration_s: must be a finite number"),
    Case("not a number", {"slo": {"ttft_s": float("nan")}}, "slo.ttft_s: must be a finite number"),
    Case("no time", {"duration_s": 0.0}, "duration_s: must be above 0"),
    Case("warm-up", {"warmup_s": 60.0}, "warmup_s: must be at least 0 and below duration_s"),
    Case("no rungs", {"ladder": []}, "ladder: must name at least one rung"),
    Case("twice", {"ladder": [rung("a"), rung("a")]}, "two rungs have the same name"),
    Case("no profile", {"ladder": [rung("a", profile={})]}, "exactly one of preset, file, roofline and costs"),
    Case("half measured", {"ladder": [rung("a", concurrency=None)]}, "goes with goodput_requests_per_s"),
    Case(
        "cost below 0",
        {"ladder": [rung("a", profile={"costs": {"step_s": -1.0, "prefill_token_s": 0.1, "decode_token_s": 0.1}})]},
        "step_s must be from 0",
    ),
    Case("replicas", {"ladder": [rung("a", scaling={"min_replicas": 3})]}, "min_replicas: must be at least 0 and at"),
    Case("initial", {"ladder": [rung("a", scaling={"initial_replicas": 3})]}, "initial_replicas: must be from"),
    Case("no regions", {"regions": {"here": None}}, "expected `object`, got `null`"),
    Case("rate of zero", {"regions": {"here": {"traffic": {"requests_per_s": 0.0}}}}, "must be above 0, got 0"),
    Case("no traffic", traffic(), "give one of requests_per_s, users with requests_per_user_day, and trace"),
    Case("half of users", traffic(users=5.0), "goes with requests_per_user_day"),
    Case("too many", traffic(requests_per_s=1e12), "requests in one simulation"),
    Case("hours", traffic(requests_per_s=1.0, hourly=[1.0]), "hourly: must be 24 weights"),
    Case("peak", traffic(requests_per_s=1.0, peak_factor=3.0), "peak_factor: must be from 1 to 2"),
    Case("burst", traffic(requests_per_s=1.0, bursts=[{"at_s": 1.0, "duration_s": 1.0, "factor": 2.0, "ramp_s": 9.0}]),
         "rise and fall must fit"),
    Case("class", traffic(requests_per_s=1.0, kinds=[{"priority": "gold"}]), "a class of the scenario (default)"),
    Case("distribution", traffic(requests_per_s=1.0, kinds=[{"prompt_tokens": {"distribution": "zipf"}}]),
         "must be one of fixed, exponential, lognormal, uniform"),
    Case("spill", region(spill_to={"to": "mars"}), "must name another region (none), got 'mars'"),
    Case("rtt", {"rtt_s": {"here": {"mars": 0.1}}}, "no region 'mars'; there are here"),
    Case("outage", {"failures": {"outages": [{"region": "mars", "at_s": 1.0, "duration_s": 1.0}]}}, "no region 'mars'"),
    Case("slow rung", {"failures": {"slow_replicas": [{"region": "here", "rung": 7, "at_s": 1.0}]}}, "of the ladder"),
    Case("budget", {"quality_budget": {"degraded_share": 2.0}}, "degraded_share: must be a share"),
    Case("routing", {"routing": {"load_gate_s": 0.0}}, "routing.load_gate_s: must be above 0"),
    Case("shared", {"placement": "shared", "ladder": [rung("a", replicas=100)]}, "at most 64, got 100"),
    Case("placement", {"placement": "nowhere"}, "nowhere"),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_scenario_that_makes_no_sense_is_told_in_one_message(case: Case) -> None:
    with pytest.raises(UsageError) as caught:
        scenario_of(merged(small(), case.change), where="file.yaml")
    assert case.says in str(caught.value)
    assert "file.yaml" in str(caught.value)


def test_scenario_as_it_is_makes_sense() -> None:
    assert scenario_of(small(), where="x").ladder[1].quality_loss == 0.02


def test_load_scenario_several_problems_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("duration_s: -1\nladder: []\nregions: {}\n")
    with pytest.raises(UsageError, match="3 problems"):
        load_scenario(path)


def test_load_scenario_changes_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "ladder: [{name: a, profile: {preset: toy}}]\nregions: {eu: {traffic: {requests_per_s: 3}}}\n", "utf-8"
    )
    changes = ["slo.ttft_s=0.25", "ladder.0.quality_loss=0.01", "regions.eu.traffic.requests_per_s=9"]
    scenario, _ = load_scenario(path, changes=changes)
    assert scenario.slo.ttft_s == 0.25
    assert scenario.ladder[0].quality_loss == 0.01
    assert scenario.regions["eu"].traffic.requests_per_s == 9.0


@pytest.mark.parametrize(
    ("text", "changes", "says"),
    [
        ("[1, 2]", [], "a scenario is a mapping"),
        ("a: {", [], "not YAML"),
        ("a: 1", ["b"], "expected PATH=VALUE"),
        ("ladder: [{name: a, profile: {preset: toy}}]", ["ladder.7.name=b"], "no entry of a list of 1"),
        ("name: x", ["name.deeper=1"], "below a value that has no parts"),
    ],
)
def test_load_scenario_text_that_is_none_is_refused(tmp_path: Path, text: str, changes: list[str], says: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        load_scenario(path, changes=changes)


def test_load_scenario_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_scenario(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ({"preset": "gpt"}, "no preset 'gpt'"),
        ({"file": "gone.json"}, "`lightship calibrate URL"),
        ({"file": "."}, "cannot"),
    ],
)
def test_profile_that_is_not_there_says_how_to_get_one(tmp_path: Path, profile: dict[str, str], says: str) -> None:
    scenario = scenario_of(small(ladder=[rung("a", profile=profile)]), where="x")
    with pytest.raises(UsageError, match=says):
        resolve_profile(scenario.ladder[0].profile, name="a", folder=tmp_path)


def test_scenario_schema_knows_every_section() -> None:
    schema = scenario_schema()
    properties = schema["$defs"]["Scenario"]["properties"]
    assert {"ladder", "regions", "slo", "failures", "routing"} <= set(properties)
    assert schema["$defs"]["Scenario"]["additionalProperties"] is False
