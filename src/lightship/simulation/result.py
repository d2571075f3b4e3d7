"""What a simulation found, as records that are written as JSON and drawn as a page."""

from __future__ import annotations

from typing import Any

import msgspec

from lightship.simulation.recording import Decision

SCHEMA = "lightship-simulation/1"


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A group of requests. Shares are of 1, times in seconds; None where there is nothing to say it of.

    Args:
        num_requests: That came after the warm-up; each has one outcome.
        goodput_requests_per_s: Answers within the promise, per second of the counted time.
        attainment: Of all requests but those whose client left.
        degraded_share: Of the answers.
        mean_quality_loss: Over all answers.
    """

    num_requests: int
    outcomes: dict[str, int]
    reasons: dict[str, int]
    answered_by: dict[str, int]
    offered_requests_per_s: float
    goodput_requests_per_s: float
    attainment: float | None
    degraded_share: float | None
    mean_quality_loss: float | None
    num_spilled: int
    num_trimmed: int
    num_prompt_tokens: int
    num_output_tokens: int
    num_good_output_tokens: int
    ttft_s: dict[str, float | None]
    tpot_s: dict[str, float | None]


class FleetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Machines that are scaled together.

    `replica_hours` are those that were paid for, `usd` their price. `ready` and `paid` are means of each bin of time.
    """

    name: str
    region: str
    usd_per_replica_hour: float
    replica_hours: float
    usd: float
    mean_ready: float
    most_ready: float
    num_starts: int
    num_crashes: int
    ready: list[float]
    paid: list[float]


class RegionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One region: its clients' requests, and what its gateway saw over time (counts per bin, by when they came).

    Args:
        worst_attainment: The least share within the promise in one bin with requests enough to say, after the warm-up:
            what a mean over a day hides.
        worst_at_s: When that bin began.
    """

    name: str
    clients: Summary
    worst_attainment: float | None
    worst_at_s: float | None
    num_forwarded: int
    num_ejections: int
    arrivals: list[float]
    good: list[float]
    degraded: list[float]
    refused: list[float]
    failed: list[float]
    ladder_step: list[float]
    ttft_p99_s: list[float | None]


class RungFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A rung as it was simulated, and where its engine's profile comes from."""

    name: str
    quality_loss: float
    concurrency: int
    goodput_requests_per_s: float
    profile: str
    origin: str
    source: str
    profile_digest: str


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one simulation.

    Args:
        usd: Replicas and upstream together, of the whole time, warm-up included.
        usd_per_1m_good_tokens: What was paid after the warm-up, for output tokens in answers within the promise.
        decisions: The first ones; the counts are of all.
        left_over: Requests without an end, and counters that are not zero; always 0.
    """

    name: str
    alternative: str
    seed: int
    fidelity: str
    placement: str
    duration_s: float
    warmup_s: float
    bin_s: float
    slo: dict[str, float]
    ladder: list[RungFigures]
    notes: list[str]
    total: Summary
    by_priority: dict[str, Summary]
    by_tenant: dict[str, Summary]
    regions: list[RegionSummary]
    fleets: list[FleetSummary]
    usd_replicas: float
    usd_upstream: float
    usd: float
    usd_per_1m_good_tokens: float | None
    decisions: list[Decision]
    num_decisions_by_reason: dict[str, int]
    num_ladder_moves: int
    num_replica_changes: int
    num_scale_calls: int
    left_over: int
    schema: str = SCHEMA


def worst_attainment(result: SimulationResult) -> float | None:
    """The least share within the promise that any region's clients saw over one bin of time."""
    shares = (region.worst_attainment for region in result.regions)
    return min((share for share in shares if share is not None), default=None)


def bin_words(result: SimulationResult) -> str:
    """The length of one bin of time."""
    return f"{result.bin_s / 60:.3g} minutes" if result.bin_s >= 60 else f"{result.bin_s:.3g} s"


def result_json(result: SimulationResult) -> dict[str, Any]:
    """The result as plain data."""
    found: dict[str, Any] = msgspec.to_builtins(result)
    return found
