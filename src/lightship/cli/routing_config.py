"""From a spec to the configuration of the gateway's routing: pure."""

from __future__ import annotations

from lightship.gateway.routing.config import BreakerConfig, Hedging, OutlierConfig, RoutingConfig
from lightship.spec.replica_routing import ReplicaRoutingSpec

_HEDGING = {"never": Hedging.OFF, "deterministic": Hedging.DETERMINISTIC, "all": Hedging.ALL}


def routing_config(routing: ReplicaRoutingSpec) -> RoutingConfig:
    """How the replicas of a rung share its requests."""
    breaker, outliers = routing.breaker, routing.outliers
    return RoutingConfig(
        load_gate_s=routing.load_gate_s,
        shares_prefixes=routing.share_prefixes,
        reads_engine_metrics=routing.engine_metrics,
        hedging=_HEDGING[routing.hedging],
        breaker=BreakerConfig(
            failures_in_a_row=breaker.failures,
            first_pause_s=breaker.first_pause_s,
            longest_pause_s=breaker.longest_pause_s,
        ),
        outliers=OutlierConfig(
            max_ejected_share=outliers.max_ejected_share,
            slow_factor=outliers.slow_factor,
            ejection_s=outliers.ejection_s,
        ),
    )
