"""Counters and histograms for a hot path of one event loop: plain numbers, read when somebody asks.

prometheus_client's own take a lock for every count, which is a tenth of a gateway's time per request; here nobody else
writes. Its registry and exposition read these through `collect`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class CountTable(Collector):
    """One counter for each combination of label values that was seen.

    Concurrency: one thread counts.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._counts: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def add(self, *values: str, by: float = 1) -> None:
        """Counts one (or `by`) under these label values."""
        self._counts[values] = self._counts.get(values, 0) + by

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in self._counts.items():
            family.add_metric(values, count)
        yield family


class TimeHistogram(Collector):
    """Seconds, counted in buckets. Concurrency: one thread counts."""

    def __init__(self, name: str, text: str, buckets_s: Sequence[float], *, registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._bounds_s = tuple(buckets_s)
        self._counts = [0] * (len(self._bounds_s) + 1)
        self._sum_s = 0.0
        registry.register(self)

    def observe(self, duration_s: float) -> None:
        """Counts one duration; a bucket holds what is at most its bound."""
        self._counts[bisect_left(self._bounds_s, duration_s)] += 1
        self._sum_s += duration_s

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*map(floatToGoString, self._bounds_s), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        yield HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum_s)
