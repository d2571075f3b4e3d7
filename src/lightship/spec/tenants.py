"""Who may send requests and how many: keys, rates, budgets and prices."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lightship.spec.base import StrictModel

StoreLoss = Literal["allow", "refuse", "by_budget"]

# Sums in billionths of a dollar stay exact up to here.
_MOST_USD = 1_000_000
_MOST_TOKENS = 10**15


class KeysSpec(StrictModel):
    """Who may send requests. Keys are made with `lightship keys`."""

    required: bool = Field(default=False, description="Whether a request needs a key.")


class LimitSpec(StrictModel):
    """Limits and budgets of one tenant; null sets none. Days and months are UTC."""

    requests_per_min: int | None = Field(
        default=None, ge=1, le=10**9, description="Most requests in a minute. Unit: requests per minute."
    )
    tokens_per_min: int | None = Field(
        default=None, ge=1, le=10**12, description="Most prompt and output tokens in a minute. Unit: tokens per minute."
    )
    concurrent_requests: int | None = Field(
        default=None, ge=1, le=10**6, description="Most requests under way at the same time. Unit: requests."
    )
    daily_tokens: int | None = Field(
        default=None, ge=1, le=_MOST_TOKENS, description="Most prompt and output tokens in a day. Unit: tokens."
    )
    monthly_tokens: int | None = Field(
        default=None, ge=1, le=_MOST_TOKENS, description="Most prompt and output tokens in a month. Unit: tokens."
    )
    daily_usd: float | None = Field(
        default=None, gt=0, le=_MOST_USD, description="Most money in a day, at `gateway.prices`. Unit: USD."
    )
    monthly_usd: float | None = Field(
        default=None, gt=0, le=_MOST_USD, description="Most money in a month, at `gateway.prices`. Unit: USD."
    )


class TokenPriceSpec(StrictModel):
    """What a tenant is charged for the tokens of one variant."""

    input: float = Field(default=0, ge=0, le=10_000, description="Of prompts. Unit: USD per million tokens.")
    output: float = Field(default=0, ge=0, le=10_000, description="Of answers. Unit: USD per million tokens.")
