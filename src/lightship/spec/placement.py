"""Where requests may run besides this machine: upstreams, routing between edge and cloud."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lightship.spec.base import StrictModel
from lightship.spec.values import Label, ModelName


class PriceSpec(StrictModel):
    """What an upstream charges."""

    input: float = Field(ge=0, le=10_000, description="Price of prompt tokens. Unit: USD per million tokens.")
    output: float = Field(ge=0, le=10_000, description="Price of output tokens. Unit: USD per million tokens.")


class UpstreamSpec(StrictModel):
    """One OpenAI-compatible endpoint elsewhere."""

    name: Label = Field(description="Name that `routing` calls it by.")
    base_url: str = Field(
        pattern=r"^https?://[^\s/@]+(/\S*)?$",
        max_length=2048,
        examples=["https://api.example.com/v1"],
        description="Address up to, and without, `/chat/completions`.",
    )
    api_key_env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        max_length=128,
        examples=["CLOUD_KEY"],
        description="Environment variable that holds the key (never the key itself); null sends none.",
    )
    model: str | None = Field(
        default=None,
        pattern=r"^[!-~]+$",
        max_length=256,
        examples=["org/name", "*"],
        description="What the endpoint calls its model; `*` is each one it lists, null the only one it lists.",
    )
    serves: ModelName | None = Field(
        default=None, description="Name clients send for it; null: what the endpoint calls it."
    )
    rung: int = Field(
        default=0,
        ge=0,
        le=63,
        description="Place on the ladder of the name it serves, 0 at the top; equal ones share the load. Unit: rungs.",
    )
    price_usd_per_1m: PriceSpec | None = Field(
        default=None, description="Price; null if unknown. Unit: USD per million tokens."
    )


class PrivacySpec(StrictModel):
    """Requests that must not leave."""

    tags: Annotated[tuple[Label, ...], Field(strict=False)] = Field(
        default=("pii",), min_length=1, max_length=64, description="Request tags this holds for."
    )
    stay: Literal["edge"] = Field(default="edge", description="Where such requests stay.")


class SpillSpec(StrictModel):
    """When requests go to an upstream instead."""

    to: Label = Field(description="Name of the upstream.")
    when: Literal["saturated"] = Field(default="saturated", description="The condition.")
    max_usd_per_hour: float = Field(
        default=1.0, ge=0, le=100_000, description="Most money spent there in an hour. Unit: USD per hour."
    )


class RoutingSpec(StrictModel):
    """Which requests run where; null sets no rule."""

    privacy: PrivacySpec | None = Field(default=None, description="Requests that must not leave; null sets no rule.")
    spill: SpillSpec | None = Field(default=None, description="Overflow to an upstream; null sets no rule.")
