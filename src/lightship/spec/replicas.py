"""How many engines run at the same time, and when one sleeps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from lightship.spec.base import StrictModel
from lightship.spec.values import KvCacheBytes


class ReplicasSpec(StrictModel):
    """How many replicas of each rung run, on this machine or in a cluster."""

    min: int = Field(
        default=1,
        ge=0,
        le=1024,
        description="Fewest replicas kept running; 0 lets the model sleep until a request comes. Unit: replicas.",
    )
    max: int = Field(
        default=1, ge=1, le=1024, description="Most replicas at peak load, not below `min`. Unit: replicas."
    )
    idle_after_s: float = Field(
        default=600, ge=1, le=604_800, description="Time without requests before scaling to `min`, in seconds."
    )
    prefer: Literal["ladder", "replicas"] = Field(
        default="replicas",
        description="What meets a peak first: lower rungs of the `ladder`, which cost nothing, or more `replicas`.",
    )
    scale_down_after_s: float = Field(
        default=300,
        ge=0,
        le=3600,
        description="Time that fewer replicas must have sufficed before one is stopped, in seconds.",
    )
    max_usd_per_hour: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Most that all replicas of a rung may cost, by the price under `cost`; null sets no bound. "
        "Unit: USD per hour.",
    )
    memory: KvCacheBytes | None = Field(
        default=None,
        description="Memory for all replicas on one machine, like `8 GiB`; null is 90 % of what it has. Idle models "
        "make room for others within it. Unit: bytes.",
    )
    memory_limit: KvCacheBytes | None = Field(
        default=None,
        description="Memory one replica may take on this machine before it is started again; null sets no limit. "
        "Unit: bytes.",
    )

    @field_validator("max")
    @classmethod
    def _not_below_min(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("min", 0):
            raise ValueError(f"{value} is less than replicas.min ({info.data['min']})")
        return value
