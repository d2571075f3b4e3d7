"""Metrics of several processes as one exposition. Pure, but for reading a registry.

Why not prometheus_client's multiprocess mode: it keeps every value in a memory-mapped file per process, so that each
count is a write to a file, gauges cannot read what they show at the time of the scrape, and files are left behind. Here
the parent asks its workers when somebody scrapes, and keeps the counts of those that are gone.

Counters and histograms add up. Gauges do too, unless `observability.names` says that they are one fact seen by each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from lightship.observability.names import GAUGES_MERGED_BY_MAX, GAUGES_MERGED_BY_MIN

# What outlives the process that counted it.
_CUMULATIVE_KINDS = frozenset({"counter", "histogram", "summary"})
_CREATED = "_created"


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One value; `labels` are pairs in the order of their names."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """All values of one metric."""

    name: str
    kind: str
    text: str
    samples: tuple[Sample, ...]


Snapshot = tuple[Family, ...]


def snapshot(registry: CollectorRegistry) -> Snapshot:
    """Everything the registry counts, at this moment."""
    return tuple(
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            tuple(Sample(one.name, tuple(sorted(one.labels.items())), one.value) for one in metric.samples),
        )
        for metric in registry.collect()
    )


def cumulative(taken: Snapshot) -> Snapshot:
    """What stays true when the process is gone: its counts, not its gauges."""
    return tuple(family for family in taken if family.kind in _CUMULATIVE_KINDS)


def merged(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot of all, metrics and series in the order in which they first appear.

    >>> def requests(count: float) -> Snapshot:
    ...     return (Family("requests", "counter", "", (Sample("requests_total", (), count),)),)
    >>> merged([requests(2), requests(3)])[0].samples[0].value
    5.0
    """
    firsts: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for taken in snapshots:
        for family in taken:
            first = firsts.setdefault(family.name, family)
            series = values.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, sample.labels)
                join = _rule(first, sample.name)
                series[key] = join(series[key], sample.value) if key in series else float(sample.value)
    return tuple(
        Family(name, first.kind, first.text, tuple(Sample(*key, value) for key, value in values[name].items()))
        for name, first in firsts.items()
    )


def exposition(taken: Snapshot) -> bytes:
    """The snapshot in Prometheus' text format."""
    return generate_latest(_Shown(taken))


def _rule(family: Family, sample_name: str) -> Callable[[float, float], float]:
    if sample_name == family.name + _CREATED or family.name in GAUGES_MERGED_BY_MIN:
        return min
    if family.name in GAUGES_MERGED_BY_MAX:
        return max
    return _add


def _add(one: float, other: float) -> float:
    return one + other


class _Shown(Collector):
    """A snapshot as prometheus_client wants to read one."""

    def __init__(self, taken: Sequence[Family]) -> None:
        self._taken = taken

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        for family in self._taken:
            metric = Metric(family.name, family.text, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, dict(sample.labels), sample.value)
            yield metric
