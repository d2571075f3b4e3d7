"""What vLLM can execute of quantized linear layers, as data: schemes, the algorithms that make them, bits and shapes.

Standard library only, so that the step (which decides) and the job (which acts, in a toolchain) read the same tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# The CPU kernel for 4-bit weights takes rows and columns in blocks of 32. Source: vllm 0.32,
# model_executor/kernels/linear/mixed_precision/cpu.py.
W4_BLOCK = 32
# The CPU attention kernels read an fp8 cache in vectors of 32 elements.
FP8_CACHE_HEAD_MULTIPLE = 32
# Scales are stored in bfloat16, zero points in four bits each.
_SCALE_BITS, _ZERO_POINT_BITS = 16, 4
DENSE = "bf16"


@dataclass(frozen=True)
class Scheme:
    """How the weights (and inputs) of a linear layer are stored.

    Args:
        name: As recipes write it.
        weight_bits: Of a weight, scales apart.
        is_grouped: One scale for `group_size` weights of a row, instead of one for the row.
        has_zero_points: Asymmetric.
        algorithms: Which ways of rounding there are for it.
    """

    name: str
    weight_bits: int
    is_grouped: bool
    has_zero_points: bool
    algorithms: tuple[str, ...]

    def bits(self, layer: LinearLayer, *, group_size: int) -> int:
        """Bits that the layer takes when it is stored so, scales and zero points included."""
        num_scales = layer.num_rows * (layer.num_columns // group_size if self.is_grouped else 1)
        bits_per_scale = _SCALE_BITS + (_ZERO_POINT_BITS if self.has_zero_points else 0)
        return layer.num_weights * self.weight_bits + num_scales * bits_per_scale


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer by its module name; `num_rows` are outputs, `num_columns` inputs."""

    name: str
    num_rows: int
    num_columns: int

    @property
    def num_weights(self) -> int:
        """Elements of the weight matrix."""
        return self.num_rows * self.num_columns


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("w8a8", 8, False, False, ("rtn", "gptq", "smoothquant-gptq")),
        Scheme("w4a16", 4, True, False, ("rtn", "gptq", "awq", "autoround")),
        Scheme("w4a16_asym", 4, True, True, ("rtn", "gptq", "awq", "autoround")),
        Scheme("fp8_dynamic", 8, False, False, ("rtn",)),
    )
}
# What a mixture may consist of. Weight-only 8 bits, and 2, 3, 5 and 6 bits have no CPU kernel in vLLM.
MIXED, MIXED_FORMATS, MIXED_ALGORITHMS = "mixed", ("w4a16", "w8a8", DENSE), ("rtn", "gptq")
ALGORITHMS = ("rtn", "gptq", "smoothquant-gptq", "awq", "autoround")


def stored_bits(form: str, layer: LinearLayer, *, group_size: int) -> int:
    """Bits of a layer in format `form`, which may be `bf16`."""
    return 16 * layer.num_weights if form == DENSE else SCHEMES[form].bits(layer, group_size=group_size)


# Matrices that are no linear layers of a decoder block, or that no engine quantizes: embeddings, heads, and the routers
# of mixtures of experts.
_NOT_QUANTIZED = re.compile(
    r"(^|\.)(lm_head|embed_tokens|word_embeddings|wte|wpe|embed_in|embed_out|gate|router|shared_expert_gate)$"
)
# llm-compressor's spelling of the same, for what is a Linear module.
IGNORED_MODULES = ("lm_head", r"re:.*\.(gate|router|shared_expert_gate)$")


def is_quantizable(module_name: str) -> bool:
    """Whether a matrix of this module is the weight of a linear layer that may be quantized."""
    return _NOT_QUANTIZED.search(module_name) is None


def linear_layers(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> tuple[LinearLayer, ...]:
    """Linear layers that may be quantized, from names and shapes of tensors, in their order."""
    layers = []
    for name, shape in shapes:
        module, _, kind = name.rpartition(".")
        if kind == "weight" and len(shape) == 2 and is_quantizable(module):
            layers.append(LinearLayer(module, *shape))
    return tuple(layers)


# Projections that vLLM runs as one matrix, which therefore have one format.
_FUSED = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj"}
_FUSED |= {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}


def fused_name(module_name: str) -> str:
    """Name of the matrix that the engine makes of this layer and its like.

    >>> fused_name("model.layers.3.self_attn.k_proj")
    'model.layers.3.self_attn.qkv_proj'
    """
    parent, _, last = module_name.rpartition(".")
    return f"{parent}.{_FUSED.get(last, last)}" if parent else _FUSED.get(last, last)


def fused_groups(layers: Iterable[LinearLayer]) -> dict[str, tuple[LinearLayer, ...]]:
    """Layers that must have one format, by the name of the matrix they become, in order."""
    groups: dict[str, tuple[LinearLayer, ...]] = {}
    for layer in layers:
        name = fused_name(layer.name)
        groups[name] = (*groups.get(name, ()), layer)
    return groups


def shape_problem(layers: Iterable[LinearLayer], *, group_size: int) -> str | None:
    """Why 4-bit weights in groups of `group_size` do not suit these layers, or None when they do."""
    for layer in layers:
        shape = f"{layer.name} has {layer.num_rows} rows and {layer.num_columns} columns"
        if layer.num_rows % W4_BLOCK or layer.num_columns % W4_BLOCK:
            return f"{shape}, and 4-bit weights need multiples of {W4_BLOCK} of both"
        if layer.num_columns % group_size:
            return f"{shape}, which groups of {group_size} do not divide"
    return None


def fitting_group_sizes(layers: Iterable[LinearLayer]) -> tuple[int, ...]:
    """Group sizes of the usual ones that suit these layers, largest first."""
    known = tuple(layers)
    return tuple(size for size in (128, 64, 32) if shape_problem(known, group_size=size) is None)
