"""Step `sparsify`: half the weights of linear layers become zero. Research: no engine runs the result faster.

vLLM removed its kernels for 2:4 masks, llm-compressor the compressed format, OpenVINO and llama.cpp never had either on
CPUs. So the result is a dense checkpoint of the same size and speed, good for comparing methods and as a start of a
sparse training. `research.json` in the artifact says so.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from lightship.artifacts.checkpoint import Checkpoint
from lightship.compression.steps.base import JobEstimate, JobPlan, Step, StepContext, StepPlan
from lightship.compression.steps.quantize_checkpoint import quantizable_layers, refuse_quantized
from lightship.compression.toolchains.definitions import COMPRESS
from lightship.errors import SpecError
from lightship.ports.variants import RecipeStep, WeightFormat

# Masks of 2:4 have four columns a block.
_MASK_COLUMNS = 4


class SparsifyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which weights become zero.

    Args:
        sparsity: Share of zeros; 0.5 for the pattern `2:4`.
        pattern: `unstructured`, or `2:4`: two of every four in a row.
        algorithm: `sparsegpt` corrects what remains for what is gone; `wanda` only chooses.
    """

    sparsity: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    pattern: Literal["unstructured", "2:4"] = "unstructured"
    algorithm: Literal["sparsegpt", "wanda"] = "sparsegpt"
    num_calibration_samples: Annotated[int, msgspec.Meta(ge=1)] = 128
    sequence_tokens: Annotated[int, msgspec.Meta(ge=64)] = 512


class SparsifyCheckpoint(Step[SparsifyOptions]):
    """Masks by llm-compressor; weights stay dense, in bfloat16."""

    kind = "sparsify"
    parent_format = WeightFormat.SAFETENSORS
    options_type = SparsifyOptions

    def options(self, step: RecipeStep) -> SparsifyOptions:
        """See `Step`."""
        options = super().options(step)
        if options.pattern == "2:4" and options.sparsity != 0.5:
            raise SpecError(
                f"the pattern 2:4 has a sparsity of 0.5, not {options.sparsity:g}",
                where="step 'sparsify'",
                hint="Leave `sparsity` out, or use `pattern: unstructured`.",
            )
        return options

    def tool_versions(self, options: SparsifyOptions) -> dict[str, str]:
        """Of the toolchain's lock."""
        del options
        return {"llmcompressor": COMPRESS.version_of("llmcompressor")}

    def inputs(self, options: SparsifyOptions, context: StepContext) -> dict[str, str]:
        """The calibration texts' digest."""
        del options
        return {"calibration": context.calibration.digest}

    def plan(self, options: SparsifyOptions, parent: Checkpoint, context: StepContext) -> StepPlan:
        """See `Step`."""
        refuse_quantized(parent, what="made sparse")
        layers = quantizable_layers(parent)
        unfit = [layer.name for layer in layers if layer.num_columns % _MASK_COLUMNS]
        if options.pattern == "2:4" and unfit:
            raise SpecError(
                f"{unfit[0]} has a number of columns that is no multiple of {_MASK_COLUMNS}",
                where="step 'sparsify'",
                hint="Use `pattern: unstructured`.",
            )
        sequence_tokens = min(options.sequence_tokens, parent.context_length)
        num_tokens = options.num_calibration_samples * sequence_tokens
        job = {
            "checkpoint": str(parent.folder),
            "sparsity": options.sparsity,
            "pattern": options.pattern,
            "algorithm": options.algorithm,
            "calibration": str(context.calibration.path),
            "num_calibration_samples": options.num_calibration_samples,
            "sequence_tokens": sequence_tokens,
        }
        widest = max((layer.num_columns for layer in layers), default=0)
        return JobPlan(
            kind="sparsify",
            toolchain=COMPRESS,
            job=job,
            title=f"making {options.sparsity:.0%} of the weights zero ({options.algorithm})",
            # As GPTQ of the same model: two passes over the texts, at 3e10 operations a second on two cores.
            estimate=JobEstimate(
                memory_bytes=500_000_000
                + 4 * parent.num_parameters
                + 4 * num_tokens * parent.hidden_size
                + 8 * widest * widest,
                duration_s=15 + 4 * parent.num_parameters * num_tokens / 3e10,
                disk_bytes=2 * parent.num_parameters,
            ),
        )
