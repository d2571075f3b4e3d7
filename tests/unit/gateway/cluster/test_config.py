"""The section itself: what is refused, and that it survives JSON."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.gateway.cluster.harness import CONFIG, POOL

from lightship.gateway.cluster.config import ClusterConfig, cluster_problems
from lightship.scaling.records import ScalePolicy


def test_cluster_config_survives_json_and_refuses_unknown_keys() -> None:
    assert list(cluster_problems(CONFIG)) == []
    encoded = msgspec.json.encode(CONFIG)
    assert msgspec.json.decode(encoded, type=ClusterConfig) == CONFIG
    with pytest.raises(msgspec.ValidationError, match="unknown field `leases`"):
        msgspec.json.decode(encoded.replace(b'"lease_name"', b'"leases"'), type=ClusterConfig)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"pools": ()}, "pools: must name at least one"),
        ({"gateway_selector": {}}, "gateway_selector: must name the labels"),
        ({"interval_s": 0.0}, "interval_s: must be above 0"),
        ({"renew_deadline_s": 15.0}, "renew_deadline_s: must be above 1.2 x retry_period_s and below lease_duration_s"),
        ({"lease_duration_s": 15.5}, "lease_duration_s: must be whole seconds"),
        ({"lease_name": "Scaler"}, "lease_name: must be a name of RFC 1123, got 'Scaler'"),
        ({"gateway_port": 0}, "gateway_port: must be within 1 and 65535"),
        ({"pools": (POOL, POOL)}, "pools: qwen has rung 0 twice"),
    ],
)
def test_cluster_problems_of_the_section_name_the_key(changes: dict[str, Any], problem: str) -> None:
    assert problem in " | ".join(cluster_problems(msgspec.structs.replace(CONFIG, **changes)))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"selector": {}}, "pools[0].selector: must name at least one label"),
        ({"port": 70_000}, "pools[0].port: must be within 1 and 65535, got 70000"),
        ({"rung": -1}, "pools[0].rung: must be at least 0"),
        ({"deployment": "a/b"}, "pools[0].deployment: must be a name"),
        ({"policy": ScalePolicy(min_replicas=3, max_replicas=2)}, "pools[0].policy: min_replicas must be at least 0"),
        ({"max_concurrency": 0}, "pools[0].max_concurrency: must be at least 1"),
        ({"startup_budget_s": 0.0}, "pools[0].startup_budget_s: must be above 0"),
    ],
)
def test_cluster_problems_of_a_pool_name_the_key(changes: dict[str, Any], problem: str) -> None:
    config = msgspec.structs.replace(CONFIG, pools=(msgspec.structs.replace(POOL, **changes),))
    assert problem in " | ".join(cluster_problems(config))
