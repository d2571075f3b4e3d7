"""What the tensors of a quantized checkpoint stand for: weights, several in one number, and what describes them.

Knows the layout of compressed-tensors, which vLLM serves. A packed weight is an int32 tensor `NAME.weight_packed` with
32 / bits values in each element; scales, zero points and shapes lie beside it.

Source: https://github.com/vllm-project/compressed-tensors (compressors, formats `pack-quantized`, `int-quantized`,
`float-quantized`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightship.artifacts.safetensors_header import TensorEntry

_PACKED, _PACKED_BITS = ".weight_packed", 32
# Tensors that describe other tensors.
_DESCRIBING = ("_scale", "_zero_point", "_global_scale", ".weight_shape", ".weight_g_idx")


@dataclass(frozen=True)
class CountedWeights:
    """Weights of a checkpoint: how many, and of which element types (`I4` for packed 4-bit integers)."""

    num_parameters: int
    dtypes: tuple[str, ...]


def count_quantized_weights(tensors: Sequence[TensorEntry], config: Mapping[str, Any]) -> CountedWeights | None:
    """Weights of a compressed-tensors checkpoint, or None when `config` (of `config.json`) does not say it is one."""
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict) or quantization.get("quant_method") != "compressed-tensors":
        return None
    packed_bits = _packed_bits(quantization)
    num_parameters, dtypes = 0, set()
    for tensor in tensors:
        if tensor.name.endswith(_DESCRIBING):
            continue
        is_packed = tensor.name.endswith(_PACKED) and packed_bits is not None
        values_per_element = _PACKED_BITS // packed_bits if is_packed and packed_bits else 1
        num_parameters += tensor.num_elements * values_per_element
        dtypes.add(f"I{packed_bits}" if is_packed else tensor.dtype)
    return CountedWeights(num_parameters, tuple(sorted(dtypes)))


def _packed_bits(quantization: Mapping[str, Any]) -> int | None:
    """Bits of the packed weights: the least that any group of layers has; 8-bit weights are not packed."""
    groups = quantization.get("config_groups")
    found = []
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        bits = weights.get("num_bits") if isinstance(weights, dict) else None
        if type(bits) is int and 0 < bits < 8:
            found.append(bits)
    return min(found, default=None)
