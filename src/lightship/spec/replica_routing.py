"""How the replicas of a rung share its requests, and what is done about bad ones."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from lightship.spec.base import StrictModel


class BreakerSpec(StrictModel):
    """When a replica that fails gets no requests for a while; the last one of a rung always gets them."""

    failures: int = Field(
        default=5, ge=1, le=1000, description="Failures in a row that open the breaker. Unit: attempts."
    )
    first_pause_s: float = Field(
        default=1, gt=0, le=3600, description="From opening to the first probe, in seconds; doubles when a probe fails."
    )
    longest_pause_s: float = Field(
        default=30, gt=0, le=3600, description="Where the doubling ends, not below `first_pause_s`, in seconds."
    )

    @field_validator("longest_pause_s")
    @classmethod
    def _not_below_first(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("first_pause_s", 0):
            raise ValueError(f"{value:g} is less than first_pause_s ({info.data['first_pause_s']:g})")
        return value


class OutliersSpec(StrictModel):
    """When a replica that does much worse than its peers gets no requests for a while."""

    max_ejected_share: float = Field(
        default=0.5, ge=0, le=1, description="Replicas of a rung that may be out; 0 ejects none. Unit: share, 0 to 1."
    )
    slow_factor: float = Field(
        default=3,
        gt=1,
        le=1000,
        description="Time to first token per prompt token that is too slow, as a multiple of the peers' median. "
        "Unit: factor.",
    )
    ejection_s: float = Field(
        default=30, gt=0, le=300, description="How long it is out the first time in a row, in seconds."
    )


class ReplicaRoutingSpec(StrictModel):
    """How the replicas of a rung share its requests; the defaults suit most."""

    load_gate_s: float = Field(
        default=2,
        gt=0,
        le=600,
        description="How far a replica may be ahead in work and still get requests whose prefix it knows, in seconds.",
    )
    share_prefixes: bool = Field(
        default=False,
        description="Whether a tenant's requests may be led to prefixes of other tenants. Faster, but the time to first"
        " token then tells whether somebody else has asked the same.",
    )
    engine_metrics: bool = Field(
        default=True, description="Whether engines' `/metrics` are read to see load that does not come from here."
    )
    hedging: Literal["never", "deterministic", "all"] = Field(
        default="never",
        description="Which requests get a second attempt when the first byte is late: never, those with temperature 0 "
        "(deterministic), or all. Counts as a retry.",
    )
    breaker: BreakerSpec = Field(default=BreakerSpec(), description="Replicas that fail.")
    outliers: OutliersSpec = Field(default=OutliersSpec(), description="Replicas that do worse than their peers.")
