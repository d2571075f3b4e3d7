"""The controller's metrics, read from it whenever somebody asks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lightship.gateway.cluster.controller import ClusterController
from lightship.gateway.cluster.decisions import Effect
from lightship.observability import names
from lightship.ports.clock import Clock
from lightship.ports.replica_control import ReplicaPhase

_PHASES = (ReplicaPhase.READY, ReplicaPhase.STARTING, ReplicaPhase.DRAINING, ReplicaPhase.FAILED)
_FROZEN = frozenset({Effect.FROZEN, Effect.FAILED, Effect.LEFT_TO_OTHERS})


class ClusterCollector(Collector):
    """What one controller has to tell. Labels: configured models and rungs, phases, words of closed lists."""

    def __init__(self, controller: ClusterController, clock: Clock) -> None:
        self._controller = controller
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        controller = self._controller
        yield GaugeMetricFamily(
            names.CLUSTER_LEADER, "1 while this gateway decides on replicas.", float(controller.election.is_leader)
        )
        silent_s = controller.pods.silent_s(self._clock.monotonic_s())
        yield GaugeMetricFamily(
            names.CLUSTER_DATA_AGE,
            "Seconds for which changes of Pods may have been missed; -1 before they were read.",
            -1.0 if math.isinf(silent_s) else silent_s,
        )
        yield from self._pools()
        scalings = CounterMetricFamily(
            names.CLUSTER_SCALINGS,
            "Times that a rung's replicas were changed, by reason.",
            labels=[names.LABEL_MODEL, names.LABEL_RUNG, names.LABEL_REASON],
        )
        for (model, rung, reason), count in controller.decisions.num_scalings.items():
            scalings.add_metric([model, str(rung), reason], count)
        yield scalings
        errors = CounterMetricFamily(
            names.CLUSTER_API_ERRORS, "Calls to the API server that failed, by reason.", labels=[names.LABEL_REASON]
        )
        for word, count in controller.num_errors.items():
            errors.add_metric([word], count)
        yield errors

    def _pools(self) -> Iterator[Metric]:
        controller = self._controller
        replicas = GaugeMetricFamily(
            names.CLUSTER_REPLICAS,
            "Replicas of a rung by phase; `wanted` is what the leader sees asked for.",
            labels=[names.LABEL_MODEL, names.LABEL_RUNG, names.LABEL_PHASE],
        )
        frozen = GaugeMetricFamily(
            names.CLUSTER_FROZEN,
            "1 while the leader's decisions on a rung have no effect.",
            labels=[names.LABEL_MODEL, names.LABEL_RUNG],
        )
        for (model, rung), scaler in controller.scalers.items():
            counts = Counter(state.phase for state in controller.pod_states(model, rung))
            for phase in _PHASES:
                replicas.add_metric([model, str(rung), phase.value], counts[phase])
            if scaler.asked_replicas is not None:
                replicas.add_metric([model, str(rung), "wanted"], scaler.asked_replicas)
            last = controller.decisions.last(scaler.pool.deployment)
            is_frozen = bool(scaler.problem) or (last is not None and last.effect in _FROZEN)
            frozen.add_metric([model, str(rung)], float(controller.election.is_leader and is_frozen))
        yield replicas
        yield frozen
