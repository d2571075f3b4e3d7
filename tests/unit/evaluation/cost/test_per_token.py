"""Cost per token against arithmetic done by hand; the numbers stand in the comments."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.errors import MeasurementError
from lightship.evaluation.cost.per_token import (
    CostBasis,
    PhaseSplit,
    Throughput,
    TokenCost,
    TokenRate,
    busy_hour_usd,
    split_by_time,
    split_by_weight,
    token_cost,
    token_costs,
)
from lightship.ports.measurements import Interval

POSITIVE = st.floats(min_value=1e-3, max_value=1e6)


def cost_of(cost: TokenCost | None) -> float:
    assert cost is not None
    return cost.usd_per_1m_tokens


@pytest.mark.parametrize(
    ("utilisation", "expected_usd"),
    # 2.50 / 3600 / 700 * 1e6 = 0.99206; a tenth of the time busy, ten times the cost
    [(1.0, 0.99206), (0.1, 9.9206)],
)
def test_token_costs_output_at_utilisation_costs_the_idle_time_too(utilisation: float, expected_usd: float) -> None:
    costs = token_costs(
        Throughput(TokenRate(700)), usd_per_hour=2.50, basis=CostBasis.ALLOCATION, utilisation=utilisation
    )
    assert cost_of(costs.output) == pytest.approx(expected_usd, abs=1e-4)


def test_busy_hour_usd_allocation_pays_idle_time_and_usage_only_the_part_in_use() -> None:
    # 4 USD at 50 % busy: 8 per busy hour; 2 of 8 cores: 1 per busy hour
    assert busy_hour_usd(4, CostBasis.ALLOCATION, utilisation=0.5, consumed_share=0.25) == 8
    assert busy_hour_usd(4, CostBasis.USAGE, utilisation=0.5, consumed_share=0.25) == 1


def test_token_cost_interval_bounds_change_places() -> None:
    # 0.36 USD/h is 1e-4 USD/s: 100 USD per million tokens at 1 token/s
    cost = token_cost(TokenRate(10, Interval(8, 12.5, 0.95)), usd_per_hour=0.36)
    assert cost is not None
    assert cost.usd_per_1m_tokens == pytest.approx(10)
    assert cost.interval is not None
    assert (cost.interval.low, cost.interval.high, cost.interval.level) == pytest.approx((8, 12.5, 0.95))


@given(POSITIVE, POSITIVE, POSITIVE, POSITIVE)
def test_token_cost_interval_holds_the_cost_whenever_the_rates_holds_the_rate(
    usd: float, one: float, two: float, three: float
) -> None:
    low, rate, high = sorted((one, two, three))
    cost = token_cost(TokenRate(rate, Interval(low, high, 0.9)), usd_per_hour=usd)
    assert cost is not None
    assert cost.interval is not None
    assert cost.interval.low <= cost.usd_per_1m_tokens <= cost.interval.high


def test_token_cost_rate_whose_interval_reaches_zero_has_no_upper_bound() -> None:
    cost = token_cost(TokenRate(10, Interval(0, 20, 0.95)), usd_per_hour=1)
    assert cost is not None
    assert cost.interval is None


def test_token_cost_unknown_or_zero_rate_has_none() -> None:
    assert token_cost(None, usd_per_hour=1) is None
    assert token_cost(TokenRate(0), usd_per_hour=1) is None


def test_token_costs_good_tokens_cost_more_than_all() -> None:
    # 3.6 USD/h is 1e-3 USD/s: 200 tokens/s cost 5, the 50 good ones of them 20
    throughput = Throughput(TokenRate(200), good_output=TokenRate(50))
    costs = token_costs(throughput, usd_per_hour=3.6, basis=CostBasis.USAGE)
    assert (cost_of(costs.output), cost_of(costs.good_output)) == pytest.approx((5, 20))


def test_token_costs_no_good_request_has_no_cost_of_good_tokens() -> None:
    throughput = Throughput(TokenRate(200), good_output=TokenRate(0, Interval(0, 0, 0.95)))
    assert token_costs(throughput, usd_per_hour=3.6, basis=CostBasis.USAGE).good_output is None


def test_split_by_time_is_in_proportion_to_the_phases() -> None:
    split = split_by_time(prefill_s=0.1, decode_s=0.3)
    assert split.prompt_share == pytest.approx(0.25)
    assert split.name == "time"


def test_token_costs_phases_by_time() -> None:
    # 3.6 USD/h is 1e-3 USD/s; a quarter of it over 500 prompt tokens/s is 0.5, three quarters over 250 output is 3
    costs = token_costs(
        Throughput(TokenRate(250), prompt=TokenRate(500)),
        usd_per_hour=3.6,
        basis=CostBasis.USAGE,
        split=PhaseSplit(0.25, "time"),
    )
    assert (cost_of(costs.prompt_phase), cost_of(costs.generation_phase)) == pytest.approx((0.5, 3))
    assert cost_of(costs.output) == pytest.approx(4)


def test_token_costs_without_times_an_output_token_costs_four_prompt_tokens() -> None:
    # weights 500 * 1 + 125 * 4 = 1000 per second of 1e-3 USD: 1 USD per million prompt tokens, 4 per million output
    costs = token_costs(Throughput(TokenRate(125), prompt=TokenRate(500)), usd_per_hour=3.6, basis=CostBasis.ALLOCATION)
    assert costs.split == PhaseSplit(0.5, "1to4")
    assert (cost_of(costs.prompt_phase), cost_of(costs.generation_phase)) == pytest.approx((1, 4))


@given(POSITIVE, POSITIVE, POSITIVE, st.floats(0.01, 1), st.floats(0, 1))
def test_token_costs_phases_add_up_to_the_whole(
    usd: float, output: float, prompt: float, utilisation: float, share: float
) -> None:
    costs = token_costs(
        Throughput(TokenRate(output), prompt=TokenRate(prompt)),
        usd_per_hour=usd,
        basis=CostBasis.ALLOCATION,
        utilisation=utilisation,
        split=PhaseSplit(share, "time"),
    )
    usd_per_s = (cost_of(costs.prompt_phase) * prompt + cost_of(costs.generation_phase) * output) / 1e6
    assert usd_per_s == pytest.approx(usd / 3600 / utilisation)


def test_token_costs_prompt_tokens_unknown_gives_no_phases() -> None:
    costs = token_costs(Throughput(TokenRate(10)), usd_per_hour=1, basis=CostBasis.USAGE)
    assert (costs.split, costs.prompt_phase, costs.generation_phase) == (None, None, None)
    assert split_by_weight(Throughput(TokenRate(0), prompt=TokenRate(0))) is None


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: busy_hour_usd(-1, CostBasis.USAGE), "price of -1"),
        (lambda: busy_hour_usd(math.inf, CostBasis.USAGE), "price of inf"),
        (lambda: busy_hour_usd(1, CostBasis.ALLOCATION, utilisation=0), "utilisation 0"),
        (lambda: busy_hour_usd(1, CostBasis.ALLOCATION, utilisation=50), "utilisation 50"),
        (lambda: busy_hour_usd(1, CostBasis.USAGE, consumed_share=1.5), "consumed_share 1.5"),
        (lambda: token_cost(TokenRate(-3), usd_per_hour=1), "-3 tokens per second"),
        (lambda: token_cost(TokenRate(math.nan), usd_per_hour=1), "nan tokens per second"),
        (lambda: split_by_time(prefill_s=0, decode_s=0), "take no time"),
        (lambda: split_by_time(prefill_s=-1, decode_s=2), "phases of -1"),
    ],
)
def test_cost_from_nonsense_is_refused_and_names_it(call: object, told: str) -> None:
    assert callable(call)
    with pytest.raises(MeasurementError, match=told):
        call()
