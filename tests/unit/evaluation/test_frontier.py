"""Candidates and the frontier, against a brute-force oracle."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.candidates import Candidate, build_candidates
from lightship.evaluation.frontier import Axis, pareto_frontier
from lightship.ports.measurements import Interval, Measurement, Metric, Target
from lightship.ports.variants import FileEntry, Manifest, Recipe, WeightFormat

TARGET = Target("openvino", "2026.4", "CPU", "avx512", 2)


def candidate(
    name: str, quality: float, goodput: float, memory: float | None = 100, size: int = 100, *, cost: float | None = None
) -> Candidate:
    """A candidate with the figures that matter here."""
    return Candidate(
        name=name,
        variant_digest=f"sha256:{name}",
        target=TARGET,
        is_reference=False,
        quality_recovery=quality,
        quality_interval=None,
        goodput_requests_per_s=goodput,
        goodput_interval=None,
        tokens_per_s=goodput,
        tokens_interval=None,
        size_bytes=size,
        memory_bytes=memory,
        cost_usd_per_1m_tokens=cost,
    )


# few distinct values, so that ties and duplicates are common
SMALL = st.sampled_from([0.0, 1.0, 2.0, 3.0])
CANDIDATES = st.lists(st.tuples(SMALL, SMALL, st.none() | SMALL, st.integers(0, 3)), max_size=9).map(
    lambda rows: [candidate(f"v{index}", *row) for index, row in enumerate(rows)]
)


def beats(one: Candidate, other: Candidate) -> bool:
    """The oracle: plain words over the fields, unknown memory as a huge one."""
    mine = one.memory_bytes if one.memory_bytes is not None else 1e30
    yours = other.memory_bytes if other.memory_bytes is not None else 1e30
    no_worse = (
        one.quality_recovery >= other.quality_recovery
        and one.goodput_requests_per_s >= other.goodput_requests_per_s
        and mine <= yours
        and one.size_bytes <= other.size_bytes
    )
    better = (
        one.quality_recovery > other.quality_recovery
        or one.goodput_requests_per_s > other.goodput_requests_per_s
        or mine < yours
        or one.size_bytes < other.size_bytes
    )
    return no_worse and better


@given(CANDIDATES)
def test_frontier_any_candidates_agree_with_brute_force(candidates: list[Candidate]) -> None:
    frontier = pareto_frontier(candidates)
    expected = {one.name for one in candidates if not any(beats(other, one) for other in candidates)}
    assert {one.name for one in frontier.kept} == expected
    assert {one.candidate.name for one in frontier.excluded} == {one.name for one in candidates} - expected
    by_name = {one.name: one for one in candidates}
    for exclusion in frontier.excluded:
        assert exclusion.dominated_by in expected
        assert beats(by_name[exclusion.dominated_by], exclusion.candidate)
        assert exclusion.reason.startswith(f"Dominated by {exclusion.dominated_by}: better ")


@given(CANDIDATES, st.randoms(use_true_random=False))
def test_frontier_order_of_input_does_not_matter(candidates: list[Candidate], rng: random.Random) -> None:
    shuffled = list(candidates)
    rng.shuffle(shuffled)
    assert pareto_frontier(shuffled) == pareto_frontier(candidates)


def test_frontier_reason_names_what_is_better_and_equal() -> None:
    frontier = pareto_frontier([candidate("a", 1, 10), candidate("b", 0.9, 10)], (Axis.QUALITY, Axis.GOODPUT))
    assert frontier.excluded[0].reason == "Dominated by a: better quality, equal goodput."


def test_frontier_single_axis_keeps_all_equal_best() -> None:
    frontier = pareto_frontier([candidate("b", 1, 1), candidate("a", 1, 1), candidate("c", 0.5, 9)], [Axis.QUALITY])
    assert [one.name for one in frontier.kept] == ["a", "b"]


def test_frontier_known_cost_beats_unknown() -> None:
    priced, unpriced = candidate("a", 1, 1, cost=2.0), candidate("b", 1, 1)
    assert [one.name for one in pareto_frontier([priced, unpriced], list(Axis)).kept] == ["a"]


def test_frontier_shared_name_is_refused() -> None:
    with pytest.raises(ValueError, match="different names"):
        pareto_frontier([candidate("a", 1, 1), candidate("a", 2, 2)])


def test_frontier_without_axis_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one axis"):
        pareto_frontier([candidate("a", 1, 1)], [])


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), -1.0])
def test_candidate_impossible_figure_is_refused(figure: float) -> None:
    with pytest.raises(ValueError, match="not a finite figure"):
        candidate("a", figure, 1)


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
        files=(FileEntry("a.bin", 40, "x"), FileEntry("b.xml", 2, "y")),
        weight_bytes=40,
        num_parameters=20,
        context_length=64,
        created_unix_s=0.0,
        source="builtin:m",
    )


def measurement(metric: Metric, value: float, variant: str = "int8", concurrency: int = 0) -> Measurement:
    return Measurement(
        metric=metric,
        value=value,
        variant_digest=f"sha256:{variant}",
        target=TARGET,
        protocol="p",
        num_items=9,
        interval=Interval(value * 0.9, value * 1.1, 0.95),
        measured_unix_s=10.0,
        machine="m1",
        concurrency=concurrency,
        reference_digest="sha256:fp16" if metric is Metric.QUALITY_RECOVERY else None,
    )


def speeds(variant: str, goodput: float) -> list[Measurement]:
    return [
        measurement(Metric.GOODPUT_REQUESTS_PER_S, goodput, variant, 32),
        measurement(Metric.GOODPUT_REQUESTS_PER_S, goodput / 9, variant, 1),
        measurement(Metric.DECODE_TOKENS_PER_S, goodput * 32, variant, 32),
    ]


def test_build_candidates_takes_target_concurrency_and_newest_figures() -> None:
    old = replace(measurement(Metric.QUALITY_RECOVERY, 0.5), measured_unix_s=1.0)
    quality = measurement(Metric.QUALITY_RECOVERY, 0.99)
    memory = measurement(Metric.PEAK_RSS_BYTES, 1000.0)
    found = build_candidates(
        [manifest("fp16"), manifest("int8")],
        [*speeds("fp16", 4), *speeds("int8", 5), quality, old, memory, *speeds("stranger", 99)],
        reference_digest="sha256:fp16",
        concurrency=32,
    )
    assert found.unranked == ()
    fp16, int8 = found.candidates
    assert (fp16.name, fp16.is_reference, fp16.quality_recovery, fp16.memory_bytes) == (
        "fp16@openvino",
        True,
        1.0,
        None,
    )
    assert (int8.name, int8.is_reference, int8.quality_recovery) == ("int8@openvino", False, 0.99)
    assert (int8.goodput_requests_per_s, int8.tokens_per_s, int8.memory_bytes, int8.size_bytes) == (5, 160, 1000, 42)
    assert int8.quality_interval == quality.interval


def test_build_candidates_lacking_figures_are_unranked_with_reason() -> None:
    wrong_reference = replace(measurement(Metric.QUALITY_RECOVERY, 0.9), reference_digest="sha256:other")
    found = build_candidates(
        [manifest("int8")],
        [measurement(Metric.DECODE_TOKENS_PER_S, 5.0, "int8", 32), wrong_reference],
        reference_digest="sha256:fp16",
        concurrency=32,
    )
    assert found.candidates == ()
    assert found.unranked[0].reason == "Not measured yet at 32 concurrent requests: goodput, quality."


@pytest.mark.parametrize("change", [{"protocol": "other"}, {"machine": "m2"}])
def test_build_candidates_incomparable_figures_are_refused(change: dict[str, str]) -> None:
    fp16 = [replace(one, protocol="p", machine="m1") for one in speeds("fp16", 4)]
    changed = {"protocol": "p", "machine": "m1", **change}
    int8 = [replace(one, protocol=changed["protocol"], machine=changed["machine"]) for one in speeds("int8", 4)]
    with pytest.raises(MeasurementError, match="must not be compared"):
        build_candidates(
            [manifest("fp16"), manifest("int8")],
            [*fp16, *int8, measurement(Metric.QUALITY_RECOVERY, 0.9)],
            reference_digest="sha256:fp16",
            concurrency=32,
        )


def test_build_candidates_same_variant_and_engine_twice_get_different_names() -> None:
    more_threads = replace(TARGET, num_threads=4, settings={"kv": "u8"})
    newer_version = replace(TARGET, engine_version="2027.1")
    found = build_candidates(
        [manifest("fp16")],
        [replace(one, target=t) for t in (TARGET, more_threads, newer_version) for one in speeds("fp16", 4)],
        reference_digest="sha256:fp16",
        concurrency=32,
    )
    names = [one.name for one in found.candidates]
    assert len(set(names)) == 3
    assert "fp16@openvino (4 threads, kv=u8)" in names  # what all have in common is left out
