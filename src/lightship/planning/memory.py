"""How much memory a worker of each engine takes when its cache is full and it has run for long. Pure.

Constants named `_..._BYTES` were measured: resident memory of real workers on Linux x86-64 (two cores with AVX-512),
models of 0.7, 9 and 226 million parameters, engines as pinned by this package. `benchmarks/planned_memory.py` measures
again and holds estimates against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from lightship.artifacts.model_shape import ModelShape
from lightship.planning.kv_cache import (
    KvStorage,
    kv_bytes_per_token,
    llamacpp_kv_storage,
    openvino_kv_storage,
    vllm_kv_storage,
)
from lightship.ports.deployment import Figure, FigureSource
from lightship.units import format_bytes

_MIB = 2**20
# A tokenizer's table per entry, in each process that has one (llama.cpp's and OpenVINO's agree).
_VOCABULARY_ENTRY_BYTES = 213

# OpenVINO: HTTP process; code of the pipeline's libraries (mapped); its heap without a model; graph of a layer.
_OPENVINO_HTTP_BYTES = 121.2 * _MIB
_OPENVINO_LIBRARY_BYTES = 74.5 * _MIB
_OPENVINO_HEAP_BYTES = 42.4 * _MIB
_OPENVINO_LAYER_BYTES = 0.45 * _MIB
# What OpenVINO keeps for a step of each size (in tokens) that ever occurs: kernels, and scratch memory that grows with
# the size and the width of the feed-forward layer. All sizes occur sooner or later: 80 to 100 MiB for steps of up to 64
# tokens, 350 to 1,000 for up to 256, and 2.1 GiB for up to 1,000 were measured.
_OPENVINO_STEP_BYTES = 1.22 * _MIB
_OPENVINO_STEP_ELEMENT_BYTES = 2.6

# llama.cpp: the process that ties it to its parent; code of the server (mapped); its heap, and of that per layer.
_TETHER_BYTES = 13.2 * _MIB
_LLAMACPP_LIBRARY_BYTES = 12.1 * _MIB
_LLAMACPP_HEAP_BYTES = 9.8 * _MIB
_LLAMACPP_LAYER_BYTES = 0.4 * _MIB
# Of each sequence and entry of the vocabulary: a logit (f32) and a candidate of the sampler (id, logit, probability).
_LLAMACPP_SAMPLER_BYTES = 16

# vLLM: API server, engine core, and worker without a model (torch and its libraries in each); helpers of Python's
# multiprocessing. The two servers' tokenizers are Python objects.
_VLLM_API_BYTES = 528.0 * _MIB
_VLLM_CORE_BYTES = 507.0 * _MIB
_VLLM_WORKER_BYTES = 704.0 * _MIB
_VLLM_HELPER_BYTES = 12.5 * _MIB
_VLLM_VOCABULARY_ENTRY_BYTES = 2_480
# Elements per token of a step, in hidden sizes: residual, norm, queries to output, both inputs of a feed-forward layer
# four times as wide, of one layer at a time; f32 on a CPU, 16 bits on a GPU.
_ACTIVATION_WIDTHS = 12
# vLLM on a GPU, as its start-up logs tell: 0.16 to 1.79 GiB beside torch's allocations (vllm-project/vllm pull request
# 10511, issues 14452 and 15340), 0.3 to 1.58 GiB of CUDA graphs. Rules of thumb between them, not measured here.
_CUDA_CONTEXT_BYTES = 1.0 * 2**30
_CUDA_GRAPH_BYTES = 1.0 * 2**30
# Copies of the logits (f32) that sampling holds. With them Llama 3 8B has 1.25 GiB of activations at 8,192 tokens and
# 256 sequences; pull request 10511 reports 1.26.
_LOGIT_COPIES = 4


@dataclass(frozen=True)
class EngineSettings:
    """The settings of a worker that its memory depends on, as the engines' configurations name them.

    Args:
        engine: `openvino`, `llamacpp` or `vllm`.
        device: `CPU`, or `cuda` for vLLM on GPUs.
        kv_cache_bytes: Of the cache as configured (openvino, vllm).
        kv_cache_type: Of stored keys and values, in the engine's words.
        context_length: Tokens of prompt and output of a sequence.
        step_tokens: Most tokens computed in one pass.
        instruction_set: Most capable one of the machine (openvino).
    """

    engine: str
    kv_cache_bytes: int
    kv_cache_type: str
    context_length: int
    max_sequences: int
    step_tokens: int
    device: str = "CPU"
    instruction_set: str = "x86_64"
    flash_attention: bool = False
    prompt_cache_bytes: int = 0
    is_eager: bool = False
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1

    @property
    def is_gpu(self) -> bool:
        """Whether weights and cache lie in the memory of GPUs."""
        return self.device == "cuda"

    @property
    def num_devices(self) -> int:
        """Devices or computing processes of one replica."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    @property
    def kv_storage(self) -> KvStorage:
        """How this engine stores keys and values. Raises: MeasurementError: it is not known."""
        if self.engine == "openvino":
            return openvino_kv_storage(self.kv_cache_type, device=self.device, instruction_set=self.instruction_set)
        if self.engine == "llamacpp":
            return llamacpp_kv_storage(self.kv_cache_type)
        return vllm_kv_storage(self.kv_cache_type, device="cuda" if self.is_gpu else "cpu")


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of one replica by part, in bytes. `host` is all of it on a CPU; on GPUs, `device` is that of each one.

    `reclaimable_bytes` of the host's part are pages of mapped files that the system may take back and read again.
    """

    host: dict[str, Figure]
    device: dict[str, Figure]
    kv_token_bytes: Figure
    kv_tokens: Figure
    reclaimable_bytes: float = 0.0

    @property
    def host_total(self) -> Figure:
        """All parts on the host."""
        return _total(self.host)

    @property
    def device_total(self) -> Figure:
        """All parts on one device; 0 without GPUs."""
        return _total(self.device)


def plan_memory(shape: ModelShape, weight_bytes: float, settings: EngineSettings) -> MemoryPlan:
    """What one replica takes.

    Args:
        shape: Of the model.
        weight_bytes: Of the weight files, scales included.
        settings: Of the worker.

    Raises: MeasurementError: the engine's storage of keys and values is not known.
    """
    planners: dict[str, Callable[[ModelShape, float, EngineSettings], MemoryPlan]] = {
        "openvino": _openvino,
        "llamacpp": _llamacpp,
        "vllm": _vllm_gpu if settings.is_gpu else _vllm_cpu,
    }
    return planners[settings.engine](shape, weight_bytes, settings)


def _openvino(shape: ModelShape, weight_bytes: float, settings: EngineSettings) -> MemoryPlan:
    code = _OPENVINO_HTTP_BYTES + _OPENVINO_LIBRARY_BYTES + _OPENVINO_HEAP_BYTES
    tables = 2 * _VOCABULARY_ENTRY_BYTES * shape.vocab_size
    width = _feed_forward_width(shape)
    steps = _OPENVINO_STEP_BYTES * settings.step_tokens
    steps += _OPENVINO_STEP_ELEMENT_BYTES * width * settings.step_tokens**2 / 2
    host = {
        "weights": _figure(
            2 * weight_bytes,
            FigureSource.MANIFEST,
            f"{format_bytes(weight_bytes)} mapped from files, and as much again in the layout of the kernels",
        ),
        "kv_cache": _given_cache(settings),
        "activations": _figure(
            steps,
            FigureSource.MEASURED,
            f"kernels for steps of 1 to {settings.step_tokens} tokens, {format_bytes(_OPENVINO_STEP_BYTES)} each, and "
            f"scratch: {_OPENVINO_STEP_ELEMENT_BYTES} B x {width} x {settings.step_tokens}^2 / 2",
        ),
        "code": _figure(
            code + tables + _OPENVINO_LAYER_BYTES * shape.num_layers,
            FigureSource.MEASURED,
            f"two processes {format_bytes(code)}, {shape.num_layers} layers x {format_bytes(_OPENVINO_LAYER_BYTES)}, "
            f"tokenizers 2 x {shape.vocab_size} x {_VOCABULARY_ENTRY_BYTES} B",
        ),
    }
    reclaimable = weight_bytes + _OPENVINO_LIBRARY_BYTES
    return _with_cache(host, {}, shape, settings, cache_bytes=settings.kv_cache_bytes, reclaimable=reclaimable)


def _llamacpp(shape: ModelShape, weight_bytes: float, settings: EngineSettings) -> MemoryPlan:
    storage = settings.kv_storage
    token_bytes = kv_bytes_per_token(shape, storage)
    cache = token_bytes * settings.context_length * settings.max_sequences
    sampler = _LLAMACPP_SAMPLER_BYTES * settings.max_sequences * shape.vocab_size
    code = _TETHER_BYTES + _LLAMACPP_LIBRARY_BYTES + _LLAMACPP_HEAP_BYTES + _LLAMACPP_LAYER_BYTES * shape.num_layers
    tables = _VOCABULARY_ENTRY_BYTES * shape.vocab_size
    host = {
        "weights": _figure(weight_bytes, FigureSource.MANIFEST, f"{format_bytes(weight_bytes)} mapped from the file"),
        "kv_cache": _figure(
            cache + settings.prompt_cache_bytes,
            FigureSource.MANIFEST,
            f"{settings.max_sequences} sequences x {settings.context_length} tokens x {token_bytes:g} B, and "
            f"{format_bytes(settings.prompt_cache_bytes)} for earlier prompts",
        ),
        "activations": _figure(
            _ggml_buffers(shape, settings) + sampler,
            FigureSource.MANIFEST,
            f"buffers of a pass of {settings.step_tokens} tokens {format_bytes(_ggml_buffers(shape, settings))}, "
            f"logits and candidates {settings.max_sequences} x {shape.vocab_size} x {_LLAMACPP_SAMPLER_BYTES} B",
        ),
        "code": _figure(
            code + tables,
            FigureSource.MEASURED,
            f"two processes {format_bytes(code)}, tokenizer {shape.vocab_size} x {_VOCABULARY_ENTRY_BYTES} B",
        ),
    }
    reclaimable = weight_bytes + _LLAMACPP_LIBRARY_BYTES
    return _with_cache(host, {}, shape, settings, cache_bytes=cache, reclaimable=reclaimable)


def _ggml_buffers(shape: ModelShape, settings: EngineSettings) -> float:
    """The larger of a feed-forward layer's buffers and attention's scores, and its inputs in 16 bits.

    Layers run one after the other in the same buffers. Without flash attention the scores of all heads are kept.
    """
    width = _feed_forward_width(shape)
    feed_forward = 4 * settings.step_tokens * (2 * width + 2 * shape.hidden_size)
    scores = 0 if settings.flash_attention else 4 * settings.step_tokens * settings.context_length * shape.num_heads
    return max(feed_forward, scores) + 2 * settings.step_tokens * width


def _feed_forward_width(shape: ModelShape) -> int:
    """Inner elements of the feed-forward layer that one token passes."""
    return shape.intermediate_size * shape.experts_per_token + shape.shared_intermediate_size


def _vllm_cpu(shape: ModelShape, weight_bytes: float, settings: EngineSettings) -> MemoryPlan:
    parts = settings.tensor_parallel * settings.pipeline_parallel
    head = shape.embedding_weights * 2.0
    workers = settings.num_devices
    activations = 4.0 * _ACTIVATION_WIDTHS * shape.hidden_size * settings.step_tokens * workers
    tables = _VLLM_VOCABULARY_ENTRY_BYTES * shape.vocab_size
    helpers = _TETHER_BYTES + _VLLM_HELPER_BYTES
    code = _VLLM_API_BYTES + settings.data_parallel * _VLLM_CORE_BYTES + workers * _VLLM_WORKER_BYTES + helpers
    host = {
        "weights": _figure(
            settings.data_parallel * (2 * weight_bytes + head),
            FigureSource.MANIFEST,
            f"{settings.data_parallel} x (2 x {format_bytes(weight_bytes)} while kernels take their layout, and the "
            f"output head's {format_bytes(head)} once more), over {parts} processes each",
        ),
        "kv_cache": _given_cache(settings, copies=workers),
        "activations": _figure(
            activations,
            FigureSource.ASSUMED,
            f"{workers} x {settings.step_tokens} tokens x {_ACTIVATION_WIDTHS} x {shape.hidden_size} x 4 B",
        ),
        "code": _figure(
            code + tables,
            FigureSource.MEASURED,
            f"API server, {settings.data_parallel} engine cores and {workers} workers with torch {format_bytes(code)}, "
            f"tokenizers {shape.vocab_size} x {_VLLM_VOCABULARY_ENTRY_BYTES} B",
        ),
    }
    cache = settings.kv_cache_bytes * parts
    return _with_cache(host, {}, shape, settings, cache_bytes=cache, reclaimable=0.0)


def _vllm_gpu(shape: ModelShape, weight_bytes: float, settings: EngineSettings) -> MemoryPlan:
    parts = settings.tensor_parallel * settings.pipeline_parallel
    step = 2.0 * _ACTIVATION_WIDTHS * shape.hidden_size * settings.step_tokens
    logits = 4.0 * _LOGIT_COPIES * settings.max_sequences * shape.vocab_size
    graphs = 0.0 if settings.is_eager else _CUDA_GRAPH_BYTES
    device = {
        "weights": _figure(
            weight_bytes / parts, FigureSource.MANIFEST, f"{format_bytes(weight_bytes)} over {parts} devices"
        ),
        "kv_cache": _given_cache(settings),
        "activations": _figure(
            step + logits,
            FigureSource.ASSUMED,
            f"{settings.step_tokens} tokens x {_ACTIVATION_WIDTHS} x {shape.hidden_size} x 2 B, logits "
            f"{settings.max_sequences} x {shape.vocab_size} x {_LOGIT_COPIES} x 4 B",
        ),
        "code": _figure(
            _CUDA_CONTEXT_BYTES + graphs,
            FigureSource.ASSUMED,
            f"CUDA's context {format_bytes(_CUDA_CONTEXT_BYTES)}, its graphs {format_bytes(graphs)}",
        ),
    }
    workers = settings.num_devices
    code = _VLLM_API_BYTES + settings.data_parallel * _VLLM_CORE_BYTES + workers * _VLLM_WORKER_BYTES
    largest = max(shape.embedding_weights, shape.hidden_size * shape.intermediate_size)
    host = {
        "code": _figure(
            code + _VLLM_VOCABULARY_ENTRY_BYTES * shape.vocab_size,
            FigureSource.MEASURED,
            f"API server, engine core and {workers} workers {format_bytes(code)}, tokenizers; as measured on CPUs",
        ),
        "loading": _figure(
            2.0 * largest,
            FigureSource.ASSUMED,
            f"the largest matrix, {largest} weights x 2 B, on its way; files are mapped, not read whole",
        ),
    }
    cache = settings.kv_cache_bytes * parts
    return _with_cache(host, device, shape, settings, cache_bytes=cache, reclaimable=0.0)


def _with_cache(
    host: dict[str, Figure],
    device: dict[str, Figure],
    shape: ModelShape,
    settings: EngineSettings,
    *,
    cache_bytes: float,
    reclaimable: float,
) -> MemoryPlan:
    """The plan, with how many tokens its cache holds; of one copy of the model where there are several."""
    storage = settings.kv_storage
    token_bytes = kv_bytes_per_token(shape, storage)
    blocks = int(cache_bytes // (token_bytes * storage.block_tokens))
    how = f"{shape.num_layers} layers x {shape.num_kv_heads} KV heads x {shape.head_dim}, as {settings.kv_cache_type}"
    return MemoryPlan(
        host=host,
        device=device,
        kv_token_bytes=Figure(token_bytes, "B", FigureSource.MANIFEST, how),
        kv_tokens=Figure(
            blocks * storage.block_tokens,
            "tokens",
            FigureSource.MANIFEST,
            f"{format_bytes(cache_bytes)} / {token_bytes:g} B, in blocks of {storage.block_tokens}",
        ),
        reclaimable_bytes=reclaimable,
    )


def largest_cache(plan: MemoryPlan, settings: EngineSettings, memory_bytes: float) -> EngineSettings:
    """The settings with a cache that takes what is left of each device's memory; never less than none."""
    rest = memory_bytes - (plan.device_total.value - plan.device["kv_cache"].value)
    return replace(settings, kv_cache_bytes=max(0, int(rest)))


def _given_cache(settings: EngineSettings, *, copies: int = 1) -> Figure:
    shown = format_bytes(settings.kv_cache_bytes)
    how = f"{shown} as configured" if copies == 1 else f"{copies} processes x {shown} as configured"
    return _figure(copies * settings.kv_cache_bytes, FigureSource.GIVEN, how)


def _figure(num_bytes: float, source: FigureSource, how: str) -> Figure:
    return Figure(float(ceil(num_bytes)), "B", source, how)


def _total(parts: dict[str, Figure]) -> Figure:
    """The sum; as trustworthy as the least trustworthy of its parts."""
    order = list(FigureSource)
    source = max((part.source for part in parts.values()), key=order.index, default=FigureSource.MANIFEST)
    how = " + ".join(f"{name} {format_bytes(part.value)}" for name, part in parts.items())
    return Figure(sum(part.value for part in parts.values()), "B", source, how)
