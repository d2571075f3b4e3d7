"""The texts that are scored unless the user names others.

They were written for this purpose alone and are in no corpus, so no variant was trained or calibrated on them.
"""

from __future__ import annotations

from importlib.resources import files

from lightship.artifacts.texts import TextSet, parse_jsonl


def builtin_texts() -> TextSet:
    """The tales that ship with the package: 32 original short texts in English."""
    content = files("lightship.evaluation.quality").joinpath("data/tales.jsonl").read_text("utf-8")
    return TextSet(name="builtin", documents=tuple(parse_jsonl(content, where="tales.jsonl")))
