"""A conversion that can be replayed without torch: the IR's graph, and where each of its constants comes from.

A checkpoint folder may carry a sub-folder `openvino/` made by an earlier conversion: `openvino_model.xml` (the graph),
`constants.json` (this module's map) and the converted tokenizer. The graph's large constants are exactly the
checkpoint's tensors, so storing them again would double its size; the small ones (rotary frequencies, shapes) are
kept in the map as base64. `assemble` writes the `.bin` file from the safetensors file and checks its digest.

Only plain copies are replayed (bf16, fp16 or fp32 tensors to fp16 or fp32 constants); a constant that is not such a
copy of a tensor, bit for bit, is stored as it is.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from lightship.artifacts.safetensors_header import read_safetensors_header
from lightship.errors import CheckpointError

TEMPLATE_FOLDER = "openvino"
_MAP = "constants.json"
_GRAPH, _WEIGHTS = "openvino_model.xml", "openvino_model.bin"
_COPIED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_IR_DTYPES: dict[str, Any] = {"f16": np.float16, "f32": np.float32}


def has_template(checkpoint: Path, *, weight_format: str) -> bool:
    """Whether the folder can be converted to `weight_format` by `assemble`."""
    path = checkpoint / TEMPLATE_FOLDER / _MAP
    return path.is_file() and json.loads(path.read_text("utf-8"))["weight_format"] == weight_format


def assemble(checkpoint: Path, output: Path) -> None:
    """Writes the complete OpenVINO folder from a checkpoint that carries a template.

    Raises: CheckpointError: a tensor is missing or the result is not what the template was made from.
    Effects: fills `output`, which exists.
    """
    template = checkpoint / TEMPLATE_FOLDER
    constants = json.loads((template / _MAP).read_text("utf-8"))
    tensors = SafetensorsFile(checkpoint / "model.safetensors")
    weights = bytearray(constants["num_bytes"])
    for entry in constants["constants"]:
        data = base64.b64decode(entry["data"]) if "data" in entry else _converted(tensors, entry)
        weights[entry["offset"] : entry["offset"] + len(data)] = data
    if hashlib.sha256(weights).hexdigest() != constants["sha256"]:
        raise CheckpointError(
            "the weights do not give the network they were published with",
            where=str(checkpoint),
            hint="The files are damaged: install lightship again.",
        )
    (output / _WEIGHTS).write_bytes(weights)
    for path in sorted(template.iterdir()):
        if path.name != _MAP:
            shutil.copyfile(path, output / path.name)
    for name in _COPIED:
        if (checkpoint / name).exists():
            shutil.copyfile(checkpoint / name, output / name)


def pack(checkpoint: Path, ir_folder: Path, *, weight_format: str) -> None:
    """Makes the template of a converted checkpoint.

    Effects: writes `checkpoint/openvino/`.
    """
    template = checkpoint / TEMPLATE_FOLDER
    shutil.rmtree(template, ignore_errors=True)
    template.mkdir()
    tensors = SafetensorsFile(checkpoint / "model.safetensors")
    weights = (ir_folder / _WEIGHTS).read_bytes()
    names = _tensors_by_content(tensors)
    entries = [_entry(layer, weights, names) for layer in _constant_layers(ir_folder / _GRAPH)]
    content = {
        "weight_format": weight_format,
        "num_bytes": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "constants": [entry for entry in entries if entry is not None],
    }
    (template / _MAP).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for path in sorted(ir_folder.glob("openvino_*")):
        if path.name != _WEIGHTS:
            shutil.copyfile(path, template / path.name)


class SafetensorsFile:
    """Read-only view of one safetensors file's floating-point tensors.

    Raises: CheckpointError: the file is damaged (see `artifacts.safetensors_header`).
    """

    def __init__(self, path: Path) -> None:
        entries = read_safetensors_header(path)
        self._entries = {entry.name: entry for entry in entries}
        # the data fills the rest of the file, so it starts where the longest offset would not fit before
        self._start = path.stat().st_size - max((entry.end for entry in entries), default=0)
        self._data = np.memmap(path, dtype=np.uint8, mode="r")
        self._path = path

    @property
    def names(self) -> frozenset[str]:
        """Names of the tensors."""
        return frozenset(self._entries)

    def read_f32(self, name: str) -> NDArray[np.float32]:
        """One tensor as float32; exact for BF16, F16 and F32.

        Raises: CheckpointError: no such tensor, or another type.
        """
        if name not in self._entries:
            raise CheckpointError(f"tensor {name!r} is missing", where=str(self._path))
        entry = self._entries[name]
        raw = self._data[self._start + entry.begin : self._start + entry.end]
        if entry.dtype == "BF16":
            flat = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif entry.dtype in {"F16", "F32"}:
            flat = raw.view(np.float16 if entry.dtype == "F16" else np.float32).astype(np.float32)
        else:
            raise CheckpointError(f"tensor {name!r} has type {entry.dtype}", where=str(self._path))
        return flat.reshape(entry.shape)


def _converted(tensors: SafetensorsFile, entry: dict[str, Any]) -> bytes:
    return tensors.read_f32(entry["tensor"]).astype(_IR_DTYPES[entry["element_type"]]).tobytes()


def _constant_layers(graph: Path) -> list[dict[str, Any]]:
    """Element type, offset and length of every constant of the graph."""
    layers = []
    for layer in ET.parse(graph).getroot().iter("layer"):
        data = layer.find("data")
        if layer.get("type") == "Const" and data is not None:
            place = {"offset": int(data.attrib["offset"]), "num_bytes": int(data.attrib["size"])}
            layers.append({"element_type": data.attrib["element_type"], **place})
    return layers


def _tensors_by_content(tensors: SafetensorsFile) -> dict[tuple[str, bytes], str]:
    """Tensor names by element type and digest of their bytes as that type; exporters rename weights freely."""
    found: dict[tuple[str, bytes], str] = {}
    for name in sorted(tensors.names):
        for element_type, dtype in _IR_DTYPES.items():
            data = tensors.read_f32(name).astype(dtype).tobytes()
            found[element_type, hashlib.sha256(data).digest()] = name
    return found


def _entry(layer: dict[str, Any], weights: bytes, names: dict[tuple[str, bytes], str]) -> dict[str, Any] | None:
    """How to restore one constant, or None when it has no bytes."""
    data = weights[layer["offset"] : layer["offset"] + layer["num_bytes"]]
    if not data:
        return None
    place = {"offset": layer["offset"]}
    element_type = layer["element_type"]
    name = names.get((element_type, hashlib.sha256(data).digest()))
    if name is None:
        return {**place, "data": base64.b64encode(data).decode()}
    return {**place, "tensor": name, "element_type": element_type}
