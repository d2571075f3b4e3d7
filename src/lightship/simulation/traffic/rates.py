"""How many requests per second come at a time of the simulation. Pure."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from lightship.simulation.checks import mean_requests_per_s
from lightship.simulation.scenario import Burst, TrafficSpec

_DAY_S = 86_400.0
_HOUR_S = 3600.0


@dataclass(frozen=True)
class RateCurve:
    """The rate of one region's traffic.

    Args:
        mean_per_s: Over a day, without bursts.
        hourly: 24 factors with a mean of 1; () is flat.
        peak_factor: Of a sine over the day, where there are no hours.
        peak_hour: When it is highest, on the region's clock.
        utc_offset_h: Of that clock.
        bursts: Known and drawn.
    """

    mean_per_s: float
    hourly: tuple[float, ...] = ()
    peak_factor: float = 1.0
    peak_hour: float = 15.0
    utc_offset_h: float = 0.0
    bursts: tuple[Burst, ...] = ()

    def at(self, now_s: float) -> float:
        """Requests per second."""
        hour = (now_s / _HOUR_S + self.utc_offset_h) % 24
        rate = self.mean_per_s
        if self.hourly:
            # straight lines between the middles of the hours: no steps, and nearly the same sums
            position = (hour - 0.5) % 24
            before = int(position)
            share = position - before
            rate *= self.hourly[before] * (1 - share) + self.hourly[(before + 1) % 24] * share
        elif self.peak_factor != 1:
            rate *= 1 + (self.peak_factor - 1) * math.cos(2 * math.pi * (hour - self.peak_hour) / 24)
        for burst in self.bursts:
            if burst.at_s <= now_s < burst.at_s + burst.duration_s:
                rate *= _burst_factor(burst, now_s - burst.at_s)
        return rate


def _burst_factor(burst: Burst, passed_s: float) -> float:
    if not burst.ramp_s:
        return burst.factor
    share = min(1.0, passed_s / burst.ramp_s, (burst.duration_s - passed_s) / burst.ramp_s)
    return 1 + (burst.factor - 1) * share


def curve_of(traffic: TrafficSpec, *, duration_s: float, seed: str) -> RateCurve | None:
    """The curve of a region's traffic, its random bursts drawn; None where it replays a trace."""
    mean = mean_requests_per_s(traffic)
    if mean is None:
        return None
    total = sum(traffic.hourly)
    return RateCurve(
        mean_per_s=mean,
        hourly=tuple(24 * weight / total for weight in traffic.hourly),
        peak_factor=traffic.peak_factor or 1.0,
        peak_hour=traffic.peak_hour,
        utc_offset_h=traffic.utc_offset_h,
        bursts=(*traffic.bursts, *_drawn_bursts(traffic, duration_s, seed)),
    )


def _drawn_bursts(traffic: TrafficSpec, duration_s: float, seed: str) -> list[Burst]:
    spec = traffic.random_bursts
    found: list[Burst] = []
    if spec is None:
        return found
    rng, at_s = random.Random(f"{seed}/bursts"), 0.0
    while True:
        at_s += rng.expovariate(spec.per_day / _DAY_S)
        if at_s >= duration_s:
            return found
        found.append(Burst(at_s=at_s, duration_s=spec.duration_s, factor=spec.factor))
