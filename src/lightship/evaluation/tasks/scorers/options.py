"""Reads the `score:` options of a task file and the fields of an item, strictly: nothing unknown, no wrong types.

Every function here raises `MeasurementError` that names the key; who knows file and line adds them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.scorer import Item

_MAX_SHOWN_CHARS = 60


def check_known(given: Mapping[str, Any], known: Sequence[str], *, what: str) -> None:
    """Returns when every key of `given` is known.

    Raises: MeasurementError: one is not; names it and the nearest known one, or all known ones.
    """
    for key in given:
        if key not in known:
            raise MeasurementError(f"unknown {what} {key!r}", hint=nearest(str(key), known))


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint: the known name that is closest to `name`, or the list of them."""
    names = sorted(known)
    if not names:
        return "There are none."
    close = get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(names)}."


def shown(value: Any) -> str:
    """The value for a message, cut when it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."


def flag_option(options: Mapping[str, Any], key: str, *, default: bool) -> bool:
    """The option as true or false."""
    value = options.get(key, default)
    if not isinstance(value, bool):
        raise _wrong("option", key, "true or false", value)
    return value


def whole_option(options: Mapping[str, Any], key: str, *, default: int, at_least: int, at_most: int) -> int:
    """The option as a whole number in the range."""
    value = options.get(key, default)
    if not is_whole(value) or not at_least <= value <= at_most:
        raise _wrong("option", key, f"a whole number from {at_least} to {at_most}", value)
    return int(value)


def number_option(options: Mapping[str, Any], key: str, *, default: float, at_least: float, at_most: float) -> float:
    """The option as a finite number in the range."""
    value = options.get(key, default)
    if not is_number(value) or not at_least <= value <= at_most:
        raise _wrong("option", key, f"a number from {at_least:g} to {at_most:g}", value)
    return float(value)


def text_option(options: Mapping[str, Any], key: str, *, default: str) -> str:
    """The option as text that is not empty."""
    value = options.get(key, default)
    if not isinstance(value, str) or not value:
        raise _wrong("option", key, "a text", value)
    return value


def choice_option(options: Mapping[str, Any], key: str, *, default: str, choices: Sequence[str]) -> str:
    """The option as one of `choices`."""
    value = options.get(key, default)
    if not isinstance(value, str) or value not in choices:
        raise _wrong("option", key, f"one of {', '.join(choices)}", value, hint=nearest(str(value), choices))
    return value


def text_field(item: Item, name: str) -> str:
    """The item's field as text; it may be empty."""
    value = item.fields.get(name)
    if not isinstance(value, str):
        raise missing_or_wrong(item.fields, name, "a text")
    return value


def texts_field(item: Item, name: str) -> tuple[str, ...]:
    """The item's field, a text or a list of texts with at least one, as texts."""
    value = item.fields.get(name)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise missing_or_wrong(item.fields, name, "a text or a list of texts")
    return tuple(texts)


def missing_or_wrong(fields: Mapping[str, Any], name: str, expected: str) -> MeasurementError:
    """What is wrong with the field `name`: it is not there, or not what is expected."""
    if name not in fields:
        near = get_close_matches(name, [str(key) for key in fields], n=1)
        return MeasurementError(f"the item has no field {name!r}", hint=f"Did you mean {near[0]!r}?" if near else None)
    return _wrong("field", name, expected, fields[name])


def is_whole(value: Any) -> bool:
    """Whether the value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether the value is a finite number; true and false are none."""
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def only_sample(texts: Sequence[str]) -> str:
    """The one generated text, for scorers that judge a single one.

    Raises: MeasurementError: there are several, of which all but one would be ignored, or none.
    """
    if len(texts) != 1:
        raise MeasurementError(f"this kind of task scores one sample per item, not {len(texts)}")
    return texts[0]


def _wrong(what: str, key: str, expected: str, value: Any, *, hint: str | None = None) -> MeasurementError:
    return MeasurementError(f"{what} {key!r}: expected {expected}, got {shown(value)}", hint=hint)
