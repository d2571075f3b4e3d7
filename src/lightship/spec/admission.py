"""Who is let in, and how the ladder is used: classes of requests, the queue, when to step down and up."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lightship.spec.base import StrictModel


class PrioritySpec(StrictModel):
    """How one class of requests is treated when the system is full; a client names it in `x-priority`."""

    importance: int = Field(
        default=0,
        ge=-1000,
        le=1000,
        description="The class with the highest number is served first and shed last. Unit: rank.",
    )
    degrade: Literal["allowed", "preferred", "never"] = Field(
        default="allowed", description="Whether a lower rung may answer: allowed, preferred or never."
    )
    min_quality: float = Field(
        default=0.0, ge=0, le=1, description="Least quality recovery of a rung that may answer. Unit: share, 0 to 1."
    )
    trim_max_tokens: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="What `max_tokens` may be cut to at peak load; null never cuts. Unit: tokens.",
    )
    max_wait_s: float | None = Field(
        default=None,
        ge=0,
        le=3600,
        description="Longest time in the queue, in seconds; null waits as long as the latency promise allows.",
    )


class AdmissionSpec(StrictModel):
    """The queue in front of the replicas, and when the ladder is stepped down and up."""

    max_queued: int = Field(
        default=1024,
        ge=0,
        le=1_000_000,
        description="Most requests that wait; beyond it the least important are shed. Unit: requests.",
    )
    max_concurrency: int = Field(
        default=4096, ge=1, le=1_000_000, description="Most requests under way on one rung. Unit: requests."
    )
    default_max_tokens: int = Field(
        default=512,
        ge=1,
        le=1_000_000,
        description="What a request that sets no bound is taken to ask for. Unit: tokens.",
    )
    step_down_after_s: float = Field(
        default=0.25, ge=0, le=600, description="How long an overload lasts before a step down the ladder, in seconds."
    )
    step_up_after_s: float = Field(
        default=5.0, ge=0, le=86_400, description="Least time on a lower rung before a step up, in seconds."
    )
