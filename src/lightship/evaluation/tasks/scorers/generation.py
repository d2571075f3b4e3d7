"""Scores an answer in words or a number against the right one.

Where no answer can be read from a reply, it scores 0, and `answered` is 0 too: a variant that stopped answering in the
expected form is told apart from one that answers wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.scorer import Item
from lightship.evaluation.tasks.scorers.extraction import read_extract
from lightship.evaluation.tasks.scorers.normalization import read_steps
from lightship.evaluation.tasks.scorers.numeric import last_number, whole_text_number
from lightship.evaluation.tasks.scorers.options import (
    check_known,
    flag_option,
    number_option,
    only_sample,
    shown,
    text_option,
    texts_field,
)

_OPTIONS = ("answer", "contains", "extract", "normalize", "numeric", "tolerance")


def generation_scorer(options: Mapping[str, Any]) -> TextScorer | NumberScorer:
    """The scorer that the options ask for.

    `answer` (default "answer"): the item's field with the right answer, a text or a list of acceptable ones. `extract`
    (default none): see `extraction.read_extract`. Then either text: `normalize` (default [strip]), applied to both
    sides, and `contains` (default false), a further metric; or, with `numeric: true`, the last number of what was
    extracted, with an absolute `tolerance` (default 0).

    Raises: MeasurementError: an unknown or wrong option, or one that has no effect together with the others.
    """
    check_known(options, _OPTIONS, what="option")
    is_numeric = flag_option(options, "numeric", default=False)
    for key in ("normalize", "contains") if is_numeric else ("tolerance",):
        if key in options:
            state = "true" if is_numeric else "false"
            raise MeasurementError(f"option {key!r} has no effect with numeric: {state}", hint="Remove one of the two.")
    return NumberScorer(options) if is_numeric else TextScorer(options)


class TextScorer:
    """`exact_match`: the answer equals an acceptable one; `contains`: an acceptable one stands in it as whole words."""

    kind = "generation"
    min_samples = 1
    details = ""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._answer_field = text_option(options, "answer", default="answer")
        self._extract = read_extract(options.get("extract", "none"))
        self._normalize = read_steps(options.get("normalize", ["strip"]))
        self._has_contains = flag_option(options, "contains", default=False)
        self.metrics: tuple[str, ...] = ("exact_match", *(["contains"] if self._has_contains else []), "answered")
        self.binary_metrics = self.metrics

    def check(self, item: Item) -> None:
        """Returns when every acceptable answer is a text that normalization leaves something of."""
        for answer in texts_field(item, self._answer_field):
            if not self._normalize(answer):
                raise MeasurementError(f"field {self._answer_field!r}: {shown(answer)} is empty once normalized")

    def prompt(self, item: Item) -> str | None:
        """None: the task's template is used."""

    def target(self, item: Item) -> str:
        """The acceptable answers, a line each."""
        return "\n".join(texts_field(item, self._answer_field))

    async def score(self, item: Item, texts: Sequence[str]) -> dict[str, float]:
        """`exact_match`, `contains` where asked for, `answered`."""
        extracted = self._extract(only_sample(texts))
        answer = "" if extracted is None else self._normalize(extracted)
        acceptable = [self._normalize(text) for text in texts_field(item, self._answer_field)]
        scores = {"exact_match": float(answer in acceptable)}
        if self._has_contains:
            scores["contains"] = float(any(_has_words(answer, text) for text in acceptable))
        return scores | {"answered": float(bool(answer))}


class NumberScorer:
    """`numeric_match`: the last number of the answer equals the right one, within the tolerance."""

    kind = "generation"
    metrics: tuple[str, ...] = ("numeric_match", "answered")
    binary_metrics: tuple[str, ...] = ("numeric_match", "answered")
    min_samples = 1
    details = ""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._answer_field = text_option(options, "answer", default="answer")
        self._extract = read_extract(options.get("extract", "none"))
        # Through the decimal text, so that 0.01 is one hundredth and not the nearest binary fraction.
        self._tolerance = Fraction(str(number_option(options, "tolerance", default=0.0, at_least=0.0, at_most=1e12)))

    def check(self, item: Item) -> None:
        """Returns when the right answer is a number, or a list of acceptable ones."""
        self._targets(item)

    def prompt(self, item: Item) -> str | None:
        """None: the task's template is used."""

    def target(self, item: Item) -> str:
        """The acceptable numbers, a line each, as they stand in the item."""
        return "\n".join(_number_texts(item, self._answer_field))

    async def score(self, item: Item, texts: Sequence[str]) -> dict[str, float]:
        """`numeric_match` and `answered`."""
        extracted = self._extract(only_sample(texts))
        value = None if extracted is None else last_number(extracted)
        is_right = value is not None and any(abs(value - right) <= self._tolerance for right in self._targets(item))
        return {"numeric_match": float(is_right), "answered": float(value is not None)}

    def _targets(self, item: Item) -> list[Fraction]:
        targets = []
        for text in _number_texts(item, self._answer_field):
            value = whole_text_number(text)
            if value is None:
                raise MeasurementError(f"field {self._answer_field!r}: {shown(text)} is not a number")
            targets.append(value)
        return targets


def _number_texts(item: Item, name: str) -> tuple[str, ...]:
    value = item.fields.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (str(value),)
    return texts_field(item, name)


def _has_words(text: str, wanted: str) -> bool:
    """Whether `wanted` stands in `text` with no letter or digit right before or after it."""
    start = text.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        is_cut_before = start > 0 and text[start - 1].isalnum() and wanted[0].isalnum()
        is_cut_after = end < len(text) and text[end].isalnum() and wanted[-1].isalnum()
        if not is_cut_before and not is_cut_after:
            return True
        start = text.find(wanted, start + 1)
    return False
