"""What an hour of the machine costs, from whichever way the spec states it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from lightship.evaluation.cost.prices import PriceList
from lightship.spec.cost import CostSpec, HardwareSpec

# Hours of a year, leap years left out; a month is a twelfth of it, 730 hours, as cloud providers count.
HOURS_PER_YEAR = 365 * 24
HOURS_PER_MONTH = HOURS_PER_YEAR / 12


@dataclass(frozen=True)
class HourlyPrice:
    """The whole machine's price, idle or not; `origin` is a sentence saying where it comes from."""

    usd_per_hour: float
    origin: str
    notes: tuple[str, ...] = ()


def hourly_price(cost: CostSpec, prices: PriceList, today: date) -> HourlyPrice | None:
    """The price that the spec states; None when it states none.

    Args:
        cost: The spec's section.
        prices: Where an instance is looked up.
        today: Against which the age of a listed price is told.

    Raises: SpecError: the instance is not in the list.
    """
    if cost.instance is not None:
        entry = prices.instance(cost.instance)
        region = f" in {entry.region}" if entry.region else ""
        origin = f"{entry.id}{region} at ${entry.usd_per_hour:g} per hour as of {entry.as_of} ({entry.source})."
        note = entry.age_note(today)
        return HourlyPrice(entry.usd_per_hour, origin, () if note is None else (note,))
    if cost.usd_per_hour is not None:
        return HourlyPrice(cost.usd_per_hour, f"The spec states ${cost.usd_per_hour:g} per hour.")
    return own_hardware_price(cost.hardware)


def own_hardware_price(hardware: HardwareSpec) -> HourlyPrice | None:
    """Purchase price written off evenly over the lifetime, plus electricity; None when it is not described.

    Does not: count space, cooling beyond the plug, repair or people.
    """
    price_usd, years = hardware.price_usd, hardware.lifetime_years
    watts, usd_per_kwh = hardware.watts, hardware.electricity_usd_per_kwh
    if price_usd is None or years is None or watts is None or usd_per_kwh is None:
        return None
    amortisation = price_usd / (years * HOURS_PER_YEAR)
    electricity = watts / 1000 * usd_per_kwh
    origin = f"Own hardware: ${amortisation:.4g} per hour written off and ${electricity:.4g} per hour of electricity."
    return HourlyPrice(amortisation + electricity, origin)
