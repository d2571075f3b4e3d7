"""Traffic, routing and statistics by themselves, against independent oracles."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.gateway.routing.config import DEFAULT_ROUTING
from lightship.gateway.routing.picking import ReplicaState, RequestFacts, pick_replica
from lightship.simulation.engine.skipping import SkippingEngine
from lightship.simulation.measuring import closed_loop
from lightship.simulation.profiles import faster, resolve_profile
from lightship.simulation.recording import Decision, DecisionList, RegionSeries, bins_of
from lightship.simulation.routing import RungRouting
from lightship.simulation.scenario import (
    Burst,
    Lengths,
    ProfileRef,
    RandomBursts,
    RequestKind,
    Roofline,
    Slo,
    TraceRef,
    TrafficSpec,
)
from lightship.simulation.statistics import LevelSeries, LogHistogram
from lightship.simulation.traffic.lengths import drawer_of
from lightship.simulation.traffic.rates import RateCurve, curve_of
from lightship.simulation.traffic.stream import stream_of


@given(
    works=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    busy=st.sets(st.integers(0, 29)),
    excluded=st.sets(st.integers(0, 29)),
    changes=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 5), st.booleans()), max_size=20),
)
def test_rung_routing_picks_what_the_gateway_picks_from_all(
    works: list[int], busy: set[int], excluded: set[int], changes: list[tuple[int, int, bool]]
) -> None:
    routing = RungRouting(0, DEFAULT_ROUTING)
    states = [ReplicaState(f"r{at}", 0) for at in range(len(works))]
    for at, state in enumerate(states):
        state.device.work_us = works[at]
        state.blocked_until_s = 9.0 if at in busy else 0.0
        routing.add(state)
    names = {f"r{at}" for at in excluded}
    for number, (at, work, is_ready) in enumerate(changes):
        state = states[at % len(states)]
        state.device.work_us, state.last_start = work, number
        routing.note(state)
        if not is_ready:
            routing.remove(state)
    expected = pick_replica(states, RequestFacts(now_s=1.0, excluded=names), DEFAULT_ROUTING)
    found = routing.pick(excluded=names, now_s=1.0)
    assert found.replica is expected.replica


@given(st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=300), st.sampled_from((0.5, 0.9, 0.99)))
def test_histogram_quantile_is_right_to_a_percent(values: list[float], share: float) -> None:
    histogram = LogHistogram()
    for value in values:
        histogram.add(value)
    ordered = sorted(values)
    rank = next(at for at in range(len(ordered)) if at + 1 >= share * len(ordered) - 1e-9)
    assert histogram.quantile(share) == pytest.approx(ordered[rank], rel=0.0101)


def test_level_series_means_and_total_by_hand() -> None:
    series = LevelSeries(bin_s=10.0, num_bins=3, end_s=25.0)
    series.set(5.0, 2.0)
    series.set(12.0, 4.0)
    series.set(24.0, 0.0)
    # 5 s of 2; 2 s of 2 and 8 s of 4; 4 s of 4 and 1 s of 0
    assert series.means() == pytest.approx([1.0, 3.6, 3.2])
    assert series.total() == pytest.approx(62.0)


def test_rate_curve_hours_and_bursts_by_hand() -> None:
    curve = RateCurve(10.0, hourly=tuple([0.5] * 12 + [1.5] * 12), bursts=(Burst(at_s=3600, duration_s=100, factor=3),))
    assert curve.at(5 * 3600) == pytest.approx(5.0)
    assert curve.at(20 * 3600) == pytest.approx(15.0)
    assert curve.at(12 * 3600) == pytest.approx(10.0)  # half way between two hours' middles
    assert curve.at(3650) == pytest.approx(15.0)
    ramped = RateCurve(10.0, bursts=(Burst(at_s=0, duration_s=100, factor=3, ramp_s=20),))
    assert [ramped.at(at_s) for at_s in (10, 50, 90)] == pytest.approx([20, 30, 20])


@pytest.mark.parametrize("offset", [0.0, 5.5, -8.0])
def test_rate_curve_sine_keeps_the_mean_of_a_day_and_peaks_at_its_hour(offset: float) -> None:
    traffic = TrafficSpec(users=86_400, requests_per_user_day=2, peak_factor=1.8, peak_hour=18, utc_offset_h=offset)
    curve = curve_of(traffic, duration_s=86_400, seed="0")
    assert curve is not None
    rates = [curve.at(minute * 60.0) for minute in range(1440)]
    assert sum(rates) / 1440 == pytest.approx(2.0)
    assert max(rates) == pytest.approx(3.6, rel=1e-3)
    assert rates.index(max(rates)) / 60 == pytest.approx((18 - offset) % 24, abs=0.02)


def test_stream_of_users_brings_as_many_requests_as_they_send() -> None:
    traffic = TrafficSpec(users=10_000, requests_per_user_day=4, peak_factor=1.5)
    arrivals = list(stream_of(traffic, duration_s=86_400, seed="a", folder=Path()))
    assert len(arrivals) == pytest.approx(40_000, abs=4 * 200)  # four standard deviations
    assert arrivals == sorted(arrivals, key=lambda one: one.at_s)
    again = list(stream_of(traffic, duration_s=86_400, seed="a", folder=Path()))
    assert again == arrivals


def test_stream_random_bursts_are_drawn_and_kinds_come_in_shares() -> None:
    bursts = RandomBursts(per_day=24 * 6, duration_s=60, factor=5)
    kinds = (RequestKind(share=3.0), RequestKind(share=1.0, tenant="b"))
    traffic = TrafficSpec(requests_per_s=5, random_bursts=bursts, kinds=kinds)
    arrivals = list(stream_of(traffic, duration_s=3600, seed="a", folder=Path()))
    assert len(arrivals) > 18_000 * 1.15
    assert sum(one.kind.tenant == "b" for one in arrivals) / len(arrivals) == pytest.approx(0.25, abs=0.02)


def test_stream_trace_repeats_only_where_it_is_told_to(tmp_path: Path) -> None:
    line = '{"arrival_s": %d, "num_prompt_tokens": 5, "num_output_tokens": 7}\n'
    (tmp_path / "t.jsonl").write_text("".join(line % at for at in (0, 1, 2)))
    once = TrafficSpec(trace=TraceRef(file="t.jsonl"))
    again = TrafficSpec(trace=TraceRef(file="t.jsonl", repeats=True))
    assert [one.at_s for one in stream_of(once, duration_s=8, seed="a", folder=tmp_path)] == [0, 1, 2]
    # it ends one mean gap after its last request
    assert [one.at_s for one in stream_of(again, duration_s=5, seed="a", folder=tmp_path)] == [0, 1, 2, 3, 4]


def test_stream_trace_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"gone\.jsonl"):
        stream_of(TrafficSpec(trace=TraceRef(file="gone.jsonl")), duration_s=8, seed="a", folder=tmp_path)


@pytest.mark.parametrize(
    ("lengths", "mean", "tolerance"),
    [
        (Lengths(distribution="fixed", mean=7), 7, 0),
        (Lengths(distribution="uniform", least=10, most=20), 15, 0.02),
        (Lengths(distribution="exponential", mean=200, most=100_000), 200, 0.03),
        (Lengths(distribution="lognormal", mean=200, spread=0.5, most=100_000), 200, 0.03),
    ],
)
def test_lengths_have_their_mean(lengths: Lengths, mean: float, tolerance: float) -> None:
    draw = drawer_of(lengths, random.Random(1))
    values = [draw() for _ in range(10_000)]
    assert sum(values) / len(values) == pytest.approx(mean, rel=tolerance)


def test_closed_loop_of_one_user_is_the_time_of_a_request() -> None:
    profile = resolve_profile(ProfileRef(preset="toy"), name="toy", folder=Path())
    one = RequestKind(
        prompt_tokens=Lengths(distribution="fixed", mean=100), output_tokens=Lengths(distribution="fixed", mean=11)
    )
    found = closed_loop(profile, [one], Slo(), concurrency=1, seed=0)
    # 1 ms on the way, 5 ms + 100 x 0.02 ms for the prompt, ten steps of 5.1 ms
    assert 1 / found.requests_per_s == pytest.approx(0.001 + 0.007 + 10 * 0.0051)
    assert found.attainment == 1.0


def test_profile_roofline_and_speed_by_hand() -> None:
    roofline = Roofline(
        num_parameters=8e9, weight_bytes=16e9, kv_bytes_per_token=131_072, bandwidth_bytes_per_s=2e12,
        flops_per_s=4e14, efficiency=0.5,
    )  # fmt: skip
    profile = resolve_profile(ProfileRef(roofline=roofline), name="r", folder=Path())
    # 16 GB at 1 TB/s; 16 GFLOP at 200 TFLOP/s; 128 KiB at 1 TB/s
    assert profile.costs.step_s == pytest.approx(0.016)
    assert profile.costs.prefill_token_s == pytest.approx(8e-5)
    assert profile.costs.context_token_s == pytest.approx(1.31072e-7)
    assert faster(profile, 4.0).costs.step_s == pytest.approx(0.004)
    assert SkippingEngine(profile).next_event_s == float("inf")


def test_decision_list_counts_all_and_keeps_the_first() -> None:
    decisions = DecisionList(most_kept=2)
    for number, (what, reason) in enumerate([("ladder", "overload"), ("here/top", "load"), ("ladder", "overload")]):
        decisions.note(Decision(float(number), "here", what, 0, 1, reason, ""))
    assert [one.at_s for one in decisions.kept] == [0.0, 1.0]
    assert (decisions.num_ladder_moves, decisions.num_replica_changes) == (2, 1)
    assert decisions.by_reason == {"overload": 2, "load": 1}


def test_region_series_worst_bin_is_the_one_with_the_least_share_of_good_requests() -> None:
    series = RegionSeries(bins_of(4.0))
    for at_s, arrived, good in ((0, 100, 10), (1, 100, 90), (2, 100, 80), (3, 10, 0)):
        series.arrivals.add(at_s, arrived)
        series.good.add(at_s, good)
    assert series.worst(from_s=0.0) == (0.1, 0.0)
    assert series.worst(from_s=1.0) == (0.8, 2.0)  # the last one had too few to say
    assert RegionSeries(bins_of(4.0)).worst(from_s=0.0) is None


@given(duration_s=st.floats(1.0, 1e5), changes=st.lists(st.floats(0.0, 1.0), max_size=20))
def test_level_series_of_a_level_that_stays_is_that_level_in_every_bin(duration_s: float, changes: list[float]) -> None:
    series = bins_of(duration_s).levels()
    series.set(0.0, 2000.0)
    for share in sorted(changes):  # a look at it in between, as a change and its opposite make
        series.set(share * duration_s, 2001.0)
        series.set(share * duration_s, 2000.0)
    assert series.means() == pytest.approx([2000.0] * bins_of(duration_s).num_bins)
