"""Step `quantize` on an OpenVINO network: NNCF compresses its weights."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated, Literal

import msgspec

from lightship.artifacts.checkpoint import Checkpoint
from lightship.compression.steps.base import JobEstimate, JobPlan, Step, StepContext, StepPlan
from lightship.errors import ToolchainError
from lightship.ports.variants import WeightFormat


class QuantizeNetworkOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`group_size` counts for int4."""

    scheme: Literal["int8", "int4"]
    group_size: Annotated[int, msgspec.Meta(ge=16)] = 64


class QuantizeNetwork(Step[QuantizeNetworkOptions]):
    """Weight compression; the arithmetic stays 16-bit."""

    kind = "quantize"
    parent_format = WeightFormat.OPENVINO_IR
    options_type = QuantizeNetworkOptions

    def tool_versions(self, options: QuantizeNetworkOptions) -> dict[str, str]:
        """NNCF's and OpenVINO's, of this interpreter."""
        del options
        try:
            return {"nncf": metadata.version("nncf"), "openvino": metadata.version("openvino")}
        except metadata.PackageNotFoundError as error:
            raise ToolchainError(
                f"weights are compressed by NNCF, and {error.name} is not installed",
                where="quantize",
                hint="Install it with `pip install 'lightship[local]'`.",
            ) from error

    def plan(self, options: QuantizeNetworkOptions, parent: Checkpoint, context: StepContext) -> StepPlan:
        """See `Step`."""
        del context
        job = {
            "source": str(parent.folder),
            "files": [entry.path for entry in parent.files],
            "scheme": options.scheme,
            "group_size": options.group_size,
        }
        return JobPlan(
            kind="quantize_openvino",
            toolchain=None,
            job=job,
            title=f"compressing weights to {options.scheme}",
            estimate=JobEstimate(
                memory_bytes=600_000_000 + 2 * parent.weight_bytes,
                duration_s=10 + parent.num_parameters / 3e7,
                disk_bytes=parent.weight_bytes,
            ),
        )
