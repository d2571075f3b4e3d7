"""Makes answers comparable that differ in form only. Pure.

Source: the steps of Rajpurkar et al. 2016 (SQuAD), arXiv:1606.05250, section 6.1: articles, punctuation, case, blanks.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.scorers.options import nearest, shown

_ARTICLES = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)


def _without_punctuation(text: str) -> str:
    # Symbols ($, +, =) stay: they carry meaning in an answer. SQuAD removes the ASCII ones as well.
    return "".join(character for character in text if not unicodedata.category(character).startswith("P"))


STEPS: Mapping[str, Callable[[str], str]] = {
    "strip": str.strip,
    "lower": str.casefold,
    "punctuation": _without_punctuation,
    "articles": lambda text: _ARTICLES.sub(" ", text),
    "whitespace": lambda text: " ".join(text.split()),
}


def read_steps(value: Any) -> Callable[[str], str]:
    """The `normalize` option, a list of names out of `STEPS`, as one function that takes the steps in that order.

    Raises: MeasurementError: not a list, an unknown step, or one that is named twice.
    """
    if not isinstance(value, list):
        raise MeasurementError(f"option 'normalize': expected a list of steps, got {shown(value)}")
    for step in value:
        if not isinstance(step, str) or step not in STEPS:
            raise MeasurementError(f"option 'normalize': unknown step {shown(step)}", hint=nearest(str(step), STEPS))
    if len(set(value)) < len(value):
        raise MeasurementError(f"option 'normalize' names a step twice: {shown(value)}")
    steps = [STEPS[step] for step in value]
    return lambda text: reduce(lambda done, step: step(done), steps, text)
