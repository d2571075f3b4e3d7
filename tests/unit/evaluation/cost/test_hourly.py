"""The price of an hour in its three ways, and break-even, by hand."""

from __future__ import annotations

from datetime import date

import pytest

from lightship.errors import MeasurementError, SpecError
from lightship.evaluation.cost.break_even import break_even
from lightship.evaluation.cost.hourly import hourly_price
from lightship.evaluation.cost.per_token import Throughput, TokenRate
from lightship.evaluation.cost.prices import ApiPrice, InstancePrice, PriceList
from lightship.spec.cost import CostSpec, HardwareSpec

PRICES = PriceList(
    "lightship-prices-1",
    (
        InstancePrice(id="cloud:small", as_of=date(2026, 3, 31), source="https://e/1", usd_per_hour=0.5, region="here"),
        ApiPrice(
            id="cloud:model",
            as_of=date(2026, 3, 31),
            source="https://e/2",
            input_usd_per_1m_tokens=1.0,
            output_usd_per_1m_tokens=4.0,
        ),
    ),
)
TODAY = date(2026, 4, 1)


def test_hourly_price_nothing_stated_is_none() -> None:
    assert hourly_price(CostSpec(), PRICES, TODAY) is None


def test_hourly_price_stated_is_taken() -> None:
    price = hourly_price(CostSpec(usd_per_hour=0.1), PRICES, TODAY)
    assert price is not None
    assert (price.usd_per_hour, price.notes) == (0.1, ())


def test_hourly_price_instance_names_region_date_and_source() -> None:
    price = hourly_price(CostSpec(instance="cloud:small"), PRICES, TODAY)
    assert price is not None
    assert price.usd_per_hour == 0.5
    assert all(part in price.origin for part in ("cloud:small", "here", "2026-03-31", "https://e/1"))
    assert price.notes == ()


@pytest.mark.parametrize(
    ("today", "is_old"),
    [(date(2026, 9, 29), False), (date(2026, 9, 30), False), (date(2026, 10, 1), True), (date(2027, 3, 31), True)],
)
def test_hourly_price_instance_older_than_six_months_is_told(today: date, is_old: bool) -> None:
    price = hourly_price(CostSpec(instance="cloud:small"), PRICES, today)
    assert price is not None
    assert [("months ago" in note) for note in price.notes] == [True] * is_old


@pytest.mark.parametrize(
    ("wanted", "hint"), [("cloud:smal", "Did you mean cloud:small"), ("z:q", "It has cloud:small")]
)
def test_hourly_price_unknown_instance_is_refused_with_the_nearest(wanted: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        hourly_price(CostSpec(instance=wanted), PRICES, TODAY)
    assert caught.value.where == "cost.instance"
    assert hint in str(caught.value)


def test_price_list_an_api_is_no_instance() -> None:
    with pytest.raises(SpecError, match=r"cost\.instance: the price list has no entry 'cloud:model'"):
        PRICES.instance("cloud:model")
    with pytest.raises(SpecError, match=r"cost\.compare_with\.api"):
        PRICES.api("cloud:small")


def test_hourly_price_own_hardware_is_written_off_and_fed() -> None:
    # 8760 USD over 2 years of 8760 hours is 0.5 per hour; 300 W at 0.40 per kWh is 0.12 per hour
    hardware = HardwareSpec(price_usd=8760, lifetime_years=2, watts=300, electricity_usd_per_kwh=0.40)
    price = hourly_price(CostSpec(hardware=hardware), PRICES, TODAY)
    assert price is not None
    assert price.usd_per_hour == pytest.approx(0.62)
    assert "$0.5 per hour written off and $0.12 per hour of electricity" in price.origin


def test_break_even_is_the_monthly_price_over_the_blended_price() -> None:
    # 2 USD * 730 h = 1460 USD a month; 1 output to 3 prompt tokens: (4 + 3 * 1) / 4 = 1.75 USD per million
    # 1460 / 1.75 = 834.2857 million tokens, a quarter of them output
    found = break_even(
        Throughput(TokenRate(100), prompt=TokenRate(300)),
        usd_per_hour=2,
        input_usd_per_1m_tokens=1,
        output_usd_per_1m_tokens=4,
    )
    assert found.blended_usd_per_1m_tokens == pytest.approx(1.75)
    assert found.tokens_per_month == pytest.approx(834.2857e6, rel=1e-6)
    assert found.output_tokens_per_month == pytest.approx(208.5714e6, rel=1e-6)
    # the machine can make 400 * 730 * 3600 = 1051.2 million
    assert found.needed_utilisation == pytest.approx(834.2857 / 1051.2, rel=1e-6)
    assert found.is_reachable


def test_break_even_slow_machine_never_reaches_it() -> None:
    found = break_even(Throughput(TokenRate(10)), usd_per_hour=2, input_usd_per_1m_tokens=0, output_usd_per_1m_tokens=4)
    # 1460 / 4 = 365 million of the 26.28 million it can make
    assert found.needed_utilisation == pytest.approx(365 / 26.28)
    assert not found.is_reachable


@pytest.mark.parametrize(
    ("output", "usd"), [(0.0, 4.0), (float("nan"), 4.0), (10.0, 0.0)], ids=["idle", "nan", "free-api"]
)
def test_break_even_without_tokens_or_price_is_refused(output: float, usd: float) -> None:
    with pytest.raises(MeasurementError):
        break_even(
            Throughput(TokenRate(output)), usd_per_hour=1, input_usd_per_1m_tokens=1, output_usd_per_1m_tokens=usd
        )
