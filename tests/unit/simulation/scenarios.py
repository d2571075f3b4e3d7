"""Small scenarios for tests, as plain data, and a run of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightship.simulation.reading import merged, scenario_of
from lightship.simulation.result import SimulationResult
from lightship.simulation.world import simulate_service

# A step takes 10 ms, and 1 ms more for each sequence in it: 10 requests of 50 tokens at a time keep 20 ms per token.
QUICK = {"step_s": 0.01, "prefill_token_s": 0.0001, "decode_token_s": 0.001}
QUICKER = {"step_s": 0.005, "prefill_token_s": 0.00004, "decode_token_s": 0.0004}


def rung(name: str, costs: Mapping[str, float] = QUICK, *, replicas: int = 2, **changes: Any) -> dict[str, Any]:
    """A rung with so many replicas, always."""
    return {
        "name": name,
        "profile": {"costs": dict(costs)},
        "concurrency": 10,
        "goodput_requests_per_s": 8.0 if costs is QUICK else 18.0,
        "usd_per_replica_hour": 3.6,
        "scaling": {"initial_replicas": replicas, "min_replicas": replicas, "max_replicas": replicas},
        **changes,
    }


def small(**changes: Any) -> dict[str, Any]:
    """A minute of one region with two rungs."""
    base = {
        "duration_s": 60.0,
        "slo": {"ttft_s": 0.5, "tpot_s": 0.03},
        "ladder": [rung("top"), rung("low", QUICKER, quality_loss=0.02)],
        "regions": {"here": {"client_rtt_s": 0.0, "traffic": {"requests_per_s": 20.0, "kinds": [kind()]}}},
    }
    found = merged(base, changes)
    assert isinstance(found, dict)
    return found


def kind(**changes: Any) -> dict[str, Any]:
    """Requests of about 100 tokens in and 50 out."""
    return {
        "prompt_tokens": {"distribution": "exponential", "mean": 100, "most": 1000},
        "output_tokens": {"distribution": "exponential", "mean": 50, "most": 500},
        **changes,
    }


def run(data: Mapping[str, Any], *, folder: Path = Path()) -> SimulationResult:
    """What comes of it."""
    return simulate_service(scenario_of(data, where="test"), folder=folder)


def trace_file(folder: Path, requests: list[tuple[float, int, int]]) -> dict[str, Any]:
    """Traffic that replays these (arrival, prompt, output)."""
    lines = [json.dumps({"arrival_s": at, "num_prompt_tokens": p, "num_output_tokens": o}) for at, p, o in requests]
    (folder / "load.jsonl").write_text("\n".join(lines), "utf-8")
    return {"trace": {"file": "load.jsonl"}}
