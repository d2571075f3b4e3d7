from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lightship.gateway.routing.config import BreakerConfig, OutlierConfig, RoutingConfig, routing_problems


def test_routing_config_defaults_are_sound() -> None:
    assert list(routing_problems(RoutingConfig())) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"load_gate_s": 0}, "load_gate_s: must be above 0"),
        ({"load_gate_ratio": 0.9}, "load_gate_ratio: must be at least 1"),
        ({"min_prefix_share": 1.1}, "min_prefix_share: must be within 0 and 1"),
        ({"imbalance_discount": -0.1}, "imbalance_discount: must be within"),
        ({"output_quantile": 1}, "output_quantile: must be between"),
        ({"hedge_min_delay_s": -1}, "hedge_min_delay_s: must be at least 0"),
        ({"prefix_block_bytes": 8}, "prefix_block_bytes: must be at least 16"),
        ({"prefix_capacity": 100}, "prefix_capacity: must be at least max_prefix_blocks (128)"),
        ({"session_capacity": 0}, "session_capacity: must be at least 1"),
        ({"decode_tokens_per_s": float("inf")}, "decode_tokens_per_s: must be above 0 and finite"),
        ({"breaker": BreakerConfig(failures_in_a_row=0)}, "breaker.failures_in_a_row: must be at least 1"),
        ({"breaker": BreakerConfig(error_share=0)}, "breaker.error_share: must be above 0"),
        ({"breaker": BreakerConfig(window_s=0)}, "breaker.window_s: must be above 0"),
        ({"breaker": BreakerConfig(first_pause_s=9, longest_pause_s=8)}, "breaker.longest_pause_s: must be finite and"),
        ({"outliers": OutlierConfig(max_ejected_share=2)}, "outliers.max_ejected_share: must be within"),
        ({"outliers": OutlierConfig(error_share_above_peers=0)}, "outliers.error_share_above_peers: must be above"),
        ({"outliers": OutlierConfig(slow_factor=1)}, "outliers.slow_factor: must be above 1"),
        ({"outliers": OutlierConfig(min_attempts=0)}, "outliers.min_attempts: must be at least 1"),
        ({"outliers": OutlierConfig(interval_s=0)}, "outliers.interval_s: must be above 0"),
        ({"outliers": OutlierConfig(longest_ejection_s=1)}, "outliers.longest_ejection_s: must be finite and at least"),
    ],
)
def test_routing_config_wrong_value_is_named(changes: dict[str, Any], expected: str) -> None:
    problems = list(routing_problems(msgspec.structs.replace(RoutingConfig(), **changes)))
    assert len(problems) == 1
    assert problems[0].startswith(expected)
