"""Step `quantize` on a GGUF file: llama.cpp compresses its weights, if wanted by an importance matrix."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from lightship.artifacts.checkpoint import Checkpoint
from lightship.compression.steps.base import JobEstimate, JobPlan, Step, StepContext, StepPlan
from lightship.compression.toolchains.definitions import GGUF
from lightship.errors import SpecError
from lightship.ports.variants import WeightFormat

Scheme = Literal["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K"]
# Nominal, for estimates alone: what a file really has depends on the model, and the result says it.
_BITS_PER_WEIGHT = {
    "Q8_0": 8.5,
    "Q6_K": 6.6,
    "Q5_K_M": 5.7,
    "Q4_K_M": 4.9,
    "Q4_0": 4.6,
    "IQ4_XS": 4.5,
    "Q3_K_M": 4.0,
    "Q2_K": 3.4,
}
_UNQUANTIZED = frozenset({"F32", "F16", "BF16"})
# llama-imatrix's own; longer chunks are not better, and small models hold no more.
_CHUNK_TOKENS = 512


class QuantizeGgufOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`importance`: whether columns that calibration texts use more are rounded more exactly.

    `num_chunks`: how many chunks of 512 tokens of these texts are looked at; fewer where the texts end before.
    """

    scheme: Scheme
    importance: bool = False
    num_chunks: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100


class QuantizeGguf(Step[QuantizeGgufOptions]):
    """llama-quantize, after llama-imatrix where importance counts."""

    kind = "quantize"
    parent_format = WeightFormat.GGUF
    options_type = QuantizeGgufOptions

    def tool_versions(self, options: QuantizeGgufOptions) -> dict[str, str]:
        """Of the sources that the programs are built from."""
        del options
        return {"llama-cpp-python": GGUF.version_of("llama-cpp-python")}

    def inputs(self, options: QuantizeGgufOptions, context: StepContext) -> dict[str, str]:
        """The calibration texts' digest, where they are used."""
        return {"calibration": context.calibration.digest} if options.importance else {}

    def plan(self, options: QuantizeGgufOptions, parent: Checkpoint, context: StepContext) -> StepPlan:
        """See `Step`. Raises: SpecError: the weights are quantized already."""
        if quantized := sorted(set(parent.dtypes) - _UNQUANTIZED):
            raise SpecError(
                f"the weights are quantized already ({', '.join(quantized)}), and quantizing twice adds both errors",
                where="recipe",
                hint="Quantize the GGUF file with 16-bit weights.",
            )
        chunk_tokens = min(_CHUNK_TOKENS, parent.context_length)
        job = {
            "source": str(parent.folder),
            "files": [entry.path for entry in parent.files],
            "scheme": options.scheme,
            "calibration": str(context.calibration.path) if options.importance else None,
            "num_chunks": options.num_chunks,
            "chunk_tokens": chunk_tokens,
        }
        with_importance = " with an importance matrix" if options.importance else ""
        # Two operations per weight and token at some 20 billion a second; quantizing itself takes a second or two per
        # hundred million weights.
        watched_tokens = options.num_chunks * chunk_tokens if options.importance else 0
        return JobPlan(
            kind="quantize_gguf",
            toolchain=GGUF,
            job=job,
            title=f"compressing weights to {options.scheme}{with_importance}",
            estimate=JobEstimate(
                memory_bytes=300_000_000 + (parent.weight_bytes if options.importance else 0),
                duration_s=3 + parent.num_parameters / 5e7 + 2 * parent.num_parameters * watched_tokens / 2e10,
                disk_bytes=int(_BITS_PER_WEIGHT[options.scheme] / 8 * parent.num_parameters) + 10_000_000,
            ),
        )
