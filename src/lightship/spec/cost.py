"""What serving costs: the price of the machine, how busy it is, and what it is compared with.

Nothing is set by default, and then no cost is told: a price that nobody stated would be invented.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from lightship.spec.base import StrictModel

# `provider:name`, as the price list writes it.
_PRICE_ID_PATTERN = r"^[a-z0-9][a-z0-9-]*:[A-Za-z0-9][A-Za-z0-9._/-]*$"
# Where only text can stand, a flag or variable hands in the text "null" for no value; no entry is called so.
_NULL_AS_TEXT = BeforeValidator(lambda value: None if value == "null" else value)
InstancePriceId = Annotated[
    Annotated[str, Field(pattern=_PRICE_ID_PATTERN, max_length=128, examples=["aws:m7g.large"])] | None, _NULL_AS_TEXT
]
ApiPriceId = Annotated[
    Annotated[str, Field(pattern=_PRICE_ID_PATTERN, max_length=128, examples=["openai:gpt-5.4-mini"])] | None,
    _NULL_AS_TEXT,
]


class HardwareSpec(StrictModel):
    """A machine of one's own: bought, written off evenly, and fed with electricity. All four values, or none."""

    price_usd: float | None = Field(
        default=None, gt=0, le=1e8, description="Purchase price of the whole machine; null if not given. Unit: USD."
    )
    lifetime_years: float | None = Field(
        default=None, gt=0, le=30, description="Time until it is written off; null if not given. Unit: years."
    )
    watts: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Mean power at the plug while it is switched on; null if not given. Unit: watts.",
    )
    electricity_usd_per_kwh: float | None = Field(
        default=None, ge=0, le=10, description="Price of electricity; null if not given. Unit: USD per kWh."
    )

    @property
    def is_given(self) -> bool:
        """Whether it is described."""
        return self.price_usd is not None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        names = type(self).model_fields
        lacking = [name for name in names if getattr(self, name) is None]
        if lacking and len(lacking) < len(names):
            raise ValueError(f"{', '.join(lacking)} missing; own hardware needs all of {', '.join(names)}")
        return self


class CompareWithSpec(StrictModel):
    """The API that the break-even is told against: an entry of the price list, or its two prices."""

    api: ApiPriceId = Field(default=None, description="Entry of the price list, provider:model; null if not given.")
    input_usd_per_1m_tokens: float | None = Field(
        default=None, ge=0, le=10_000, description="Price of prompt tokens. Unit: USD per million tokens."
    )
    output_usd_per_1m_tokens: float | None = Field(
        default=None, gt=0, le=10_000, description="Price of output tokens. Unit: USD per million tokens."
    )

    @property
    def is_given(self) -> bool:
        """Whether there is something to compare with."""
        return self.api is not None or self.output_usd_per_1m_tokens is not None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        prices = (self.input_usd_per_1m_tokens, self.output_usd_per_1m_tokens)
        num_prices = sum(price is not None for price in prices)
        if self.api is not None and num_prices:
            raise ValueError("api and prices are both set; keep one of the two")
        if num_prices == 1:
            raise ValueError("set both input_usd_per_1m_tokens and output_usd_per_1m_tokens, or neither")
        return self


class CostSpec(StrictModel):
    """What the machine costs, said in one of three ways; without any of them no cost is told."""

    usd_per_hour: float | None = Field(
        default=None, gt=0, le=100_000, description="Price of the whole machine, in USD per hour; null if not given."
    )
    instance: InstancePriceId = Field(
        default=None, description="Entry of the price list, provider:instance; null if not given."
    )
    hardware: HardwareSpec = Field(default=HardwareSpec(), description="A machine of one's own.")
    utilisation: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description=(
            "Part of the time the machine is busy with requests; null if not known, then only the cost of busy time "
            "is told. Unit: share, 0 to 1."
        ),
    )
    compare_with: CompareWithSpec = Field(
        default=CompareWithSpec(), description="The API that the break-even is told against."
    )

    @property
    def has_price(self) -> bool:
        """Whether the price of the machine is stated in some way."""
        return self.usd_per_hour is not None or self.instance is not None or self.hardware.is_given

    @field_validator("instance")
    @classmethod
    def _is_not_a_second_price(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("usd_per_hour") is not None:
            raise ValueError("cost.usd_per_hour is set too; keep one of the two")
        return value

    @field_validator("hardware")
    @classmethod
    def _is_not_another_price(cls, value: HardwareSpec, info: ValidationInfo) -> HardwareSpec:
        others = [name for name in ("usd_per_hour", "instance") if info.data.get(name) is not None]
        if value.is_given and others:
            raise ValueError(f"cost.{others[0]} is set too; keep one of the two")
        return value

    @field_validator("utilisation")
    @classmethod
    def _has_a_price_to_apply_to(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and not _is_priced(info):
            raise ValueError("it applies to the price of the machine; set usd_per_hour, instance or hardware too")
        return value

    @field_validator("compare_with")
    @classmethod
    def _has_a_price_to_compare(cls, value: CompareWithSpec, info: ValidationInfo) -> CompareWithSpec:
        if value.is_given and not _is_priced(info):
            raise ValueError("there is no price of the machine to compare; set usd_per_hour, instance or hardware too")
        return value


def _is_priced(info: ValidationInfo) -> bool:
    """Whether a price is stated, or was refused: then that is the error to tell."""
    prices = ("usd_per_hour", "instance", "hardware")
    if any(name not in info.data for name in prices):
        return True
    return any(info.data[name] is not None for name in prices[:2]) or info.data["hardware"].is_given
