"""From measurements to cost measurements; expected figures by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date

import pytest

from lightship.errors import SpecError
from lightship.evaluation.cost.from_measurements import NO_PRICE_NOTE, cost_figures
from lightship.evaluation.cost.prices import load_prices
from lightship.evaluation.resource_figures import ResourceFigures
from lightship.ports.measurements import Interval, Measurement, Metric, Target
from lightship.spec.cost import CompareWithSpec, CostSpec

TARGET = Target("openvino", "2026.4.1", "CPU", "avx2", 2, {"a": 1, "b": 2})
SPEED = "closed-loop-1/quick/p64-o32/c1-8/3x1s"
GOOD = f"{SPEED}/slo-ttft400ms-tpot40ms"
# 3.6 USD per hour are 1e-3 per second, so that a million tokens at 1000 tokens/s cost one dollar
PRICE = CostSpec(usd_per_hour=3.6)
HALF_BUSY = CostSpec(usd_per_hour=3.6, utilisation=0.5)
TODAY = date(2026, 11, 23)


def measurement(metric: Metric, value: float, *, users: int = 8, protocol: str = SPEED) -> Measurement:
    return Measurement(
        metric=metric,
        value=value,
        variant_digest="sha256:int8",
        target=TARGET,
        protocol=protocol,
        num_items=50,
        interval=Interval(value * 0.8, value * 1.25, 0.95),
        measured_unix_s=5.0,
        machine="m",
        concurrency=users,
        details={"mean_prompt_tokens": 64.0, "mean_output_tokens": 32.0},
    )


def load(users: int = 8) -> Iterator[Measurement]:
    """250 output tokens/s, and by the lengths 500 prompt tokens/s; 2 good requests/s are 64 good tokens/s."""
    yield measurement(Metric.DECODE_TOKENS_PER_S, 250.0, users=users)
    yield measurement(Metric.GOODPUT_REQUESTS_PER_S, 2.0, users=users, protocol=GOOD)


def costs(spec: CostSpec, figures: list[Measurement], *, num_cores: int = 2) -> ResourceFigures:
    return cost_figures(spec, figures, num_cores=num_cores, prices=load_prices(), today=TODAY)


def values(found: ResourceFigures, basis: str) -> dict[Metric, float]:
    return {one.metric: one.value for one in found.measurements if one.protocol.startswith(f"cost-1/{basis}/")}


def test_cost_figures_no_price_gives_none_and_says_so() -> None:
    assert costs(CostSpec(), list(load())) == ResourceFigures(notes=(NO_PRICE_NOTE,))


def test_cost_figures_without_utilisation_are_of_busy_time_and_say_so() -> None:
    found = costs(PRICE, list(load()))
    # 1000 / 250 = 4; good: 1000 / 64 = 15.625; by weight: 500 + 4 * 250 = 1500, so 2/3 and 8/3
    assert values(found, "usage") == {
        Metric.COST_USD_PER_1M_OUTPUT_TOKENS: pytest.approx(4),
        Metric.COST_USD_PER_1M_GOOD_TOKENS: pytest.approx(15.625),
        Metric.PROMPT_PHASE_USD_PER_1M_INPUT_TOKENS: pytest.approx(2 / 3),
        Metric.GENERATION_PHASE_USD_PER_1M_OUTPUT_TOKENS: pytest.approx(8 / 3),
    }
    assert values(found, "allocation") == {}
    assert any("Utilisation is not stated" in note for note in found.notes)


def test_cost_figures_utilisation_adds_the_allocation_basis_last() -> None:
    found = costs(HALF_BUSY, list(load()))
    assert values(found, "allocation")[Metric.COST_USD_PER_1M_OUTPUT_TOKENS] == pytest.approx(8)
    assert values(found, "allocation")[Metric.COST_USD_PER_1M_GOOD_TOKENS] == pytest.approx(31.25)
    of_output = [one for one in found.measurements if one.metric is Metric.COST_USD_PER_1M_OUTPUT_TOKENS]
    assert [one.protocol for one in of_output] == [
        f"cost-1/usage/usd-per-hour=3.6/consumed=1/{SPEED}",
        f"cost-1/allocation/usd-per-hour=3.6/utilisation=0.5/{SPEED}",
    ]
    assert of_output[-1].details == {
        "usd_per_hour": 3.6,
        "consumed_share": 1.0,
        "utilisation": 0.5,
        "effective_usd_per_hour": pytest.approx(7.2),
        "full_use_usd_per_1m_tokens": pytest.approx(4),
    }
    assert any("50%" in note for note in found.notes)


def test_cost_figures_two_of_eight_cores_use_a_quarter_of_the_machine() -> None:
    found = costs(HALF_BUSY, list(load()), num_cores=8)
    assert values(found, "usage")[Metric.COST_USD_PER_1M_OUTPUT_TOKENS] == pytest.approx(1)
    assert values(found, "allocation")[Metric.COST_USD_PER_1M_OUTPUT_TOKENS] == pytest.approx(8)


def test_cost_figures_carry_load_interval_count_and_the_slo_of_good_tokens() -> None:
    found = costs(PRICE, list(load(users=32)))
    good = next(one for one in found.measurements if one.metric is Metric.COST_USD_PER_1M_GOOD_TOKENS)
    assert (good.concurrency, good.num_items, good.machine, good.target) == (32, 50, "m", TARGET)
    assert good.protocol.endswith(GOOD)
    # the rate's interval is 0.8 to 1.25 of it, so the cost's is 0.8 to 1.25 of it, bounds swapped
    assert good.interval is not None
    assert (good.interval.low, good.interval.high, good.interval.level) == pytest.approx((12.5, 19.53125, 0.95))


def test_cost_figures_phases_follow_the_times_of_one_request_alone() -> None:
    alone = [
        *load(users=1),
        measurement(Metric.TTFT_MS, 155.0, users=1),
        measurement(Metric.TPOT_MS, 15.0, users=1),  # 31 later tokens: 465 ms, three times the first
    ]
    found = costs(PRICE, [*load(), *alone])
    prompt = [one for one in found.measurements if one.metric is Metric.PROMPT_PHASE_USD_PER_1M_INPUT_TOKENS]
    # a quarter of 1e-3 USD/s over 500 prompt tokens/s
    assert [one.value for one in prompt] == [pytest.approx(0.5), pytest.approx(0.5)]
    assert {one.protocol.split("/")[4] for one in prompt} == {"split-time"}


def test_cost_figures_targets_with_settings_in_another_order_are_the_same() -> None:
    decode, goodput = load()
    goodput = replace(goodput, target=replace(TARGET, settings={"b": 2, "a": 1}))
    assert Metric.COST_USD_PER_1M_GOOD_TOKENS in values(costs(PRICE, [decode, goodput]), "usage")


def test_cost_figures_open_loops_at_two_rates_stay_apart() -> None:
    figures = [
        replace(one, concurrency=0, value=one.value * rate, details={**one.details, "offered_requests_per_s": rate})
        for rate in (1.0, 2.0)
        for one in load()
    ]
    found = [one for one in costs(PRICE, figures).measurements if one.metric is Metric.COST_USD_PER_1M_OUTPUT_TOKENS]
    assert [one.details["offered_requests_per_s"] for one in found] == [1.0, 2.0]
    assert [one.value for one in found] == pytest.approx([4, 2])


def test_cost_figures_newer_throughput_replaces_an_older_one() -> None:
    newer = replace(next(load()), value=500.0, measured_unix_s=9.0)
    assert values(costs(PRICE, [newer, *load()]), "usage")[Metric.COST_USD_PER_1M_OUTPUT_TOKENS] == pytest.approx(2)


def test_cost_figures_no_throughput_says_so() -> None:
    found = costs(PRICE, [measurement(Metric.TTFT_MS, 100.0)])
    assert found.measurements == ()
    assert found.notes[-1] == "No cost: there is no throughput to divide the price by."


def test_cost_figures_no_good_request_has_no_cost_of_good_tokens() -> None:
    decode, goodput = load()
    found = values(costs(PRICE, [decode, replace(goodput, value=0.0, interval=None)]), "usage")
    assert Metric.COST_USD_PER_1M_OUTPUT_TOKENS in found
    assert Metric.COST_USD_PER_1M_GOOD_TOKENS not in found


def test_cost_figures_break_even_stands_in_the_details() -> None:
    stated = CompareWithSpec(input_usd_per_1m_tokens=1.0, output_usd_per_1m_tokens=4.0)
    found = costs(CostSpec(usd_per_hour=3.6, compare_with=stated), list(load()))
    # 3.6 * 730 = 2628 USD a month; (4 + 2 * 1) / 3 = 2 USD per million: 1314 million of the 750 * 730 * 3600 = 1971
    details = found.measurements[0].details
    assert details["break_even_tokens_per_month"] == pytest.approx(1314e6)
    assert details["break_even_utilisation"] == pytest.approx(1314 / 1971)


def test_cost_figures_break_even_with_a_listed_api_names_price_date_and_source() -> None:
    spec = CostSpec(usd_per_hour=3.6, compare_with=CompareWithSpec(api="openai:gpt-5.4-mini"))
    found = costs(spec, list(load()))
    note = next(note for note in found.notes if note.startswith("Break-even is with openai:gpt-5.4-mini"))
    assert all(part in note for part in ("$0.75 in", "$4.5 out", "2026-05-04", "https://"))
    assert any("6 months ago" in note for note in found.notes)  # 4 May to 23 November


def test_cost_figures_unlisted_entry_is_refused() -> None:
    with pytest.raises(SpecError, match=r"cost\.instance"):
        costs(CostSpec(instance="aws:m7g.larg"), [])
    with pytest.raises(SpecError, match=r"cost\.compare_with\.api"):
        costs(CostSpec(usd_per_hour=1.0, compare_with=CompareWithSpec(api="openai:gpt-99")), [])
