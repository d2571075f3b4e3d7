"""The weight matrices of an OpenVINO network, read from its graph without OpenVINO."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from lightship.errors import CheckpointError

_PASSED_THROUGH = frozenset({"Convert", "Reshape", "Multiply", "Subtract"})  # between a stored matrix and its product
_WEIGHT_PORT = "1"
_MIN_GROUP = 16


@dataclass(frozen=True)
class WeightMatrix:
    """A matrix that inputs are multiplied with.

    Args:
        name: Of the product, as the graph calls it.
        num_inputs: Length of the dimension that is summed over, which groups divide.
    """

    name: str
    num_inputs: int


def block_matrices(graph_path: Path) -> tuple[WeightMatrix, ...]:
    """Matrices of the blocks in order: all but embeddings and the last product, the head, which NNCF keeps in 8 bits.

    Raises: CheckpointError: the graph is not XML of a network.
    """
    try:
        root = ET.parse(graph_path).getroot()
        layers = {layer.get("id", ""): layer for layer in root.iterfind("layers/layer")}
        sources = {
            (edge.attrib["to-layer"], edge.attrib["to-port"]): edge.attrib["from-layer"]
            for edge in root.iterfind("edges/edge")
        }
        found = [_matrix(layer, layers, sources) for layer in layers.values() if layer.get("type") == "MatMul"]
    except (ET.ParseError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"the graph is not one of a network: {error!r}", where=str(graph_path), hint="Convert the model again."
        ) from error
    return tuple(matrix for matrix in found if matrix is not None)[:-1]


def _matrix(
    product: ET.Element, layers: dict[str, ET.Element], sources: dict[tuple[str, str], str]
) -> WeightMatrix | None:
    """The stored two-dimensional matrix on the product's second input, if there is one."""
    node = layers[sources[product.attrib["id"], _WEIGHT_PORT]]
    while node.get("type") in _PASSED_THROUGH:
        node = layers[sources[node.attrib["id"], "0"]]
    if node.get("type") != "Const":
        return None
    data, use = node.find("data"), product.find("data")
    shape = [] if data is None else [int(part) for part in data.get("shape", "").split(",") if part.strip()]
    if len(shape) != 2:  # tables of rotary frequencies have three dimensions
        return None
    is_transposed = use is not None and use.get("transpose_b") == "true"
    return WeightMatrix(product.get("name", ""), shape[1] if is_transposed else shape[0])


def nearest_group_size(matrices: Iterable[WeightMatrix], group_size: int) -> int | None:
    """The group size of at least 16 that divides the inputs of all matrices and is nearest to the one asked for.

    >>> nearest_group_size([WeightMatrix("q", 896), WeightMatrix("down", 4864)], 100)
    128
    >>> nearest_group_size([WeightMatrix("q", 100)], 64)
    50
    """
    common = math.gcd(*(matrix.num_inputs for matrix in matrices))
    divisors = [size for size in range(_MIN_GROUP, common + 1) if common % size == 0]
    return min(divisors, key=lambda size: abs(size - group_size), default=None)
