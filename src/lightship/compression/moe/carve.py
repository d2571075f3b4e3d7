"""Which channels of a feed-forward network make which expert, and the router that chooses among them. Numpy alone.

After CMoE (arXiv:2502.04416): shared are the channels that contribute most, the others are clustered by when they
contribute. Two things differ. Channels are compared by what they add to the output, |activation| times the norm of
their column of `down_proj`, and not by a mark for the strongest few of each token. And the router is linear, because
stock layouts have no other: a ridge regression on calibration tokens from the layer's input to the norm of each
expert's output, where CMoE runs one representative channel of each expert.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightship.compression.moe.clustering import balanced_clusters
from lightship.compression.moe.layouts import Carving

# Part of the inputs' mean square that is added to the diagonal; 0.001 to 0.1 gave the same bits/byte within 0.003 on
# the built-in model.
_RIDGE = 1e-2
# Standard deviation of the router's logits around their mean for a token. Chosen experts' weights then differ by about
# this share: near enough to the plain sum that the dense network is. On the built-in model 0.1 was best with 75 % of
# the channels active (1.5244 bits/byte; 0.2: 1.5249, almost equal weights: 1.5256), 0.2 with 50 % (1.5885; 1.5919).
ROUTER_SPREAD = 0.2


@dataclass(frozen=True)
class Split:
    """Channel numbers: those of the shared expert, and those of each routed one, all routed ones equally many."""

    shared: NDArray[np.int64]
    routed: tuple[NDArray[np.int64], ...]


def split_channels(contributions: NDArray[np.float32], carving: Carving) -> Split:
    """Shared and routed channels.

    Args:
        contributions: What each channel adds to the output for each token, not negative.

    Shapes: contributions are (tokens, channels).
    """
    num_channels = contributions.shape[1]
    num_shared = carving.num_shared * (num_channels // carving.num_experts)
    strength = np.square(contributions.astype(np.float64)).mean(axis=0)
    order = np.argsort(-strength, kind="stable")
    rest = order[num_shared:]
    profiles = contributions[:, rest].T
    lengths = np.linalg.norm(profiles, axis=1, keepdims=True)
    labels = balanced_clusters(profiles / np.maximum(lengths, 1e-12), num_clusters=carving.num_routed)
    return Split(np.sort(order[:num_shared]), tuple(np.sort(rest[labels == n]) for n in range(carving.num_routed)))


def fit_router(
    inputs: NDArray[np.float32], output_norms: NDArray[np.float32], *, spread: float = ROUTER_SPREAD
) -> NDArray[np.float64]:
    """Rows whose products with an input order the experts by how much they would add there, as logits of this spread.

    What all experts have in common for a token is left out, since it changes neither order nor softmax.

    Shapes: inputs are (tokens, hidden), output norms (tokens, experts), the result (experts, hidden).
    """
    x = inputs.astype(np.float64)
    y = output_norms.astype(np.float64)
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += _RIDGE * max(float(np.trace(gram)) / len(gram), 1e-12)
    weights = np.linalg.solve(gram, x.T @ (y - y.mean(axis=0))).T
    weights -= weights.mean(axis=0)
    deviation = float(np.std(x @ weights.T))
    return weights * (spread / deviation) if deviation > 0 else weights


def chosen_experts(inputs: NDArray[np.float32], router: NDArray[np.float64], *, top_k: int) -> NDArray[np.float64]:
    """Weight of every expert for every token, as the layout applies it, times `top_k`: 1 on average, 0 if not chosen.

    Shapes: inputs are (tokens, hidden), the router (experts, hidden), the result (tokens, experts).
    """
    logits = inputs.astype(np.float64) @ router.T
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    kept = np.take_along_axis(logits, chosen, axis=1)
    powers = np.exp(kept - kept.max(axis=1, keepdims=True))
    weights = np.zeros_like(logits)
    np.put_along_axis(weights, chosen, top_k * powers / powers.sum(axis=1, keepdims=True), axis=1)
    return weights
