"""Step `quantize` on an OpenVINO network: NNCF rounds its weights, and with `int8-activations` its inputs too."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated, Any, Literal

import msgspec

from lightship.artifacts.checkpoint import Checkpoint
from lightship.artifacts.openvino_ir import MODEL_GRAPH
from lightship.compression.openvino.matrices import block_matrices, nearest_group_size
from lightship.compression.steps.base import JobEstimate, JobPlan, Step, StepContext, StepPlan
from lightship.errors import SpecError, ToolchainError
from lightship.ports.variants import WeightFormat

_PER_CHANNEL = -1
_MIN_GROUP_SIZE = 16
_DEFAULTS: dict[str, Any] = {
    "group_size": 64,
    "ratio": 1.0,
    # Enough to fill Hessians of small models; the built-in texts make 84 such windows with the built-in tokenizer.
    "num_samples": 80,
    "sequence_tokens": 256,
    # On two small models it lost less than 0.5 (more range left to inputs) and 0.95 (more moved to weights).
    "smooth_quant_alpha": 0.8,
}
# What each scheme reads. Options of another scheme are refused, not ignored.
_READ_BY: dict[str, frozenset[str]] = {
    "int8": frozenset({"mode"}),
    "int4": frozenset(
        {
            *("mode", "group_size", "ratio", "awq", "scale_estimation", "gptq", "lora_correction"),
            *("num_samples", "sequence_tokens"),
        }
    ),
    "int8-activations": frozenset({"mode", "smooth_quant_alpha", "quantize_head", "num_samples", "sequence_tokens"}),
}


class QuantizeNetworkOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a network is compressed. What is None is left to the scheme.

    Args:
        scheme: `int8` and `int4` store weights so and compute in 16 bits; `int8-activations` computes in 8 bits.
        mode: Whether there are zero points: on weights (default: with int8, without int4), or on the inputs of products
            (`int8-activations`, default: with).
        group_size: Weights with a scale of their own, of int4 (64); -1: one scale per output channel.
        ratio: Share of the weights of blocks that become int4, the rest int8, of int4 (1).
        awq: Rescales channels by the inputs seen before rounding.
        scale_estimation: Chooses scales so that outputs change least.
        gptq: Rounds column by column, each one making up for those before.
        lora_correction: Adds low-rank corrections in 8 bits; memory and time for quality.
        smooth_quant_alpha: How much of the inputs' range is moved to the weights; negative: none.
        quantize_head: Whether the last product, the head, computes in 8 bits as well.
        num_samples: Windows of calibration text, at most (80).
        sequence_tokens: Tokens of a window (256).
    """

    scheme: Literal["int8", "int4", "int8-activations"]
    mode: Literal["sym", "asym"] | None = None
    group_size: int | None = None
    ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    awq: bool | None = None
    scale_estimation: bool | None = None
    gptq: bool | None = None
    lora_correction: bool | None = None
    smooth_quant_alpha: Annotated[float, msgspec.Meta(ge=-1, le=1)] | None = None
    quantize_head: bool | None = None
    num_samples: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    sequence_tokens: Annotated[int, msgspec.Meta(ge=16, le=8192)] | None = None

    @property
    def needs_texts(self) -> bool:
        """Whether the network is watched on calibration texts."""
        if self.scheme == "int8-activations":
            return True
        methods = (self.awq, self.scale_estimation, self.gptq, self.lora_correction)
        return self.scheme == "int4" and (any(methods) or (self.ratio is not None and self.ratio < 1))

    def value_of(self, name: str) -> Any:
        """The option, or its default."""
        given = getattr(self, name)
        return _DEFAULTS[name] if given is None else given


class QuantizeNetwork(Step[QuantizeNetworkOptions]):
    """NNCF on a network: weights rounded to nearest or with calibration, or full 8-bit arithmetic."""

    kind = "quantize"
    parent_format = WeightFormat.OPENVINO_IR
    options_type = QuantizeNetworkOptions

    def tool_versions(self, options: QuantizeNetworkOptions) -> dict[str, str]:
        """NNCF's and OpenVINO's, of this interpreter; with texts also that of the tokenizers."""
        names = ("nncf", "openvino", "openvino-tokenizers") if options.needs_texts else ("nncf", "openvino")
        try:
            return {name: metadata.version(name) for name in names}
        except metadata.PackageNotFoundError as error:
            raise ToolchainError(
                f"weights are compressed by NNCF, and {error.name} is not installed",
                where="quantize",
                hint="Install it with `pip install 'lightship[local]'`.",
            ) from error

    def inputs(self, options: QuantizeNetworkOptions, context: StepContext) -> dict[str, str]:
        """The calibration texts, where they are used."""
        return {"calibration": context.calibration.digest} if options.needs_texts else {}

    def options(self, step: Any) -> QuantizeNetworkOptions:
        """See `Step`; options that the scheme does not read, or that exclude each other, are refused."""
        options = super().options(step)
        _check_options(options)
        return options

    def plan(self, options: QuantizeNetworkOptions, parent: Checkpoint, context: StepContext) -> StepPlan:
        """See `Step`."""
        job: dict[str, Any] = {
            "source": str(parent.folder),
            "files": [entry.path for entry in parent.files],
            "scheme": options.scheme,
            "mode": options.mode,
        }
        if options.scheme == "int4":
            _check_group_size(options, parent)
            job |= {name: options.value_of(name) for name in ("group_size", "ratio")}
            job["methods"] = [name for name in _METHODS if getattr(options, name)]
        elif options.scheme == "int8-activations":
            job["smooth_quant_alpha"] = options.value_of("smooth_quant_alpha")
            job["quantize_head"] = options.quantize_head is not False
        if options.needs_texts:
            _check_window(options, parent)
            job |= {name: options.value_of(name) for name in ("num_samples", "sequence_tokens")}
            job["calibration"] = str(context.calibration.path)
        return JobPlan(
            kind="quantize_openvino",
            toolchain=None,
            job=job,
            title=_title(options),
            estimate=_estimate(options, parent),
        )


_METHODS = ("awq", "scale_estimation", "gptq", "lora_correction")


def _check_options(options: QuantizeNetworkOptions) -> None:
    read = _READ_BY[options.scheme]
    given = {name for name in options.__struct_fields__ if name != "scheme" and getattr(options, name) is not None}
    if foreign := sorted(given - read):
        raise SpecError(
            f"scheme {options.scheme!r} does not read {', '.join(foreign)}",
            where="recipe",
            hint=f"It reads {', '.join(sorted(read))}.",
        )
    if options.gptq and options.lora_correction:
        raise SpecError("gptq and lora_correction exclude each other", where="recipe", hint="Take one of them.")
    if unused := sorted(given & {"num_samples", "sequence_tokens"}) if not options.needs_texts else []:
        raise SpecError(
            f"{', '.join(unused)}: without a method that watches texts, none are read",
            where="recipe",
            hint=f"Add one of {', '.join(_METHODS)}, or a ratio below 1.",
        )
    group_size = options.group_size
    if group_size is not None and group_size != _PER_CHANNEL and group_size < _MIN_GROUP_SIZE:
        raise SpecError(
            f"group_size must be at least {_MIN_GROUP_SIZE}, or {_PER_CHANNEL} for one scale per channel, "
            f"got {group_size}",
            where="recipe",
        )


def _check_group_size(options: QuantizeNetworkOptions, parent: Checkpoint) -> None:
    group_size = options.value_of("group_size")
    if group_size == _PER_CHANNEL:
        return
    matrices = block_matrices(parent.folder / MODEL_GRAPH)
    odd = next((matrix for matrix in matrices if matrix.num_inputs % group_size), None)
    if odd is None:
        return
    nearest = nearest_group_size(matrices, group_size)
    also = f"{_PER_CHANNEL} (one scale per channel)"
    raise SpecError(
        f"group_size {group_size} does not divide the {odd.num_inputs} inputs of {odd.name}",
        where="recipe",
        hint=f"The nearest that divides all of them is {also if nearest is None else f'{nearest}; or {also}'}.",
    )


def _check_window(options: QuantizeNetworkOptions, parent: Checkpoint) -> None:
    window_tokens = options.value_of("sequence_tokens")
    if window_tokens > parent.context_length:
        raise SpecError(
            f"sequence_tokens {window_tokens} is more than the model's context of {parent.context_length}",
            where="recipe",
        )


def _title(options: QuantizeNetworkOptions) -> str:
    if options.scheme == "int8-activations":
        return "quantizing weights and inputs to 8 bits"
    methods = ", ".join(name.replace("_", " ") for name in _METHODS if getattr(options, name))
    return f"compressing weights to {options.scheme}" + (f" ({methods})" if methods else "")


def _estimate(options: QuantizeNetworkOptions, parent: Checkpoint) -> JobEstimate:
    """From runs on two cores, of 9 and 494 million parameters."""
    memory_bytes, duration_s = 600_000_000 + 2 * parent.weight_bytes, 10 + parent.num_parameters / 3e7
    if options.needs_texts:
        num_tokens = options.value_of("num_samples") * options.value_of("sequence_tokens")
        # copies of the network in float32, for watching and for rescaling: 6.9 GB where 16-bit weights had 1.0 GB
        memory_bytes += 5 * parent.weight_bytes
        duration_s += parent.num_parameters / 1.5e7 + 2e-11 * num_tokens * parent.num_parameters
    if options.gptq:
        duration_s += 5e-6 * parent.num_parameters
    return JobEstimate(memory_bytes=memory_bytes, duration_s=duration_s, disk_bytes=parent.weight_bytes)
