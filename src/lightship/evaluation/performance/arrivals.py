"""When requests arrive in an open loop. Pure: the seed decides, time plays no part.

    constant   | . . . . . . . . |     equal gaps
    poisson    | .. .   . ... .  |     independent users; gamma gaps where `burstiness` is not 1
    burst      | ....    ....    |     so many at once, again and again
    ramp       | .   .  . . .....|     independent users who become more (or fewer)

Replays of recorded traces are made in `traces`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from lightship.errors import MeasurementError

# Arrivals of one run. A list of more is a slip of the keyboard (a rate in milliseconds), and would fill the memory.
MAX_ARRIVALS = 2_000_000


class Arrivals(Protocol):
    """A pattern of arrivals; `name` is for protocol names and says all of it but seed and duration."""

    @property
    def name(self) -> str:
        """For example `poisson/r10`."""
        ...

    def offsets_s(self, *, duration_s: float, seed: int) -> tuple[float, ...]:
        """Ascending offsets in seconds from the start, all in 0 <= offset < `duration_s`.

        Raises: MeasurementError: the duration makes no sense, or gives none or over two million arrivals.
        """
        ...


@dataclass(frozen=True)
class ConstantArrivals:
    """Equal gaps, the first arrival after half a gap."""

    requests_per_s: float

    def __post_init__(self) -> None:
        _require_rate("the request rate", self.requests_per_s)

    @property
    def name(self) -> str:
        """See `Arrivals`."""
        return f"constant/r{self.requests_per_s:g}"

    def offsets_s(self, *, duration_s: float, seed: int) -> tuple[float, ...]:
        """See `Arrivals`; the seed plays no part."""
        del seed
        _require_duration(duration_s)
        count = math.ceil(duration_s * self.requests_per_s - 0.5)
        _require_bounded(count)
        return _checked(((index + 0.5) / self.requests_per_s for index in range(count)), duration_s)


@dataclass(frozen=True)
class PoissonArrivals:
    """Independent gaps with the mean 1 / rate.

    Args:
        requests_per_s: Mean rate.
        burstiness: Shape of the gamma distribution of gaps; their coefficient of variation is 1 / sqrt(burstiness).
            1 is a Poisson process, less comes in clumps, more comes evenly. The word and its sense are vLLM's.
    """

    requests_per_s: float
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        _require_rate("the request rate", self.requests_per_s)
        _require_rate("burstiness", self.burstiness)

    @property
    def name(self) -> str:
        """See `Arrivals`."""
        if self.burstiness == 1:
            return f"poisson/r{self.requests_per_s:g}"
        return f"gamma{self.burstiness:g}/r{self.requests_per_s:g}"

    def offsets_s(self, *, duration_s: float, seed: int) -> tuple[float, ...]:
        """See `Arrivals`."""
        _require_duration(duration_s)
        _require_bounded(duration_s * self.requests_per_s)
        return _checked(self._offsets(random.Random(seed)), duration_s)

    def _offsets(self, rng: random.Random) -> Iterator[float]:
        offset_s = 0.0
        scale_s = 1 / (self.requests_per_s * self.burstiness)
        while True:
            if self.burstiness == 1:
                offset_s += rng.expovariate(self.requests_per_s)
            else:
                offset_s += rng.gammavariate(self.burstiness, scale_s)
            yield offset_s


@dataclass(frozen=True)
class BurstArrivals:
    """`num_requests` at once every `every_s` seconds, the first burst after half of that."""

    num_requests: int
    every_s: float

    def __post_init__(self) -> None:
        if self.num_requests < 1:
            raise MeasurementError(f"a burst has at least one request, got {self.num_requests}")
        _require_rate("the time between bursts", self.every_s)

    @property
    def name(self) -> str:
        """See `Arrivals`."""
        return f"burst{self.num_requests}/r{self.num_requests / self.every_s:g}"

    def offsets_s(self, *, duration_s: float, seed: int) -> tuple[float, ...]:
        """See `Arrivals`; the seed plays no part."""
        del seed
        _require_duration(duration_s)
        num_bursts = math.ceil(duration_s / self.every_s - 0.5)
        _require_bounded(num_bursts * self.num_requests)
        times = ((index + 0.5) * self.every_s for index in range(num_bursts) for _ in range(self.num_requests))
        return _checked(times, duration_s)


@dataclass(frozen=True)
class RampArrivals:
    """A Poisson process whose rate goes in a straight line from one value to another over the duration.

    Drawn by inversion: unit-rate arrivals u are mapped by the t that solves

        from_per_s * t + (to_per_s - from_per_s) * t^2 / (2 * duration) = u
    """

    from_per_s: float
    to_per_s: float

    def __post_init__(self) -> None:
        for name, value in (("the rate at the start", self.from_per_s), ("the rate at the end", self.to_per_s)):
            if not (math.isfinite(value) and value >= 0):
                raise MeasurementError(f"{name} must be >= 0, got {value:g}")
        if self.from_per_s == self.to_per_s == 0:
            raise MeasurementError("a ramp from 0 to 0 requests per second has no requests")

    @property
    def name(self) -> str:
        """See `Arrivals`."""
        return f"ramp/r{self.from_per_s:g}-{self.to_per_s:g}"

    def offsets_s(self, *, duration_s: float, seed: int) -> tuple[float, ...]:
        """See `Arrivals`."""
        _require_duration(duration_s)
        total = (self.from_per_s + self.to_per_s) / 2 * duration_s
        _require_bounded(total)
        return _checked(self._offsets(random.Random(seed), duration_s, total), duration_s)

    def _offsets(self, rng: random.Random, duration_s: float, total: float) -> Iterator[float]:
        unit = rng.expovariate(1.0)
        slope = (self.to_per_s - self.from_per_s) / duration_s
        while unit < total:
            # the root of the quadratic in the form that does not cancel for small slopes
            root = math.sqrt(max(0.0, self.from_per_s**2 + 2 * slope * unit))
            yield min(2 * unit / (self.from_per_s + root), math.nextafter(duration_s, 0))
            unit += rng.expovariate(1.0)


def _checked(offsets: Iterator[float], duration_s: float) -> tuple[float, ...]:
    found: list[float] = []
    for offset_s in offsets:
        if offset_s >= duration_s:
            break
        found.append(offset_s)
        _require_bounded(len(found))
    if not found:
        raise MeasurementError(
            f"no request arrives within {duration_s:g} s", hint="Raise the request rate or the duration."
        )
    return tuple(found)


def _require_rate(what: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise MeasurementError(f"{what} must be a number above 0, got {value:g}")


def _require_duration(duration_s: float) -> None:
    _require_rate("the duration", duration_s)


def _require_bounded(count: float) -> None:
    if count > MAX_ARRIVALS:
        raise MeasurementError(
            f"about {count:.0f} requests in one run (at most {MAX_ARRIVALS})", hint="Lower the rate or the duration."
        )
