"""The newest measurement of each kind and load of each (variant, target) pair, closed and open loops apart. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from lightship.ports.measurements import Measurement, Metric, Target

# Key of a measurement's details that says it comes from an open loop, in requests/s.
OFFERED_RATE = "offered_requests_per_s"

COST_METRICS = frozenset(
    {
        Metric.COST_USD_PER_1M_OUTPUT_TOKENS,
        Metric.COST_USD_PER_1M_GOOD_TOKENS,
        Metric.PROMPT_PHASE_USD_PER_1M_INPUT_TOKENS,
        Metric.GENERATION_PHASE_USD_PER_1M_OUTPUT_TOKENS,
    }
)
# What a cost may be based on, as its protocol names it.
_COST_BASES = ("allocation", "usage")


def cost_basis(one: Measurement) -> str:
    """The basis of a cost, or the whole protocol where it names none; "" for every other figure.

    A cost is one figure on each basis, so that the newest on one does not hide the other.
    """
    if one.metric not in COST_METRICS:
        return ""
    words = one.protocol.replace("=", "/").split("/")
    return next((basis for basis in _COST_BASES if basis in words), one.protocol)


@dataclass(frozen=True)
class OpenLoopEntry:
    """One variant's newest figures at one offered rate."""

    offered_requests_per_s: float
    figures: tuple[Measurement, ...]

    def figure(self, metric: Metric) -> Measurement | None:
        """The figure of that kind, or None."""
        return next((one for one in self.figures if one.metric is metric), None)


class NewestFigures:
    """The newest measurement of each kind of each pair, closed and open loops apart.

    An open loop has no concurrency; mixed together, the two would hide each other. The rate that was offered is itself
    measured and differs from run to run, so that a later run replaces an earlier one where the protocol agrees: it
    names the rate that was planned.
    """

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self._closed: dict[tuple[str, bytes], dict[tuple[Metric, int, str], Measurement]] = {}
        self._open: dict[tuple[str, bytes], dict[tuple[str, Metric], Measurement]] = {}
        for one in sorted(measurements, key=lambda one: one.measured_unix_s):
            key = self._key(one.variant_digest, one.target)
            if OFFERED_RATE in one.details:
                self._open.setdefault(key, {})[one.protocol, one.metric] = one
            else:
                self._closed.setdefault(key, {})[one.metric, one.concurrency, cost_basis(one)] = one

    def closed_loop(self, digest: str, target: Target) -> tuple[Measurement, ...]:
        """By metric and concurrency."""
        found = self._closed.get(self._key(digest, target), {})
        return tuple(found[key] for key in sorted(found))

    def open_loop(self, digest: str, target: Target) -> tuple[OpenLoopEntry, ...]:
        """By offered rate."""
        by_rate: dict[float, list[Measurement]] = {}
        for _, one in sorted(self._open.get(self._key(digest, target), {}).items()):
            by_rate.setdefault(one.details[OFFERED_RATE], []).append(one)
        return tuple(
            OpenLoopEntry(rate, tuple(sorted(found, key=lambda one: one.metric)))
            for rate, found in sorted(by_rate.items())
        )

    @staticmethod
    def _key(digest: str, target: Target) -> tuple[str, bytes]:
        return digest, msgspec.json.encode(target, order="deterministic")
