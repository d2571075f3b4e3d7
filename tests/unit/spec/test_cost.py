"""The section `cost`: one way of stating a price, and nothing that has nothing to apply to."""

from __future__ import annotations

import pytest

from lightship.errors import SpecError
from lightship.spec.cost import CostSpec
from lightship.spec.load import parse_spec

OWN = "hardware: {price_usd: 4000, lifetime_years: 4, watts: 150, electricity_usd_per_kwh: 0.3}"


def cost(text: str) -> CostSpec:
    return parse_spec(f"cost: {{{text}}}").spec.cost


def test_cost_nothing_stated_has_no_price() -> None:
    assert not parse_spec("").spec.cost.has_price


@pytest.mark.parametrize("text", ["usd_per_hour: 0.1", "instance: 'aws:m7g.large'", OWN], ids=["hour", "listed", "own"])
def test_cost_each_way_of_stating_a_price_is_accepted(text: str) -> None:
    found = cost(f"{text}, utilisation: 0.5")
    assert found.has_price
    assert found.utilisation == 0.5


@pytest.mark.parametrize(
    ("text", "path", "told"),
    [
        ("usd_per_hour: 1, instance: 'aws:m7g.large'", "cost.instance", "cost.usd_per_hour is set too"),
        (f"usd_per_hour: 1, {OWN}", "cost.hardware", "cost.usd_per_hour is set too"),
        (f"instance: 'aws:m7g.large', {OWN}", "cost.hardware", "cost.instance is set too"),
        ("utilisation: 0.5", "cost.utilisation", "set usd_per_hour, instance or hardware too"),
        ("compare_with: {api: 'openai:gpt-4o-mini'}", "cost.compare_with", "no price of the machine"),
        ("hardware: {price_usd: 4000, watts: 150}", "cost.hardware", "lifetime_years, electricity_usd_per_kwh missing"),
        (
            "usd_per_hour: 1, compare_with: {api: 'openai:gpt-4o-mini', input_usd_per_1m_tokens: 1}",
            "cost.compare_with",
            "both set; keep one",
        ),
        ("usd_per_hour: 1, compare_with: {input_usd_per_1m_tokens: 1}", "cost.compare_with", "or neither"),
        ("usd_per_hour: 0", "cost.usd_per_hour", "above 0"),
        ("usd_per_hour: -1", "cost.usd_per_hour", "above 0"),
        ("usd_per_hour: 1, utilisation: 50", "cost.utilisation", "at most 1"),
        ("usd_per_hour: 1, utilisation: 0", "cost.utilisation", "above 0"),
        ("instance: c7i.large", "cost.instance", "expected text like"),
        ("usd_per_hours: 1", "cost.usd_per_hours", "Did you mean cost.usd_per_hour?"),
    ],
)
def test_cost_contradiction_or_nonsense_is_refused_by_path(text: str, path: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        cost(text)
    message = str(caught.value)
    assert f"{path}: " in message
    assert told in message


def test_cost_refused_price_does_not_make_its_utilisation_wrong_too() -> None:
    with pytest.raises(SpecError) as caught:
        cost("usd_per_hour: -1, utilisation: 0.5")
    assert "cost.utilisation" not in str(caught.value)


def test_cost_two_prices_from_file_and_flag_name_the_flag() -> None:
    with pytest.raises(SpecError, match=r"--set cost\.instance"):
        parse_spec("cost: {usd_per_hour: 1}", overrides=["cost.instance=aws:m7g.large"])


def test_cost_null_as_a_flag_takes_the_instance_out() -> None:
    spec = parse_spec("cost: {instance: 'aws:m7g.large'}", overrides=["cost.instance=null", "cost.usd_per_hour=1"]).spec
    assert (spec.cost.instance, spec.cost.usd_per_hour) == (None, 1)
