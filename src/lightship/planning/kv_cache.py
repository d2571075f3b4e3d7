"""How engines store keys and values, and what one token of them takes. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from lightship.errors import MeasurementError

# Tokens of one block of OpenVINO's paged cache on CPU, over which per-channel scales are shared.
OPENVINO_BLOCK_TOKENS = 32
# Tokens of one block of vLLM's cache: 16 on GPUs, 128 on CPUs. Source: `vllm/platforms/cpu.py`, `vllm/config/cache.py`.
VLLM_BLOCK_TOKENS = {"cuda": 16, "cpu": 128}
# One scale and one zero point, two f32.
_SCALE_BYTES = 8
# Bytes of a stored key or value element. `auto` is 16 bits: OpenVINO GenAI's pipeline sets it so, although the CPU
# plugin's own default is u8. Source: bytes allocated by GenAI 2026.4.1 over blocks, see `tests/contract`.
_ELEMENT_BYTES = {"auto": 2, "f32": 4, "f16": 2, "bf16": 2, "u8": 1}
_X86 = re.compile(r"avx.*|amx.*|x86_64|AMD64", re.IGNORECASE)
# Bytes of 32 elements, scales included. Source: block structures in ggml's `ggml-common.h`.
_GGML_BLOCK_BYTES = {
    "f32": 128,
    "f16": 64,
    "bf16": 64,
    "q8_0": 34,
    "q5_1": 24,
    "q5_0": 22,
    "q4_1": 20,
    "q4_0": 18,
    "iq4_nl": 18,
}
_GGML_BLOCK_ELEMENTS = 32


class Scales(StrEnum):
    """How the scales of quantized keys or values are shared."""

    NONE = "none"
    PER_TOKEN = "per-token"
    PER_CHANNEL = "per-channel"


@dataclass(frozen=True)
class KvStorage:
    """How an engine stores keys and values: bytes of an element, and what scales they bring along."""

    element_bytes: float
    key_scales: Scales = Scales.NONE
    value_scales: Scales = Scales.NONE
    block_tokens: int = OPENVINO_BLOCK_TOKENS


class CachedShape(Protocol):
    """What of a model's shape the cache depends on."""

    @property
    def num_layers(self) -> int:
        """Layers that keep keys and values."""
        ...

    @property
    def num_kv_heads(self) -> int:
        """Heads that the cache holds, after grouping."""
        ...

    @property
    def head_dim(self) -> int:
        """Elements of a head."""
        ...


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


def llamacpp_kv_storage(cache_type: str) -> KvStorage:
    """How llama.cpp stores keys and values of this type.

    Raises: MeasurementError: a type that is not known.
    """
    if cache_type not in _GGML_BLOCK_BYTES:
        raise MeasurementError(f"it is not known how keys and values are stored as {cache_type!r}")
    return KvStorage(_GGML_BLOCK_BYTES[cache_type] / _GGML_BLOCK_ELEMENTS, block_tokens=1)


def vllm_kv_storage(precision: str, *, device: str) -> KvStorage:
    """How vLLM stores keys and values: the model's 16 bits, or fp8 without scales of its own per token.

    Raises: MeasurementError: a precision that is not known.
    """
    if precision not in {"auto", "fp8"}:
        raise MeasurementError(f"it is not known how keys and values are stored as {precision!r}")
    return KvStorage(2 if precision == "auto" else 1, block_tokens=VLLM_BLOCK_TOKENS[device])


def kv_bytes_per_token(model: CachedShape, storage: KvStorage) -> float:
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
