"""A whole service in virtual time: what must hold whatever the scenario, shown on the example that is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightship.cli.main import main
from lightship.simulation.reading import load_scenario
from lightship.simulation.result import SimulationResult, result_json
from lightship.simulation.world import simulate_service

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "simulation"
EXAMPLE = EXAMPLES / "two-rungs.yaml"
QUICK = ("duration_s=120", "regions.eu.traffic.bursts=[]")


def run(*changes: str) -> SimulationResult:
    scenario, _ = load_scenario(EXAMPLE, changes=[*QUICK, *changes])
    return simulate_service(scenario, folder=EXAMPLES)


def test_simulation_every_request_has_one_outcome() -> None:
    (region,) = run().regions
    assert region.clients.num_requests > 1000
    assert sum(region.clients.outcomes.values()) == region.clients.num_requests


def test_simulation_same_seed_says_the_same_and_another_does_not() -> None:
    first, second, other = (result_json(run(f"seed={seed}")) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_simulation_money_is_replica_hours_times_their_price() -> None:
    result = run()
    assert result.fleets
    for fleet in result.fleets:
        assert fleet.usd == pytest.approx(fleet.replica_hours * 0.10)
        assert fleet.replica_hours > 0


def test_simulation_without_a_lower_rung_degrades_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["simulate", str(EXAMPLE), "--compare", "no-ladder", "--json"]
    for change in QUICK:
        arguments += ["--set", change]
    assert main(arguments) == 0
    assert '"degraded": 0' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("duration_s=-1", "duration_s: must be above 0"),
        ("duratio_s=1", "Did you mean 'duration_s'?"),
        ("ladder.0.profile.preset=nothing", "nothing"),
        ("regions.eu.traffic.requests_per_s=0", "requests_per_s"),
    ],
)
def test_simulate_scenario_that_cannot_be_is_one_message(
    change: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", str(EXAMPLE), "--set", change]) == 2
    output = capsys.readouterr()
    assert told in output.err
    assert output.out == ""
    assert "Traceback" not in output.err
