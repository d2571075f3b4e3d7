"""Step `quantize` on a checkpoint: llm-compressor or AutoRound quantize its linear layers, for vLLM."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import msgspec

from lightship.artifacts.checkpoint import CONFIG_NAME, Checkpoint
from lightship.artifacts.file_rules import SAFETENSORS_SUFFIX
from lightship.artifacts.model_config import read_json_object
from lightship.artifacts.safetensors_header import read_safetensors_header
from lightship.compression.quantization.schemes import (
    FP8_CACHE_HEAD_MULTIPLE,
    MIXED,
    MIXED_ALGORITHMS,
    MIXED_FORMATS,
    SCHEMES,
    W4_BLOCK,
    LinearLayer,
    fitting_group_sizes,
    fused_groups,
    linear_layers,
    shape_problem,
    stored_bits,
)
from lightship.compression.steps.base import JobEstimate, JobPlan, Step, StepContext, StepPlan
from lightship.compression.toolchains.definitions import COMPRESS
from lightship.errors import SpecError
from lightship.ports.variants import RecipeStep, WeightFormat
from lightship.units import format_bytes

_STEP = "quantize"
_WITH_GPTQ = frozenset({"gptq", "smoothquant-gptq"})
# One scale for 128 weights costs an eighth of a bit, and 128 divides the sizes of all but the smallest models.
_DEFAULT_GROUP_SIZE = 128
# 128 windows of 512 tokens: what GPTQ and AutoRound papers use in windows, a quarter of it in length, which suits
# models of short contexts. More changed bits/byte of the built-in model in the fourth decimal.
_DEFAULT_NUM_SAMPLES, _DEFAULT_SEQUENCE_TOKENS = 128, 512
# llm-compressor's example for int8; the paper's 0.5 leaves more range in the activations.
_DEFAULT_SMOOTHING = 0.8
# GPTQ's own default, as a share of the mean diagonal of the Hessian.
_DEFAULT_DAMPENING = 0.01
# AutoRound's default.
_DEFAULT_ITERATIONS = 200
# Tokens on which sensitivities are measured: each of them passes the model twice for every matrix.
_SENSITIVITY_TOKENS = 2048
# Multiplications and additions a second that small models reach in bfloat16 on one or two cores.
_OPERATIONS_PER_S = 3e10
_REMOVED_ORDERS = frozenset({"group", "dynamic"})

Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class QuantizeCheckpointOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is quantized to what, and how it is rounded. An option of another scheme or algorithm is refused.

    Args:
        scheme: `w8a8` int8 weights and inputs; `w4a16` int4 weights, symmetric; `w4a16_asym` with zero points;
            `fp8_dynamic` fp8 weights and inputs; `mixed` of bf16, w8a8 and w4a16 within `budget_bits`.
        algorithm: `rtn` to nearest, without calibration; `gptq`; `smoothquant-gptq`; `awq`; `autoround`.
        group_size: Weights per scale, for 4-bit weights. 128 if the model's sizes allow it, else the largest that fits.
        num_calibration_samples: Windows of calibration text.
        sequence_tokens: Tokens of a window; never more than the model's context.
        smoothing_strength: Share of the inputs' range that moves into the weights, for `smoothquant-gptq`.
        observer: How the range of a scale is chosen: `minmax`, `mse`, or `imatrix_mse`, which weighs errors by the
            inputs seen, for `gptq`.
        activation_order: `static` rounds the columns with the largest inputs first, for `gptq`.
        dampening_fraction: Share of the Hessian's mean diagonal that is added to it, for `gptq`.
        num_iterations: Steps of training for each block, for `autoround`.
        budget_bits: Average bits per weight of the linear layers, scales included, for `mixed`.
        kv_cache: `fp8` adds calibrated scales for an 8-bit KV cache.
    """

    scheme: Literal["w8a8", "w4a16", "w4a16_asym", "fp8_dynamic", "mixed"]
    algorithm: Literal["rtn", "gptq", "smoothquant-gptq", "awq", "autoround"] = "rtn"
    group_size: Literal[32, 64, 128] | None = None
    num_calibration_samples: Count | None = None
    sequence_tokens: Annotated[int, msgspec.Meta(ge=64)] | None = None
    smoothing_strength: Fraction | None = None
    observer: Literal["minmax", "mse", "imatrix_mse"] | None = None
    activation_order: str | None = None
    dampening_fraction: Fraction | None = None
    num_iterations: Count | None = None
    budget_bits: Annotated[float, msgspec.Meta(ge=4, le=16)] | None = None
    kv_cache: Literal["none", "fp8"] = "none"

    @property
    def is_calibrated(self) -> bool:
        """Whether calibration texts go in."""
        return self.algorithm != "rtn" or self.scheme == MIXED or self.kv_cache == "fp8" or self._has_importance

    @property
    def _has_importance(self) -> bool:
        return self.observer == "imatrix_mse"

    @property
    def has_groups(self) -> bool:
        """Whether some weights get 4 bits."""
        return self.scheme == MIXED or SCHEMES[self.scheme].is_grouped


@dataclass(frozen=True)
class _Rounding:
    """The job's `rounding`, as `quantization.modifiers.RoundingPlan` reads it."""

    algorithm: str
    group_size: int
    observer: str
    activation_order: str
    dampening_fraction: float
    smoothing_strength: float
    kv_cache: str


class QuantizeCheckpoint(Step[QuantizeCheckpointOptions]):
    """Linear layers of decoder blocks; embeddings and head stay 16-bit."""

    kind = _STEP
    parent_format = WeightFormat.SAFETENSORS
    options_type = QuantizeCheckpointOptions

    def options(self, step: RecipeStep) -> QuantizeCheckpointOptions:
        """See `Step`."""
        if "desc_act" in step.options:
            raise _refused(
                "`desc_act` is not supported: engines dropped weights whose columns are in another order",
                "Leave it out; `activation_order: static` has the same effect on quality and none on speed.",
            )
        options = super().options(step)
        _check_combination(options)
        return options

    def tool_versions(self, options: QuantizeCheckpointOptions) -> dict[str, str]:
        """Of the toolchain's lock."""
        names = ["llmcompressor", "compressed-tensors"]
        if options.algorithm == "autoround":
            names.append("auto-round")
        return {name: COMPRESS.version_of(name) for name in names}

    def inputs(self, options: QuantizeCheckpointOptions, context: StepContext) -> dict[str, str]:
        """The calibration texts' digest, where they are used."""
        return {"calibration": context.calibration.digest} if options.is_calibrated else {}

    def plan(self, options: QuantizeCheckpointOptions, parent: Checkpoint, context: StepContext) -> StepPlan:
        """See `Step`."""
        layers = quantizable_layers(parent)
        _check_model(options, parent, layers)
        group_size = _group_size(options, layers)
        rounding = _Rounding(
            algorithm=options.algorithm,
            group_size=group_size,
            observer=options.observer or ("imatrix_mse" if options.algorithm in _WITH_GPTQ else "minmax"),
            activation_order=options.activation_order or "static",
            dampening_fraction=options.dampening_fraction or _DEFAULT_DAMPENING,
            smoothing_strength=options.smoothing_strength or _DEFAULT_SMOOTHING,
            kv_cache=options.kv_cache,
        )
        num_samples = options.num_calibration_samples or _DEFAULT_NUM_SAMPLES
        sequence_tokens = min(options.sequence_tokens or _DEFAULT_SEQUENCE_TOKENS, parent.context_length)
        job = {
            "checkpoint": str(parent.folder),
            "scheme": options.scheme,
            "rounding": asdict(rounding),
            "calibration": str(context.calibration.path) if options.is_calibrated else None,
            "num_calibration_samples": num_samples,
            "sequence_tokens": sequence_tokens,
            "num_iterations": options.num_iterations or _DEFAULT_ITERATIONS,
            "budget_bytes": _budget_bytes(options, layers, group_size),
            "sensitivity_tokens": _SENSITIVITY_TOKENS,
        }
        return JobPlan(
            kind="quantize_checkpoint",
            toolchain=COMPRESS,
            job=job,
            title=f"quantizing to {options.scheme} ({options.algorithm})",
            estimate=_estimate(options, parent, layers, num_samples=num_samples, sequence_tokens=sequence_tokens),
        )


def quantizable_layers(parent: Checkpoint) -> tuple[LinearLayer, ...]:
    """The checkpoint's linear layers, by the shapes in its weight files."""
    shapes = [
        (tensor.name, tensor.shape)
        for entry in parent.files
        if entry.path.endswith(SAFETENSORS_SUFFIX) and "/" not in entry.path
        for tensor in read_safetensors_header(parent.folder / entry.path)
    ]
    return linear_layers(shapes)


def refuse_quantized(parent: Checkpoint, *, what: str) -> None:
    """Returns when the weights are not quantized yet.

    Raises: SpecError: they are.
    """
    if read_json_object(parent.folder / CONFIG_NAME).get("quantization_config"):
        raise _refused(f"the weights are quantized already and cannot be {what}", "Begin with the original checkpoint.")


def _check_combination(options: QuantizeCheckpointOptions) -> None:
    """Raises: SpecError: an algorithm the scheme does not have, or an option that would be ignored."""
    known = MIXED_ALGORITHMS if options.scheme == MIXED else SCHEMES[options.scheme].algorithms
    if options.algorithm not in known:
        raise _refused(f"there is no {options.algorithm} for {options.scheme}", f"There is: {', '.join(known)}.")
    if options.activation_order in _REMOVED_ORDERS:
        raise _refused(
            f"`activation_order: {options.activation_order}` is not supported: engines dropped it",
            "Use `static`, which costs no time when the model runs.",
        )
    if options.activation_order not in {None, "static", "none"}:
        raise _refused(f"there is no activation_order {options.activation_order!r}", "There is: static, none.")
    is_gptq = options.algorithm in _WITH_GPTQ
    without_effect = {
        "group_size": options.group_size is not None and not options.has_groups,
        "num_calibration_samples": options.num_calibration_samples is not None and not options.is_calibrated,
        "sequence_tokens": options.sequence_tokens is not None and not options.is_calibrated,
        "smoothing_strength": options.smoothing_strength is not None and options.algorithm != "smoothquant-gptq",
        "observer": options.observer is not None and options.algorithm == "autoround",
        "activation_order": options.activation_order is not None and not is_gptq,
        "dampening_fraction": options.dampening_fraction is not None and not is_gptq,
        "num_iterations": options.num_iterations is not None and options.algorithm != "autoround",
        "budget_bits": options.budget_bits is not None and options.scheme != MIXED,
        "kv_cache": options.kv_cache != "none" and options.algorithm == "autoround",
    }
    if idle := [name for name, is_idle in without_effect.items() if is_idle]:
        raise _refused(
            f"option {idle[0]!r} has no effect on {options.scheme} by {options.algorithm}", "Remove it from the recipe."
        )
    if options.scheme == MIXED and options.budget_bits is None:
        raise _refused("`mixed` needs `budget_bits`", "Give the average bits per weight, for example 6.")


def _check_model(options: QuantizeCheckpointOptions, parent: Checkpoint, layers: tuple[LinearLayer, ...]) -> None:
    refuse_quantized(parent, what="quantized again")
    if not layers:
        raise _refused(f"no linear layers were found in this {parent.architecture}", "Quantize its OpenVINO network.")
    if options.kv_cache == "fp8" and parent.head_dim % FP8_CACHE_HEAD_MULTIPLE:
        raise _refused(
            f"an fp8 KV cache needs heads of a multiple of {FP8_CACHE_HEAD_MULTIPLE} elements, these have "
            f"{parent.head_dim}",
            "Leave `kv_cache` out.",
        )


def _group_size(options: QuantizeCheckpointOptions, layers: tuple[LinearLayer, ...]) -> int:
    """The size asked for, or the largest usual one that suits all layers.

    Raises: SpecError: none suits, or not the one asked for.
    """
    if not options.has_groups:
        return _DEFAULT_GROUP_SIZE
    fitting = fitting_group_sizes(layers)
    wanted = options.group_size or (fitting[0] if fitting else W4_BLOCK)
    if problem := shape_problem(layers, group_size=wanted):
        nearest = f"Use `group_size: {fitting[0]}`." if fitting else "Use `scheme: w8a8`, which takes any shape."
        raise _refused(problem, nearest)
    return wanted


def _budget_bytes(options: QuantizeCheckpointOptions, layers: tuple[LinearLayer, ...], group_size: int) -> int | None:
    """What `budget_bits` come to; checked here, so that nothing is measured for a budget that cannot be kept."""
    if options.budget_bits is None:
        return None
    num_weights = sum(layer.num_weights for layer in layers)
    budget_bytes = int(options.budget_bits * num_weights / 8)
    least = sum(min(stored_bits(form, layer, group_size=group_size) for form in MIXED_FORMATS) for layer in layers)
    if least > 8 * budget_bytes:
        raise _refused(
            f"`budget_bits: {options.budget_bits:g}` cannot be kept: in 4 bits with their scales the layers take "
            f"{least / num_weights:.2f} bits per weight ({format_bytes(least // 8)})",
            "Give more, or a larger `group_size`.",
        )
    return budget_bytes


def _estimate(
    options: QuantizeCheckpointOptions,
    parent: Checkpoint,
    layers: tuple[LinearLayer, ...],
    *,
    num_samples: int,
    sequence_tokens: int,
) -> JobEstimate:
    """Roughly, from jobs measured on one core: two small models, all schemes."""
    num_weights = sum(layer.num_weights for layer in layers)
    duration_s = 15 + parent.num_parameters / 5e7
    # The libraries, and the weights in 16 bits as they were and as they become.
    memory_bytes = 500_000_000 + 4 * parent.num_parameters
    if options.is_calibrated:
        num_tokens = num_samples * sequence_tokens
        steps = options.num_iterations or _DEFAULT_ITERATIONS
        passes = {"smoothquant-gptq": 4, "awq": 40, "autoround": 3 * steps * min(8, num_samples) / num_samples}
        duration_s += 2 * num_weights * num_tokens * passes.get(options.algorithm, 2) / _OPERATIONS_PER_S
        # Hidden states of all windows, before and after a layer, and a Hessian of the widest layer with its inverse;
        # AWQ keeps the inputs and outputs of each block's parts, too.
        widest = max(layer.num_columns for layer in layers)
        num_states = 12 if options.algorithm == "awq" else 2
        memory_bytes += 150_000_000 + 2 * num_states * num_tokens * parent.hidden_size + 8 * widest * widest
        if options.algorithm == "awq":
            memory_bytes += 400_000_000
    if options.scheme == MIXED:
        forwards = 2 * len(fused_groups(layers)) + 1
        duration_s += 2 * num_weights * _SENSITIVITY_TOKENS * forwards / _OPERATIONS_PER_S
    disk_bytes = 2 * (parent.num_parameters - num_weights) + num_weights * (2 if options.scheme == MIXED else 1)
    return JobEstimate(memory_bytes=memory_bytes, duration_s=duration_s, disk_bytes=disk_bytes)


def _refused(what: str, hint: str) -> SpecError:
    return SpecError(what, where=f"step {_STEP!r} on {WeightFormat.SAFETENSORS}", hint=hint)
