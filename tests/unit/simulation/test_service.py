"""Whole services: invariants that hold whatever happens, and small ones worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.simulation.scenarios import kind, run, rung, small, trace_file

from lightship.simulation.reading import merged, scenario_of
from lightship.simulation.result import SimulationResult
from lightship.simulation.world import World, simulate_service

CLASSES = {
    "strict": {"importance": 2, "degrade": "never"},
    "batch": {"importance": 0, "degrade": "preferred", "max_wait_s": 5.0},
}
KINDS = [kind(), kind(priority="strict", tenant="a"), kind(priority="batch", tenant="b", is_streamed=False, share=0.5)]


def assert_accounted(result: SimulationResult) -> None:
    """Every request has one outcome, nothing is left, and the groups add up to the total."""
    total = result.total
    assert result.left_over == 0
    assert sum(total.outcomes.values()) == total.num_requests
    assert sum(one.num_requests for one in result.by_priority.values()) == total.num_requests
    assert sum(region.clients.num_requests for region in result.regions) == total.num_requests
    assert sum(total.answered_by.values()) == total.outcomes["served"] + total.outcomes["degraded"]


@st.composite
def services(draw: st.DrawFn) -> dict[str, Any]:
    """Two regions in all sorts of trouble."""
    scaling = {
        "initial_replicas": draw(st.integers(0, 2)),
        "min_replicas": 0,
        "max_replicas": 4,
        "idle_after_s": draw(st.sampled_from((5.0, 600.0))),
        "startup_s": draw(st.sampled_from((0.5, 8.0))),
        "scale_down_window_s": 5.0,
        "scale_down_period_s": 1.0,
    }
    patience = draw(st.sampled_from((None, 0.3)))
    kinds = [{**one, "patience_s": patience} for one in KINDS]
    regions = {
        "eu": {"traffic": {"requests_per_s": draw(st.sampled_from((1.0, 20.0, 60.0))), "kinds": kinds}},
        "us": {"traffic": {"requests_per_s": 5.0, "kinds": kinds}},
    }
    if draw(st.booleans()):
        regions["eu"]["spill_to"] = {"to": "us", "max_usd_per_hour": 1000.0}
    failures: dict[str, Any] = {"crashes_per_replica_day": draw(st.sampled_from((0.0, 8000.0)))}
    if draw(st.booleans()):
        failures["outages"] = [{"region": "eu", "at_s": 5.0, "duration_s": 8.0, "failover_s": 3.0}]
        failures["slow_replicas"] = [{"region": "us", "at_s": 2.0, "factor": 5.0, "duration_s": 9.0}]
    return small(
        duration_s=25.0,
        seed=draw(st.integers(0, 10**6)),
        placement=draw(st.sampled_from(("own", "shared"))),
        prefer=draw(st.sampled_from(("ladder", "replicas"))),
        fidelity=draw(st.sampled_from(("fast", "exact"))),
        ladder=[rung("top", scaling=scaling), rung("low", quality_loss=0.02, scaling=scaling)],
        regions={"here": None, **regions},
        priorities=CLASSES,
        quality_budget=draw(st.sampled_from((None, {"degraded_share": 0.2, "expected_requests": 50}))),
        upstream=draw(st.sampled_from((None, {"max_usd_per_hour": 5.0}))),
        failures=failures,
        admission={"hold_s": 6.0, "max_held": 40},
    )


def without_here(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "regions": {name: one for name, one in data["regions"].items() if one is not None}}


@settings(max_examples=10, deadline=None)
@given(services())
def test_service_in_trouble_accounts_for_everything(data: dict[str, Any]) -> None:
    world = World(scenario := scenario_of(without_here(data), where="test"), _profiles(scenario), folder=Path())
    world.run()
    result = world.result(alternative="", notes=[])
    assert_accounted(result)
    strict = result.by_priority.get("strict")
    if strict is not None and scenario.upstream is None and scenario.regions["eu"].spill_to is None:
        assert strict.outcomes["degraded"] == 0
    for region in world.regions.values():
        for fleet in region.fleets:
            # two ways to add up what is paid for: machine by machine, and machines over time
            assert fleet.paid_machine_s(scenario.duration_s) == pytest.approx(fleet.alive.total(), abs=1e-6)
    usd = sum(fleet.replica_hours * fleet.usd_per_replica_hour for fleet in result.fleets)
    assert result.usd_replicas == pytest.approx(usd)


def _profiles(scenario: Any) -> list[Any]:
    from lightship.simulation.profiles import resolve_profile

    return [resolve_profile(one.profile, name=one.name, folder=Path()) for one in scenario.ladder]


def test_service_same_seed_gives_the_same_result_and_another_one_another() -> None:
    data = small(failures={"crashes_per_replica_day": 500.0}, priorities=CLASSES)
    first, second = run(data), run(data)
    assert msgspec.json.encode(first) == msgspec.json.encode(second)
    assert msgspec.json.encode(run({**data, "seed": 1})) != msgspec.json.encode(first)


def test_service_alternatives_meet_the_same_requests() -> None:
    data = small()
    few = run(merged(data, {"ladder": [rung("top", replicas=1)]}))
    many = run(data)
    assert few.regions[0].arrivals == many.regions[0].arrivals
    assert few.total.num_requests == many.total.num_requests


def test_service_two_requests_by_hand(tmp_path: Path) -> None:
    """One replica; a step is 10 ms, a prompt token 0.1 ms, an output token 1 ms.

    The first: 100 tokens of prompt in 20 ms, then ten steps of 11 ms: 130 ms. The second comes when it is over.
    """
    traffic = trace_file(tmp_path, [(1.0, 100, 11), (2.0, 200, 1)])
    data = small(ladder=[rung("top", replicas=1)], regions={"here": {"traffic": traffic}}, duration_s=3600.0)
    data["regions"]["here"]["traffic"] = traffic
    result = run(data, folder=tmp_path)
    assert result.total.outcomes["served"] == 2
    # first tokens after 20 and 30 ms; quantiles are right to a percent
    assert result.total.ttft_s["mean"] == pytest.approx(0.025)
    assert result.total.tpot_s["mean"] == pytest.approx(0.011)
    # one replica for one hour at 3.60 an hour, and twelve good tokens
    assert result.usd == pytest.approx(3.6)
    assert result.usd_per_1m_good_tokens == pytest.approx(3.6e6 / 12)


@pytest.mark.slow
def test_service_one_request_at_a_time_on_three_replicas_waits_as_m_m_3_says() -> None:
    """Erlang's C formula with c = 3 and a = 2.25: P(wait) = 0.5678, mean wait = P s / (c - a) = 0.757 s of service."""
    step = {"step_s": 0.001, "prefill_token_s": 0.0, "decode_token_s": 0.0}
    lengths = {"distribution": "exponential", "mean": 1000, "most": 4000}
    one = kind(prompt_tokens={"distribution": "fixed", "mean": 1}, output_tokens=lengths)
    limits = {"context_length": 100_000, "num_kv_blocks": 100_000}
    data = small(
        duration_s=12_000.0,
        slo={"ttft_s": 1e6, "tpot_s": 1.0},
        ladder=[rung("top", step, replicas=3, profile={"costs": step, "limits": limits}, concurrency=1)],
        regions={"here": {"traffic": {"requests_per_s": 2.25 / 0.981684, "kinds": [one]}}},
        admission={"max_concurrency": 1, "max_queued": 100_000},
    )
    result = run(data)
    service_s = 0.981684  # of an exponential with mean 1 s that is cut at 4 s: 1 - exp(-4)
    assert result.total.outcomes["served"] == result.total.num_requests
    mean_wait_s = (result.total.ttft_s["mean"] or 0.0) - 0.001
    # cutting the longest services takes variance away: Allen and Cunneen, W = W(M/M/c) (1 + cv^2) / 2 with
    # cv^2 = 2 (1 - 5 exp(-4)) / 0.981684^2 - 1 = 0.885
    expected_s = 0.757 * service_s * (1 + 0.885) / 2
    assert mean_wait_s == pytest.approx(expected_s, rel=0.1)


def test_service_overload_with_a_ladder_serves_more_than_without() -> None:
    crowded = {"regions": {"here": {"traffic": {"requests_per_s": 34.0, "kinds": [kind()]}}}, "duration_s": 120.0}
    shared = small(placement="shared", **crowded)
    with_ladder = run(shared)
    without = run({**shared, "ladder": shared["ladder"][:1]})
    assert with_ladder.total.goodput_requests_per_s > 1.3 * without.total.goodput_requests_per_s
    assert with_ladder.num_decisions_by_reason["overload"] >= 1
    assert 0 < (with_ladder.total.mean_quality_loss or 0) <= 0.02


def test_service_quality_budget_is_never_overspent() -> None:
    crowded = {"regions": {"here": {"traffic": {"requests_per_s": 34.0, "kinds": [kind()]}}}, "duration_s": 120.0}
    budget = {"degraded_share": 0.1, "window_s": 86_400.0, "expected_requests": 100}
    result = run(small(placement="shared", quality_budget=budget, **crowded))
    num_answered = result.total.outcomes["served"] + result.total.outcomes["degraded"]
    assert 0 < result.total.outcomes["degraded"] <= 0.1 * max(100, num_answered)


def test_service_strict_requests_are_never_degraded_and_the_others_are() -> None:
    kinds = [kind(), kind(priority="strict")]
    crowded = {"regions": {"here": {"traffic": {"requests_per_s": 34.0, "kinds": kinds}}}, "duration_s": 60.0}
    result = run(small(placement="shared", priorities=CLASSES, **crowded))
    assert result.by_priority["default"].outcomes["degraded"] > 0
    assert result.by_priority["strict"].outcomes["degraded"] == 0


def test_service_that_sleeps_is_woken_by_a_request_and_sleeps_again(tmp_path: Path) -> None:
    scaling = {"initial_replicas": 0, "min_replicas": 0, "max_replicas": 2, "startup_s": 7.0, "startup_spread": 0.0,
               "idle_after_s": 60.0}  # fmt: skip
    traffic = trace_file(tmp_path, [(10.0, 100, 11)])
    data = small(ladder=[rung("top", scaling=scaling)], duration_s=600.0, scale_interval_s=1.0)
    data["regions"] = {"here": {"client_rtt_s": 0.0, "traffic": traffic}}
    result = run(data, folder=tmp_path)
    assert result.total.outcomes["served"] == 1
    # the controller looks at 10 s (the request is there) or a second later, the start takes 7 s, the prompt 20 ms
    assert 7.02 <= (result.total.ttft_s["mean"] or 0) <= 8.03
    (fleet,) = result.fleets
    assert fleet.num_starts == 1
    # it starts at 10 or 11 s, and goes a minute after its request ended
    assert 3600 * fleet.replica_hours == pytest.approx(67.2, abs=2.5)


def test_service_weights_are_delivered_before_the_first_start(tmp_path: Path) -> None:
    scaling = {"initial_replicas": 0, "min_replicas": 0, "max_replicas": 1, "startup_s": 7.0, "startup_spread": 0.0}
    data = small(ladder=[rung("top", scaling=scaling, weight_bytes=30_000_000_000)], weight_bytes_per_s=1e9)
    data["regions"] = {"here": {"client_rtt_s": 0.0, "traffic": trace_file(tmp_path, [(10.0, 100, 11)])}}
    result = run(data, folder=tmp_path)
    assert 37.02 <= (result.total.ttft_s["mean"] or 0) <= 38.03


def test_service_crashes_fail_only_answers_that_had_begun() -> None:
    data = small(failures={"crashes_per_replica_day": 6000.0}, duration_s=300.0, ladder=[rung("top", replicas=4)])
    result = run(data)
    assert_accounted(result)
    (fleet,) = result.fleets
    assert fleet.num_crashes > 20
    assert set(result.total.reasons) <= {
        "failed: replica died", "failed: no rung answered", "rejected: saturated", "evicted: deadline",
        "evicted: held too long", "rejected: no-variant",
    }  # fmt: skip
    assert result.total.reasons["failed: replica died"] > result.total.reasons.get("failed: no rung answered", 0)


def test_service_outage_clients_fail_until_they_find_the_other_region() -> None:
    regions = {
        "eu": {"traffic": {"requests_per_s": 5.0, "kinds": [kind()]}},
        "us": {"traffic": {"requests_per_s": 5.0, "kinds": [kind()]}},
    }
    outage = {"region": "eu", "at_s": 60.0, "duration_s": 60.0, "failover_s": 10.0}
    data = small(duration_s=180.0, failures={"outages": [outage]}, rtt_s={"eu": {"us": 0.2}})
    data["regions"] = regions
    result = run(data)
    assert_accounted(result)
    eu, us = result.regions
    failed = [sum(eu.failed[start:end]) for start, end in ((0, 59), (60, 70), (70, 180))]
    # ten seconds of five requests a second find nobody; what was under way has failed too, by when it came
    assert failed[1] == pytest.approx(sum(eu.arrivals[60:70]))
    assert failed[0] + failed[2] < 30
    # the other region serves both regions' clients from then on
    assert sum(us.arrivals[75:115]) / 40 == pytest.approx(10.0, rel=0.2)
    assert sum(eu.arrivals[75:115]) == 0


def test_service_slow_replica_is_taken_out_by_its_peers() -> None:
    slow = {"region": "here", "num_replicas": 1, "at_s": 30.0, "factor": 5.0}
    data = small(ladder=[rung("top", replicas=6)], duration_s=120.0, failures={"slow_replicas": [slow]})
    result = run(data)
    assert result.regions[0].num_ejections >= 1
    assert run(small(ladder=[rung("top", replicas=6)], duration_s=120.0)).regions[0].num_ejections == 0


def test_service_upstream_takes_what_is_too_much_within_its_money() -> None:
    crowded = {"regions": {"here": {"traffic": {"requests_per_s": 34.0, "kinds": [kind(max_tokens=200)]}}}}
    money = {"max_usd_per_hour": 3.0, "usd_per_1m_input_tokens": 1.0, "usd_per_1m_output_tokens": 4.0}
    result = run(small(ladder=[rung("top")], duration_s=300.0, upstream=money, **crowded))
    # a tenth of the hour's money at once and the twelfth of an hour that the run lasts
    assert 0.1 < result.usd_upstream <= 3.0 * (1 / 10 + 1 / 12)
    assert result.total.num_spilled == result.total.answered_by["elsewhere"] > 100
    assert result.usd == pytest.approx(result.usd_replicas + result.usd_upstream)


def test_service_upstream_is_paid_for_every_token_that_goes_there() -> None:
    tokens = {"distribution": "fixed", "mean": 100}
    lengths = {"prompt_tokens": tokens, "output_tokens": {**tokens, "mean": 50}}
    crowded = {"regions": {"here": {"traffic": {"requests_per_s": 34.0, "kinds": [lengths]}}}}
    money = {"max_usd_per_hour": 3.0, "usd_per_1m_input_tokens": 1.0, "usd_per_1m_output_tokens": 4.0}
    result = run(small(ladder=[rung("top")], upstream=money, **crowded))
    assert result.total.num_spilled > 100
    assert result.usd_upstream == pytest.approx(result.total.num_spilled * (100 * 1.0 + 50 * 4.0) / 1e6)


def test_service_lengths_that_clients_say_are_what_the_gateway_reckons_with() -> None:
    fixed = {"distribution": "fixed", "mean": 100}
    lengths = {"prompt_tokens": fixed, "output_tokens": {**fixed, "mean": 50}}
    # 0.001 USD at a time: enough for 100 tokens in and 50 out, not for the 512 that an answer without a bound may have
    money = {"max_usd_per_hour": 0.01, "usd_per_1m_input_tokens": 1.0, "usd_per_1m_output_tokens": 4.0}

    def num_spilled(**changes: Any) -> int:
        crowded = {"regions": {"here": {"traffic": {"requests_per_s": 34.0, "kinds": [{**lengths, **changes}]}}}}
        return run(small(ladder=[rung("top")], upstream=money, **crowded)).total.num_spilled

    assert num_spilled() == 0
    assert num_spilled(has_fixed_length=True) >= 3


def test_service_region_spills_to_another_one_and_is_told_when_that_is_full() -> None:
    data = small(duration_s=60.0, ladder=[rung("top")], rtt_s={"eu": {"us": 0.1}})
    spill = {"to": "us", "max_usd_per_hour": 1e6}
    data["regions"] = {
        "eu": {"traffic": {"requests_per_s": 40.0, "kinds": [kind()]}, "spill_to": spill},
        "us": {"traffic": {"requests_per_s": 19.0, "kinds": [kind()]}},
    }
    result = run(data)
    assert_accounted(result)
    eu, us = result.regions
    assert eu.num_forwarded > 200
    assert 100 < eu.clients.num_spilled < eu.num_forwarded
    assert us.clients.num_spilled == 0


def test_service_clients_without_patience_leave_and_are_counted_so() -> None:
    crowded = {"regions": {"here": {"traffic": {"requests_per_s": 60.0, "kinds": [kind(patience_s=0.1)]}}}}
    result = run(small(ladder=[rung("top")], **crowded))
    assert_accounted(result)
    assert result.total.outcomes["cancelled"] > 100


def test_service_fast_and_exact_engines_give_the_same_figures() -> None:
    data = small(placement="own", duration_s=120.0)
    fast, exact = run(data), run({**data, "fidelity": "exact"})
    assert fast.total.goodput_requests_per_s == pytest.approx(exact.total.goodput_requests_per_s, rel=0.01)
    assert fast.total.ttft_s["p99"] == pytest.approx(exact.total.ttft_s["p99"], rel=0.05)


def test_service_more_replicas_start_when_the_load_asks_for_them() -> None:
    scaling = {
        "initial_replicas": 1,
        "min_replicas": 1,
        "max_replicas": 9,
        "startup_s": 5.0,
        "in_flight_per_replica": 6,
    }
    crowded = {"regions": {"here": {"traffic": {"requests_per_s": 30.0, "kinds": [kind()]}}}}
    result = run(small(ladder=[rung("top", scaling=scaling)], duration_s=300.0, **crowded))
    (fleet,) = result.fleets
    assert fleet.most_ready > 3
    up = [one for one in result.decisions if one.what == "here/top" and one.after > one.before]
    assert up[0].reason == "load"
    assert "under way and" in up[0].detail


def test_service_warm_up_is_not_counted() -> None:
    whole, counted = run(small()), run(small(warmup_s=30.0))
    assert counted.total.num_requests == sum(whole.regions[0].arrivals[30:])
    # four replicas for half a minute at 3.60 an hour
    assert counted.usd == pytest.approx(whole.usd) == pytest.approx(2 * 4 * 3.6 / 120)
    per_token = 4 * 3.6 / 120 / counted.total.num_good_output_tokens
    assert counted.usd_per_1m_good_tokens == pytest.approx(1e6 * per_token)


def test_simulate_service_measures_rungs_that_say_nothing() -> None:
    ladder = [rung("top", concurrency=None, goodput_requests_per_s=None)]
    result = simulate_service(scenario_of(small(ladder=ladder), where="test"), folder=Path())
    # 30 ms per token leave room for 16 sequences (10 ms + 16 x 1 ms = 26 ms, and prompts between), not for 24
    assert 10 <= result.ladder[0].concurrency <= 16
    assert result.notes[0].startswith("top: ")
