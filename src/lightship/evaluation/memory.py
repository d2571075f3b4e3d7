"""How much memory serving takes, from the files, the settings and the model's shape. Pure: an estimate, with its parts.

Not a measurement: peaks are measured elsewhere, and the residual against them says how far the estimate is off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from lightship.artifacts.model_config import ModelConfig
from lightship.errors import MeasurementError

# Tokens of one block of OpenVINO's paged cache on CPU, over which per-channel scales are shared.
_OPENVINO_BLOCK_TOKENS = 32
# One scale and one zero point, two f32.
_SCALE_BYTES = 8
# Bytes of a stored key or value element. `auto` is 16 bits: OpenVINO GenAI's pipeline sets it so, although the CPU
# plugin's own default is u8. Source: bytes allocated by GenAI 2026.4.1 over blocks, see `tests/contract`.
_ELEMENT_BYTES = {"auto": 2, "f32": 4, "f16": 2, "bf16": 2, "u8": 1}
_X86 = re.compile(r"avx.*|amx.*|x86_64|AMD64", re.IGNORECASE)
# Elements of activations per token of a batch, in hidden sizes: residual, norm, queries to output, and the two inputs
# of a feed-forward layer four times as wide as the model, of one layer at a time.
_ACTIVATION_WIDTHS = 12
_ACTIVATION_BYTES = 4
# Resident memory of a worker's two processes without a model: 121 MiB of the HTTP side and 64 of the pipeline's with
# the libraries loaded. Source: VmHWM with OpenVINO GenAI 2026.4.1 on Linux x86-64.
_OPENVINO_RUNTIME_BYTES = 185 * 2**20


class Scales(StrEnum):
    """How the scales of quantized keys or values are shared."""

    NONE = "none"
    PER_TOKEN = "per-token"
    PER_CHANNEL = "per-channel"


@dataclass(frozen=True)
class KvStorage:
    """How an engine stores keys and values: bytes of an element, and what scales they bring along."""

    element_bytes: int
    key_scales: Scales = Scales.NONE
    value_scales: Scales = Scales.NONE
    block_tokens: int = _OPENVINO_BLOCK_TOKENS


def openvino_kv_storage(precision: str, *, device: str, instruction_set: str) -> KvStorage:
    """How OpenVINO stores the cache under the setting `kv_cache_precision`.

    With u8 on x86, keys have one scale and zero point per channel of a block, values one per token and head; elsewhere
    both have them per token.

    Args:
        precision: The setting: auto, f32, f16, bf16 or u8.
        device: OpenVINO device name.
        instruction_set: Of the target, which tells the architecture.

    Raises: MeasurementError: a precision or device whose layout is not known.
    Source: openvinotoolkit/openvino pull requests 23908 (per token) and 29023 (per channel).
    """
    if precision not in _ELEMENT_BYTES:
        raise MeasurementError(f"it is not known how keys and values are stored as {precision!r}")
    if device != "CPU" and precision in {"auto", "u8"}:
        raise MeasurementError(f"it is not known how {device} stores keys and values as {precision}")
    element_bytes = _ELEMENT_BYTES[precision]
    if precision != "u8":
        return KvStorage(element_bytes)
    keys = Scales.PER_CHANNEL if _X86.fullmatch(instruction_set) else Scales.PER_TOKEN
    return KvStorage(element_bytes, key_scales=keys, value_scales=Scales.PER_TOKEN)


def kv_bytes_per_token(model: ModelConfig, storage: KvStorage) -> float:
    """Memory that one token adds to the KV cache, in bytes: layers * kv_heads * (key bytes + value bytes).

    Where nothing is quantized this is 2 * layers * kv_heads * head_dim * element bytes. A scale per channel costs
    `head_dim * 8` bytes per block, spread over its tokens.

    Does not: know layers that keep less than all tokens (sliding windows) or store keys in compressed form (MLA); it
    is an upper bound there.
    """
    parts = sum(_head_bytes(model.head_dim, storage, scales) for scales in (storage.key_scales, storage.value_scales))
    return model.num_layers * model.num_kv_heads * parts


def _head_bytes(head_dim: int, storage: KvStorage, scales: Scales) -> float:
    """Bytes of one token's key or value in one head."""
    elements = head_dim * storage.element_bytes
    match scales:
        case Scales.NONE:
            return elements
        case Scales.PER_TOKEN:
            return elements + _SCALE_BYTES
        case Scales.PER_CHANNEL:
            return elements + head_dim * _SCALE_BYTES / storage.block_tokens


@dataclass(frozen=True)
class MemoryEstimate:
    """Parts of the memory that a worker needs when its KV cache is full."""

    weight_bytes: float
    kv_cache_bytes: float
    activation_bytes: float
    runtime_bytes: float

    @property
    def total_bytes(self) -> float:
        """All parts together."""
        return self.weight_bytes + self.kv_cache_bytes + self.activation_bytes + self.runtime_bytes

    def residual_bytes(self, measured_peak_bytes: float) -> float:
        """Measured minus estimated. Far below zero where the load never filled the cache: only used pages count."""
        return measured_peak_bytes - self.total_bytes


def estimate_memory(
    model: ModelConfig,
    *,
    weight_bytes: int,
    kv_cache_bytes: int,
    max_batched_tokens: int,
    max_sequences: int,
    runtime_bytes: int = _OPENVINO_RUNTIME_BYTES,
) -> MemoryEstimate:
    """What one worker needs with a full cache, as far as it can be told beforehand.

    Activations are those of one layer for a whole batch, and the logits of one position of each sequence, in f32.

    Args:
        model: The model's shape.
        weight_bytes: Size of the weight files, scales included.
        kv_cache_bytes: The cache's size as set, whether the load fills it or not.
        max_batched_tokens: Most tokens of one engine step.
        max_sequences: Most sequences of one engine step.
        runtime_bytes: The engine's processes without a model.

    Does not: count a second copy of the weights, which some kernels make in a layout of their own, or the graph, the
    kernels compiled for it and their scratch memory: together 90 to 160 MiB for a model of 9 million parameters, so an
    estimate for a small model is too low.
    """
    per_token = _ACTIVATION_WIDTHS * model.hidden_size
    logits = min(max_sequences, max_batched_tokens) * model.vocab_size
    return MemoryEstimate(
        weight_bytes=weight_bytes,
        kv_cache_bytes=kv_cache_bytes,
        activation_bytes=_ACTIVATION_BYTES * (max_batched_tokens * per_token + logits),
        runtime_bytes=runtime_bytes,
    )


def weight_bits_per_parameter(*, weight_bytes: int, num_parameters: int) -> float:
    """Bits of the weight files per parameter: scales, zero points and everything else in them included.

    Raises: MeasurementError: no parameters are known.

    >>> weight_bits_per_parameter(weight_bytes=1_000, num_parameters=1_600)
    5.0
    """
    if num_parameters < 1 or weight_bytes < 0:
        raise MeasurementError(f"no bits per weight can be told from {weight_bytes} bytes and {num_parameters} weights")
    return 8 * weight_bytes / num_parameters
