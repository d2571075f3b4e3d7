"""Settings of the engines a deployment may use; their names are the keys of `engines`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from lightship.spec.base import StrictModel
from lightship.spec.values import KvCacheBytes, ThreadCount


class OpenvinoEngineSpec(StrictModel):
    """OpenVINO GenAI with continuous batching: the embedded default."""

    device: str = Field(
        default="CPU",
        pattern=r"^(CPU|GPU(\.[0-9])?|NPU)$",
        max_length=5,
        examples=["CPU", "GPU"],
        description="OpenVINO device name: CPU, GPU, GPU.1 or NPU.",
    )
    threads: ThreadCount = Field(
        default=0, description="Threads for inference; `auto` (or 0) uses every core. Unit: threads."
    )
    precision: Literal["auto", "f32", "bf16", "f16"] = Field(
        default="auto", description="Type the engine computes in; `auto` is what the device does fastest."
    )
    kv_cache_precision: Literal["auto", "u8", "f16", "bf16", "f32"] = Field(
        default="auto", description="Type of the stored keys and values; `auto` is the engine's choice."
    )
    kv_cache_size: KvCacheBytes = Field(
        default=2**30, description="Memory for the KV cache, like `512 MiB` or a number. Unit: bytes."
    )
    max_batched_tokens: int = Field(
        default=256, ge=16, le=1_048_576, description="Most tokens computed in one engine step. Unit: tokens."
    )
    max_sequences: int = Field(
        default=256, ge=1, le=65_536, description="Most sequences computed in one engine step. Unit: sequences."
    )
    prefix_caching: bool = Field(
        default=True, description="Whether prompts that begin alike share their KV cache blocks."
    )

    @field_validator("kv_cache_precision")
    @classmethod
    def _fits_the_computation(cls, value: str, info: ValidationInfo) -> str:
        precision = info.data.get("precision")
        if value == "f32" and precision in {"bf16", "f16"}:
            raise ValueError(f"f32 is not read by a computation in {precision}; leave precision at auto, or use f32")
        return value


class VllmEngineSpec(StrictModel):
    """vLLM, for GPUs, clusters and server CPUs."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="vLLM platform.")
    tensor_parallel: int = Field(
        default=1, ge=1, le=1024, description="Devices one replica is split over. Unit: devices."
    )
    kv_cache_size: KvCacheBytes = Field(
        default=4 * 2**30, description="Memory for the KV cache of one replica. Unit: bytes."
    )


class LlamacppEngineSpec(StrictModel):
    """llama.cpp's server, for GGUF at the edge."""

    threads: ThreadCount = Field(
        default=0, description="Threads for inference; `auto` (or 0) uses every core. Unit: threads."
    )
    flash_attention: bool = Field(default=False, description="Whether flash attention is on.")


class SimulatedEngineSpec(StrictModel):
    """An engine without a model, for tests and capacity planning."""

    tokens_per_s: float = Field(
        default=100, gt=0, le=1e6, description="Decode speed of one sequence, in tokens per second."
    )
    load_delay_s: float = Field(default=0, ge=0, le=3600, description="Time from start to ready, in seconds.")


class EnginesSpec(StrictModel):
    """Engines that may serve; null leaves one out. Remote endpoints stand under `upstreams`."""

    openvino: OpenvinoEngineSpec = Field(default=OpenvinoEngineSpec(), description="Settings of OpenVINO GenAI.")
    vllm: VllmEngineSpec | None = Field(default=None, description="Settings of vLLM; null leaves it out.")
    llamacpp: LlamacppEngineSpec | None = Field(default=None, description="Settings of llama.cpp; null leaves it out.")
    simulated: SimulatedEngineSpec | None = Field(
        default=None, description="Settings of the simulated engine; null leaves it out."
    )

    @property
    def enabled(self) -> tuple[str, ...]:
        """Names of the engines that are not left out."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)
