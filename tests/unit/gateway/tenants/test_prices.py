from __future__ import annotations

from lightship.gateway.tenants.config import PriceConfig
from lightship.gateway.tenants.prices import PriceTable

CHEAP = PriceConfig(usd_per_1m_input_tokens=0.15, usd_per_1m_output_tokens=0.6)
DEAR = PriceConfig(usd_per_1m_input_tokens=0.1, usd_per_1m_output_tokens=2.0)


def test_of_takes_the_nearest_name() -> None:
    prices = {"default": CHEAP, "tales": DEAR, "tales@int4": PriceConfig()}
    table = PriceTable(prices, {"tales": ["fp16", "int4"], "other": ["fp16"]})
    assert table.of("tales", 0).of(1_000_000, 1_000_000) == 2_100_000_000  # 0.10 + 2.00 dollars
    assert table.of("tales", 1).of(1_000_000, 1_000_000) == 0
    assert table.of("other", 0).of(1_000_000, 1_000_000) == 750_000_000


def test_highest_covers_every_rung() -> None:
    table = PriceTable({"tales@fp16": CHEAP, "tales@int4": DEAR}, {"tales": ["fp16", "int4"]})
    assert table.highest("tales").of(1_000_000, 1_000_000) == 2_150_000_000  # 0.15 + 2.00 dollars


def test_of_rung_that_is_not_known_costs_the_highest_price() -> None:
    table = PriceTable({"default": CHEAP}, {"tales": ["fp16"]})
    assert table.of("tales", 7) == table.highest("tales")


def test_of_without_prices_is_free() -> None:
    assert PriceTable({}, {"tales": ["fp16"]}).of("tales", 0).of(10**9, 10**9) == 0
    assert PriceTable({"default": CHEAP}, {}).highest("unknown").of(10**9, 10**9) == 0
