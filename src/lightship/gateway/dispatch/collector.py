"""Admission's metrics, read from the dispatcher whenever somebody asks: nothing is kept twice."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lightship.gateway.dispatch.dispatcher import Dispatcher
from lightship.observability import names
from lightship.ports.clock import Clock


class DispatchCollector(Collector):
    """What one dispatcher has to tell."""

    def __init__(self, dispatcher: Dispatcher, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        yield GaugeMetricFamily(names.QUEUED, "Requests that wait for their turn.", self._dispatcher.num_waiting)
        load = GaugeMetricFamily(names.DEVICE_LOAD, "Share of a device in use.", labels=[names.LABEL_DEVICE])
        scale = GaugeMetricFamily(
            names.DEVICE_LIMIT_SCALE,
            "Concurrency allowed in relation to the measured one.",
            labels=[names.LABEL_DEVICE],
        )
        for name, device in self._dispatcher.devices.items():
            load.add_metric([name], device.load)
            scale.add_metric([name], device.scale)
        yield load
        yield scale
        yield from self._ladders()

    def _ladders(self) -> Iterator[Metric]:
        level = GaugeMetricFamily(
            names.LADDER_LEVEL, "Rung that new requests are sent to; 0 is the top.", labels=[names.LABEL_MODEL]
        )
        left = GaugeMetricFamily(
            names.QUALITY_BUDGET_LEFT, "Share of the quality budget that is left.", labels=[names.LABEL_MODEL]
        )
        in_flight = GaugeMetricFamily(
            names.RUNG_IN_FLIGHT, "Requests under way on a rung.", labels=[names.LABEL_MODEL, names.LABEL_VARIANT]
        )
        now_s = self._clock.monotonic_s()
        for model, ladder in self._dispatcher.ladders.items():
            level.add_metric([model], ladder.level_rung)
            if ladder.budget is not None:
                left.add_metric([model], ladder.budget.left_share(now_s))
            for place in ladder.places:
                in_flight.add_metric([model, place.facts.variant_name], place.num_in_flight)
        yield level
        yield left
        yield in_flight
