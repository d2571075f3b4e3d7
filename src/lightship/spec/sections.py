"""What is served and how well: model, promises, quality, replicas and how it is measured."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from lightship.spec.base import StrictModel
from lightship.spec.source import BuiltinSource, SourceField
from lightship.spec.values import BudgetPeriodS, ModelName, VariantName, refuse_repeats


def _name_from_source(validated: dict[str, Any]) -> str:
    name: str = validated["source"].default_name
    return name


class ModelSpec(StrictModel):
    """Which model, and the name clients call it by."""

    source: SourceField = Field(
        default=BuiltinSource("fairytales"),
        description=(
            "Where the checkpoint comes from: builtin:NAME, ./folder or /folder (relative ones start at the current "
            "folder), or hf:org/name@revision."
        ),
    )
    name: ModelName = Field(
        default_factory=_name_from_source,
        description="The model name clients send. Default: the last part of `source`.",
    )


class SloSpec(StrictModel):
    """The latency promise; goodput counts only requests that keep all of it."""

    ttft_ms: float = Field(
        default=400, gt=0, le=600_000, description="Longest time to the first token, in milliseconds."
    )
    tpot_ms: float = Field(
        default=40, gt=0, le=60_000, description="Longest mean time per output token after the first, in milliseconds."
    )
    attainment: float = Field(
        default=0.95, gt=0, le=1, description="Part of the requests that must keep the promise. Unit: share, 0 to 1."
    )


class QualityBudgetSpec(StrictModel):
    """How many requests may be answered on a lower rung than asked."""

    degraded_requests: float = Field(
        default=0.10, ge=0, le=1, description="Requests that may be degraded in one period. Unit: share, 0 to 1."
    )
    mean_loss: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description=(
            "Quality that may be lost on average over all answers, by the upper end of each rung's interval; null sets "
            "no bound. Unit: share, 0 to 1."
        ),
    )
    expected_requests: int = Field(
        default=1000,
        ge=0,
        le=10**12,
        description="Requests a period is taken to have before that many have come. Unit: requests.",
    )
    per: BudgetPeriodS = Field(
        default=86400, description="Length of one budget period: 1d, 12h, or a number. Unit: seconds."
    )


class QualitySpec(StrictModel):
    """Which variants are good enough, and on which text that is decided."""

    reference: VariantName = Field(
        default="source", description="What variants are compared with: `source` (the unchanged model) or a variant."
    )
    floor: float = Field(
        default=0.97,
        ge=0,
        le=1,
        description="Least quality recovery against the reference for a place on the ladder. Unit: share, 0 to 1.",
    )
    budget: QualityBudgetSpec | None = Field(default=None, description="Bound on degraded requests; null sets none.")
    text: str = Field(
        default="builtin",
        min_length=1,
        max_length=4096,
        examples=["builtin", "./held-out.jsonl"],
        description=(
            "Held-out text for quality figures: `builtin`, or the path of a JSON Lines or plain text file (relative "
            "ones start at the current folder)."
        ),
    )


_Concurrency = Annotated[int, Field(ge=1, le=1024)]


class MeasurementSpec(StrictModel):
    """How variants are measured before they are put in order."""

    protocol: Literal["screening", "quick", "thorough"] = Field(
        default="quick",
        description=(
            "Procedure: `screening` loads each variant once for three seconds per concurrency, `quick` three times for "
            "one second, `thorough` five times for ten seconds."
        ),
    )
    concurrencies: Annotated[tuple[_Concurrency, ...], Field(strict=False)] = Field(
        default=(1, 8, 32),
        min_length=1,
        max_length=16,
        description="Concurrent requests at which speed is measured. Unit: requests.",
    )
    target_concurrency: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="The one of `concurrencies` whose goodput orders the ladder. Unit: requests.",
    )

    @field_validator("concurrencies")
    @classmethod
    def _listed_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        refuse_repeats(value)
        return value

    @field_validator("target_concurrency")
    @classmethod
    def _is_measured(cls, value: int, info: ValidationInfo) -> int:
        measured = info.data.get("concurrencies")
        if measured is not None and value not in measured:
            raise ValueError(f"{value} is not one of measurement.concurrencies {list(measured)}; add it, or choose one")
        return value
