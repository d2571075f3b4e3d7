"""Routing's metrics, read from a pool whenever somebody asks: nothing is kept twice, and replicas may come and go."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lightship.gateway.routing.breaker import Phase
from lightship.gateway.routing.pool import ReplicaPool
from lightship.gateway.routing.replica import Replica
from lightship.observability import names

_PHASES = {Phase.CLOSED: 0.0, Phase.HALF_OPEN: 1.0, Phase.OPEN: 2.0}


class RoutingCollector(Collector):
    """What one pool has to tell."""

    def __init__(self, pool: ReplicaPool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        now_s = self._pool.clock.monotonic_s()
        yield self._gauge(names.IN_FLIGHT, "Attempts under way.", lambda replica: replica.state.num_in_flight)
        yield self._gauge(names.REPLICA_UP, "1 when a replica is ready.", lambda replica: replica.state.is_ready)
        yield self._gauge(
            names.REPLICA_WORK, "Seconds of work in flight on a replica's device.", lambda replica: replica.state.work_s
        )
        yield self._gauge(
            names.BREAKER_STATE,
            "State of a replica's breaker: 0 closed, 1 half-open, 2 open.",
            lambda replica: _PHASES[replica.breaker.phase],
        )
        yield self._gauge(
            names.REPLICA_EJECTED,
            "1 while a replica is taken out because it does worse than its peers.",
            lambda replica: replica.ejected_until_s > now_s,
        )
        yield from self._counters()

    def _gauge(self, name: str, text: str, value_of: Callable[[Replica], float]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, text, labels=[names.LABEL_REPLICA])
        for replica in self._pool:
            family.add_metric([replica.config.name], float(value_of(replica)))
        return family

    def _counters(self) -> Iterator[Metric]:
        counts = self._pool.counts
        picks = CounterMetricFamily(names.ROUTING_PICKS, "Choices of a replica by reason.", labels=[names.LABEL_REASON])
        for reason, count in counts.picks.items():
            picks.add_metric([reason.value], count)
        yield picks
        ejections = CounterMetricFamily(
            names.EJECTIONS, "Ejections of replicas by reason.", labels=[names.LABEL_REPLICA, names.LABEL_REASON]
        )
        for (replica, ejection), count in counts.ejections.items():
            ejections.add_metric([replica, ejection.value], count)
        yield ejections
        hedges = CounterMetricFamily(
            names.HEDGES, "Second attempts at late requests by whether they won.", labels=[names.LABEL_RESULT]
        )
        for result, count in counts.hedges.items():
            hedges.add_metric([result], count)
        yield hedges
        blocks = CounterMetricFamily(
            names.PREFIX_BLOCKS,
            "Blocks of prompts by whether the chosen replica knew them.",
            labels=[names.LABEL_RESULT],
        )
        blocks.add_metric(["known"], counts.num_known_blocks)
        blocks.add_metric(["unknown"], counts.num_blocks - counts.num_known_blocks)
        yield blocks
