from __future__ import annotations

from lightship.cli.routing_config import routing_config
from lightship.gateway.routing.config import BreakerConfig, Hedging, OutlierConfig, RoutingConfig, routing_problems
from lightship.spec.replica_routing import BreakerSpec, OutliersSpec, ReplicaRoutingSpec


def test_routing_config_of_an_empty_section_is_the_default() -> None:
    assert routing_config(ReplicaRoutingSpec()) == RoutingConfig()


def test_routing_config_takes_over_every_setting() -> None:
    spec = ReplicaRoutingSpec(
        load_gate_s=1.5,
        share_prefixes=True,
        engine_metrics=False,
        hedging="deterministic",
        breaker=BreakerSpec(failures=2, first_pause_s=3, longest_pause_s=4),
        outliers=OutliersSpec(max_ejected_share=0.25, slow_factor=5, ejection_s=6),
    )
    assert routing_config(spec) == RoutingConfig(
        load_gate_s=1.5,
        shares_prefixes=True,
        reads_engine_metrics=False,
        hedging=Hedging.DETERMINISTIC,
        breaker=BreakerConfig(failures_in_a_row=2, first_pause_s=3, longest_pause_s=4),
        outliers=OutlierConfig(max_ejected_share=0.25, slow_factor=5, ejection_s=6),
    )


def test_routing_config_extremes_of_the_spec_are_sound() -> None:
    most = ReplicaRoutingSpec(
        load_gate_s=600,
        breaker=BreakerSpec(failures=1000, first_pause_s=3600, longest_pause_s=3600),
        outliers=OutliersSpec(max_ejected_share=1, slow_factor=1000, ejection_s=300),
    )
    assert list(routing_problems(routing_config(most))) == []
