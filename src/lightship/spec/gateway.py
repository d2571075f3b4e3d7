"""The front door: address, limits of every hop, retries, keys, tenants' limits, priorities and caches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from lightship.spec.base import StrictModel
from lightship.spec.values import BodyLimitBytes, Label, ListenAddress, ListenField


class TimeoutsSpec(StrictModel):
    """Time limits of the hop from the gateway to an engine; all are finite."""

    connect_s: float = Field(default=5, gt=0, le=600, description="To open a connection, in seconds.")
    first_token_s: float = Field(
        default=60, gt=0, le=86_400, description="From sending the request to the first byte of the answer, in seconds."
    )
    next_token_s: float = Field(
        default=30, gt=0, le=86_400, description="Between two pieces of a streamed answer, in seconds."
    )
    total_s: float = Field(
        default=600,
        gt=0,
        le=86_400,
        description="From sending the request to its end, not below `first_token_s`, in seconds.",
    )

    @field_validator("total_s")
    @classmethod
    def _covers_first_token(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("first_token_s", 0):
            raise ValueError(f"{value:g} is less than first_token_s ({info.data['first_token_s']:g})")
        return value


class RetriesSpec(StrictModel):
    """Second tries at another replica, only before the first byte."""

    max_attempts: int = Field(
        default=3, ge=1, le=10, description="Most attempts for one request, the first one included. Unit: attempts."
    )
    budget_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Retries allowed in relation to requests, so that an outage is not multiplied. Unit: share.",
    )


class KeysSpec(StrictModel):
    """Who may send requests."""

    required: bool = Field(default=False, description="Whether a request needs a key.")


class LimitSpec(StrictModel):
    """Rate limits of one group of keys; null sets none."""

    requests_per_min: int | None = Field(
        default=None, ge=1, le=10**9, description="Most requests in a minute. Unit: requests per minute."
    )
    tokens_per_min: int | None = Field(
        default=None, ge=1, le=10**12, description="Most prompt and output tokens in a minute. Unit: tokens per minute."
    )


class PrioritySpec(StrictModel):
    """How one class of requests is treated when the system is full."""

    degrade: Literal["allowed", "preferred", "never"] = Field(
        default="allowed", description="Whether a lower rung may answer: allowed, preferred or never."
    )


class ExactCacheSpec(StrictModel):
    """Answers kept for requests that are the same byte for byte."""

    ttl_s: float = Field(default=3600, gt=0, le=2_592_000, description="Time an answer is kept, in seconds.")


class SemanticCacheSpec(StrictModel):
    """Answers kept for requests that mean the same."""

    mode: Literal["shadow", "serve"] = Field(
        default="shadow", description="`shadow` only counts what it would answer; `serve` answers."
    )
    max_wrong_hits: float = Field(
        default=0.02, ge=0, le=1, description="Measured bound on wrong hits among all hits. Unit: share, 0 to 1."
    )


class CacheSpec(StrictModel):
    """Response caches of the gateway; null leaves one out."""

    exact: ExactCacheSpec | None = Field(default=None, description="Cache of equal requests; null leaves it out.")
    semantic: SemanticCacheSpec | None = Field(
        default=None, description="Cache of similar requests; null leaves it out."
    )


class GatewaySpec(StrictModel):
    """The OpenAI-compatible gateway in front of the replicas."""

    listen: ListenField = Field(
        default=ListenAddress("127.0.0.1", 8080),
        description="Address to listen on, host:port; port 0 takes a free one.",
    )
    body_limit: BodyLimitBytes = Field(
        default=8 * 2**20, description="Largest request body, like `8 MiB` or a number. Unit: bytes."
    )
    timeouts: TimeoutsSpec = Field(default=TimeoutsSpec(), description="Time limits of every hop.")
    retries: RetriesSpec = Field(default=RetriesSpec(), description="Second tries before the first byte.")
    drain_timeout_s: float = Field(
        default=30, ge=0, le=3600, description="Time requests under way get to end after a stop signal, in seconds."
    )
    keys: KeysSpec = Field(default=KeysSpec(), description="Who may send requests.")
    limits: Annotated[Mapping[Label, LimitSpec], Field(strict=False)] = Field(
        default={}, max_length=1000, description="Rate limits by group of keys; `default` is for everyone else."
    )
    priorities: Annotated[Mapping[Label, PrioritySpec], Field(strict=False)] = Field(
        default={}, max_length=100, description="Classes of requests by name."
    )
    cache: CacheSpec = Field(default=CacheSpec(), description="Response caches.")
