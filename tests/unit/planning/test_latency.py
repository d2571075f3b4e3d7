"""Latency and throughput of one replica, against the roofline by hand."""

from __future__ import annotations

import pytest

from lightship.artifacts.model_shape import ModelShape
from lightship.artifacts.roofline import MachineSpeed, WeightBits
from lightship.planning.latency import (
    MeasuredLoad,
    Promise,
    StepModel,
    Tokens,
    best_measured,
    most_in_flight,
    operate,
    tokens_ratio,
)

# 320 weights in blocks, 40 in the embedding, 40 in the head: 360 are read in a step, 720 bytes at 16 bits.
TINY = ModelShape(
    num_layers=2, hidden_size=4, intermediate_size=8, num_heads=2, num_kv_heads=2, head_dim=2, vocab_size=10
)
STEPS = StepModel(TINY, WeightBits(), MachineSpeed(bandwidth_bytes_per_s=720.0, flops_per_s=1e15), kv_bytes=0.0)
TOKENS = Tokens(prompt=8, output=11)


def test_operate_alone_is_one_prompt_and_ten_steps() -> None:
    alone = operate(STEPS, TOKENS, 1)
    assert alone.ttft_ms == pytest.approx(1000)
    assert alone.tpot_ms == pytest.approx(1000)
    assert alone.requests_per_s == pytest.approx(1 / 11)


def test_operate_many_share_the_reading_of_weights_and_wait_for_prompts() -> None:
    crowd = operate(STEPS, TOKENS, 6)
    # a step still takes 1 s; five others' prompts of 1 s fall into ten steps
    assert crowd.tpot_ms == pytest.approx(1500)
    assert crowd.ttft_ms == pytest.approx(2000)
    assert crowd.requests_per_s == pytest.approx(6 / (2 + 15))
    assert crowd.service_s == pytest.approx(17)


def test_operate_efficiency_makes_everything_slower() -> None:
    half = StepModel(TINY, WeightBits(), STEPS.speed, 0.0, efficiency=0.5)
    assert operate(half, TOKENS, 1).ttft_ms == pytest.approx(2000)


def test_operate_single_output_token_has_no_later_ones() -> None:
    only = operate(STEPS, Tokens(8, 1), 3)
    assert only.tpot_ms == 0
    assert only.requests_per_s == pytest.approx(3 / (1 + 1 + 2))


@pytest.mark.parametrize(("tpot_ms", "expected"), [(1000, 1), (1099, 1), (1100, 2), (1500, 6), (1e6, 64)])
def test_most_in_flight_is_the_last_that_keeps_the_promise(tpot_ms: float, expected: int) -> None:
    found = most_in_flight(STEPS, TOKENS, Promise(5000, tpot_ms + 1e-6, 0.95), limit=64)
    assert found is not None
    assert found.num_in_flight == expected


def test_most_in_flight_impossible_promise_is_none() -> None:
    assert most_in_flight(STEPS, TOKENS, Promise(999, 5000, 0.95), limit=64) is None
    assert most_in_flight(STEPS, TOKENS, Promise(5000, 5000, 0.95), limit=0) is None


def test_best_measured_needs_the_attainment() -> None:
    loads = [
        MeasuredLoad(1, 10, 5, 2.0, 1.0, TOKENS),
        MeasuredLoad(8, 20, 8, 6.0, 0.97, TOKENS),
        MeasuredLoad(32, 90, 30, 7.0, 0.6, TOKENS),
    ]
    assert best_measured(loads, Promise(100, 40, 0.95)) == loads[1]
    assert best_measured(loads[2:], Promise(100, 40, 0.95)) is None


def test_tokens_ratio_twice_the_output_takes_twice_as_long() -> None:
    assert tokens_ratio(STEPS, Tokens(8, 11), Tokens(8, 22), 1) == pytest.approx(2.0)
