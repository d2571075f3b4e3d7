"""Runs `lightship simulate`: reads the scenario, runs it and its alternatives, prints and draws what came of them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightship.cli.simulate.tables import print_results
from lightship.errors import UsageError
from lightship.simulation.reading import load_scenario, merged, scenario_of, scenario_schema
from lightship.simulation.report.page import render_page
from lightship.simulation.report.standalone import write_plots
from lightship.simulation.result import SimulationResult, result_json
from lightship.simulation.scenario import Scenario
from lightship.simulation.world import simulate_service

_BUILT_IN = ("no-ladder", "ladder-first", "replicas-first", "fixed", "exact")


def run_simulate(args: argparse.Namespace) -> int:
    """`lightship simulate` with parsed arguments; the exit code.

    Raises: LightshipError: a scenario, profile or trace that makes no sense.
    Effects: reads files, prints, writes the page.
    """
    if args.schema:
        sys.stdout.write(json.dumps(scenario_schema(), indent=2) + "\n")
        return 0
    if args.scenario is None:
        hint = "Write `lightship simulate examples/simulation/two-rungs.yaml`, or --schema for what may stand in one."
        raise UsageError("no scenario was given", where="FILE", hint=hint)
    if args.plots is not None and args.plots.exists() and not args.plots.is_dir():
        raise UsageError("this is a file, not a folder", where=str(args.plots))
    if args.html is not None and not args.html.absolute().parent.is_dir():
        raise UsageError("the folder does not exist", where=str(args.html))
    changes = [*args.set, *([f"seed={args.seed}"] if args.seed is not None else [])]
    scenario, data = load_scenario(args.scenario, changes=changes)
    results = []
    for name, one in _to_run(scenario, data, args.compare, where=str(args.scenario)):
        results.append(_timed(one, name, folder=args.scenario.absolute().parent))
    if args.html is not None:
        args.html.write_text(render_page(results), "utf-8")
        sys.stderr.write(f"wrote {args.html}\n")
    if args.plots is not None:
        sys.stderr.write(f"wrote {len(write_plots(results, args.plots))} plots to {args.plots}\n")
    if args.json:
        sys.stdout.write(json.dumps({"simulations": [result_json(one) for one in results]}) + "\n")
    else:
        print_results(results)
    return 0


def _timed(scenario: Scenario, name: str, *, folder: Path) -> SimulationResult:
    began_s = time.perf_counter()
    result = simulate_service(scenario, folder=folder, alternative=name)
    wall_s = time.perf_counter() - began_s
    num_requests = sum(sum(region.arrivals) for region in result.regions)
    sys.stderr.write(
        f"{name or scenario.name}: {num_requests:,.0f} requests in {scenario.duration_s / 3600:g} virtual hours took "
        f"{wall_s:.1f} s ({1e6 * wall_s / max(1, num_requests):.0f} us each)\n"
    )
    return result


def _to_run(
    scenario: Scenario, data: dict[str, Any], compared: list[str], *, where: str
) -> Iterator[tuple[str, Scenario]]:
    """The scenario as it is written, then its alternatives; every one is checked before the first is run."""
    found = [("", scenario)]
    for name in compared:
        change = _change_of(name, scenario, data)
        found.append((name, scenario_of(merged(data, change), where=f"{where} ({name})")))
    return iter(found)


def _change_of(name: str, scenario: Scenario, data: dict[str, Any]) -> dict[str, Any]:
    if name in scenario.alternatives:
        return scenario.alternatives[name]
    match name:
        case "no-ladder":
            return {"ladder": data["ladder"][:1]}
        case "ladder-first":
            return {"prefer": "ladder"}
        case "replicas-first":
            return {"prefer": "replicas"}
        case "exact":
            return {"fidelity": "exact"}
        case "fixed":
            return {"ladder": [_fixed(rung) for rung in data["ladder"]]}
    known = ", ".join([*_BUILT_IN, *scenario.alternatives])
    raise UsageError(f"no way to run it is called {name!r}", where="--compare", hint=f"There are {known}.")


def _fixed(rung: dict[str, Any]) -> dict[str, Any]:
    """The rung with as many replicas at all times as it has at the start."""
    scaling = rung.get("scaling") or {}
    initial = scaling.get("initial_replicas", 1)
    return {**rung, "scaling": {**scaling, "min_replicas": initial, "max_replicas": initial}}
