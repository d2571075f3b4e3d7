"""What all gateways have under way: each one's counts read from its metrics, and added up.

A count that is missing is not a zero: a sum without it is marked as incomplete, and nothing is decided by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from lightship.observability import names
from lightship.ports.replica_control import RungLoad

Place = tuple[str, int]
_FIELDS = {
    names.RUNG_HELD_REQUESTS: "num_held",
    names.RUNG_QUEUED_REQUESTS: "num_queued",
    names.RUNG_IN_FLIGHT_REQUESTS: "num_in_flight",
    names.RUNG_DEGRADED_REQUESTS: "num_degraded",
}
# The last one is younger than the others: while gateways are replaced, those of the version before do not tell it, and
# too few replicas for a minute are better than a frozen number of them.
_NEEDED = frozenset({"num_held", "num_queued", "num_in_flight"})


@dataclass(frozen=True)
class GatewayCounts:
    """One gateway's counts by (served model, rung); `problem` says why there are none."""

    gateway: str
    loads: Mapping[Place, RungLoad] = field(default_factory=dict)
    problem: str = ""


def counts_in(exposition: bytes, *, gateway: str) -> GatewayCounts:
    """The counts in a gateway's metrics. Only rungs of which all that is needed is told are in the result."""
    found: dict[Place, dict[str, float]] = {}
    try:
        for family in text_string_to_metric_families(exposition.decode("utf-8")):
            if family.name not in _FIELDS:
                continue
            for sample in family.samples:
                place = (sample.labels[names.LABEL_MODEL], int(sample.labels[names.LABEL_RUNG]))
                counts = found.setdefault(place, {})
                counts[_FIELDS[family.name]] = counts.get(_FIELDS[family.name], 0.0) + sample.value
        whole = {place: counts for place, counts in found.items() if counts.keys() >= _NEEDED}
        return GatewayCounts(gateway, {place: _load(place, counts) for place, counts in whole.items()})
    except (ValueError, KeyError, OverflowError) as error:
        return GatewayCounts(gateway, problem=f"its metrics cannot be read: {error}")


def _load(place: Place, counts: Mapping[str, float]) -> RungLoad:
    """Raises: ValueError, OverflowError: a count is no number."""
    num_degraded = counts.get("num_degraded", 0.0)
    if not math.isfinite(num_degraded):
        raise ValueError(f"{names.RUNG_DEGRADED_REQUESTS} is {num_degraded}")
    return RungLoad(
        served_model=place[0],
        rung=place[1],
        num_held=int(counts["num_held"]),
        num_queued=int(counts["num_queued"]),
        num_in_flight=int(counts["num_in_flight"]),
        num_degraded=num_degraded,
    )


def counts_of(loads: Iterable[RungLoad], *, gateway: str) -> GatewayCounts:
    """The counts that this gateway has of itself."""
    return GatewayCounts(gateway, {(load.served_model, load.rung): load for load in loads})


@dataclass(frozen=True)
class PoolLoad:
    """What one rung has to do, over all gateways. `problem` says what is missing from it; "" where nothing is."""

    num_queued: int
    num_in_flight: int
    num_degraded: float
    attainment: float | None
    problem: str


def pool_load(place: Place, gateways: Iterable[GatewayCounts]) -> PoolLoad:
    """The sum for one rung: what is held counts as queued. The share of kept promises is the least that was told."""
    num_queued, num_in_flight, num_degraded = 0, 0, 0.0
    attainments: list[float] = []
    problems: list[str] = []
    for counts in gateways:
        load = counts.loads.get(place)
        if load is None:
            problems.append(f"{counts.gateway}: {counts.problem or 'it tells nothing of this rung'}")
            continue
        num_queued += load.num_held + load.num_queued
        num_in_flight += load.num_in_flight
        num_degraded += load.num_degraded
        if load.attainment is not None:
            attainments.append(load.attainment)
    return PoolLoad(num_queued, num_in_flight, num_degraded, min(attainments, default=None), "; ".join(problems[:3]))
