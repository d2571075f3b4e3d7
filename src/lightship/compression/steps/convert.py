"""Step `convert`: a checkpoint becomes an OpenVINO network, its weights unchanged or rounded to 16 bits."""

from __future__ import annotations

from typing import Literal

import msgspec

from lightship.artifacts.checkpoint import Checkpoint
from lightship.compression import ir_template
from lightship.compression.steps.base import CopyPlan, JobEstimate, JobPlan, Step, StepContext, StepPlan
from lightship.compression.toolchains.definitions import OPENVINO_CONVERT
from lightship.ports.variants import WeightFormat


class ConvertOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`weight_format`: type of the stored weights."""

    weight_format: Literal["fp32", "fp16"] = "fp16"


class ConvertCheckpoint(Step[ConvertOptions]):
    """Conversion by optimum-intel, or, where the checkpoint carries one, the replay of a conversion."""

    kind = "convert"
    parent_format = WeightFormat.SAFETENSORS
    options_type = ConvertOptions

    def result_format(self, options: ConvertOptions) -> WeightFormat:
        """OpenVINO's."""
        del options
        return WeightFormat.OPENVINO_IR

    def tool_versions(self, options: ConvertOptions) -> dict[str, str]:
        """Of the toolchain's lock."""
        del options
        return {name: OPENVINO_CONVERT.version_of(name) for name in ("optimum-intel", "openvino")}

    def plan(self, options: ConvertOptions, parent: Checkpoint, context: StepContext) -> StepPlan:
        """See `Step`."""
        del context
        if ir_template.has_template(parent.folder, weight_format=options.weight_format):
            return CopyPlan(lambda output: ir_template.assemble(parent.folder, output))
        bytes_per_parameter = {"fp32": 4, "fp16": 2}[options.weight_format]
        return JobPlan(
            kind="convert_openvino",
            toolchain=OPENVINO_CONVERT,
            job={"checkpoint": str(parent.folder), "weight_format": options.weight_format},
            title=f"converting to OpenVINO {options.weight_format}",
            # The weights in float32 twice (torch's and the converter's), besides the libraries; a 0.5B model took 24-37
            # CPU seconds, most of it the same whatever the size.
            estimate=JobEstimate(
                memory_bytes=1_000_000_000 + 8 * parent.num_parameters,
                duration_s=15 + parent.num_parameters / 3e7,
                disk_bytes=bytes_per_parameter * parent.num_parameters,
            ),
        )
