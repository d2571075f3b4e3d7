"""The whole of `lightship.yaml`; every field has a default, so an empty file is a valid spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, Tag, ValidationInfo, field_validator

from lightship.spec.base import StrictModel
from lightship.spec.compression import CompressionSpec
from lightship.spec.cost import CostSpec
from lightship.spec.deploy import DeploySpec
from lightship.spec.engines import EnginesSpec
from lightship.spec.gateway import GatewaySpec
from lightship.spec.placement import RoutingSpec, UpstreamSpec
from lightship.spec.replicas import ReplicasSpec
from lightship.spec.sections import MeasurementSpec, ModelSpec, QualitySpec, SloSpec
from lightship.spec.values import AUTO_OR_LIST, RungField, RungName, VariantName, refuse_repeats

_Auto = Annotated[Literal["auto"], Tag("auto")]
_VariantList = Annotated[tuple[VariantName, ...], Field(strict=False, min_length=1, max_length=64), Tag("list")]
_StepKind = Annotated[str, Field(pattern=r"^[a-z][a-z_-]*$", max_length=32)]
_OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=48)]
_OptionText = Annotated[str, Field(max_length=4096)]
_OptionNumber = Annotated[float, Field(ge=-1e12, le=1e12)]
_OptionCount = Annotated[int, Field(ge=-(10**12), le=10**12)]
_StepOptions = Annotated[
    Mapping[_OptionName, bool | _OptionCount | _OptionNumber | _OptionText], Field(strict=False, max_length=32)
]
_RecipeStep = Annotated[Mapping[_StepKind, _StepOptions], Field(strict=False, min_length=1, max_length=1)]
_RecipeSteps = Annotated[tuple[_RecipeStep, ...], Field(strict=False, min_length=1, max_length=16)]
_RungList = Annotated[tuple[RungField, ...], Field(strict=False, min_length=1, max_length=64), Tag("list")]


class Spec(StrictModel):
    """What a user wants served, and how well."""

    model: ModelSpec = Field(default=ModelSpec(), description="Which model, and its name.")
    slo: SloSpec = Field(default=SloSpec(), description="The latency promise.")
    quality: QualitySpec = Field(default=QualitySpec(), description="Which variants are good enough.")
    variants: Annotated[_Auto | _VariantList, AUTO_OR_LIST] = Field(
        default="auto", description="Variants to make: `auto`, or a list of recipe names."
    )
    recipes: Annotated[Mapping[VariantName, _RecipeSteps], Field(strict=False)] = Field(
        default={},
        max_length=64,
        description="Recipes of your own beside the presets: names and their steps, `{kind: {option: value}}` each.",
    )
    compression: CompressionSpec = Field(
        default=CompressionSpec(), description="What variants are made with, besides the model."
    )
    engines: EnginesSpec = Field(default=EnginesSpec(), description="Engines that may serve, with their settings.")
    ladder: Annotated[_Auto | _RungList, AUTO_OR_LIST] = Field(
        default="auto", description="Rungs, best quality first: `auto` (measured), or a list of variant@engine."
    )
    replicas: ReplicasSpec = Field(default=ReplicasSpec(), description="How many engines run at the same time.")
    gateway: GatewaySpec = Field(default=GatewaySpec(), description="The front door.")
    upstreams: Annotated[tuple[UpstreamSpec, ...], Field(strict=False)] = Field(
        default=(), max_length=64, description="OpenAI-compatible endpoints elsewhere."
    )
    routing: RoutingSpec = Field(default=RoutingSpec(), description="Which requests run where.")
    deploy: DeploySpec = Field(default=DeploySpec(), description="Where the system is deployed.")
    measurement: MeasurementSpec = Field(default=MeasurementSpec(), description="How variants are measured.")
    cost: CostSpec = Field(default=CostSpec(), description="What the machine costs.")

    @field_validator("variants")
    @classmethod
    def _variants_listed_once(cls, value: Literal["auto"] | tuple[str, ...]) -> Literal["auto"] | tuple[str, ...]:
        if isinstance(value, tuple):
            refuse_repeats(value)
        return value

    @field_validator("ladder")
    @classmethod
    def _rungs_exist(
        cls, value: Literal["auto"] | tuple[RungName, ...], info: ValidationInfo
    ) -> Literal["auto"] | tuple[RungName, ...]:
        if value == "auto":
            return value
        refuse_repeats(value)
        variants, engines = info.data.get("variants", "auto"), info.data.get("engines")
        for rung in value:
            if variants != "auto" and rung.variant not in variants:
                raise ValueError(f"{rung} names no entry of variants ({', '.join(variants)})")
            if engines is not None and rung.engine not in engines.enabled:
                raise ValueError(f"{rung} names no entry of engines ({', '.join(engines.enabled)})")
        return value

    @field_validator("upstreams")
    @classmethod
    def _upstream_names_listed_once(cls, value: tuple[UpstreamSpec, ...]) -> tuple[UpstreamSpec, ...]:
        refuse_repeats(tuple(upstream.name for upstream in value))
        return value

    @field_validator("cost")
    @classmethod
    def _has_a_price_for_the_bound(cls, value: CostSpec, info: ValidationInfo) -> CostSpec:
        replicas = info.data.get("replicas")
        if replicas is not None and replicas.max_usd_per_hour is not None and value.usd_per_hour is None:
            raise ValueError(
                "replicas.max_usd_per_hour bounds what replicas cost; set cost.usd_per_hour, of one replica"
            )
        return value

    @field_validator("routing")
    @classmethod
    def _spill_target_exists(cls, value: RoutingSpec, info: ValidationInfo) -> RoutingSpec:
        upstreams = info.data.get("upstreams")
        if value.spill is not None and upstreams is not None:
            names = [upstream.name for upstream in upstreams]
            if value.spill.to not in names:
                raise ValueError(f"spill.to is {value.spill.to!r}, which is not one of the upstreams {names}")
        return value
