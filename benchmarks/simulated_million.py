"""A million requests through the whole simulated service, twice; exit 1 where that is slow or an invariant breaks.

    python benchmarks/simulated_million.py [--requests 1000000] [--seed 0] [--json FILE]

    day        24 hours, three regions of two rungs that are scaled, a sine over the day with bursts, crashes, an outage
    thousands  one region with 2,000 replicas of one rung at 0.6 of what they can serve, for as long as that takes

Engines are simulated in the fast way. Printed are the time on the wall and of the processor, the memory at the most,
and what must hold:

    time         at most 120 s of the processor for a million requests
    memory       at most 1 GiB, whatever the number of requests
    accounting   every request has one outcome, and nothing is under way at the end
    seed         the first tenth, run twice, gives the same result to the last digit
    cost         hours that were paid for, added up machine by machine, are those over time
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from lightship.simulation.measuring import with_measured_rungs
from lightship.simulation.profiles import resolve_profile
from lightship.simulation.reading import scenario_of
from lightship.simulation.result import SimulationResult
from lightship.simulation.world import World

MAX_CPU_S, MAX_BYTES = 120.0, 2**30
DAY_S = 86_400.0
BF16, W8A8 = "vllm-cpu-0.5b-bf16-2core-amx", "vllm-cpu-0.5b-w8a8-2core-amx"
NUM_REPLICAS, LOAD = 2000, 0.6


def rung(name: str, preset: str, *, most: int, first: int, least: int, loss: float = 0.0) -> dict[str, Any]:
    """One rung that is scaled."""
    scaling = {"initial_replicas": first, "min_replicas": least, "max_replicas": most, "startup_s": 80.0}
    return {"name": name, "profile": {"preset": preset}, "quality_loss": loss, "usd_per_replica_hour": 0.1,
            "weight_bytes": 10**9, "scaling": scaling}  # fmt: skip


def day(num_requests: int, seed: int) -> dict[str, Any]:
    """A day with everything that can happen in it."""
    each = num_requests / 3
    regions = {
        name: {
            "traffic": {
                "users": each / 2,
                "requests_per_user_day": 2,
                "peak_factor": 1.8,
                "utc_offset_h": offset_h,
                "random_bursts": {"per_day": 6, "duration_s": 300, "factor": 2.5},
            }
        }
        for name, offset_h in (("americas", -6), ("europe", 1), ("asia", 8))
    }
    size = max(2, round(num_requests / 50_000))
    return {
        "duration_s": DAY_S,
        "seed": seed,
        "scale_interval_s": 2.0,
        "ladder": [
            rung("bf16", BF16, first=size // 2, least=1, most=2 * size),
            rung("w8a8", W8A8, first=size // 4 or 1, least=1, most=size, loss=0.02),
        ],
        "regions": regions,
        "quality_budget": {"degraded_share": 0.3},
        "failures": {
            "crashes_per_replica_day": 1.0,
            "outages": [{"region": "europe", "at_s": 40_000.0, "duration_s": 1200.0}],
        },
    }


def thousands(num_requests: int, seed: int) -> dict[str, Any]:
    """Many replicas at a steady load."""
    profile = resolve_profile(scenario_of(day(3, seed), where="day").ladder[0].profile, name="bf16", folder=Path())
    measured, _ = with_measured_rungs(scenario_of(day(3, seed), where="day"), [profile, profile])
    rate = LOAD * NUM_REPLICAS * (measured.ladder[0].goodput_requests_per_s or 1.0)
    return {
        "duration_s": max(10.0, num_requests / rate),
        "seed": seed,
        "scale_interval_s": 2.0,
        "ladder": [rung("bf16", BF16, first=NUM_REPLICAS, least=NUM_REPLICAS, most=NUM_REPLICAS)],
        "regions": {"here": {"traffic": {"requests_per_s": rate}}},
    }


def run(data: dict[str, Any]) -> tuple[SimulationResult, float, float, float]:
    """(result, largest difference of two ways to add up hours, seconds on the wall, of the processor)."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    scenario = scenario_of(data, where="benchmark")
    profiles = [resolve_profile(one.profile, name=one.name, folder=Path()) for one in scenario.ladder]
    measured, notes = with_measured_rungs(scenario, profiles)
    world = World(measured, profiles, folder=Path())
    world.run()
    result = world.result(alternative="", notes=notes)
    fleets = [fleet for region in world.regions.values() for fleet in region.fleets]
    off_s = max(abs(fleet.paid_machine_s(scenario.duration_s) - fleet.alive.total()) for fleet in fleets)
    return result, off_s, time.perf_counter() - wall_s, time.process_time() - cpu_s


def main() -> int:
    """Runs both; 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    checks: list[tuple[bool, str]] = []
    figures: dict[str, Any] = {}
    for name, make in (("day", day), ("thousands", thousands)):
        result, off_s, wall_s, cpu_s = run(make(args.requests, args.seed))
        num = int(sum(sum(region.arrivals) for region in result.regions))
        per_million_s = cpu_s * 1e6 / num
        replicas = sum(fleet.most_ready for fleet in result.fleets)
        print(
            f"{name}: {num:,} requests, {result.duration_s / 3600:.2f} virtual hours, up to {replicas:.0f} replicas: "
            f"{wall_s:.1f} s on the wall, {cpu_s:.1f} s of the processor, {1e6 * cpu_s / num:.1f} us each; "
            f"{result.total.attainment or 0:.1%} good, {result.total.degraded_share or 0:.1%} of the answers degraded, "
            f"{len(result.decisions)} decisions",
            flush=True,
        )
        outcomes = sum(result.total.outcomes.values())
        checks += [
            (
                per_million_s <= MAX_CPU_S,
                f"{name}: {per_million_s:.0f} s of one core for a million ({MAX_CPU_S:g} s)",
            ),
            (outcomes == num and not result.left_over, f"{name}: {outcomes:,} outcomes, {result.left_over} left over"),
            (off_s < 1e-3, f"{name}: paid hours differ by {off_s:.2g} s"),
        ]
        figures[name] = {"wall_s": wall_s, "cpu_s": cpu_s, "requests": num, "total": msgspec.to_builtins(result.total)}
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    checks.append((peak <= MAX_BYTES, f"{peak / 2**20:.0f} MiB at the most ({MAX_BYTES / 2**20:g})"))
    few = [msgspec.json.encode(run(day(max(1000, args.requests // 10), args.seed))[0]) for _ in range(2)]
    checks.append((few[0] == few[1], "the same seed gives the same result"))
    for holds, words in checks:
        print(f"{'ok  ' if holds else 'MISS'} {words}")
    if args.json:
        args.json.write_text(json.dumps(figures))
    return 0 if all(holds for holds, _ in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
