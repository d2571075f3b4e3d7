"""How long `lightship simulate` takes for a million requests, in one process.

    python benchmarks/simulated_million.py

The shipped example without its burst, for as long as a million requests take to come. Exits with 1 where it takes more
than two minutes of one core, or where a request has not exactly one outcome. Time is that of the core: other work on
the machine lengthens the clock's, which is told as well.
"""

from __future__ import annotations

import sys
import time

from evidence import ROOT
from lightship.artifacts.machine import this_machine
from lightship.simulation.reading import load_scenario
from lightship.simulation.world import simulate_service

TARGET_S = 120.0
EXAMPLE = ROOT / "examples" / "simulation" / "two-rungs.yaml"
CHANGES = ("duration_s=50100", "regions.eu.traffic.bursts=[]")


def main() -> int:
    """Prints the figures; 1 when one falls short."""
    print(this_machine().description)
    scenario, _ = load_scenario(EXAMPLE, changes=CHANGES)
    began_s, core_began_s = time.perf_counter(), time.process_time()
    (region,) = simulate_service(scenario, folder=EXAMPLE.parent).regions
    wall_s, core_s = time.perf_counter() - began_s, time.process_time() - core_began_s
    num_requests, num_outcomes = region.clients.num_requests, sum(region.clients.outcomes.values())
    is_quick, is_whole = core_s < TARGET_S and num_requests >= 1_000_000, num_outcomes == num_requests
    took = f"{num_requests:,} requests took {core_s:.0f} s of one core, {wall_s:.0f} s by the clock"
    print(f"{'ok  ' if is_quick else 'MISS'} {took} (a million in {TARGET_S:g} s)")
    print(f"{'ok  ' if is_whole else 'MISS'} {num_outcomes:,} outcomes (one each)")
    return 0 if is_quick and is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
