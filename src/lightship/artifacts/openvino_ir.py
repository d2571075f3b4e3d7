"""Checks an OpenVINO network (`.xml` graph and `.bin` constants) without OpenVINO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from lightship.errors import CheckpointError

MODEL_GRAPH = "openvino_model.xml"
TOKENIZER_GRAPHS = ("openvino_tokenizer.xml", "openvino_detokenizer.xml")
_HINT = "Convert or download the model again."
# Integer constants wider than a byte are shapes, axes and indices, and booleans are masks.
_NOT_WEIGHTS = frozenset({"i16", "u16", "i32", "u32", "i64", "u64", "boolean", "string"})
# NNCF names what it adds to a compressed weight so.
_ADDED_BY_COMPRESSION = ("/scale", "/zero_point", "/fq_weights_0/scale", "/fq_weights_0/zero_point")


@dataclass(frozen=True)
class IrSummary:
    """What the constants of a network say.

    Args:
        weight_bytes: Size of the `.bin` file.
        num_parameters: Elements of its weights, each stored place once; scales and zero points are not counted, small
            tables such as rotary frequencies are.
        element_types: OpenVINO's names, sorted.
    """

    weight_bytes: int
    num_parameters: int
    element_types: tuple[str, ...]


def read_ir(graph_path: Path) -> IrSummary:
    """Summary of a network whose graph parses and whose constants are all there.

    Does not: look at operations, or find NaN and infinities.
    Raises: CheckpointError: a file is missing, the graph is not XML of a network, or the constants are truncated.
    """
    weights_path = graph_path.with_suffix(".bin")
    for path in (graph_path, weights_path):
        if not path.is_file():
            raise CheckpointError(f"{path.name} is missing", where=str(path.parent), hint=_HINT)
    elements: dict[tuple[int, int], int] = {}
    element_types = set()
    needed_bytes = 0
    for name, data in _constants(graph_path):
        offset, num_bytes = _count(data, "offset", graph_path), _count(data, "size", graph_path)
        needed_bytes = max(needed_bytes, offset + num_bytes)
        element_type = data.get("element_type", "")
        if element_type in _NOT_WEIGHTS or name.endswith(_ADDED_BY_COMPRESSION) or not num_bytes:
            continue
        elements[offset, num_bytes] = _num_elements(data, graph_path)
        element_types.add(element_type)
    weight_bytes = weights_path.stat().st_size
    if weight_bytes < needed_bytes:
        raise CheckpointError(
            f"the file is truncated: it has {weight_bytes} bytes, {graph_path.name} needs {needed_bytes}",
            where=str(weights_path),
            hint=_HINT,
        )
    return IrSummary(weight_bytes, sum(elements.values()), tuple(sorted(element_types)))


def _constants(graph_path: Path) -> list[tuple[str, dict[str, str]]]:
    """Name and attributes of every constant."""
    try:
        root = ET.parse(graph_path).getroot()
    except (ET.ParseError, ValueError) as error:  # ValueError: an unknown or multi-byte encoding is declared
        raise CheckpointError(f"the graph is not XML: {error}", where=str(graph_path), hint=_HINT) from error
    layers = list(root.iterfind("layers/layer"))
    if root.tag != "net" or not layers:
        raise CheckpointError("the XML is not an OpenVINO network", where=str(graph_path), hint=_HINT)
    constants = ((layer, layer.find("data")) for layer in layers if layer.get("type") == "Const")
    return [(layer.get("name", ""), dict(data.attrib)) for layer, data in constants if data is not None]


def _count(data: dict[str, str], attribute: str, graph_path: Path) -> int:
    text = data.get(attribute, "")
    if not text.isascii() or not text.isdigit():
        raise CheckpointError(f"a constant has {attribute} {text!r}", where=str(graph_path), hint=_HINT)
    return int(text)


def _num_elements(data: dict[str, str], graph_path: Path) -> int:
    dimensions = [part.strip() for part in data.get("shape", "").split(",") if part.strip()]
    return math.prod(_count({"shape": dimension}, "shape", graph_path) for dimension in dimensions)
