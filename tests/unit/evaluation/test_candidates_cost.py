"""Cost as a figure candidates compete on: from measurements to the frontier's axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.candidates import Candidate, build_candidates
from lightship.evaluation.cost.from_measurements import cost_figures
from lightship.evaluation.cost.prices import load_prices
from lightship.evaluation.frontier import Axis, pareto_frontier
from lightship.ports.measurements import Measurement, Metric, Target
from lightship.ports.variants import FileEntry, Manifest, Recipe, WeightFormat
from lightship.spec.cost import CostSpec

TARGET = Target("openvino", "2026.4", "CPU", "avx512", 2)
HALF_BUSY = CostSpec(usd_per_hour=3.6, utilisation=0.5)
BUSY = CostSpec(usd_per_hour=3.6)


def manifest(name: str) -> Manifest:
    return Manifest(
        digest=f"sha256:{name}",
        name=name,
        model_name="m",
        weight_format=WeightFormat.OPENVINO_IR,
        parent_digest="sha256:source",
        recipe=Recipe(name, ()),
        build_key="k",
        tool_versions={},
        files=(FileEntry("a.bin", 40, "x"),),
        weight_bytes=40,
        num_parameters=20,
        context_length=64,
        created_unix_s=0.0,
        source="builtin:m",
    )


def speeds(variant: str, good_requests_per_s: float, users: int = 32) -> Iterator[Measurement]:
    for metric, value in (
        (Metric.DECODE_TOKENS_PER_S, 500.0),
        (Metric.GOODPUT_REQUESTS_PER_S, good_requests_per_s),
    ):
        yield Measurement(
            metric=metric,
            value=value,
            variant_digest=f"sha256:{variant}",
            target=TARGET,
            protocol="p",
            num_items=9,
            interval=None,
            measured_unix_s=10.0,
            machine="m1",
            concurrency=users,
            details={"mean_prompt_tokens": 64.0, "mean_output_tokens": 50.0},
        )


def quality(variant: str) -> Measurement:
    of_speed = next(speeds(variant, 1.0))
    changes = {"metric": Metric.QUALITY_RECOVERY, "value": 1.0, "concurrency": 0, "reference_digest": "sha256:fp16"}
    return replace(of_speed, **changes)  # type: ignore[arg-type]  # mypy does not see the fields' types through a dict


def priced(figures: list[Measurement], spec: CostSpec) -> list[Measurement]:
    found = cost_figures(spec, figures, num_cores=2, prices=load_prices(), today=date(2026, 11, 23))
    return [*figures, *found.measurements]


def candidates(figures: list[Measurement]) -> dict[str, Candidate]:
    found = build_candidates(
        [manifest("fp16"), manifest("int8")],
        [*figures, quality("int8")],
        reference_digest="sha256:fp16",
        concurrency=32,
    )
    return {one.name: one for one in found.candidates}


def test_build_candidates_cost_is_of_good_tokens_at_the_target_load_idle_time_included() -> None:
    figures = priced([*speeds("fp16", 4), *speeds("fp16", 8, users=8), *speeds("int8", 5)], HALF_BUSY)
    found = candidates(figures)
    # 3.6 USD/h at 50 % is 2e-3 per busy second: over 4 * 50 and 5 * 50 good tokens/s
    assert found["fp16@openvino"].cost_usd_per_1m_tokens == pytest.approx(10)
    assert found["int8@openvino"].cost_usd_per_1m_tokens == pytest.approx(8)


def test_build_candidates_without_price_or_good_requests_have_no_cost() -> None:
    assert candidates([*speeds("fp16", 4)])["fp16@openvino"].cost_usd_per_1m_tokens is None
    assert candidates(priced([*speeds("fp16", 0)], BUSY))["fp16@openvino"].cost_usd_per_1m_tokens is None


def test_build_candidates_costs_with_and_without_idle_time_are_refused() -> None:
    figures = [*priced([*speeds("fp16", 4)], BUSY), *priced([*speeds("int8", 5)], HALF_BUSY)]
    with pytest.raises(MeasurementError, match=r"cost-1/usage.*cost-1/allocation.*must not be compared"):
        candidates(figures)


def test_build_candidates_machines_of_different_price_are_compared_by_cost() -> None:
    dear = CostSpec(usd_per_hour=36)
    found = candidates([*priced([*speeds("fp16", 4)], BUSY), *priced([*speeds("int8", 5)], dear)])
    kept = pareto_frontier(found.values(), [Axis.COST]).kept
    assert [one.name for one in kept] == ["fp16@openvino"]
