"""Which files may be part of a variant or of a checkpoint's content: weights without code, and plain text.

A pickle runs code when it is read, a `.py` file when it is imported; neither enters the store. Names decide first, then
the first bytes, because a pickle can have any name.
"""

from __future__ import annotations

import re
from pathlib import Path

from lightship.errors import UnsafeCheckpointError

SAFETENSORS_SUFFIX, GGUF_SUFFIX = ".safetensors", ".gguf"
# Tokenizers, configurations, chat templates.
_TEXT_SUFFIXES = frozenset({".json", ".txt", ".jinja", ".model", ".xml"})
# Prose and records about a model: harmless, and no part of what it computes.
_ACCOMPANYING_SUFFIXES = frozenset({".md", ".jsonl", ".csv", ".svg"})
_NAMES_WITHOUT_SUFFIX = frozenset({"LICENSE", "NOTICE", "USE_POLICY"})
# Raw constants of an OpenVINO graph. Any other `.bin` in the world of model files is a pickle.
_OPENVINO_WEIGHTS = re.compile(r"openvino_[a-z0-9_]+\.bin")
_PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".joblib", ".npy", ".npz"})
_CODE_SUFFIXES = frozenset({".py", ".pyc", ".so", ".sh"})

_ZIP_MAGIC = b"PK\x03\x04"
# A pickle of protocol 2 or later: the PROTO opcode and its number first, the STOP opcode `.` last.
_PICKLE_START = re.compile(rb"\x80[\x02-\x05]", re.DOTALL)
# torch's files before 1.6: PROTO 2, LONG1 of ten bytes, and torch's magic number.
_OLD_TORCH_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"


def is_content(name: str) -> bool:
    """Whether a file of this name carries content of a model: weights, tokenizer, configuration or its licence."""
    suffix = Path(name).suffix.lower()
    if suffix in {SAFETENSORS_SUFFIX, GGUF_SUFFIX} or suffix in _TEXT_SUFFIXES:
        return not name.startswith(".")
    return name in _NAMES_WITHOUT_SUFFIX or _OPENVINO_WEIGHTS.fullmatch(name) is not None


def is_pickle_name(name: str) -> bool:
    """Whether a file of this name holds, by custom, pickled weights."""
    return Path(name).suffix.lower() in _PICKLE_SUFFIXES and _OPENVINO_WEIGHTS.fullmatch(name) is None


def is_code_name(name: str) -> bool:
    """Whether a file of this name is a program."""
    return Path(name).suffix.lower() in _CODE_SUFFIXES


def check_variant_file(path: Path) -> None:
    """Returns when the file may be part of a variant.

    Raises: UnsafeCheckpointError: a pickle or program by name or content, or a kind of file no variant needs.
    """
    if is_code_name(path.name):
        raise UnsafeCheckpointError("a variant holds no programs", where=str(path))
    if is_pickle_name(path.name):
        raise UnsafeCheckpointError(
            "pickled weights run code when they are read", where=str(path), hint="Save them as safetensors."
        )
    if not is_content(path.name) and path.suffix.lower() not in _ACCOMPANYING_SUFFIXES:
        raise UnsafeCheckpointError(
            "this kind of file is not part of a variant",
            where=str(path),
            hint="Known: safetensors, gguf, openvino_*.xml/.bin, json, txt, jinja, model, md, jsonl, csv, svg.",
        )
    check_not_pickle(path)


def check_not_pickle(path: Path) -> None:
    """Returns when the file's bytes are not those of a pickle or of torch's zip of pickles.

    Raises: UnsafeCheckpointError: they are.
    """
    with path.open("rb") as file:
        start = file.read(len(_OLD_TORCH_MAGIC))
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 1))
        last = file.read(1)
    # Two bytes at the start and one at the end could be raw numbers once in four million files; for safetensors, whose
    # first bytes are a length, the brace in the ninth byte settles it.
    is_safetensors = path.suffix.lower() == SAFETENSORS_SUFFIX and start[8:9] == b"{"
    is_pickle = _PICKLE_START.match(start) is not None and last == b"." and not is_safetensors
    if is_pickle or start.startswith((_ZIP_MAGIC, _OLD_TORCH_MAGIC)):
        raise UnsafeCheckpointError(
            "the file is a pickle or a zip of pickles, whatever its name says",
            where=str(path),
            hint="Save the weights as safetensors.",
        )
