"""The texts that variants are calibrated and trained on, as the spec says, checked against those that are evaluated."""

from __future__ import annotations

from pathlib import Path

from lightship.artifacts.texts import TextSet, load_texts
from lightship.compression.calibration import builtin_calibration, check_held_out, write_text_file
from lightship.compression.steps.base import TextFile
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.spec.document import Spec


def evaluated_texts(spec: Spec) -> TextSet:
    """The texts that quality is measured on."""
    return builtin_texts() if spec.quality.text == "builtin" else load_texts(Path(spec.quality.text))


def calibration_file(spec: Spec, home: Path) -> TextFile:
    """The calibration texts, ready for jobs.

    Raises: MeasurementError: the file cannot be read. SpecError: some of it is evaluated, too.
    """
    named = spec.compression.calibration_text
    texts = builtin_calibration() if named == "builtin" else load_texts(Path(named))
    check_held_out(texts, evaluated_texts(spec), where="compression.calibration_text")
    return write_text_file(texts, home / "texts")


def training_file(spec: Spec, home: Path) -> TextFile | None:
    """The texts to train on, ready for jobs; None where the teacher is to write them.

    Raises: MeasurementError: the file cannot be read. SpecError: some of it is evaluated, too.
    """
    if spec.compression.training_text == "teacher":
        return None
    texts = load_texts(Path(spec.compression.training_text))
    check_held_out(texts, evaluated_texts(spec), where="compression.training_text")
    return write_text_file(texts, home / "texts")
