"""Texts that activations are watched on while a model is quantized or pruned: the built-in ones, or the user's.

They are written for jobs as JSON lines with `text` alone, named by their digest, which a variant's manifest records.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from lightship.artifacts.disk import write_durably
from lightship.artifacts.texts import TextSet, overlap, parse_jsonl
from lightship.compression.steps.base import TextFile
from lightship.errors import SpecError


def builtin_calibration() -> TextSet:
    """The texts that ship with the package: original short tales in English, none of which is ever evaluated."""
    content = files("lightship.compression").joinpath("data/calibration.jsonl").read_text("utf-8")
    return TextSet(name="builtin-calibration", documents=tuple(parse_jsonl(content, where="calibration.jsonl")))


def check_held_out(texts: TextSet, evaluated: TextSet, *, where: str) -> None:
    """Returns when none of the texts is among those that are evaluated.

    Raises: SpecError: one is; a figure measured on text that the variant was fitted to says nothing.
    """
    if shared := overlap(texts, evaluated):
        raise SpecError(
            f"{len(shared)} of {len(texts.documents)} texts are also evaluated ({shared[0].document_id} is the first)",
            where=where,
            hint="Give texts that are in no evaluation, or evaluate others (`quality.text`).",
        )


def write_text_file(texts: TextSet, folder: Path) -> TextFile:
    """The texts as a file for jobs, written once.

    Effects: writes `<folder>/<digest>.jsonl`.
    """
    path = folder / f"{texts.digest[:24]}.jsonl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps({"text": document.scored_text}, ensure_ascii=False) for document in texts.documents)
        write_durably(path, ("\n".join(lines) + "\n").encode())
    return TextFile(path, f"sha256:{texts.digest}")
