from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from lightship.evaluation.gates.figure_gates import judge_figure_gate, ratio_interval
from lightship.evaluation.gates.gate_file import BoundKind, FigureGate, GateFile
from lightship.evaluation.gates.results import GateResult
from lightship.evaluation.statistics.paired import Verdict
from lightship.ports.measurements import Interval, Measurement, Metric

RECOVERY = FigureGate("recovery", Metric.QUALITY_RECOVERY, BoundKind.AT_LEAST, 0.97, None, None)
DIVERGENCE = FigureGate("kl", Metric.KL_NATS, BoundKind.AT_MOST, 0.05, None, None)
GOODPUT = FigureGate("goodput", Metric.GOODPUT_REQUESTS_PER_S, BoundKind.AT_LEAST_RATIO, 0.9, 32, None)
TTFT = FigureGate("ttft", Metric.TTFT_MS, BoundKind.AT_MOST_RATIO, 1.1, None, None)


def judge(
    build: Any,
    gate: FigureGate,
    candidate: list[Measurement],
    baseline: list[Measurement] | None = None,
    *,
    confidence: float = 0.95,
    digest: str | None = "sha256:base",
) -> GateResult:
    return judge_figure_gate(
        gate,
        GateFile(confidence, 0.8, (gate,)),
        baseline=build.record("base", figures=baseline or [], digest=digest),
        candidate=build.record("int4", figures=candidate, digest="sha256:int4"),
    )


@pytest.mark.parametrize(
    ("gate", "bounds", "verdict"),
    [
        (RECOVERY, (0.971, 0.99), Verdict.PASS),
        (RECOVERY, (0.97, 0.99), Verdict.PASS),
        (RECOVERY, (0.965, 0.99), Verdict.UNDECIDED),
        (RECOVERY, (0.95, 0.97), Verdict.UNDECIDED),
        (RECOVERY, (0.95, 0.969), Verdict.FAIL),
        (DIVERGENCE, (0.01, 0.05), Verdict.PASS),
        (DIVERGENCE, (0.01, 0.06), Verdict.UNDECIDED),
        (DIVERGENCE, (0.051, 0.06), Verdict.FAIL),
    ],
)
def test_figure_gate_the_whole_interval_must_lie_on_one_side(
    build: Any, gate: FigureGate, bounds: tuple[float, float], verdict: Verdict
) -> None:
    result = judge(build, gate, [build.figure(gate.metric, sum(bounds) / 2, bounds)])
    assert result.verdict is verdict
    assert result.interval == Interval(*bounds, 0.95)
    assert result.num_items == 50


@pytest.mark.parametrize(("value", "verdict"), [(0.97, Verdict.PASS), (0.969, Verdict.FAIL)])
def test_figure_gate_without_interval_goes_by_the_value_and_says_so(build: Any, value: float, verdict: Verdict) -> None:
    result = judge(build, RECOVERY, [build.figure(Metric.QUALITY_RECOVERY, value)])
    assert result.verdict is verdict
    assert "the figure has no interval" in result.sentence


def test_figure_gate_interval_of_a_lower_level_decides_nothing(build: Any) -> None:
    figure = build.figure(Metric.QUALITY_RECOVERY, 0.99, (0.98, 1.0), level=0.95)
    result = judge(build, RECOVERY, [figure], confidence=0.99)
    assert result.verdict is Verdict.UNDECIDED
    assert "its interval is of 0.95, and 0.98 is needed" in result.sentence
    assert judge(build, RECOVERY, [figure], confidence=0.975).verdict is Verdict.PASS


def test_figure_gate_missing_figure_is_undecided(build: Any) -> None:
    result = judge(build, RECOVERY, [])
    assert (result.verdict, result.value) == (Verdict.UNDECIDED, None)
    assert result.sentence == "int4 has no quality_recovery. Measure it."


def test_figure_gate_other_load_only_is_undecided_and_lists_what_there_is(build: Any) -> None:
    result = judge(build, GOODPUT, [build.figure(Metric.GOODPUT_REQUESTS_PER_S, 9.0, concurrency=8)])
    assert result.verdict is Verdict.UNDECIDED
    assert "at concurrency 32" in result.sentence
    assert "There is: concurrency 8 under p/1" in result.sentence


def test_figure_gate_more_than_one_kind_is_undecided_until_one_is_named(build: Any) -> None:
    figures = [build.figure(Metric.TTFT_MS, 100.0, concurrency=users) for users in (1, 8)]
    gate = replace(TTFT, kind=BoundKind.AT_MOST, bound=200.0)
    result = judge(build, gate, figures)
    assert result.verdict is Verdict.UNDECIDED
    assert "concurrency 1 under p/1, concurrency 8 under p/1" in result.sentence
    assert judge(build, replace(gate, concurrency=8), figures).verdict is Verdict.PASS
    both = [build.figure(Metric.TTFT_MS, 100.0, protocol=name) for name in ("a", "b")]
    assert judge(build, gate, both).verdict is Verdict.UNDECIDED
    assert judge(build, replace(gate, protocol="b"), both).verdict is Verdict.PASS


def test_figure_gate_the_newest_of_equal_figures_counts(build: Any) -> None:
    figures = [
        build.figure(Metric.QUALITY_RECOVERY, 0.99, measured_unix_s=2.0),
        build.figure(Metric.QUALITY_RECOVERY, 0.5, measured_unix_s=1.0),
    ]
    assert judge(build, RECOVERY, figures).value == 0.99


def test_figure_gate_recovery_against_another_reference_is_undecided(build: Any) -> None:
    figure = build.figure(Metric.QUALITY_RECOVERY, 0.99, (0.98, 1.0), reference_digest="sha256:other")
    result = judge(build, RECOVERY, [figure])
    assert result.verdict is Verdict.UNDECIDED
    assert "measured against sha256:other, not against base" in result.sentence
    assert judge(build, RECOVERY, [figure], digest="sha256:other").verdict is Verdict.PASS
    assert judge(build, RECOVERY, [figure], digest=None).verdict is Verdict.UNDECIDED


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_figure_gate_figure_that_is_not_finite_is_undecided(build: Any, value: float) -> None:
    result = judge(build, RECOVERY, [build.figure(Metric.QUALITY_RECOVERY, value)])
    assert result.verdict is Verdict.UNDECIDED
    assert "not finite" in result.sentence


def _goodput(build: Any, value: float, bounds: tuple[float, float] | None = None, **details: Any) -> Measurement:
    figure: Measurement = build.figure(Metric.GOODPUT_REQUESTS_PER_S, value, bounds, **{"concurrency": 32, **details})
    return figure


def test_figure_gate_ratio_to_the_baseline_with_its_interval(build: Any) -> None:
    # 9.5 (9.25 to 9.75) of 10 (9.8 to 10.2): sqrt(ln(9.5/9.25)^2 + ln(10.2/10)^2) = 0.03323, 0.95 e^-0.03323 = 0.9189
    result = judge(build, GOODPUT, [_goodput(build, 9.5, (9.25, 9.75))], [_goodput(build, 10.0, (9.8, 10.2))])
    assert result.verdict is Verdict.PASS
    assert result.value == pytest.approx(0.95)
    assert result.interval is not None
    assert result.interval.low == pytest.approx(0.9189, abs=0.0001)
    assert result.requirement == "at least 0.9 times the baseline"
    assert "of 9.5 to 10" in result.sentence


@pytest.mark.parametrize(
    ("value", "bounds", "verdict"),
    [(9.1, (8.8, 9.4), Verdict.UNDECIDED), (8.0, (7.8, 8.2), Verdict.FAIL), (0.0, (0.0, 0.1), Verdict.FAIL)],
)
def test_figure_gate_ratio_near_and_beyond_the_bound(
    build: Any, value: float, bounds: tuple[float, float], verdict: Verdict
) -> None:
    result = judge(build, GOODPUT, [_goodput(build, value, bounds)], [_goodput(build, 10.0, (9.8, 10.2))])
    assert result.verdict is verdict


def test_figure_gate_ratio_where_the_baseline_could_be_nothing_is_open_above(build: Any) -> None:
    interval = ratio_interval(_goodput(build, 2.0, (1.0, 3.0)), _goodput(build, 1.0, (0.0, 2.0)))
    assert interval is not None
    assert interval.high == math.inf
    assert interval.low == pytest.approx(2.0 * math.exp(-math.hypot(math.log(2), math.log(2))))


def test_figure_gate_lower_latency_ratio_passes(build: Any) -> None:
    ours, theirs = build.figure(Metric.TTFT_MS, 100.0, (95, 105)), build.figure(Metric.TTFT_MS, 110.0, (105, 115))
    assert judge(build, TTFT, [ours], [theirs]).verdict is Verdict.PASS
    assert judge(build, TTFT, [theirs], [build.figure(Metric.TTFT_MS, 80.0, (78, 82))]).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("details", "says"),
    [
        ({"protocol": "p/2"}, "base has no goodput_requests_per_s at concurrency 32 under protocol p/1"),
        ({"concurrency": 8}, "base has no goodput_requests_per_s at concurrency 32"),
        ({"machine": "m2"}, "on machine m2 for base and on m1 for int4"),
        ({"value": 0.0}, "there is no ratio of 9 to 0"),
    ],
)
def test_figure_gate_ratio_of_what_cannot_be_compared_is_undecided(
    build: Any, details: dict[str, Any], says: str
) -> None:
    theirs = _goodput(build, **{"value": 10.0, **details})
    result = judge(build, GOODPUT, [_goodput(build, 9.0)], [theirs])
    assert result.verdict is Verdict.UNDECIDED
    assert says in result.sentence
