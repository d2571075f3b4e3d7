"""From the spec's engine sections to the settings that a worker's memory depends on: as `worker_settings` sets them."""

from __future__ import annotations

import msgspec

from lightship.engines.llamacpp.config import LlamacppWorkerConfig
from lightship.errors import UsageError
from lightship.planning.memory import EngineSettings
from lightship.spec.document import Spec
from lightship.spec.engines import LlamacppEngineSpec, VllmEngineSpec

ENGINES = ("openvino", "vllm", "llamacpp")
# The spec does not set it, so the worker's own default holds.
_LLAMACPP_STEP_TOKENS = next(
    int(field.default) for field in msgspec.structs.fields(LlamacppWorkerConfig) if field.name == "max_step_tokens"
)


def engine_settings(
    spec: Spec, engine: str, *, context_length: int, instruction_set: str, on_gpu: bool = False
) -> EngineSettings:
    """The settings of a worker of this engine under the spec.

    Args:
        context_length: Of the model; a spec that sets a shorter one wins.
        on_gpu: Whether it runs on an NVIDIA or AMD GPU.

    Raises: UsageError: there is no such engine.
    """
    if engine == "openvino":
        openvino = spec.engines.openvino
        return EngineSettings(
            engine=engine,
            kv_cache_bytes=openvino.kv_cache_size,
            kv_cache_type=openvino.kv_cache_precision,
            context_length=context_length,
            max_sequences=openvino.max_sequences,
            # what `load_pipeline` gives the scheduler
            step_tokens=max(openvino.max_batched_tokens, openvino.max_sequences),
            device="cuda" if on_gpu else openvino.device,
            instruction_set=instruction_set,
        )
    if engine == "llamacpp":
        llamacpp = spec.engines.llamacpp or LlamacppEngineSpec()
        return EngineSettings(
            engine=engine,
            kv_cache_bytes=0,
            kv_cache_type=llamacpp.kv_cache_precision,
            context_length=llamacpp.context_length or context_length,
            max_sequences=llamacpp.max_sequences,
            step_tokens=_LLAMACPP_STEP_TOKENS,
            device="cuda" if on_gpu else "CPU",
            flash_attention=llamacpp.flash_attention,
            prompt_cache_bytes=llamacpp.prompt_cache_size,
        )
    if engine == "vllm":
        vllm = spec.engines.vllm or VllmEngineSpec()
        return EngineSettings(
            engine=engine,
            kv_cache_bytes=vllm.kv_cache_size,
            kv_cache_type=vllm.kv_cache_precision,
            context_length=vllm.context_length or context_length,
            max_sequences=vllm.max_sequences,
            step_tokens=vllm.max_batched_tokens,
            device="cuda" if on_gpu or vllm.device == "cuda" else "CPU",
            is_eager=vllm.eager,
            tensor_parallel=vllm.tensor_parallel,
            pipeline_parallel=vllm.pipeline_parallel,
            data_parallel=vllm.data_parallel,
        )
    raise UsageError(f"there is no engine {engine!r}", where="--engine", hint=f"Known: {', '.join(ENGINES)}.")
