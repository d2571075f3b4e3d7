"""From a spec and measured rungs to policies, cores and budgets on one machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lightship.cli.local_replicas import (
    RungToServe,
    local_pools,
    memory_budget_bytes,
    replica_cores,
    scale_policy,
)
from lightship.cli.prepare import Surroundings
from lightship.cli.rolling import changes_beside_engines
from lightship.errors import SpecError
from lightship.gateway.dispatch.config import RungFacts
from lightship.ports.clock import SystemClock
from lightship.ports.progress import SilentProgress
from lightship.ports.variants import Manifest, Recipe, Variant, WeightFormat
from lightship.scaling.records import Prefer
from lightship.spec.document import Spec
from lightship.spec.load import parse_spec


def spec(**sections: Any) -> Spec:
    return parse_spec(json.dumps(sections), environment={}).spec


def rung(*, goodput: float = 10.0, concurrency: int = 32, startup_s: float = 2.0) -> RungToServe:
    manifest = Manifest(
        digest="sha256:ab",
        name="fp16",
        model_name="m",
        weight_format=WeightFormat.OPENVINO_IR,
        parent_digest="",
        recipe=Recipe("fp16", ()),
        build_key="",
        tool_versions={},
        files=(),
        weight_bytes=1,
        num_parameters=1,
        context_length=1,
        created_unix_s=0.0,
        source="",
    )
    facts = RungFacts(variant_name="fp16", goodput_requests_per_s=goodput, concurrency=concurrency)
    return RungToServe(0, Variant(manifest, Path()), facts, startup_s=startup_s)


def test_scale_policy_takes_0_65_of_the_measured_concurrency_for_each_replica() -> None:
    top, lowest = rung(goodput=10.0), rung(goodput=30.0)
    policy = scale_policy(spec(replicas={"min": 0, "max": 4, "idle_after_s": 60, "prefer": "ladder"}), top, lowest)
    assert policy.in_flight_per_replica == pytest.approx(20.8)  # 0.65 x 32
    assert policy.in_flight_at_lowest_rung == pytest.approx(62.4)  # three times the goodput, three times the requests
    assert (policy.min_replicas, policy.max_replicas, policy.idle_after_s) == (0, 4, 60)
    assert (policy.prefer, policy.startup_s) == (Prefer.LADDER, 2.0)


def test_scale_policy_rung_alone_has_none_below() -> None:
    one = rung()
    assert scale_policy(spec(), one, one).in_flight_at_lowest_rung is None


def test_replica_cores_one_replica_has_the_machine_and_two_have_halves() -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert replica_cores(spec().replicas) == [None]
    halves = replica_cores(spec(replicas={"max": 2}).replicas)
    assert len(halves) == 2
    if len(cores) > 1:
        assert frozenset().union(*(half or () for half in halves)) == frozenset(cores)
        assert not (halves[0] or frozenset()) & (halves[1] or frozenset())


def test_memory_budget_spec_says_it_or_it_is_nine_tenths_of_the_machine() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_budget_bytes(spec(replicas={"memory": "2 GiB"}).replicas) == 2 * 2**30
    assert 0 < (memory_budget_bytes(spec().replicas) or 0) <= 0.9 * total


def test_changes_beside_engines_are_named_by_path() -> None:
    before = spec(engines={"openvino": {"threads": 1}}, replicas={"max": 1})
    after = spec(engines={"openvino": {"threads": 2}}, replicas={"max": 2}, slo={"ttft_ms": 500})
    assert changes_beside_engines(before, after) == ["replicas.max", "slo.ttft_ms"]
    assert changes_beside_engines(before, spec(engines={"openvino": {"threads": 2}})) == []


def test_spec_bound_on_cost_needs_the_price_of_a_replica() -> None:
    with pytest.raises(SpecError, match=r"cost\.usd_per_hour"):
        spec(replicas={"max_usd_per_hour": 5.0})
    assert spec(replicas={"max_usd_per_hour": 5.0}, cost={"usd_per_hour": 0.5}).replicas.max_usd_per_hour == 5.0


def test_local_pools_model_that_may_sleep_with_adapters_is_refused(tmp_path: Path) -> None:
    sleeping = spec(replicas={"min": 0}, engines={"vllm": {"lora": {"tales": str(tmp_path)}}})
    around = Surroundings(tmp_path, SystemClock(), SilentProgress())
    with pytest.raises(SpecError, match=r"must not sleep"):
        local_pools(sleeping, [rung()], around)
