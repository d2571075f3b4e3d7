"""What all gateways have under way: each one's counts read from its metrics, and added up.

A count that is missing is not a zero: a sum without it is marked as incomplete, and nothing is decided by it.
"""

from __future__ import annotations

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
}


@dataclass(frozen=True)
class GatewayCounts:
    """One gateway's counts by (served model, rung); `problem` says why there are none."""

    gateway: str
    loads: Mapping[Place, RungLoad] = field(default_factory=dict)
    problem: str = ""


def counts_in(exposition: bytes, *, gateway: str) -> GatewayCounts:
    """The counts in a gateway's metrics. Only rungs of which all three are told are in the result."""
    found: dict[Place, dict[str, int]] = {}
    try:
        for family in text_string_to_metric_families(exposition.decode("utf-8")):
            if family.name not in _FIELDS:
                continue
            for sample in family.samples:
                place = (sample.labels[names.LABEL_MODEL], int(sample.labels[names.LABEL_RUNG]))
                counts = found.setdefault(place, {})
                counts[_FIELDS[family.name]] = counts.get(_FIELDS[family.name], 0) + int(sample.value)
    except (ValueError, KeyError, OverflowError) as error:
        return GatewayCounts(gateway, problem=f"its metrics cannot be read: {error}")
    return GatewayCounts(
        gateway,
        {
            place: RungLoad(served_model=place[0], rung=place[1], **counts)
            for place, counts in found.items()
            if len(counts) == len(_FIELDS)
        },
    )


def counts_of(loads: Iterable[RungLoad], *, gateway: str) -> GatewayCounts:
    """The counts that this gateway has of itself."""
    return GatewayCounts(gateway, {(load.served_model, load.rung): load for load in loads})


@dataclass(frozen=True)
class PoolLoad:
    """What one rung has to do, over all gateways. `problem` says what is missing from it; "" where nothing is."""

    num_queued: int
    num_in_flight: int
    attainment: float | None
    problem: str


def pool_load(place: Place, gateways: Iterable[GatewayCounts]) -> PoolLoad:
    """The sum for one rung: what is held counts as queued. The share of kept promises is the least that was told."""
    num_queued = num_in_flight = 0
    attainments: list[float] = []
    problems: list[str] = []
    for counts in gateways:
        load = counts.loads.get(place)
        if load is None:
            problems.append(f"{counts.gateway}: {counts.problem or 'it tells nothing of this rung'}")
            continue
        num_queued += load.num_held + load.num_queued
        num_in_flight += load.num_in_flight
        if load.attainment is not None:
            attainments.append(load.attainment)
    return PoolLoad(num_queued, num_in_flight, min(attainments, default=None), "; ".join(problems[:3]))
