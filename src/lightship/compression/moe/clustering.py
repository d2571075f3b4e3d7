"""Clusters of equal size: channels that work together are put into one expert, and experts must be equally wide.

A k-means whose assignment step keeps every cluster at its size. The assignment is greedy by regret: who would lose most
by not getting its nearest cluster chooses first. arXiv:2502.04416 solves it exactly (Jonker-Volgenant), in a time that
is cubic in the channels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# k-means of a few hundred to some thousand channels settles in fewer; more only moves single channels about.
_MAX_ITERATIONS = 12


def balanced_clusters(features: NDArray[np.float32], *, num_clusters: int) -> NDArray[np.int64]:
    """Cluster number of every row, each cluster with equally many rows.

    The same rows in the same order give the same clusters: centres start at the first row and at those farthest from
    all centres before.

    Shapes: features are (rows, dimensions); the result is (rows,).
    Raises: ValueError: the rows cannot be shared out evenly.
    """
    num_rows = len(features)
    if num_clusters < 1 or num_rows == 0 or num_rows % num_clusters:
        raise ValueError(f"{num_rows} rows cannot be shared out evenly to {num_clusters} clusters")
    centres = features[_far_apart(features, num_clusters)]
    labels = assign_evenly(_squared_distances(features, centres))
    for _ in range(_MAX_ITERATIONS):
        centres = np.stack([features[labels == number].mean(axis=0) for number in range(num_clusters)])
        moved = assign_evenly(_squared_distances(features, centres))
        if np.array_equal(moved, labels):
            break
        labels = moved
    return labels


def assign_evenly(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Cluster of every row, at low total cost, each cluster with equally many rows.

    Greedy, not optimal: rows choose in order of what their second choice would cost them more than the first.

    Shapes: costs are (rows, clusters), rows a multiple of clusters.
    """
    num_rows, num_clusters = costs.shape
    room = np.full(num_clusters, num_rows // num_clusters)
    labels = np.empty(num_rows, dtype=np.int64)
    cheapest = np.sort(costs, axis=1)
    regret = cheapest[:, min(1, num_clusters - 1)] - cheapest[:, 0]
    for row in np.argsort(-regret, kind="stable"):
        chosen = int(np.where(room > 0, costs[row], np.inf).argmin())
        labels[row] = chosen
        room[chosen] -= 1
    return labels


def _far_apart(features: NDArray[np.float32], count: int) -> list[int]:
    chosen = [0]
    nearest = _squared_distances(features, features[:1])[:, 0]
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, _squared_distances(features, features[chosen[-1:]])[:, 0])
    return chosen


def _squared_distances(rows: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float64]:
    lengths = np.square(rows).sum(axis=1)[:, None] + np.square(centres).sum(axis=1)[None, :]
    squares: NDArray[np.float64] = lengths.astype(np.float64) - 2.0 * (rows @ centres.T)
    return np.maximum(squares, 0.0, out=squares)
