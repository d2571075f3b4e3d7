"""Settings of the engines a deployment may use; their names are the keys of `engines`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lightship.spec.base import StrictModel
from lightship.spec.values import InputGroupSize, KvCacheBytes, ModelName, PromptCacheBytes, ThreadCount

AdapterFolder = Annotated[str, Field(pattern=r"^[^\x00-\x1f]+$", max_length=4096, examples=["./adapters/pirate"])]


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
    dynamic_quantization_group_size: InputGroupSize = Field(
        default=None,
        description="Inputs of compressed weights rounded to 8 bits by one scale while the model runs, like 32 or 128; "
        "0 leaves them in 16 bits, and so does the engine where the size divides neither inputs nor weight groups; "
        "`auto` is the engine's choice. Unit: elements.",
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
    threads: ThreadCount = Field(
        default=0,
        description="Threads for inference on a CPU; `auto` (or 0) leaves one core to the scheduler. Unit: threads.",
    )
    precision: Literal["auto", "f32", "bf16", "f16"] = Field(
        default="auto", description="Type the engine computes in; `auto` is that of the weights."
    )
    kv_cache_precision: Literal["auto", "fp8"] = Field(
        default="auto", description="Type of the stored keys and values; `auto` is that of the computation."
    )
    kv_cache_size: KvCacheBytes = Field(
        default=4 * 2**30, description="Memory for the KV cache of one replica. Unit: bytes."
    )
    max_batched_tokens: int = Field(
        default=2048, ge=16, le=1_048_576, description="Most tokens computed in one engine step. Unit: tokens."
    )
    max_sequences: int = Field(
        default=256, ge=1, le=65_536, description="Most sequences computed in one engine step. Unit: sequences."
    )
    context_length: int = Field(
        default=0, ge=0, le=2**24, description="Most tokens of prompt and output; 0 is the model's own. Unit: tokens."
    )
    prefix_caching: bool = Field(
        default=True, description="Whether prompts that begin alike share their KV cache blocks."
    )
    eager: bool = Field(default=False, description="Whether nothing is compiled: a faster start, slower steps.")
    tensor_parallel: int = Field(
        default=1, ge=1, le=1024, description="Devices one replica is split over. Unit: devices."
    )
    pipeline_parallel: int = Field(
        default=1, ge=1, le=1024, description="Devices the layers of one replica are divided between. Unit: devices."
    )
    data_parallel: int = Field(
        default=1, ge=1, le=1024, description="Copies of the model in one replica. Unit: copies."
    )
    expert_parallel: bool = Field(
        default=False,
        description="Whether whole experts are divided between the devices, instead of each one being split.",
    )
    gpu_memory_utilization: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of a GPU's memory for weights, activations and KV cache together, in place of "
        "`kv_cache_size`; null keeps to that. Unit: 0 to 1.",
    )
    lora: Annotated[Mapping[ModelName, AdapterFolder], Field(strict=False)] = Field(
        default={},
        max_length=64,
        examples=[{"pirate": "./adapters/pirate"}],
        description="LoRA adapters: the model name each is served under, and its folder in PEFT's layout.",
    )
    sleep_mode: bool = Field(
        default=False, description="Whether a replica can sleep, which frees its GPU's memory and keeps its process."
    )
    python: str | None = Field(
        default=None,
        pattern=r"^[^\x00-\x1f]+$",
        max_length=4096,
        examples=["/opt/vllm/bin/python"],
        description="Interpreter of an environment with a vLLM of your own, as for GPUs; null is Lightship's own.",
    )
    draft: bool = Field(default=True, description="Whether a variant's speculative draft is used.")

    @model_validator(mode="after")
    def _has_one_size_of_the_cache(self) -> Self:
        if self.gpu_memory_utilization is not None and "kv_cache_size" in self.model_fields_set:
            raise ValueError("kv_cache_size and gpu_memory_utilization both say how large the KV cache is; keep one")
        return self


class LlamacppEngineSpec(StrictModel):
    """llama.cpp's server, for GGUF at the edge."""

    threads: ThreadCount = Field(
        default=0, description="Threads for inference; `auto` (or 0) uses every core. Unit: threads."
    )
    flash_attention: bool = Field(
        default=False, description="Whether attention is one fused pass; on CPUs that is often slower in a crowd."
    )
    kv_cache_precision: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] = Field(
        default="f16", description="Type of the stored keys and values; q8_0 and q4_0 need flash_attention."
    )
    context_length: int = Field(
        default=0, ge=0, le=2**24, description="Most tokens of prompt and output; 0 is the model's own. Unit: tokens."
    )
    max_sequences: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="Sequences that run at the same time, each with a KV cache of context_length. Unit: sequences.",
    )
    prompt_cache_size: PromptCacheBytes = Field(
        default=256 * 2**20,
        description="Memory for KV caches of earlier prompts, like `256 MiB` or a number; 0 keeps none. Unit: bytes.",
    )
    sleep_after_s: int = Field(
        default=0,
        ge=0,
        le=31 * 86400,
        description="Idle time after which a replica frees its model's memory until the next request; 0 is never.",
    )
    busy_waiting: bool = Field(
        default=False,
        description="Whether threads wait for each other by spinning, for a machine where nothing else runs.",
    )

    @field_validator("kv_cache_precision")
    @classmethod
    def _is_read_by_flash_attention(cls, value: str, info: ValidationInfo) -> str:
        if value in {"q8_0", "q4_0"} and not info.data.get("flash_attention"):
            raise ValueError(f"{value} needs flash_attention; turn it on, or take f16")
        return value


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
