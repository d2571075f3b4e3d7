"""How a checkpoint becomes a GGUF file: part of the step `convert`."""

from __future__ import annotations

from lightship.artifacts.checkpoint import TOKENIZER_NAME, Checkpoint
from lightship.artifacts.file_rules import SAFETENSORS_SUFFIX
from lightship.compression.steps.base import JobEstimate, JobPlan
from lightship.compression.toolchains.definitions import GGUF

_BYTES_PER_PARAMETER = {"bf16": 2, "f16": 2, "f32": 4}
# The index names shards that a GGUF folder does not have.
_SHARD_INDEX_SUFFIX = ".safetensors.index.json"


def tool_versions() -> dict[str, str]:
    """Of the toolchain's lock; llama.cpp has no release numbers of its own."""
    return {name: GGUF.version_of(name) for name in ("llama-cpp-python", "transformers")}


def accompanying_files(parent: Checkpoint) -> list[str]:
    """What goes beside `model.gguf`: configuration, tokenizer, chat template, licence; paths below the folder."""
    names = [entry.path for entry in parent.files if "/" not in entry.path]
    return [name for name in names if not name.endswith((SAFETENSORS_SUFFIX, _SHARD_INDEX_SUFFIX, ".xml", ".bin"))]


def plan_conversion(parent: Checkpoint, *, weight_format: str) -> JobPlan:
    """The job that converts `parent`."""
    assert any(entry.path == TOKENIZER_NAME for entry in parent.files), "a checkpoint without one was refused before"
    weight_bytes = _BYTES_PER_PARAMETER[weight_format] * parent.num_parameters
    # The converter computes tensor by tensor; the largest is most often the embedding, held twice in float32.
    embedding_bytes = 8 * parent.vocab_size * parent.hidden_size
    return JobPlan(
        kind="convert_gguf",
        toolchain=GGUF,
        job={
            "checkpoint": str(parent.folder),
            "files": accompanying_files(parent),
            "weight_format": weight_format,
        },
        title=f"converting to GGUF {weight_format}",
        estimate=JobEstimate(
            memory_bytes=600_000_000 + embedding_bytes,
            duration_s=15 + parent.num_parameters / 1e8,
            disk_bytes=weight_bytes + 10_000_000,
        ),
    )
