"""Activation's metrics, read whenever somebody asks: how each rung stands, and what waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lightship.gateway.activation.holding import HeldEngine
from lightship.observability import names
from lightship.ports.replica_control import ReplicaPhase, RungLoad

_LABELS = [names.LABEL_MODEL, names.LABEL_RUNG]


class ActivationCollector(Collector):
    """What the holding layer has to tell, and the loads that decide about replicas.

    Each rung has an explicit 0, so that whoever scales by them can tell idle from absent.
    """

    def __init__(self, held: HeldEngine, loads: Callable[[], Sequence[RungLoad]]) -> None:
        self._held = held
        self._loads = loads

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        loads = self._loads()
        yield self._gauge(names.RUNG_HELD_REQUESTS, "Requests that wait for a rung to wake.", loads, "num_held")
        yield self._gauge(
            names.RUNG_QUEUED_REQUESTS, "Requests that wait for room, by asked rung.", loads, "num_queued"
        )
        yield self._gauge(names.RUNG_IN_FLIGHT_REQUESTS, "Attempts under way on a rung.", loads, "num_in_flight")
        yield self._gauge(
            names.RUNG_DEGRADED_REQUESTS,
            "Requests under way on lower rungs for want of room on this one, in requests of its own speed.",
            loads,
            "num_degraded",
        )
        demand = GaugeMetricFamily(
            names.RUNG_DEMAND,
            "Held, queued and under way: what an autoscaler divides by what one replica takes.",
            labels=_LABELS,
        )
        full = GaugeMetricFamily(
            names.RUNG_FULL_DEMAND,
            "With those on lower rungs for want of room here: the same where replicas come before lower rungs.",
            labels=_LABELS,
        )
        for load in loads:
            labels, total = [load.served_model, str(load.rung)], load.num_held + load.num_queued + load.num_in_flight
            demand.add_metric(labels, float(total))
            full.add_metric(labels, total + load.num_degraded)
        yield demand
        yield full
        phase = GaugeMetricFamily(
            names.RUNG_PHASE, "1 for the phase a rung is in.", labels=[*_LABELS, names.LABEL_PHASE]
        )
        for load in loads:
            now = self._held.control.status(load.served_model, load.rung).phase
            for one in ReplicaPhase:
                phase.add_metric([load.served_model, str(load.rung), one.value], float(one is now))
        yield phase
        released = CounterMetricFamily(
            names.HELD_REQUESTS, "Requests that were held, by what became of them.", labels=[names.LABEL_RESULT]
        )
        released.add_metric(["released"], self._held.num_released)
        released.add_metric(["expired"], self._held.num_expired)
        yield released

    @staticmethod
    def _gauge(name: str, text: str, loads: Sequence[RungLoad], field: str) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, text, labels=_LABELS)
        for load in loads:
            family.add_metric([load.served_model, str(load.rung)], float(getattr(load, field)))
        return family
