"""The tensors of an upcycled model: every layer's feed-forward network copied to each expert, and a router beside them.

With weights that add to one over copies that are equal, the mixture computes what the dense model does, whatever the
router says. Equal copies and equal routing would also stay equal in training, so the router starts as small noise, and
the copies may get some of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lightship.compression.moe.layouts import PROJECTIONS, MoeLayout, dense_projection
from lightship.compression.moe.shards import CheckpointTensors


@dataclass(frozen=True)
class Upcycling:
    """What the copies and the router are made with.

    Args:
        router_std: Standard deviation of the router's weights; 0 sends every token to the first experts.
        expert_noise: Standard deviation of the noise on an expert's weights, as a share of the weights' own.
    """

    num_experts: int
    router_std: float
    expert_noise: float
    seed: int


def upcycled_tensors(
    source: CheckpointTensors, layout: MoeLayout, upcycling: Upcycling, *, num_layers: int
) -> Iterator[tuple[str, Any]]:
    """Names and tensors of the mixture, in the order of the layers."""
    generator = torch.Generator().manual_seed(upcycling.seed)
    dense = {dense_projection(layer, name) for layer in range(num_layers) for name in PROJECTIONS}
    yield from ((name, source.read(name)) for name in source.names if name not in dense)
    for layer in range(num_layers):
        for projection in PROJECTIONS:
            weight = source.read(dense_projection(layer, projection))
            for expert in range(upcycling.num_experts):
                copy = _with_noise(weight, upcycling.expert_noise, generator)
                yield layout.expert(layer, expert, projection), copy
        hidden_size = weight.shape[0]  # of down_proj, the last of them
        router = torch.randn(upcycling.num_experts, hidden_size, generator=generator) * upcycling.router_std
        yield layout.router(layer), router.to(weight.dtype)


def _with_noise(weight: Any, share: float, generator: Any) -> Any:
    if share == 0:
        return weight.clone()  # tensors that share memory are refused by the file format
    noise = torch.randn(weight.shape, generator=generator) * (share * weight.float().std())
    return (weight.float() + noise).to(weight.dtype)
