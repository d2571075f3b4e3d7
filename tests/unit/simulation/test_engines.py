"""Replica models: the one that skips steps against the one that makes them, and against hand arithmetic."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.engines.simulated.presets import load_preset
from lightship.engines.simulated.simulation import SimulatedRequest, simulate
from lightship.ports.engine_profile import EngineLimits, EngineProfile, ProfileOrigin, ProfileSource, StepCosts
from lightship.simulation.engine.base import EngineModel, Refusal
from lightship.simulation.engine.exact import ExactEngine
from lightship.simulation.engine.skipping import SkippingEngine

MADE_UP = ProfileSource(origin=ProfileOrigin.ASSUMED, description="for tests")
ALL_COSTS = StepCosts(
    step_s=0.01,
    batch_change_s=0.002,
    prefill_token_s=0.0001,
    prefill_pair_s=1e-7,
    decode_token_s=0.0007,
    context_token_s=2e-7,
    new_request_s=0.0005,
    request_latency_s=0.003,
)
Seen = dict[int, tuple[float, float]]


def profile(costs: StepCosts = ALL_COSTS, limits: EngineLimits | None = None) -> EngineProfile:
    return EngineProfile(
        name="p", costs=costs, limits=limits or EngineLimits(max_waiting_requests=10_000), source=MADE_UP
    )


def driven(engine: EngineModel, requests: Sequence[tuple[float, int, int]]) -> tuple[Seen, dict[int, Refusal]]:
    """(first token, last token) of each request, and who was refused."""
    firsts: dict[int, float] = {}
    seen: Seen = {}
    refused: dict[int, Refusal] = {}
    index = 0
    while index < len(requests) or engine.next_event_s < math.inf:
        arrival_s = requests[index][0] if index < len(requests) else math.inf
        if arrival_s <= engine.next_event_s:
            _, num_prompt, num_output = requests[index]
            why = engine.submit(index, num_prompt_tokens=num_prompt, num_output_tokens=num_output, now_s=arrival_s)
            if why is not None:
                refused[index] = why
            index += 1
            continue
        now_s = engine.next_event_s
        progress = engine.advance()
        firsts.update(dict.fromkeys(progress.first, now_s))
        seen.update({handle: (firsts[handle], now_s) for handle in progress.finished})
    return seen, refused


def load(rng: random.Random, num: int, rate: float) -> list[tuple[float, int, int]]:
    now_s, found = 0.0, []
    for _ in range(num):
        now_s += rng.expovariate(rate)
        found.append((now_s, rng.randint(1, 900), rng.choice((1, 2, rng.randint(1, 200)))))
    return found


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), rate=st.sampled_from((0.5, 5.0, 20.0, 80.0)), budget=st.sampled_from((64, 256, 2048))
)
def test_engines_load_that_fits_the_cache_both_agree(seed: int, rate: float, budget: int) -> None:
    limits = EngineLimits(
        max_batched_tokens=budget, max_sequences=64, max_waiting_requests=10_000, num_kv_blocks=10**6,
        has_prefix_cache=False,
    )  # fmt: skip
    requests = load(random.Random(seed), 60, rate)
    exact, _ = driven(ExactEngine(profile(limits=limits)), requests)
    fast, _ = driven(SkippingEngine(profile(limits=limits)), requests)
    assert fast.keys() == exact.keys() == set(range(60))
    for index, times in exact.items():
        assert fast[index] == pytest.approx(times, abs=1e-6)


def test_exact_engine_says_what_the_batch_simulation_says() -> None:
    engine_profile = load_preset("openvino-0.5b-fp16-2core-amx")
    requests = load(random.Random(7), 200, 3.0)
    seen, refused = driven(ExactEngine(engine_profile), requests)
    outcomes = simulate(engine_profile, [SimulatedRequest(*request) for request in requests])
    assert not refused
    for index, outcome in enumerate(outcomes):
        first_s = requests[index][0] + (outcome.ttft_s or 0.0)
        assert seen[index] == pytest.approx((first_s, outcome.last_token_s), abs=1e-9)


def test_skipping_engine_full_cache_is_near_the_exact_one() -> None:
    # room for about four requests at a time: the exact engine preempts, the fast one lets wait
    limits = EngineLimits(num_kv_blocks=100, max_waiting_requests=10_000, has_prefix_cache=False)
    requests = load(random.Random(3), 400, 3.0)
    exact, _ = driven(ExactEngine(profile(limits=limits)), requests)
    fast, _ = driven(SkippingEngine(profile(limits=limits)), requests)
    ends = [max(end for _, end in seen.values()) for seen in (exact, fast)]
    assert ends[1] == pytest.approx(ends[0], rel=0.1)


def test_skipping_engine_one_request_takes_the_time_of_its_steps() -> None:
    costs = StepCosts(step_s=0.01, prefill_token_s=0.0001, decode_token_s=0.001)
    seen, _ = driven(SkippingEngine(profile(costs)), [(1.0, 100, 11)])
    # prompt: 10 ms + 100 x 0.1 ms; then ten steps of 11 ms
    assert seen[0] == pytest.approx((1.02, 1.13))


def test_skipping_engine_twice_as_slow_half_way_takes_half_again_as_long() -> None:
    costs = StepCosts(step_s=0.01, prefill_token_s=0.0, decode_token_s=0.0)
    engine = SkippingEngine(profile(costs))
    engine.submit("a", num_prompt_tokens=1, num_output_tokens=1001, now_s=0.0)
    engine.advance()  # it joins
    engine.advance()  # its first token at 0.01
    engine.set_slowdown(2.0, 5.01)
    while engine.next_event_s < math.inf:
        end_s = engine.next_event_s
        engine.advance()
    assert end_s == pytest.approx(5.01 + 5.0 * 2)


@pytest.mark.parametrize("kind", [ExactEngine, SkippingEngine])
def test_engine_too_long_and_too_many_are_refused(kind: type[ExactEngine] | type[SkippingEngine]) -> None:
    limits = EngineLimits(max_sequences=1, max_waiting_requests=1, context_length=100)
    engine = kind(profile(limits=limits))
    requests = [(0.0, 90, 11), (0.0, 10, 10), (0.0, 10, 10), (0.0, 10, 10)]
    seen, refused = driven(engine, requests)
    assert refused == {0: Refusal.TOO_LONG, 3: Refusal.FULL}
    assert seen.keys() == {1, 2}


@pytest.mark.parametrize("kind", [ExactEngine, SkippingEngine])
def test_engine_cancelled_and_failed_requests_leave_nothing_behind(
    kind: type[ExactEngine] | type[SkippingEngine],
) -> None:
    engine = kind(profile())
    for name in "abc":
        engine.submit(name, num_prompt_tokens=300, num_output_tokens=5, now_s=0.0)
    engine.advance()
    engine.cancel("a", 0.0)  # its first chunk is under way
    engine.cancel("c", 0.0)  # it waits
    assert engine.num_under_way == 1
    finished: list[str] = []
    while engine.next_event_s < math.inf:
        finished += engine.advance().finished
    assert finished == ["b"]
    engine.submit("d", num_prompt_tokens=3, num_output_tokens=5, now_s=50.0)
    assert engine.fail() == ["d"]
    assert engine.next_event_s == math.inf
    assert engine.num_under_way == 0


def test_skipping_engine_deterministic_service_waits_as_m_d_1_says() -> None:
    """One at a time, each of one step of 0.1 s: Pollaczek-Khinchine gives the mean wait rho s / (2 (1 - rho))."""
    costs = StepCosts(step_s=0.1, prefill_token_s=0.0, decode_token_s=0.0)
    limits = EngineLimits(max_sequences=1, max_batched_tokens=64, max_waiting_requests=100_000)
    rng, now_s, requests = random.Random(1), 0.0, []
    for _ in range(60_000):
        now_s += rng.expovariate(7.0)
        requests.append((now_s, 1, 1))
    seen, _ = driven(SkippingEngine(profile(costs, limits)), requests)
    waits = [seen[index][1] - request[0] - 0.1 for index, request in enumerate(requests)]
    assert sum(waits) / len(waits) == pytest.approx(0.7 * 0.1 / (2 * 0.3), rel=0.05)


@pytest.mark.parametrize("kind", [ExactEngine, SkippingEngine])
def test_engine_request_cancelled_while_it_decodes_speeds_up_the_others(
    kind: type[ExactEngine] | type[SkippingEngine],
) -> None:
    costs = StepCosts(step_s=0.0, prefill_token_s=0.0001, decode_token_s=0.01)
    engine = kind(profile(costs))
    engine.submit("a", num_prompt_tokens=1, num_output_tokens=1000, now_s=0.0)
    engine.submit("b", num_prompt_tokens=1, num_output_tokens=101, now_s=0.0)
    engine.advance()  # both join; their prompts take 0.2 ms together
    while engine.next_event_s < 1.0:
        engine.advance()
    engine.cancel("a", 1.0)
    while engine.next_event_s < math.inf:
        end_s = engine.next_event_s
        engine.advance()
    # 50 steps of 20 ms with both up to 1.0002, then 50 of 10 ms alone
    assert end_s == pytest.approx(1.5002, abs=1e-6)
