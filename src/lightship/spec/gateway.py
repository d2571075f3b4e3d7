"""The front door: address, limits of every hop, retries, keys, tenants' limits, priorities and caches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from lightship.spec.admission import AdmissionSpec, PrioritySpec
from lightship.spec.base import StrictModel
from lightship.spec.replica_routing import ReplicaRoutingSpec
from lightship.spec.server import AccessLogSpec, CorsSpec, TlsSpec
from lightship.spec.state import StateSpec
from lightship.spec.tenants import KeysSpec, LimitSpec, StoreLoss, TokenPriceSpec
from lightship.spec.values import BodyLimitBytes, CacheBytes, Label, ListenAddress, ListenField, VariantName, show_bytes


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


class ExactCacheSpec(StrictModel):
    """Answers kept for the same tenant's requests that ask the same of the same variant."""

    ttl_s: float = Field(default=3600, gt=0, le=2_592_000, description="Time an answer is kept, in seconds.")
    max_size: CacheBytes = Field(default=256 * 2**20, description="All answers together. Unit: bytes.")
    max_answer_size: BodyLimitBytes = Field(
        default=2**20, description="Longest answer that is kept, not above `max_size`. Unit: bytes."
    )
    deterministic_only: bool = Field(
        default=True, description="Whether only requests with `temperature: 0` are answered from the cache."
    )
    accept_seed: bool = Field(
        default=False, description="Whether a request with a `seed` counts as deterministic, whatever its temperature."
    )

    @field_validator("max_answer_size")
    @classmethod
    def _fits(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("max_size", value):
            raise ValueError(f"{show_bytes(value)} is more than max_size ({show_bytes(info.data['max_size'])})")
        return value


class SemanticCacheSpec(StrictModel):
    """Answers kept for requests that mean the same."""

    mode: Literal["shadow", "serve"] = Field(
        default="shadow", description="`shadow` only counts what it would answer; `serve` answers."
    )
    max_wrong_hits: float = Field(
        default=0.02, ge=0, le=1, description="Measured bound on wrong hits among all hits. Unit: share, 0 to 1."
    )


class WakingSpec(StrictModel):
    """Requests for a model that sleeps or starts: held until it is awake."""

    max_held: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Requests of one model and one class that may wait for it; more are refused. Unit: requests.",
    )
    hold_s: float = Field(default=300, gt=0, le=3600, description="Longest time a stream is held, in seconds.")
    whole_answer_hold_s: float = Field(
        default=55,
        gt=0,
        le=3600,
        description="Longest time a request for a whole answer is held, below the limits of clients and proxies: its "
        "connection cannot be kept open by signs of life, in seconds.",
    )
    keep_alive_s: float = Field(
        default=10,
        gt=0,
        le=600,
        description="Time after which a held stream gets its headers and a comment, and between two comments, in "
        "seconds.",
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
    routing: ReplicaRoutingSpec = Field(
        default=ReplicaRoutingSpec(), description="How the replicas of a rung share its requests."
    )
    drain_timeout_s: float = Field(
        default=30, ge=0, le=3600, description="Time requests under way get to end after a stop signal, in seconds."
    )
    send_timeout_s: float = Field(
        default=30, gt=0, le=3600, description="Longest time a client may leave its answer unread, in seconds."
    )
    workers: int = Field(
        default=1, ge=1, le=256, description="Serving processes, of which each can use one core. Unit: processes."
    )
    tls: TlsSpec | None = Field(default=None, description="Encrypted connections; null serves plain HTTP.")
    cors: CorsSpec | None = Field(default=None, description="Web pages that may call it; null allows none.")
    access_log: AccessLogSpec = Field(default=AccessLogSpec(), description="The line about each request.")
    keys: KeysSpec = Field(default=KeysSpec(), description="Who may send requests.")
    limits: Annotated[Mapping[Label, LimitSpec], Field(strict=False)] = Field(
        default={}, max_length=1000, description="Limits and budgets by tenant; `default` is for every other one."
    )
    prices: Annotated[Mapping[VariantName, TokenPriceSpec], Field(strict=False)] = Field(
        default={},
        max_length=1000,
        description="What tokens cost tenants, by variant; `default` is for every other one. USD budgets count by it.",
    )
    on_store_loss: StoreLoss = Field(
        default="by_budget",
        description="When shared counters cannot be reached: `allow` requests with each process's share of the rates, "
        "`refuse` them, or refuse only tenants that have a budget (`by_budget`).",
    )
    state: StateSpec = Field(
        default=StateSpec(), description="Where counters and answers live that must outlast or be shared."
    )
    admission: AdmissionSpec = Field(default=AdmissionSpec(), description="The queue and the steps of the ladder.")
    waking: WakingSpec = Field(default=WakingSpec(), description="Requests for a model that sleeps.")
    priorities: Annotated[Mapping[Label, PrioritySpec], Field(strict=False)] = Field(
        default={}, max_length=100, description="Classes of requests by name."
    )
    cache: CacheSpec = Field(default=CacheSpec(), description="Response caches.")
