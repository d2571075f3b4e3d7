"""Whole loads in virtual time, against closed forms worked out by hand."""

from __future__ import annotations

import msgspec
import pytest

from lightship.engines.simulated.simulation import SimulatedEnd, SimulatedRequest, simulate
from lightship.errors import UsageError
from lightship.ports.engine_profile import EngineLimits, EngineProfile, ProfileOrigin, ProfileSource, StepCosts


def make_profile(*, costs: dict[str, float] | None = None, **limits: int | bool) -> EngineProfile:
    return EngineProfile(
        name="t",
        costs=StepCosts(**{"step_s": 0.01, "prefill_token_s": 0.001, "decode_token_s": 0.002, **(costs or {})}),
        limits=msgspec.convert(
            {"max_batched_tokens": 64, "max_sequences": 64, "num_kv_blocks": 1000, "kv_block_tokens": 4, **limits},
            EngineLimits,
        ),
        source=ProfileSource(origin=ProfileOrigin.ASSUMED, description="test"),
    )


def test_single_request_has_the_closed_form() -> None:
    profile = make_profile(costs={"request_latency_s": 0.5, "new_request_s": 0.1, "context_token_s": 0.0001})
    (outcome,) = simulate(profile, [SimulatedRequest(2.0, 30, 4)])
    # latency, then a step with the prompt; then three steps that read 31, 32 and 33 tokens
    ttft_s = 0.5 + 0.01 + 0.1 + 0.03
    decode_s = 3 * 0.012 + (31 + 32 + 33) * 0.0001
    assert outcome.ttft_s == pytest.approx(ttft_s)
    assert outcome.tpot_s == pytest.approx(decode_s / 3)
    assert outcome.last_token_s == pytest.approx(2.0 + ttft_s + decode_s)
    assert len(outcome.token_times_s) == 4


def test_long_prompt_pays_a_step_for_each_chunk() -> None:
    (outcome,) = simulate(make_profile(), [SimulatedRequest(0.0, 150, 1)])
    assert outcome.ttft_s == pytest.approx(3 * 0.01 + 150 * 0.001)
    assert outcome.tpot_s is None


def test_equal_requests_at_once_march_in_step() -> None:
    outcomes = simulate(make_profile(), [SimulatedRequest(0.0, 8, 5)] * 8)
    first_s = 0.01 + 64 * 0.001
    step_s = 0.01 + 8 * 0.002
    expected = [first_s + index * step_s for index in range(5)]
    for outcome in outcomes:
        assert list(outcome.token_times_s) == pytest.approx(expected)
        assert outcome.tpot_s == pytest.approx(step_s)


def test_request_that_comes_during_a_step_joins_the_next() -> None:
    alone, late = simulate(make_profile(), [SimulatedRequest(0.0, 10, 3), SimulatedRequest(0.001, 10, 1)])
    # step 1: 0.02 for the first prompt; step 2 decodes one and takes the other prompt: 0.01 + 0.002 + 0.01
    assert list(alone.token_times_s) == pytest.approx([0.02, 0.042, 0.054])
    assert late.ttft_s == pytest.approx(0.042 - 0.001)


def test_idle_engine_waits_for_the_next_arrival() -> None:
    outcomes = simulate(make_profile(), [SimulatedRequest(0.0, 10, 1), SimulatedRequest(100.0, 10, 1)])
    assert [outcome.ttft_s for outcome in outcomes] == [pytest.approx(0.02), pytest.approx(0.02)]


def test_repeated_prompt_pays_only_for_what_is_new() -> None:
    requests = [SimulatedRequest(0.0, 20, 1, (1, 2, 3, 4, 5)), SimulatedRequest(1.0, 20, 1, (1, 2, 3, 4, 5))]
    first, second = simulate(make_profile(), requests)
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 16)
    assert second.ttft_s == pytest.approx(0.01 + 4 * 0.001)


def test_queue_full_rejects_and_too_long_is_refused() -> None:
    profile = make_profile(max_sequences=1, max_waiting_requests=1, context_length=50)
    requests = [SimulatedRequest(0.0, 10, 5)] * 3 + [SimulatedRequest(0.0, 40, 11)]
    outcomes = simulate(profile, requests)
    assert [outcome.end for outcome in outcomes] == [
        SimulatedEnd.FINISHED,
        SimulatedEnd.FINISHED,
        SimulatedEnd.REJECTED,
        SimulatedEnd.TOO_LONG,
    ]
    assert outcomes[2].token_times_s == ()
    assert outcomes[2].ttft_s is None
    assert not outcomes[2].meets(ttft_s=1e9, tpot_s=1e9)


def test_meets_needs_both_limits() -> None:
    (outcome,) = simulate(make_profile(), [SimulatedRequest(0.0, 10, 3)])  # 20 ms, then 12 ms each
    assert outcome.meets(ttft_s=0.021, tpot_s=0.0121)
    assert not outcome.meets(ttft_s=0.019, tpot_s=0.0121)
    assert not outcome.meets(ttft_s=0.021, tpot_s=0.0119)


def test_cache_too_small_for_all_preempts_and_still_finishes_each() -> None:
    profile = make_profile(num_kv_blocks=10)
    outcomes = simulate(profile, [SimulatedRequest(0.0, 10, 25)] * 4)
    assert [len(outcome.token_times_s) for outcome in outcomes] == [25] * 4
    assert sum(outcome.num_preemptions for outcome in outcomes) > 0
    assert outcomes[0].num_preemptions == 0
    assert all(list(outcome.token_times_s) == sorted(outcome.token_times_s) for outcome in outcomes)


def test_throughput_under_saturation_is_that_of_full_steps() -> None:
    # 20 slots, all always busy: each step gives 20 tokens; prompts of one token each replace what ended
    profile = make_profile(costs={"prefill_token_s": 0.002}, max_sequences=20, max_waiting_requests=100_000)
    outcomes = simulate(profile, [SimulatedRequest(0.0, 1, 10)] * 2000)
    ended_s = max(outcome.last_token_s or 0.0 for outcome in outcomes)
    assert ended_s == pytest.approx(2000 * 10 / 20 * (0.01 + 20 * 0.002))


@pytest.mark.parametrize(
    "requests",
    [
        [SimulatedRequest(1.0, 1, 1), SimulatedRequest(0.5, 1, 1)],
        [SimulatedRequest(-1.0, 1, 1)],
        [SimulatedRequest(float("nan"), 1, 1)],
        [SimulatedRequest(0.0, 0, 1)],
        [SimulatedRequest(0.0, 1, 0)],
    ],
    ids=["unsorted", "before-zero", "nan", "no-prompt", "no-output"],
)
def test_bad_load_is_refused(requests: list[SimulatedRequest]) -> None:
    with pytest.raises(UsageError, match=r"arrival_s|at least one"):
        simulate(make_profile(), requests)


def test_empty_load_gives_nothing() -> None:
    assert simulate(make_profile(), []) == []
