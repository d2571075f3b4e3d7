"""The price list that ships with the package: machines by the hour and APIs by the token, each with source and date.

Not a price service: nothing is looked up on the network, and an entry is as old as its date says. What is not in the
list is refused; a price is never guessed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from datetime import UTC, date, datetime
from importlib.resources import files
from typing import TypeVar

import msgspec

from lightship.errors import SpecError

FORMAT = "lightship-prices-1"
# Months after which a price is told with a warning: providers change list prices about once or twice a year.
MAX_AGE_MONTHS = 6


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """What every entry says. `as_of` is the day on which `source` read or published the price."""

    id: str
    as_of: date
    source: str
    note: str = ""

    def age_note(self, today: date) -> str | None:
        """A sentence about a price older than `MAX_AGE_MONTHS`; None for a younger one."""
        num_months = (today.year - self.as_of.year) * 12 + today.month - self.as_of.month
        num_months -= today.day < self.as_of.day
        if num_months < MAX_AGE_MONTHS:
            return None
        return f"The price of {self.id} is from {self.as_of}, {num_months} months ago; check it at its provider."


class InstancePrice(_Entry, frozen=True, tag="instance"):
    """A rented machine. `region` is empty where the provider has one price."""

    usd_per_hour: float
    region: str


class ApiPrice(_Entry, frozen=True, tag="api"):
    """A model behind somebody's API, list price without discounts for cached prompts or batches."""

    input_usd_per_1m_tokens: float
    output_usd_per_1m_tokens: float


class PriceList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All entries; their ids differ."""

    format: str
    prices: tuple[InstancePrice | ApiPrice, ...]

    def instance(self, price_id: str) -> InstancePrice:
        """The machine of that id. Raises: SpecError: the list has none; names the nearest."""
        return _entry([one for one in self.prices if isinstance(one, InstancePrice)], price_id, "cost.instance")

    def api(self, price_id: str) -> ApiPrice:
        """The API model of that id. Raises: SpecError: the list has none; names the nearest."""
        return _entry([one for one in self.prices if isinstance(one, ApiPrice)], price_id, "cost.compare_with.api")


_EntryT = TypeVar("_EntryT", bound=_Entry)


def load_prices() -> PriceList:
    """The list that ships with the package. Effects: reads it from there."""
    raw = (files("lightship.evaluation.cost") / "data" / "prices.json").read_bytes()
    return msgspec.json.decode(raw, type=PriceList)


def utc_day(unix_s: float) -> date:
    """The day in UTC, by which the age of a price is told."""
    return datetime.fromtimestamp(unix_s, tz=UTC).date()


def _entry(entries: Iterable[_EntryT], price_id: str, where: str) -> _EntryT:
    by_id = {one.id: one for one in entries}
    if price_id in by_id:
        return by_id[price_id]
    near = difflib.get_close_matches(price_id, by_id, n=1)
    known = f"Did you mean {near[0]}?" if near else f"It has {', '.join(sorted(by_id))}."
    raise SpecError(
        f"the price list has no entry {price_id!r}", where=where, hint=f"{known} Or state the price itself."
    )
