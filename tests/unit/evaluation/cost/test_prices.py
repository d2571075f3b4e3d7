"""The price list that ships: whole, dated, sourced, and usable from a spec."""

from __future__ import annotations

import re
from datetime import date

import msgspec
import pytest

from lightship.evaluation.cost.prices import FORMAT, ApiPrice, InstancePrice, PriceList, load_prices, utc_day
from lightship.spec.cost import CompareWithSpec, CostSpec

ENTRIES = load_prices().prices


def test_prices_format_and_ids_are_as_the_spec_writes_them() -> None:
    assert load_prices().format == FORMAT
    ids = [one.id for one in ENTRIES]
    assert sorted(set(ids)) == sorted(ids)
    for one in ENTRIES:
        if isinstance(one, InstancePrice):
            CostSpec(instance=one.id)
        else:
            CostSpec(usd_per_hour=1.0, compare_with=CompareWithSpec(api=one.id))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_prices_entry_has_a_source_a_date_and_a_plausible_figure(entry: InstancePrice | ApiPrice) -> None:
    assert re.fullmatch(r"https://\S+", entry.source)
    assert date(2025, 1, 1) < entry.as_of < date(2100, 1, 1)
    if isinstance(entry, InstancePrice):
        assert 0.001 < entry.usd_per_hour < 1000
    else:
        assert 0 <= entry.input_usd_per_1m_tokens <= entry.output_usd_per_1m_tokens < 1000


@pytest.mark.parametrize(
    "text",
    [
        '{"format": "f", "prices": [{"kind": "instance", "id": "a:b"}]}',
        '{"format": "f", "prices": [{"kind": "rent", "id": "a:b"}]}',
        '{"format": "f", "prices": [], "currency": "EUR"}',
        '{"format": "f", "prices": [{"kind": "instance", "id": "a:b", "as_of": "soon", "source": "s",'
        ' "usd_per_hour": 1, "region": ""}]}',
    ],
    ids=["incomplete", "unknown-kind", "unknown-key", "no-date"],
)
def test_prices_damaged_list_is_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=PriceList)


def test_utc_day_is_that_of_utc() -> None:
    # 2026-11-23 23:59:59 and two seconds later
    assert [utc_day(1_795_478_399), utc_day(1_795_478_401)] == [date(2026, 11, 23), date(2026, 11, 24)]
