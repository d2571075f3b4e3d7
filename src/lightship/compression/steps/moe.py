"""Step `moe`: makes a mixture of experts of a dense checkpoint (two ways), or removes experts from one that is one."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec

from lightship.artifacts.checkpoint import Checkpoint
from lightship.artifacts.model_config import read_json_object
from lightship.compression.moe.layouts import (
    Carving,
    carve_layout,
    check_carving,
    check_upcycling,
    num_experts_to_keep,
    upcycle_layout,
)
from lightship.compression.steps.base import JobEstimate, JobPlan, Step, StepContext, StepPlan
from lightship.compression.toolchains.definitions import COMPRESS, TRAIN
from lightship.errors import SpecError
from lightship.ports.variants import WeightFormat

# S3A3E8, three quarters of the channels active: near-lossless without training in arXiv:2502.04416, and here.
_CARVE_DEFAULTS = Carving(num_experts=8, num_shared=3, top_k=3)
# As Mixtral chooses: 2 experts a token; 4 of them, because each is a copy of the whole feed-forward network.
_UPCYCLE_EXPERTS, _UPCYCLE_TOP_K = 4, 2
# transformers' initializer_range, which routers are drawn with when they are trained from scratch.
_ROUTER_STD = 0.02
_KEEP_FRACTION = 0.5
_SEED = 0
# 16,384 tokens: several for each dimension of a layer's input that the router is fitted on, and a minute of work.
_NUM_WINDOWS, _WINDOW_TOKENS = 32, 512
_OPTIONS_OF = {
    "upcycle": ("num_experts", "top_k", "router_std", "expert_noise"),
    "carve": ("num_experts", "num_shared", "top_k"),
    "prune-experts": ("num_experts", "keep_fraction"),
}

Positive = Annotated[int, msgspec.Meta(ge=1)]


class MoeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What each method takes; an option that is left out has the method's default.

    upcycle: `num_experts` copies (4), `top_k` of them for a token (2), `router_std` (0.02), `expert_noise` (0).
    carve: `num_experts` equal parts of the feed-forward network (8), `num_shared` of them always active (3), `top_k` of
    the others for a token (3).
    prune-experts: `num_experts` that stay in each layer, or `keep_fraction` (0.5).
    """

    method: Literal["upcycle", "carve", "prune-experts"]
    num_experts: Annotated[int, msgspec.Meta(ge=2)] | None = None
    num_shared: Positive | None = None
    top_k: Positive | None = None
    router_std: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    expert_noise: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    keep_fraction: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None


class MakeMixture(Step[MoeOptions]):
    """Mixtures of experts in the layouts of Mixtral, Qwen2Moe and Qwen3Moe."""

    kind = "moe"
    parent_format = WeightFormat.SAFETENSORS
    options_type = MoeOptions

    def tool_versions(self, options: MoeOptions) -> dict[str, str]:
        """Of the lock of the toolchain that the method runs in."""
        if options.method == "prune-experts":
            return {name: COMPRESS.version_of(name) for name in ("llmcompressor", "torch")}
        return {name: TRAIN.version_of(name) for name in ("torch", "transformers")}

    def inputs(self, options: MoeOptions, context: StepContext) -> dict[str, str]:
        """Calibration texts, where the method watches activations on them."""
        return {} if options.method == "upcycle" else {"calibration": context.calibration.digest}

    def plan(self, options: MoeOptions, parent: Checkpoint, context: StepContext) -> StepPlan:
        """See `Step`."""
        _check_options(options)
        config = read_json_object(parent.folder / "config.json")
        match options.method:
            case "upcycle":
                return _plan_upcycling(options, config, parent)
            case "carve":
                return _plan_carving(options, config, parent, context)
            case "prune-experts":
                return _plan_pruning(options, config, parent, context)


def _check_options(options: MoeOptions) -> None:
    """Raises: SpecError: an option of another method."""
    own = _OPTIONS_OF[options.method]
    for field in msgspec.structs.fields(MoeOptions):
        if field.name not in {"method", *own} and getattr(options, field.name) is not None:
            raise SpecError(
                f"step 'moe' with method {options.method!r} has no option {field.name!r}",
                where="recipe",
                hint=f"Its options: {', '.join(own)}.",
            )
    if options.method == "prune-experts" and options.num_experts and options.keep_fraction:
        raise SpecError(
            "num_experts and keep_fraction both say how many experts stay", where="recipe", hint="Give one of them."
        )


def _plan_upcycling(options: MoeOptions, config: dict[str, Any], parent: Checkpoint) -> StepPlan:
    num_experts = options.num_experts or _UPCYCLE_EXPERTS
    top_k = options.top_k or _UPCYCLE_TOP_K
    layout = upcycle_layout(config)
    check_upcycling(num_experts=num_experts, top_k=top_k)
    bytes_per_parameter = parent.weight_bytes / parent.num_parameters
    copied = 3 * parent.num_layers * parent.hidden_size * _intermediate_size(config)
    num_parameters = parent.num_parameters + (num_experts - 1) * copied
    job = {
        "checkpoint": str(parent.folder),
        "num_experts": num_experts,
        "top_k": top_k,
        "router_std": _ROUTER_STD if options.router_std is None else options.router_std,
        "expert_noise": options.expert_noise or 0.0,
        "seed": _SEED,
    }
    disk_bytes = math.ceil(num_parameters * bytes_per_parameter)
    return JobPlan(
        kind="upcycle_experts",
        toolchain=TRAIN,
        job=job,
        title=f"upcycling to {num_experts} experts ({layout.architecture})",
        # One shard at a time besides the libraries; the time is the disk's.
        estimate=JobEstimate(
            memory_bytes=500_000_000 + min(disk_bytes, 4_000_000_000) * 2,
            duration_s=10 + disk_bytes / 2e8,
            disk_bytes=disk_bytes,
        ),
    )


def _plan_carving(options: MoeOptions, config: dict[str, Any], parent: Checkpoint, context: StepContext) -> StepPlan:
    carving = Carving(
        options.num_experts or _CARVE_DEFAULTS.num_experts,
        options.num_shared or _CARVE_DEFAULTS.num_shared,
        options.top_k or _CARVE_DEFAULTS.top_k,
    )
    layout = carve_layout(config)
    width = _intermediate_size(config)
    check_carving(carving, intermediate_size=width)
    num_tokens = _NUM_WINDOWS * _WINDOW_TOKENS
    job = {
        "checkpoint": str(parent.folder),
        "calibration": str(context.calibration.path),
        "num_experts": carving.num_experts,
        "num_shared": carving.num_shared,
        "top_k": carving.top_k,
        "num_windows": _NUM_WINDOWS,
        "window_tokens": _WINDOW_TOKENS,
    }
    # The model, the inputs of all layers, and the channels of one in float32 a few times over.
    inputs_bytes = num_tokens * parent.num_layers * parent.hidden_size * parent.weight_bytes // parent.num_parameters
    return JobPlan(
        kind="carve_experts",
        toolchain=TRAIN,
        job=job,
        title=f"carving experts, {carving.active_fraction:.0%} of the channels active ({layout.architecture})",
        estimate=JobEstimate(
            memory_bytes=800_000_000 + parent.weight_bytes + 2 * inputs_bytes + 4 * 4 * num_tokens * width,
            # Two passes over the tokens at about 3e10 multiplications a second, and the clustering.
            duration_s=20 + 2 * num_tokens * parent.num_parameters / 3e10 + parent.num_layers * width / 2e3,
            disk_bytes=parent.weight_bytes,
        ),
    )


def _plan_pruning(options: MoeOptions, config: dict[str, Any], parent: Checkpoint, context: StepContext) -> StepPlan:
    kept = num_experts_to_keep(
        config,
        num_experts=options.num_experts,
        keep_fraction=None if options.num_experts else options.keep_fraction or _KEEP_FRACTION,
    )
    job = {
        "checkpoint": str(parent.folder),
        "calibration": str(context.calibration.path),
        "num_experts": kept,
        "num_windows": _NUM_WINDOWS,
        "window_tokens": _WINDOW_TOKENS,
    }
    return JobPlan(
        kind="prune_experts",
        toolchain=COMPRESS,
        job=job,
        title=f"pruning to {kept} experts in each layer (REAP)",
        estimate=JobEstimate(
            memory_bytes=1_500_000_000 + 2 * parent.weight_bytes,
            duration_s=40 + 2 * _NUM_WINDOWS * _WINDOW_TOKENS * parent.num_parameters / 3e10,
            disk_bytes=parent.weight_bytes,
        ),
    )


def _intermediate_size(config: dict[str, Any]) -> int:
    value = config.get("intermediate_size")
    if type(value) is not int or value < 1:
        raise SpecError(
            f"the checkpoint's config says `intermediate_size` is {value!r}",
            where="recipe",
            hint="It must be a positive whole number; complete config.json from the model's origin.",
        )
    return value
