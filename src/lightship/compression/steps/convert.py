"""Step `convert`: a checkpoint becomes an OpenVINO network or a GGUF file, its weights unchanged or rounded to 16 bits.

What makes a GGUF file is in `convert_gguf`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from lightship.artifacts.checkpoint import Checkpoint
from lightship.compression import ir_template
from lightship.compression.steps import convert_gguf
from lightship.compression.steps.base import CopyPlan, JobEstimate, JobPlan, Step, StepContext, StepPlan
from lightship.compression.toolchains.definitions import OPENVINO_CONVERT
from lightship.ports.variants import WeightFormat

_WEIGHT_FORMATS = {"openvino": ("fp16", "fp32"), "gguf": ("bf16", "f16", "f32")}


class ConvertOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`to`: the format; `weight_format`: type of the stored weights in that format's words, by default of 16 bits."""

    weight_format: Literal["fp32", "fp16", "bf16", "f16", "f32"] | None = None
    to: Literal["openvino", "gguf"] = "openvino"

    def __post_init__(self) -> None:
        known = _WEIGHT_FORMATS[self.to]
        if self.weight_format is not None and self.weight_format not in known:
            raise ValueError(f"weight_format {self.weight_format!r} is not one of {self.to}'s: {', '.join(known)}")

    @property
    def weights(self) -> str:
        """Type of the stored weights."""
        return self.weight_format or _WEIGHT_FORMATS[self.to][0]


class ConvertCheckpoint(Step[ConvertOptions]):
    """Conversion by optimum-intel, the replay of one that the checkpoint carries, or conversion by llama.cpp."""

    kind = "convert"
    parent_format = WeightFormat.SAFETENSORS
    options_type = ConvertOptions

    def result_format(self, options: ConvertOptions) -> WeightFormat:
        """The format of `to`."""
        return WeightFormat.GGUF if options.to == "gguf" else WeightFormat.OPENVINO_IR

    def tool_versions(self, options: ConvertOptions) -> dict[str, str]:
        """Of the toolchain's lock."""
        if options.to == "gguf":
            return convert_gguf.tool_versions()
        return {name: OPENVINO_CONVERT.version_of(name) for name in ("optimum-intel", "openvino")}

    def plan(self, options: ConvertOptions, parent: Checkpoint, context: StepContext) -> StepPlan:
        """See `Step`."""
        del context
        if options.to == "gguf":
            return convert_gguf.plan_conversion(parent, weight_format=options.weights)
        if ir_template.has_template(parent.folder, weight_format=options.weights):
            return CopyPlan(lambda output: ir_template.assemble(parent.folder, output))
        bytes_per_parameter = {"fp32": 4, "fp16": 2}[options.weights]
        return JobPlan(
            kind="convert_openvino",
            toolchain=OPENVINO_CONVERT,
            job={"checkpoint": str(parent.folder), "weight_format": options.weights},
            title=f"converting to OpenVINO {options.weights}",
            # The weights in float32 twice (torch's and the converter's), besides the libraries; a 0.5B model took 24-37
            # CPU seconds, most of it the same whatever the size.
            estimate=JobEstimate(
                memory_bytes=1_000_000_000 + 8 * parent.num_parameters,
                duration_s=15 + parent.num_parameters / 3e7,
                disk_bytes=bytes_per_parameter * parent.num_parameters,
            ),
        )
