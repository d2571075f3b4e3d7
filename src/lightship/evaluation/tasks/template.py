"""Prompt templates: text with `{field}` in it, and nothing more.

The braces of `str.format` without its attributes, indices, conversions and format specifications: a task file may come
from anywhere, and a template that reaches into objects is a program. `{{` and `}}` are braces.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightship.errors import MeasurementError


@dataclass(frozen=True)
class Template:
    """Text pieces and the field after each; the last piece has none (None)."""

    text: str
    pieces: tuple[tuple[str, str | None], ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields named, in order of their first place."""
        return tuple(dict.fromkeys(field for _, field in self.pieces if field is not None))

    def render(self, fields: Mapping[str, Any]) -> str:
        """The text with each field's value in its place: text as it is, a number as JSON writes it.

        Raises: MeasurementError: a field is missing, or is not text or a number.

        >>> parse_template("{a} + {b} =").render({"a": 2, "b": "3"})
        '2 + 3 ='
        """
        return "".join(text if field is None else text + _shown(field, fields) for text, field in self.pieces)


def parse_template(text: str) -> Template:
    """The template that `text` is.

    Raises: MeasurementError: a brace without its partner, or something else than a plain field name between braces.
    """
    pieces: list[tuple[str, str | None]] = []
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise MeasurementError(
            f"the template is not readable: {error}", hint="Write {{ and }} for braces that are part of the text."
        ) from error
    for literal, field, specification, conversion in parsed:
        if field is None:
            pieces.append((literal, None))
            continue
        if not field.isidentifier() or specification or conversion:
            shown = field + (f"!{conversion}" if conversion else "") + (f":{specification}" if specification else "")
            raise MeasurementError(
                f"{{{shown}}} is not the name of a field",
                hint="A template holds plain names such as {question}; write {{ and }} for braces of the text.",
            )
        pieces.append((literal, field))
    return Template(text, tuple(pieces))


def _shown(field: str, fields: Mapping[str, Any]) -> str:
    if field not in fields:
        there = ", ".join(fields)
        raise MeasurementError(f"the item has no field {field!r}, which the template names", hint=f"It has {there}.")
    value = fields[field]
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise MeasurementError(f"the field {field!r} is {json_kind(value)}, where the template needs text or a number")


def json_kind(value: Any) -> str:
    """What JSON calls a value of this type, with its article."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a value of type {type(value).__name__}")
